"""The templates' thumbnails, drawn by the embedded model with each template's own prompt and seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_server import PACK, node_of, shipped
from PIL import Image, ImageDraw, ImageFont

import janus_core
from janus_core.conversation import Conversation
from janus_core.pictures import from_uint8
from janus_core.processing import IMAGE_TAG

SIDE = 512
TOP = 76  # pixels left free, as newer frontends lay a badge on the top left
SEEN = "a yellow triangle, a blue ring and a red square on a white background"
INK, PAPER, ACCENT = "#e8e8ec", "#1e2230", "#5b8cff"


def pixels_of(picture: Image.Image) -> torch.Tensor:
    """A picture as float [H, W, 3] in 0..1."""
    return from_uint8(np.array(picture))


class Painter:
    """The embedded Janus on the CPU, with the templates' settings."""

    def __init__(self) -> None:
        self.janus = janus_core.load(device="cpu", dtype=torch.float32)

    def tokens(self, prompt: str, seed: int, cfg: float = 5.0, temperature: float = 1.0) -> janus_core.ImageTokens:
        return self.janus.generate(prompt, seed=seed, cfg_weight=cfg, temperature=temperature)

    def picture(self, tokens: janus_core.ImageTokens) -> Image.Image:
        """One picture in its own size."""
        return Image.fromarray((self.janus.decode(tokens)[0] * 255).round().byte().numpy())

    def drawn_by(self, name: str) -> janus_core.ImageTokens:
        """What the first Janus Text-to-Image of a shipped workflow draws."""
        graph = shipped(name)
        inputs = graph[node_of(graph, "JanusTextToImage")]["inputs"]
        return self.tokens(inputs["prompt"], inputs["seed"], inputs["cfg"], inputs["temperature"])

    def conversation(self, picture: Image.Image, messages: list[str]) -> list[str]:
        """Ask a list of messages about a picture. Returns messages and answers in turn."""
        talk, pixels = Conversation(), pixels_of(picture)
        for message in messages:
            talk = talk.ask(message, [] if talk.turns else [pixels])
            talk = talk.with_answer(self.janus.answer(list(talk.turns), list(talk.pictures)))
        return [turn["content"].replace(IMAGE_TAG, "").strip() for turn in talk.turns]

    def repainted(self, before: janus_core.ImageTokens, mask: torch.Tensor, name: str) -> Image.Image:
        """A picture with its masked part painted anew, as the Janus Repaint of a shipped workflow would."""
        graph = shipped(name)
        inputs = graph[node_of(graph, "JanusRepaint")]["inputs"]
        settings = {key: inputs[key] for key in ("prompt", "seed", "candidates", "temperature")}
        after = janus_core.repaint(
            self.janus, before, janus_core.code_mask(mask, before.grid), cfg_weight=inputs["cfg"], **settings
        )
        return self.picture(after)

    def varied(self, tokens: janus_core.ImageTokens, name: str) -> Image.Image:
        """A picture as the Janus Variations of a shipped workflow would draw it again."""
        graph = shipped(name)
        inputs = graph[node_of(graph, "JanusVariations")]["inputs"]
        settings = {key: inputs[key] for key in ("prompt", "strength", "seed", "temperature")}
        return self.picture(janus_core.vary(self.janus, tokens, cfg_weight=inputs["cfg"], **settings))


