"""A contact sheet: some prompts by several seeds, and one prompt by CFG weight."""

from dataclasses import replace

from PIL import Image, ImageDraw

from ..pipeline import Janus
from .drawing import DrawingSettings

PROMPTS = (
    "a red circle",
    "a small blue triangle at the top left",
    "three green squares",
    "four purple rings",
    "a yellow cross and a blue circle",
    "a small ring and a large square",
    "a red square above a green triangle",
    "an orange ring left of a purple square",
    "a red circle, a blue square and a green triangle",
    "a large purple triangle on a striped background",
)
SWEPT = "a yellow cross and a blue circle"
SEEDS = 5
GAP, LABEL_WIDTH = 6, 300  # px


def contact_sheet(janus: Janus, settings: DrawingSettings, *, cfg_weights: list[float]) -> Image.Image:
    """PROMPTS with `settings`, a row each, seeds 0 to 4; below, SWEPT with seed 0 at each of `cfg_weights`."""
    first = replace(settings, pictures=1, seed=0)
    rows = [(text, list(replace(first, pictures=SEEDS).draw(janus, text))) for text in PROMPTS]
    swept = [replace(first, cfg_weight=weight).draw(janus, SWEPT)[0] for weight in cfg_weights]
    rows.append((f"{SWEPT}\nseed 0, CFG weight {', '.join(f'{w:g}' for w in cfg_weights)}", swept))
    step = rows[0][1][0].shape[1] + GAP
    sheet = Image.new("RGB", (LABEL_WIDTH + max(SEEDS, len(cfg_weights)) * step, len(rows) * step + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (text, pictures) in enumerate(rows):
        top = GAP + line * step
        pen.text((GAP, top + step // 3), text, fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (LABEL_WIDTH + column * step, top))
    return sheet
