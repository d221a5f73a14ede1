"""A contact sheet: some prompts by several seeds, and one prompt by CFG weight, for a person to look at."""

import torch
from PIL import Image, ImageDraw

from ..pipeline import Janus

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
SEEDS, GAP, WORDS = 6, 6, 300


def contact_sheet(
    janus: Janus, cfg_weight: float, cfg_weights: list[float], temperature: float, top_p: float
) -> Image.Image:
    """PROMPTS at `cfg_weight`, a row each, seeds 0 to 5; below, SWEPT with seed 0 at each of `cfg_weights`."""
    rows = [(text, _pictures(janus, text, SEEDS, cfg_weight, temperature, top_p)) for text in PROMPTS]
    swept = [picture for weight in cfg_weights for picture in _pictures(janus, SWEPT, 1, weight, temperature, top_p)]
    rows.append((f"{SWEPT}\nseed 0, CFG weight {', '.join(f'{w:g}' for w in cfg_weights)}", swept))
    step = rows[0][1][0].width + GAP
    columns = max(SEEDS, len(cfg_weights))
    sheet = Image.new("RGB", (WORDS + columns * step, len(rows) * step + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (text, pictures) in enumerate(rows):
        top = GAP + line * step
        pen.text((GAP, top + step // 3), text, fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (WORDS + column * step, top))
    return sheet


def _pictures(
    janus: Janus, prompt: str, count: int, cfg_weight: float, temperature: float, top_p: float
) -> list[Image.Image]:
    drawn = janus.decode(janus.generate(prompt, count, cfg_weight=cfg_weight, temperature=temperature, top_p=top_p))
    return [Image.fromarray(picture.numpy()) for picture in (drawn * 255).round().to(torch.uint8).cpu()]