def large(picture: Image.Image, side: int = SIDE) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def framed(picture: Image.Image) -> Image.Image:
    """A picture below the free strip."""
    card, side = Image.new("RGB", (SIDE, SIDE), PAPER), SIDE - TOP - 16
    card.paste(large(picture, side), ((SIDE - side) // 2, TOP))
    return card


def before_and_after(before: Image.Image, after: Image.Image) -> Image.Image:
    """Two pictures, the second in front of the first."""
    card = Image.new("RGB", (SIDE, SIDE), PAPER)
    card.paste(large(before, 264), (16, TOP))
    ImageDraw.Draw(card).rectangle((192, 192, SIDE - 13, SIDE - 13), PAPER)
    card.paste(large(after, 300), (SIDE - 316, SIDE - 316))
    return card


def captioned(picture: Image.Image, question: str, answer: str) -> Image.Image:
    """A picture above its question and answer."""
    card = Image.new("RGB", (SIDE, SIDE), PAPER)
    card.paste(large(picture, 320), ((SIDE - 320) // 2, TOP))
    pen = ImageDraw.Draw(card)
    pen.text((SIDE / 2, 430), question, ACCENT, ImageFont.load_default(24), "mm")
    size = min(32, 32 * 470 / ImageFont.load_default(32).getlength(answer))
    pen.text((SIDE / 2, 474), answer, INK, ImageFont.load_default(size), "mm")
    return card


def talk(turns: list[str]) -> Image.Image:
    """A chat: messages in bubbles on the right, answers on the left."""
    card, font = Image.new("RGB", (SIDE, SIDE), PAPER), ImageFont.load_default(30)
    pen = ImageDraw.Draw(card)
    for i, text in enumerate(turns):
        width, y = font.getlength(text) + 48, TOP + 12 + i * 104
        x = SIDE - 28 - width if i % 2 == 0 else 28
        pen.rounded_rectangle((x, y, x + width, y + 76), 24, ACCENT if i % 2 == 0 else "#3a4054")
        pen.text((x + width / 2, y + 38), text, INK, font, "mm")
    return card


def enlarged(picture: Image.Image) -> Image.Image:
    """The enlarged picture, with the original size in a corner."""
    card, small = framed(picture), picture.resize((108, 108), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(card)
    pen.rectangle((16, SIDE - 132, 131, SIDE - 17), INK)
    card.paste(small, (20, SIDE - 128))
    return card


def code_numbers(tokens: janus_core.ImageTokens) -> Image.Image:
    """The first picture's codes, as numbers in their places."""
    codes = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen, (rows, columns) = ImageDraw.Draw(codes), tokens.grid
    for i, code in enumerate(tokens.ids[0].tolist()):
        x, y = (i % columns + 0.5) * SIDE / columns, (i // columns + 0.5) * SIDE / rows
        pen.text((x, y), str(code), INK, ImageFont.load_default(26), "mm")
    return codes


def tokenised(picture: Image.Image, tokens: janus_core.ImageTokens) -> Image.Image:
    """The picture on one side of the diagonal, its tokens on the other."""
    codes = code_numbers(tokens)
    half = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(half).polygon([(0, 0), (SIDE, 0), (0, SIDE)], 255)
    card = Image.composite(large(picture), codes, half)
    ImageDraw.Draw(card).line([(SIDE, 0), (0, SIDE)], ACCENT, 4)
    return framed(card)


def shapes(painter: Painter) -> Image.Image:
    """The picture that describe_image asks about."""
    return painter.picture(painter.tokens(SEEN, 1))


def masked() -> torch.Tensor:
    """The part of that picture that repaint_photo paints anew, as a mask."""
    mask = torch.zeros(96, 96)
    mask[32:64, :32] = 1
    return mask


def thumbnails(painter: Painter) -> dict[str, Image.Image]:
    """Workflow name -> thumbnail."""
    drawn = {
        path.stem: painter.drawn_by(path.stem)
        for path in sorted((PACK / "workflows" / "api").glob("*.json"))
        if "JanusTextToImage" in path.read_text()
    }
    pictures = {name: painter.picture(tokens) for name, tokens in drawn.items()}
    asked = {"draw_then_describe": pictures["draw_then_describe"], "describe_image": shapes(painter)}
    cards = {name: framed(picture) for name, picture in pictures.items()}
    cards["draw_and_upscale"] = enlarged(pictures["draw_and_upscale"])
    cards["tokens_decode"] = tokenised(pictures["tokens_decode"], drawn["tokens_decode"])
    messages = [node["inputs"]["message"] for node in shipped("chat").values() if node["class_type"] == "JanusChat"]
    cards["chat"] = talk(painter.conversation(pictures["chat"], messages))
    cards["variations"] = before_and_after(pictures["variations"], painter.varied(drawn["variations"], "variations"))
    lower = torch.tensor([[0.0], [1.0]])
    cards["extend"] = before_and_after(pictures["extend"], painter.repainted(drawn["extend"], lower, "extend"))
    photo = painter.janus.encode(pixels_of(shapes(painter))[None])
    cards["repaint_photo"] = before_and_after(shapes(painter), painter.repainted(photo, masked(), "repaint_photo"))
    other = "vary_a_diffusion_picture"
    cards[other] = before_and_after(shapes(painter), painter.varied(photo, other))
    for name, picture in asked.items():
        graph = shipped(name)
        question = graph[node_of(graph, "JanusDescribeImage")]["inputs"]["question"]
        cards[name] = captioned(picture, *painter.conversation(picture, [question]))
    return cards


def save(picture: Image.Image, path: Path) -> None:
    """Write a small JPEG."""
    path.parent.mkdir(exist_ok=True)
    picture.convert("RGB").save(path, quality=85, optimize=True)
