"""`make screenshots`: retake every picture in the repository, from the running frontend and the embedded model.

docs/*.jpg for the README, web/docs/*.jpg for the help pages, workflows/*.jpg as the templates' thumbnails.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from canvas import Canvas, launch
from comfy_server import PACK, ComfyServer
from PIL import Image
from playwright.sync_api import sync_playwright
from prepare import chromium
from sample_files import DIFFUSION
from thumbnails import Painter, masked, save, shapes, thumbnails

DOCS, HELP, WORKFLOWS = PACK / "docs", PACK / "web" / "docs", PACK / "workflows"
SIZE = (1400, 820)
SETTINGS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.EnableTooltips": False,
    "Comfy.Sidebar.Size": "normal",
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # draw text at any zoom
}
LORA = "watercolour.safetensors"
PAINTED = "painted.png"  # as the mask editor saves it
# Fits the given nodes, or all nodes and groups, between margins. Returns their bounding box on the page.
FIT = """async ([ids, [left, top, right, bottom]]) => {
    app.canvas.deselectAll()
    const items = ids.length
        ? ids.map((id) => app.graph.getNodeById(id))
        : [...app.graph._nodes, ...app.graph._groups]
    const boxes = items.map((item) => [...item.boundingRect ?? item._bounding])
    const [x, y] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])))
    const [w, h] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])) - [x, y][i])
    const page = app.canvasEl.getBoundingClientRect()
    const scale = Math.min(1, (page.width - left - right) / w, (page.height - top - bottom) / h)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [left / scale - x, top / scale - y]
    app.canvas.setDirty(true, true)
    await new Promise((done) => setTimeout(done, 700))
    return { x: page.x + left, y: page.y + top, width: w * scale, height: h * scale }
}"""

DRAWN = "place => document.querySelector(place)?.naturalWidth > 0"


def shoot(canvas: Canvas, path: Path, *nodes: int, margin: int = 30) -> None:
    """A picture of these nodes, or of the whole workflow, without the menus."""
    canvas.command("Workspace.ToggleFocusMode")
    box = canvas.page.evaluate(FIT, [nodes, [margin, margin + 45, margin, margin + 60]])  # the menus that stay
    clip = {"x": box["x"] - margin, "y": box["y"] - margin, "width": box["width"] + 2 * margin}
    take(canvas, path, clip | {"height": box["height"] + 2 * margin})
    canvas.command("Workspace.ToggleFocusMode")


def shoot_page(canvas: Canvas, path: Path) -> None:
    """A picture of the whole window, with no node under a menu."""
    canvas.page.evaluate(FIT, [[], [110, 150, 60, 60]])
    take(canvas, path)


def take(canvas: Canvas, path: Path, clip: Any = None) -> None:
    canvas.page.mouse.move(5, SIZE[1] - 5)
    canvas.page.locator(".p-toast-close-button").evaluate_all("buttons => buttons.forEach((button) => button.click())")
    canvas.page.wait_for_timeout(300)
    save(Image.open(io.BytesIO(canvas.page.screenshot(clip=clip))), path)
    print(f"{path.relative_to(PACK)}  {path.stat().st_size // 1000} kB", flush=True)


def run_template(canvas: Canvas, name: str) -> None:
    canvas.blank()
    canvas.server.post("/free", {"free_memory": True})  # this ComfyUI shows no pictures that come from the cache
    canvas.open_template(name)
    kinds = {node["type"] for node in canvas.workflow()["nodes"]}
    if "KSampler" in kinds:
        return  # there is no real checkpoint here
    if "JanusRepaint" in kinds and "LoadImage" in kinds:
        canvas.set(canvas.node("LoadImage"), image=PAINTED)
    canvas.run()


def templates(canvas: Canvas) -> None:
    """Each template after a run; those with a diffusion checkpoint before it."""
    for path in sorted(WORKFLOWS.glob("*.json")):
        run_template(canvas, path.stem)
        shoot(canvas, DOCS / path.name.replace(".json", ".jpg"))


def first_picture(canvas: Canvas) -> None:
    """The two steps to a first picture: the list of templates, then Run."""
    canvas.blank()
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.wait_for_function(DRAWN, arg='[data-testid="template-workflow-text_to_image"] img')
    take(canvas, DOCS / "templates.jpg")
    canvas.page.get_by_test_id("template-workflow-text_to_image").click()
    canvas.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")
    canvas.run()
    shoot_page(canvas, DOCS / "first_picture.jpg")


def half_drawn(canvas: Canvas) -> None:
    """A preview half-way; the server process is paused while the picture is taken."""
    workflow = json.loads((WORKFLOWS / "text_to_image.json").read_text())
    (draw,) = (node for node in workflow["nodes"] if node["type"] == "JanusTextToImage")
    draw["widgets_values"][3] = 4  # the batch size, after prompt, seed and the seed's control
    canvas.open(workflow)
    canvas.queue()
    canvas.page.wait_for_function(
        "seen.some(({ name, detail }) => name === 'progress' && detail.value * 2 > detail.max)"
    )
    canvas.server.process.send_signal(signal.SIGSTOP)
    shoot(canvas, DOCS / "preview.jpg", draw["id"])
    canvas.server.process.send_signal(signal.SIGCONT)
    canvas.wait_for("execution_success")


def help_pictures(canvas: Canvas) -> None:
    """Each node beside its usual neighbours."""

    def nodes(name: str, *kinds: str) -> list[int]:
        run_template(canvas, name)
        return [canvas.node(kind) for kind in kinds]

    shoot(canvas, HELP / "JanusTextToImage.jpg", *nodes("text_to_image", "JanusTextToImage", "SaveImage"))
    shoot(canvas, HELP / "JanusDescribeImage.jpg", *nodes("describe_image", "JanusDescribeImage", "PreviewAny"))
    shoot(canvas, HELP / "JanusVQDecode.jpg", *nodes("tokens_decode", "JanusVQDecode", "SaveImage"))
    shoot(canvas, HELP / "JanusRepaint.jpg", *nodes("repaint_photo", "LoadImage", "JanusVQEncode", "JanusRepaint"))
    shoot(canvas, HELP / "JanusVariations.jpg", *nodes("variations", "JanusTextToImage", "JanusVariations"))
    shoot(canvas, HELP / "JanusChat.jpg", nodes("chat", "JanusChat")[0])
    canvas.blank()
    load = canvas.add("JanusLoader", (0, 0))
    lora = canvas.add("JanusLoRA", (480, 0), lora=LORA, strength=0.8)
    draw = canvas.add("JanusTextToImage", (880, 0), prompt="a red circle in the center")
    canvas.link(load, "janus", lora, "janus")
    canvas.link(lora, "patched", draw, "janus")
    shoot(canvas, HELP / "JanusLoader.jpg", load)
    shoot(canvas, HELP / "JanusLoRA.jpg", load, lora, draw)
    canvas.blank()
    caption = canvas.add("JanusCaptionFolder", (480, 0), folder="shapes", preset="training", trigger="shpstyle")
    canvas.link(canvas.add("JanusLoader", (0, 0)), "janus", caption, "janus")
    canvas.run()
    shoot(canvas, HELP / "JanusCaptionFolder.jpg", caption)
    canvas.blank()
    shoot(canvas, HELP / "JanusSave.jpg", canvas.add("JanusSave", (0, 0)))
    canvas.blank()
    load, model = canvas.add("JanusLoader", (0, 0)), canvas.add("JanusTextModel", (440, 0))
    canvas.link(load, "janus", model, "janus")
    shoot(canvas, HELP / "JanusTextModel.jpg", load, model)


def small_nodes_pictures(canvas: Canvas) -> None:
    """Nodes that no template has, with what they connect to."""
    canvas.blank()
    sampling = canvas.add("JanusSampling", (0, 0), min_p=0.02, cfg_end=1.0)
    draw = canvas.add("JanusTextToImage", (440, 0), prompt="a red circle in the center")
    canvas.link(sampling, "sampling", draw, "sampling")
    shoot(canvas, HELP / "JanusSampling.jpg", sampling, draw)
    canvas.blank()
    load = canvas.add("JanusLoader", (0, 0))
    photo = canvas.add("LoadImage", (0, 160), image="example.png")
    encode = canvas.add("JanusVQEncode", (420, 0))
    seen = canvas.add("PreviewImage", (760, 0))
    canvas.link(load, "janus", encode, "janus")
    canvas.link(photo, "IMAGE", encode, "image")
    canvas.link(encode, "image", seen, "images")
    canvas.run()
    shoot(canvas, HELP / "JanusVQEncode.jpg", load, photo, encode, seen)
    token_nodes_pictures(canvas)
    judging_nodes_pictures(canvas)


def judging_nodes_pictures(canvas: Canvas) -> None:
    """The nodes that judge pictures, after a run."""
    prompt = "a small red circle above a large blue square"
    canvas.blank()
    load = canvas.add("JanusLoader", (0, 0))
    draw = canvas.add("JanusTextToImage", (420, 0), prompt=prompt, batch_size=4, cfg=1.0)
    check = canvas.add("JanusCheck", (880, 0), prompt=prompt)
    pick = canvas.add("JanusPickBest", (880, 420), prompt=prompt)
    for node in (draw, check, pick):
        canvas.link(load, "janus", node, "janus")
    for node in (check, pick):
        canvas.link(draw, "image", node, "image")
    canvas.link(pick, "image", canvas.add("PreviewImage", (1320, 420)), "images")
    canvas.run()
    shoot(canvas, HELP / "JanusCheck.jpg", draw, check)
    shoot(canvas, HELP / "JanusPickBest.jpg", draw, pick)
    canvas.blank()
    load = canvas.add("JanusLoader", (0, 0))
    best = canvas.add("JanusDrawBest", (420, 0), prompt=prompt)
    seen = canvas.add("PreviewImage", (880, 0))
    canvas.link(load, "janus", best, "janus")
    canvas.link(best, "image", seen, "images")
    canvas.run()
    shoot(canvas, HELP / "JanusDrawBest.jpg", load, best, seen)


def token_nodes_pictures(canvas: Canvas) -> None:
    """The nodes that pick, join, save and load tokens."""
    canvas.blank()
    draw = canvas.add("JanusTextToImage", (0, 0), prompt="a red circle in the center", batch_size=4)
    pick = canvas.add("JanusPickTokens", (460, 0), index=2)
    join = canvas.add("JanusJoinTokens", (780, 0))
    canvas.link(draw, "tokens", pick, "tokens")
    canvas.link(pick, "tokens", join, "tokens_1")
    canvas.link(draw, "tokens", join, "tokens_2")
    shoot(canvas, HELP / "JanusPickTokens.jpg", draw, pick, join)
    keep = canvas.add("JanusSaveTokens", (460, 200), filename_prefix="janus/circles")
    canvas.link(draw, "tokens", keep, "tokens")
    canvas.page.evaluate("ids => ids.forEach((id) => app.graph.remove(app.graph.getNodeById(id)))", [pick, join])
    shoot(canvas, HELP / "JanusSaveTokens.jpg", draw, keep)
    canvas.blank()
    load = canvas.add("JanusLoader", (0, 0))
    kept = canvas.add("JanusLoadTokens", (0, 160))
    decode = canvas.add("JanusVQDecode", (420, 60))
    canvas.link(load, "janus", decode, "janus")
    canvas.link(kept, "tokens", decode, "tokens")
    shoot(canvas, HELP / "JanusLoadTokens.jpg", load, kept, decode)


def main() -> None:
    if not chromium():
        sys.exit("There is no Chromium: install your system's chromium package.")
    painter = Painter()
    for name, picture in thumbnails(painter).items():
        save(picture, WORKFLOWS / f"{name}.jpg")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = ComfyServer(Path(folder), "--preview-method", "auto")
        picture = shapes(painter)
        picture.save(server.base / "input" / "example.png")
        picture.putalpha(Image.fromarray(((1 - masked().numpy()) * 255).astype("uint8")))
        picture.save(server.base / "input" / PAINTED)
        for folder_name, name in (("loras", LORA), ("checkpoints", DIFFUSION)):
            (server.base / "models" / folder_name).mkdir()
            (server.base / "models" / folder_name / name).touch()
        shapes(painter).save(server.base / "input" / "example.png")
        (server.base / "input" / "shapes").mkdir()
        for i in range(3):
            shapes(painter).save(server.base / "input" / "shapes" / f"{i + 1}.png")
        loras = server.base / "models" / "loras"
        loras.mkdir()
        (loras / LORA).touch()
        (server.base / "input" / "circles_00001_.tokens.safetensors").touch()
        with server, launch(playwright.chromium) as browser:
            for name, value in SETTINGS.items():
                server.post(f"/settings/{name}", value).raise_for_status()
            canvas = Canvas(browser, server, nodes2=True, size=SIZE)
            first_picture(canvas)
            templates(canvas)
            half_drawn(canvas)
            help_pictures(canvas)
            small_nodes_pictures(canvas)


if __name__ == "__main__":
    main()
