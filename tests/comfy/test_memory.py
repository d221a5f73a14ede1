"""Janus beside a diffusion model in a real server: they take turns, nothing drifts, nothing stays behind after "free"."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from comfy_server import ComfyServer, Graph, Message, Run, node_of, shipped
from safetensors.torch import save_file

from janus_core.model.cpu_ops import cpu_compute_dtype

RUNS = 50
# A Stable Diffusion 3 of one block, 64 wide.
D = 64
DIFFUSION = {
    "x_embedder.proj": (D, 16, 2, 2), "t_embedder.mlp.0": (D, 256), "t_embedder.mlp.2": (D, D),
    "y_embedder.mlp.0": (D, D), "y_embedder.mlp.2": (D, D), "context_embedder": (D, D),
    "joint_blocks.0.context_block.attn.qkv": (3 * D, D), "joint_blocks.0.context_block.adaLN_modulation.1": (2 * D, D),
    "joint_blocks.0.x_block.attn.qkv": (3 * D, D), "joint_blocks.0.x_block.attn.proj": (D, D),
    "joint_blocks.0.x_block.mlp.fc1": (4 * D, D), "joint_blocks.0.x_block.mlp.fc2": (D, 4 * D),
    "joint_blocks.0.x_block.adaLN_modulation.1": (6 * D, D),
    "final_layer.linear": (64, D), "final_layer.adaLN_modulation.1": (2 * D, D),
}  # fmt: skip
# Conditioning without a text encoder, and a look at what the server holds.
NODES = """
import gc
import comfy.model_management
import torch

class Condition:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {})}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"

    def run(self, seed):
        noise = torch.Generator().manual_seed(seed)
        context = torch.randn(1, 7, 64, generator=noise)
        return ([[context, {"pooled_output": torch.randn(1, 64, generator=noise)}]],)

class Census:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    IS_CHANGED = classmethod(lambda cls: float("nan"))
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    def run(self):
        kinds = [type(o).__name__ for o in gc.get_objects()]
        models = [kind for kind in kinds if kind in ("JanusModel", "VQModel", "Llama", "HostedJanus", "SD3")]
        loaded = [type(m.model).__name__ for m in comfy.model_management.loaded_models()]
        return {"ui": {"alive": models, "loaded": loaded}}

