"""Whatever goes in, the user reads one clear sentence, and the server keeps working."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of, shipped
from safetensors.torch import load_file

TINY = PACK / "tests" / "data" / "tiny_deepseek"
NAN = float("nan")


class RunsCode:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def change_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def missing_shard(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    shards = [f"pytorch_model-{i:05}-of-00002.bin" for i in (1, 2)]
    weight_map = {key: shards[i % 2] for i, key in enumerate(state)}
    torch.save({key: state[key] for key in state if weight_map[key] == shards[0]}, folder / shards[0])
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def wrong_architecture(folder: Path) -> None:
    change_config(folder, model_type="llama", architectures=["LlamaForCausalLM"])


def pickle_that_runs_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": RunsCode(folder / "it ran")}, folder / "pytorch_model.bin")


def config_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, language_config=config["language_config"] | {"intermediate_size": 88})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def fails(server: ComfyServer, graph: Graph) -> str:
    """Run a graph that cannot work; the one sentence the user reads."""
    error = server.run(graph).error
    assert "\n" not in error
    assert re.search(r"[.!?] +[A-Z]", error) is None
    return error


def change(graph: Graph, kind: str, **inputs: Any) -> Graph:
    graph[node_of(graph, kind)]["inputs"] |= inputs
    return graph


@pytest.fixture(scope="module", autouse=True)
def still_works_afterwards(server: ComfyServer) -> Any:
    yield
    server.forget()
    assert server.run(shipped("draw_then_describe")).end == "execution_success"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (missing_shard, r"lacks pytorch_model-00002-of-00002\.bin"),
        (truncated, r"model\.safetensors .*cut short"),
        (wrong_architecture, r"config\.json .*'llama', not Janus"),
        (pickle_that_runs_code, r"pytorch_model\.bin was refused: .*run code"),
        (config_of_another_model, r"config\.json"),
        (no_tokenizer, r"no tokenizer\.json"),
    ],
)
def test_a_broken_checkpoint_is_named_with_the_cure(
    server: ComfyServer, drawing: Graph, spoil: Callable[[Path], None], expected: str
) -> None:
    folder = server.base / "models" / "janus" / spoil.__name__
    shutil.copytree(TINY, folder)
    spoil(folder)
    error = fails(server, change(drawing, "JanusLoader", checkpoint=folder.name))
    assert folder.name in error
    assert re.search(expected, error)
    assert not (folder / "it ran").exists()


@pytest.mark.parametrize("name", ["gone", "", "../tiny", "tiny/../tiny", "/etc", str(TINY), "janus-mini"])
def test_only_listed_checkpoints_can_be_opened(server: ComfyServer, drawing: Graph, name: str) -> None:
    assert f"no Janus checkpoint {name!r}" in fails(server, change(drawing, "JanusLoader", checkpoint=name))
    drawing["name"] = {"class_type": "Anything", "inputs": {"value": name}}
    linked = fails(server, change(drawing, "JanusLoader", checkpoint=["name", 0]))
    assert linked.startswith(f"There is no Janus checkpoint {name!r}")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n "}, "prompt is empty"),
        ({"prompt": "circle " * 1000}, r"prompt takes \d{4} tokens and 36 more .* holds 1024"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"cfg": NAN}, "CFG weight is nan"),
        ({"temperature": NAN}, "temperature is nan"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": NAN}, "top_p is nan"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_drawing_settings_out_of_range(
    server: ComfyServer, drawing: Graph, inputs: dict[str, Any], expected: str
) -> None:
    assert re.search(expected, fails(server, change(drawing, "JanusTextToImage", **inputs)))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"min_p": -0.5}, "min_p is -0.5: give 0 or more, or -1"),
        ({"min_p": NAN}, "min_p is nan"),
        ({"min_p": 1.0}, "min_p"),
        ({"cfg_end": -0.5}, "cfg_end is -0.5: give 0 or more, or -1"),
        ({"cfg_end": NAN}, "cfg_end is nan"),
        ({"cfg_power": 0.0}, "cfg_power"),
        ({"cfg_power": NAN}, "cfg_power is nan"),
        ({"entropy_temperature": NAN}, "entropy_temperature is nan"),
        ({"top_p": NAN}, "top_p is nan"),
        ({"window": 0}, "window"),
    ],
)
def test_sampling_settings_out_of_range(server: ComfyServer, inputs: dict[str, Any], expected: str) -> None:
    assert re.search(expected, fails(server, change(copy.deepcopy(SAMPLING), "JanusSampling", **inputs)))


def test_a_batch_of_none_that_comes_over_a_link(server: ComfyServer, drawing: Graph) -> None:
    drawing["none"] = {"class_type": "PrimitiveInt", "inputs": {"value": 0}}
    assert "batch size is 0" in fails(server, change(drawing, "JanusTextToImage", batch_size=["none", 0]))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"question": ""}, "question is empty"),
        ({"question": "why " * 2000}, r"question takes \d{4} tokens and 12 more .* holds 1024"),
        ({"max_tokens": 2000}, r"\d+ tokens and 2000 more .* holds 1024"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": NAN}, "temperature is nan"),
        ({"question": "<image_placeholder> and <image_placeholder>?"}, "names 2 pictures .* and 1 were given"),
    ],
)
def test_questions_that_cannot_be_answered(
    server: ComfyServer, describing: Graph, inputs: dict[str, Any], expected: str
) -> None:
    assert re.search(expected, fails(server, change(describing, "JanusDescribeImage", **inputs)))


SAVING: Graph = {
    "save": {"class_type": "JanusSave", "inputs": {"checkpoint": "tiny", "dtype": "fp32", "filename": "wrong"}}
}
LORA: Graph = shipped("text_to_image")
LORA["lora"] = {"class_type": "JanusLoRA", "inputs": {"janus": [node_of(LORA, "JanusLoader"), 0], "strength": 1.0}}
LORA[node_of(LORA, "JanusTextToImage")]["inputs"]["janus"] = ["lora", 0]
SAMPLING: Graph = shipped("text_to_image")
SAMPLING["sampling"] = {
    "class_type": "JanusSampling",
    "inputs": {"min_p": -1.0, "cfg_end": -1.0, "cfg_power": 1.0, "entropy_temperature": 0.0}
    | {"top_k": 0, "top_p": 1.0, "sampler": "sequential", "window": 8},
}
SAMPLING[node_of(SAMPLING, "JanusTextToImage")]["inputs"]["sampling"] = ["sampling", 0]
TOKENS: Graph = {
    **{number: node for number, node in shipped("tokens_decode").items() if number in ("1", "2")},
    "pick": {"class_type": "JanusPickTokens", "inputs": {"tokens": ["2", 1], "index": 0, "length": 1}},
    "join": {"class_type": "JanusJoinTokens", "inputs": {"tokens_1": ["pick", 0], "tokens_2": ["2", 1]}},
    "keep": {"class_type": "JanusSaveTokens", "inputs": {"tokens": ["join", 0], "filename_prefix": "wrong"}},
}
LOADING: Graph = {
    "load": {"class_type": "JanusLoadTokens", "inputs": {"file": "none"}},
    "keep": {"class_type": "JanusSaveTokens", "inputs": {"tokens": ["load", 0], "filename_prefix": "wrong"}},
}
CAPTIONS: Graph = {
    "load": {"class_type": "JanusLoader", "inputs": {"checkpoint": "tiny", "dtype": "fp32"}},
    "caption": {
        "class_type": "JanusCaptionFolder",
        "inputs": {"janus": ["load", 0], "folder": ".", "preset": "short", "question": "", "trigger": "", "prefix": ""}
        | {"suffix": "", "output_folder": "", "existing": "skip", "max_tokens": 4, "temperature": 0.0, "seed": 0},
    },
}
GRAPHS = {
    "JanusLoader": shipped("text_to_image"),
    "JanusLoRA": LORA,
    "JanusTextToImage": shipped("text_to_image"),
    "JanusSampling": SAMPLING,
    "JanusDescribeImage": shipped("describe_image"),
    "JanusChat": shipped("chat"),
    "JanusVQDecode": shipped("tokens_decode"),
    "JanusVQEncode": json.loads((PACK / "tests/data/encode_decode.json").read_text()),
    "JanusPickTokens": TOKENS,
    "JanusJoinTokens": TOKENS,
    "JanusSaveTokens": TOKENS,
    "JanusLoadTokens": LOADING,
    "JanusSave": SAVING,
    "JanusCaptionFolder": CAPTIONS,
}
WHATEVER: list[Any] = [5, None, ["a", "b", "c"], {"a": 1}, {"tensor": 5000}]
INPUTS = [
    ("JanusLoader", "checkpoint"),
    ("JanusLoader", "dtype"),
    ("JanusLoRA", "lora"),
    ("JanusTextToImage", "janus"),
    ("JanusTextToImage", "prompt"),
    ("JanusTextToImage", "sampler"),
    ("JanusTextToImage", "cfg"),
    ("JanusTextToImage", "sampling"),
    ("JanusSampling", "cfg_end"),
    ("JanusSampling", "cfg_power"),
    ("JanusSampling", "sampler"),
    ("JanusDescribeImage", "image"),
    ("JanusChat", "history"),
    ("JanusVQDecode", "tokens"),
    ("JanusVQEncode", "image"),
    ("JanusVQEncode", "fit"),
    ("JanusPickTokens", "tokens"),
    ("JanusPickTokens", "index"),
    ("JanusJoinTokens", "tokens_2"),
    ("JanusSaveTokens", "tokens"),
    ("JanusSaveTokens", "filename_prefix"),
    ("JanusLoadTokens", "file"),
    ("JanusSave", "checkpoint"),
    ("JanusSave", "dtype"),
    ("JanusSave", "filename"),
    ("JanusCaptionFolder", "folder"),
    ("JanusCaptionFolder", "preset"),
    ("JanusCaptionFolder", "output_folder"),
    ("JanusCaptionFolder", "existing"),
]
BOOLEANS = [("JanusTextToImage", "top_k", True), ("JanusTextToImage", "cfg", False), ("JanusSave", "filename", True)]
FITTING = [
    ("cfg", 5),
    ("cfg_end", 5),
    ("cfg_power", 5),
    ("index", 5),
    ("image", {"tensor": 5000}),
    ("history", None),
    ("sampling", None),
]
LINKED = [(*node, value) for node in INPUTS for value in WHATEVER if (node[1], value) not in FITTING] + BOOLEANS
UNCHECKED = (
    "checkpoint",
    "lora",
    "janus",
    "history",
    "sampling",
    "tokens",
    "tokens_2",
    "file",
)  # ComfyUI checks or converts the other inputs of a request
ASKED: list[Any] = [5, 1.5, True, None, {"a": 1}, {"__value__": ["a", "b"]}]
REQUESTED = [
    (*node, value) for node in INPUTS for value in ASKED if node[1] in UNCHECKED and (node[1], value) not in FITTING
] + [("JanusSave", "filename", [])]


def given(name: str, value: Any) -> str:
    if value is None or isinstance(value, int):
        return f"The input {name} is {value} and must be "
    kind = {list: "list", dict: "dict"}[type(value)] if value != {"tensor": 5000} else "Tensor"
    return f"The input {name} is of the type {kind} and must be "


@pytest.mark.parametrize(("kind", "name", "value"), LINKED, ids=str)
def test_whatever_comes_over_a_link_is_said_by_the_inputs_name(
    server: ComfyServer, kind: str, name: str, value: Any
) -> None:
    graph = copy.deepcopy(GRAPHS[kind])
    graph["whatever"] = {"class_type": "Whatever", "inputs": {"value": {"__value__": value}}}
    error = fails(server, change(graph, kind, **{name: ["whatever", 0]}))
    assert error.startswith(given(name, value)) and len(error) < 200


@pytest.mark.parametrize(("kind", "name", "value"), REQUESTED, ids=str)
def test_whatever_a_request_has_is_said_by_the_inputs_name(
    server: ComfyServer, kind: str, name: str, value: Any
) -> None:
    error = fails(server, change(copy.deepcopy(GRAPHS[kind]), kind, **{name: value}))
    assert f"The input {name} is " in error


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("JanusLoader", "checkpoint"),
        ("JanusSave", "filename"),
        ("JanusLoRA", "lora"),
        ("JanusSaveTokens", "filename_prefix"),
        ("JanusLoadTokens", "file"),
    ],
)
def test_a_node_without_its_input_is_told_so(server: ComfyServer, kind: str, name: str) -> None:
    graph = copy.deepcopy(GRAPHS[kind])
    graph[node_of(graph, kind)]["inputs"].pop(name, None)
    assert fails(server, graph) == f"Required input is missing: {name}"


def test_an_answer_of_more_tokens_than_a_number_holds_over_a_link(server: ComfyServer, describing: Graph) -> None:
    describing["many"] = {"class_type": "Whatever", "inputs": {"value": {"__value__": 10**400}}}
    assert "holds 1024" in fails(server, change(describing, "JanusDescribeImage", max_tokens=["many", 0]))


@pytest.mark.parametrize("shape", [[], [3], [8, 8, 3], [0, 8, 8, 3], [1, 8, 8, 5]], ids=str)
def test_pictures_of_another_shape(server: ComfyServer, describing: Graph, shape: list[int]) -> None:
    describing["other"] = {"class_type": "Whatever", "inputs": {"value": {"shape": shape}}}
    assert "The pictures have shape" in fails(server, change(describing, "JanusDescribeImage", image=["other", 0]))


def test_a_picture_of_nan(server: ComfyServer, describing: Graph) -> None:
    image = [node_of(describing, "LoadImage"), 0]
    describing["nan"] = {
        "class_type": "ImageBlend",
        "inputs": {"image1": image, "image2": image, "blend_factor": NAN, "blend_mode": "normal"},
    }
    assert "NaN" in fails(server, change(describing, "JanusDescribeImage", image=["nan", 0]))


def test_a_picture_of_nothing_or_nan_is_not_encoded(server: ComfyServer) -> None:
    graph = json.loads((PACK / "tests/data/encode_decode.json").read_text())
    graph["other"] = {"class_type": "Whatever", "inputs": {"value": {"shape": [1, 0, 8, 3]}}}
    assert "The pictures have shape" in fails(server, change(graph, "JanusVQEncode", image=["other", 0]))
    image = [node_of(graph, "LoadImage"), 0]
    graph["other"] = {
        "class_type": "ImageBlend",
        "inputs": {"image1": image, "image2": image, "blend_factor": NAN, "blend_mode": "normal"},
    }
    assert "NaN" in fails(server, graph)


def test_tokens_of_a_model_with_another_codebook(server: ComfyServer) -> None:
    graph = shipped("tokens_decode")
    graph["other"] = {"class_type": "JanusLoader", "inputs": {"checkpoint": "tiny", "dtype": "auto"}}
    error = fails(server, change(graph, "JanusVQDecode", janus=["other", 0]))
    assert "another model's codebook" in error
