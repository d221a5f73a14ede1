"""The help pages, as the frontend fetches them: one for each node, about what the node has, with pictures that are there."""

import re
from io import BytesIO
from typing import Any

import pytest
from comfy_server import ComfyServer
from PIL import Image

DOCS = "/extensions/janus-nodes/docs"
NODES = (
    "JanusLoader", "JanusLoRA", "JanusTextToImage", "JanusSampling", "JanusDescribeImage", "JanusChat", "JanusTextModel",
    "JanusVQDecode", "JanusVQEncode", "JanusRepaint", "JanusVariations", "JanusPickTokens", "JanusJoinTokens", "JanusSaveTokens",
    "JanusLoadTokens", "JanusSave", "JanusCaptionFolder", "JanusCheck",
    "JanusPickBest", "JanusDrawBest", "JanusPrompt", "JanusEdit",
)  # fmt: skip


def test_this_file_knows_every_node(nodes: dict[str, Any]) -> None:
    assert set(nodes) == set(NODES)


def rows(page: str, heading: str) -> list[str]:
    """The first column of the table under a heading."""
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| \*\*(\w+)\*\* \|", section, re.MULTILINE)


@pytest.mark.parametrize("name", NODES)
def test_the_page_names_every_input_and_output(server: ComfyServer, nodes: dict[str, Any], name: str) -> None:
    page, node = server.get(f"{DOCS}/{name}.md").content.decode(), nodes[name]
    assert page.startswith(f"# {node['display_name']}\n")
    order = node["input_order"]
    assert sorted(rows(page, "Inputs")) == sorted(order.get("required", []) + order.get("optional", []))
    assert rows(page, "Outputs") == node["output_name"]
    assert len(re.findall("^- ", page.split("## Good to know", 1)[1], re.MULTILINE)) >= 2


@pytest.mark.parametrize("name", NODES)
def test_the_page_shows_a_small_picture(server: ComfyServer, name: str) -> None:
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", server.get(f"{DOCS}/{name}.md").content.decode())
    assert pictures
    for words, place in pictures:
        assert words
        content = server.get(f"{DOCS}/{place}").content
        assert len(content) < 150_000
        with Image.open(BytesIO(content)) as picture:
            assert picture.width >= 200


@pytest.mark.parametrize("name", NODES)
def test_the_page_is_found_at_the_first_try_in_english_and_at_the_second_in_other_languages(
    server: ComfyServer, name: str
) -> None:
    """The frontend asks for docs/NODE/LANGUAGE.md, then for docs/NODE.md; pictures are beside the latter for both."""
    assert server.get(f"{DOCS}/{name}/en.md").content == server.get(f"{DOCS}/{name}.md").content
