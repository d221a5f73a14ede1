"""The pictures of the README, the docs, the help pages and the templates exist and are small, and there are no others."""

import re
from pathlib import Path

import pytest
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
PAGES = [PACK / "README.md", *sorted((PACK / "docs").glob("*.md")), *sorted((PACK / "web" / "docs").glob("*.md"))]


def shown(page: Path) -> set[Path]:
    return {page.parent / place for place in re.findall(r"!\[.+?\]\((?!https?:)(.+?)\)", page.read_text())}


WANTED = {picture for page in PAGES for picture in shown(page)}
WANTED |= {path.with_suffix(".jpg") for path in (PACK / "workflows").glob("*.json")}


@pytest.mark.parametrize("path", sorted(WANTED), ids=lambda path: str(path.relative_to(PACK)))
def test_the_picture_is_there_and_small(path: Path) -> None:
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == ("PNG" if path.suffix == ".png" else "JPEG")


@pytest.mark.parametrize("folder", ["docs", "web/docs", "workflows"])
def test_every_picture_is_shown_somewhere(folder: str) -> None:
    found = set((PACK / folder).glob("*.jpg"))
    assert found
    assert found <= WANTED


def test_the_readme_shows_every_template_a_picture_in_the_making_and_the_list() -> None:
    names = {path.stem for path in shown(PACK / "README.md")}
    templates = {path.stem for path in (PACK / "workflows").glob("*.json")}
    assert names >= templates | {"preview", "templates", "first_picture"}