NODE_CLASS_MAPPINGS = {"Condition": Condition, "Census": Census}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server of its own, with a diffusion model of random weights in its folders."""
    base = tmp_path_factory.mktemp("shared")
    running = ComfyServer(base)
    (base / "custom_nodes" / "probe.py").write_text(NODES)
    noise = torch.Generator().manual_seed(0)
    state = {"pos_embed": torch.randn(1, 32 * 32, D, generator=noise)}
    for name, shape in DIFFUSION.items():
        state |= {f"{name}.weight": torch.randn(shape, generator=noise) * 0.05, f"{name}.bias": torch.zeros(shape[0])}
    folder = base / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    save_file(state, folder / "one_block.safetensors")
    with running:
        yield running


def both(seed: int) -> Graph:
    """Janus draws and describes, the diffusion model samples, and Janus draws once more."""
    graph = shipped("draw_then_describe")
    draw, describe = node_of(graph, "JanusTextToImage"), node_of(graph, "JanusDescribeImage")
    graph[draw]["inputs"]["seed"] = seed
    graph[describe]["inputs"]["max_tokens"] = 8
    graph["unet"] = node("UNETLoader", unet_name="one_block.safetensors", weight_dtype="default")
    graph["cond"] = node("Condition", seed=1)
    graph["empty"] = node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph["sample"] = node(
        "KSampler", model=["unet", 0], seed=seed, steps=3, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=["cond", 0], negative=["cond", 0], latent_image=["empty", 0], denoise=1.0,
    )  # fmt: skip
    graph["latent"] = node("SaveLatent", samples=["sample", 0], filename_prefix="latent")
    again = node("JanusTextToImage", **graph[draw]["inputs"] | {"seed": seed + 1})
    return graph | {"again": again, "show": node("PreviewImage", images=["again", 0])}


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def outcome(server: ComfyServer, run: Run) -> list[object]:
    """All that a run made, in short."""
    assert run.end == "execution_success", run.error
    found: list[object] = []
    for number, output in sorted(run.outputs.items()):
        found += output.get("text", [])
        if "latents" in output:
            (file,) = output["latents"]
            latent = Path(server.base, "output", file["subfolder"], file["filename"]).read_bytes()
            header = int.from_bytes(latent[:8], "little") + 8  # which holds the graph, and with it the time of day
            found.append(hashlib.sha256(latent[header:]).hexdigest())
        elif "images" in output:
            pictures = server.pictures(run, number)
            found += [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
    return found


def census(server: ComfyServer) -> dict[str, list[str]]:
    return server.run({"census": node("Census")}).outputs["census"]


def megabytes(server: ComfyServer) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / 1e6


def free_while_it_runs(server: ComfyServer, free_memory: bool) -> Callable[[Message], object]:
    """Asks for models to be unloaded, which ComfyUI does before the next prompt."""

    def on_message(message: Message) -> None:
        if message["type"] == "execution_start":
            server.post("/free", {"unload_models": True, "free_memory": free_memory})

    return on_message


def test_taking_turns_changes_no_output_and_takes_no_memory(shared: ComfyServer) -> None:
    expected, resident = {}, []
    for i in range(RUNS):
        seed = 10 * (i % 2)  # else ComfyUI would answer from its cache
        if i % 5 == 3:
            run = shared.run(both(seed), free_while_it_runs(shared, free_memory=i % 10 == 3))
        else:
            run = shared.run(both(seed))
        assert {"sample", "again"} <= run.executed()
        made = outcome(shared, run)
        assert len(made) == 5
        assert made == expected.setdefault(seed, made), f"run {i} made something else"
        resident.append(megabytes(shared))
    print(f"\nresident MB in {RUNS} runs: " + " ".join(f"{value:.0f}" for value in resident))
    assert expected[0] != expected[10]
    assert max(resident[10:]) - max(resident[:10]) < 0.02 * resident[0]


def test_nothing_is_left_after_free(shared: ComfyServer) -> None:
    run = shared.run(both(0))
    assert run.end == "execution_success"
    before = shared.run({"census": node("Census")} | both(20)).outputs["census"]
    assert {"JanusModel", "HostedJanus", "SD3"} <= set(before["alive"])
    shared.forget()
    assert census(shared) == {"alive": [], "loaded": []}


def test_unload_models_keeps_what_is_open_and_frees_the_device(shared: ComfyServer) -> None:
    first = outcome(shared, shared.run(both(0)))
    shared.post("/free", {"unload_models": True, "free_memory": False})
    loaded = shared.run({"census": node("Census")} | both(10)).executed()
    assert "JanusLoader" not in {both(10)[number]["class_type"] for number in loaded if number != "census"}
    assert outcome(shared, shared.run(both(0))) == first


def test_two_dtypes_of_one_file_are_two_models_and_one_dtype_twice_is_one(shared: ComfyServer) -> None:
    shared.forget()
    graph: Graph = {"census": node("Census")}
    for i, dtype in enumerate(("auto", "fp32", "bf16")):
        checkpoint = shipped("text_to_image")
        loader = checkpoint[node_of(checkpoint, "JanusLoader")]["inputs"] | {"dtype": dtype}
        graph[f"load {i}"] = node("JanusLoader", **loader)
        graph[f"draw {i}"] = node("JanusTextToImage", **both(0)["again"]["inputs"] | {"janus": [f"load {i}", 0]})
        graph[f"show {i}"] = node("PreviewImage", images=[f"draw {i}", 0])
    run = shared.run(graph)
    assert run.end == "execution_success", run.error
    assert {"load 0", "load 1", "load 2"} <= run.executed()
    after = shared.run(graph).outputs["census"]
    assert after["alive"].count("JanusModel") == 2


def test_flags_that_leave_no_memory_change_no_picture_but_what_auto_is(
    shared: ComfyServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ComfyUI takes --lowvram and --novram only without --cpu; tests/inside has what they do to weights."""
    graph = shipped("text_to_image")
    loader = graph[node_of(graph, "JanusLoader")]["inputs"]

    def drawn(server: ComfyServer, dtype: str) -> list[bytes]:
        loader["dtype"] = dtype
        run = server.run(graph)
        assert run.end == "execution_success", run.error
        return [picture.tobytes() for picture in server.pictures(run, node_of(graph, "SaveImage"))]

    flags = ("--reserve-vram", "100000", "--disable-smart-memory", "--cache-none")
    with ComfyServer(tmp_path_factory.mktemp("short"), *flags) as short:
        best = "bf16" if cpu_compute_dtype() == torch.bfloat16 else "fp32"
        assert drawn(short, best) == drawn(shared, best) == drawn(shared, "auto")
        assert drawn(short, "auto") == drawn(shared, "int8")
        assert "dtype auto is int8" in short.log.read_text()
