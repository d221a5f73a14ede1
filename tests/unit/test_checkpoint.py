"""Finding and opening checkpoints: what loads, and one clear CheckpointError for what does not."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_files import refuses, shard
from safetensors.torch import save_file

import janus_core
from janus_core.errors import CheckpointError
from janus_core.model.quantised import Layers, Uninitialised
from janus_core.weights.checkpoint import find
from janus_core.weights.loading import load_model, make_writable


def same_weights(one: janus_core.Janus, other: janus_core.Janus) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in one.model.state_dict().items())


# What loads


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_with_an_index_load(copy, state, janus, suffix):
    folder = copy(weights=False)
    shard(folder, state, suffix)
    assert same_weights(janus_core.load(folder), janus)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_both_pickle_formats_load(copy, state, janus, zipped):
    folder = copy(weights=False)
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert same_weights(janus_core.load(folder), janus)


def test_one_file_beside_its_config_loads(copy, janus):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "my finetune.safetensors")
    (folder / "other.safetensors").write_bytes(b"")
    assert same_weights(janus_core.load(folder / "my finetune.safetensors"), janus)
    assert same_weights(janus_core.load(str(folder / "my finetune.safetensors")), janus)


def test_a_folder_with_one_file_of_any_name_loads(copy, janus):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "my finetune.safetensors")
    assert same_weights(janus_core.load(folder), janus)


def test_a_suffix_in_capitals_loads(copy, janus):
    folder = copy()
    path = (folder / "model.safetensors").rename(folder / "JANUS.SAFETENSORS")
    assert same_weights(janus_core.load(path), janus)
    assert same_weights(janus_core.load(folder), janus)


def test_the_embedded_default_loads_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    janus = janus_core.load(janus_core.DEFAULT_CHECKPOINT)
    images = janus.decode(janus.generate("a red circle", seed=1))
    assert images.shape[1:] == (*(16 * side for side in janus.model.config.grid), 3)
    assert isinstance(janus.answer("What is it?", images, max_new_tokens=2), str)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_come_in_the_asked_dtype_and_the_vq_is_never_half(copy, dtype):
    janus = janus_core.load(copy(), dtype=dtype)
    vq = {p.dtype for p in janus.model.gen_vision_model.parameters()}
    rest = {p.dtype for n, p in janus.model.named_parameters() if not n.startswith("gen_vision_model.")}
    assert rest == {dtype}
    assert vq == {torch.float32 if dtype == torch.float16 else dtype}
    assert not any(p.requires_grad for p in janus.model.parameters()) and not janus.model.training


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_rests_while_layers_are_made_and_is_then_as_it_was(copy, on):
    rests = []

    class Operations:
        def __getattr__(self, name: str) -> type:
            rests.append(not gc.isenabled())
            return getattr(Uninitialised, name)

    folder = copy()
    try:
        (gc.enable if on else gc.disable)()
        load_model(find(folder), layers=Layers(Operations()))
        assert gc.isenabled() == on
        save_file({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
        with pytest.raises(janus_core.CheckpointError):
            load_model(find(folder))
        assert gc.isenabled() == on
    finally:
        gc.enable()
    assert rests and all(rests)


def test_old_rope_buffers_are_known_leftovers(copy, state):
    folder = copy(weights=False)
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(state, folder / "model.safetensors")
    janus_core.load(folder)


# Missing, misshapen, unknown


def test_nothing_at_the_path(tmp_path):
    refuses(tmp_path / "nowhere", "no Janus checkpoint at .*nowhere")


def test_a_folder_without_weights(copy):
    refuses(copy(weights=False), "no weight file")


def test_several_files_without_an_index(copy, state):
    folder = copy(weights=False)
    for path in shard(folder, state):
        assert path.is_file()
    (folder / "model.safetensors.index.json").unlink()
    refuses(folder, "2 weight files without an index")


@pytest.mark.parametrize("name", ["model.pt", "config.json"])
def test_a_file_of_another_kind_is_not_said_to_be_missing(copy, name):
    folder = copy()
    if not (folder / name).exists():
        (folder / "model.safetensors").rename(folder / name)
    message = refuses(folder / name, re.escape(name))
    assert "There is no" not in message and ".safetensors" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_config_or_tokenizer(copy, name):
    folder = copy()
    (folder / name).unlink()
    refuses(folder, f"has no {name}")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufeff{}", "<html>404</html>", '{"a": 1'])
def test_a_config_that_is_not_json(copy, text):
    folder = copy()
    (folder / "config.json").write_text(text, encoding="utf-8")
    refuses(folder, "config.json .*fetch")


def test_a_tokenizer_that_is_not_one(copy):
    folder = copy()
    (folder / "tokenizer.json").write_text("{}")
    refuses(folder, "tokenizer.json is not a readable tokenizer")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_missing_shard_is_named(copy, state, suffix):
    folder = copy(weights=False)
    gone = shard(folder, state, suffix)[1]
    gone.unlink()
    refuses(folder, f"lacks {gone.name}, .*fetch the missing shards")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "", 3])
def test_an_index_cannot_point_outside_its_folder(copy, state, name):
    folder = copy(weights=False)
    save_file(state, folder.parent / "outside.safetensors")
    (folder / "sub").mkdir()
    save_file(state, folder / "sub" / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    refuses(folder, "no usable weight_map|fetch the missing shards")


@pytest.mark.parametrize("value", [{}, {"weight_map": None}, {"weight_map": ["a"]}, {"weight_map": {}}])
def test_an_index_without_a_weight_map(copy, value):
    folder = copy(weights=False)
    (folder / "model.safetensors.index.json").write_text(json.dumps(value))
    refuses(folder, "no usable weight_map|lacks .* of the tensors")


def test_missing_tensors_are_counted_and_the_first_are_named(copy, state):
    folder = copy(weights=False)
    gone = [key for key in state if key.startswith("gen_aligner.")]
    save_file({key: tensor for key, tensor in state.items() if key not in gone}, folder / "model.safetensors")
    message = refuses(folder, f"model.safetensors lacks {len(gone)} of the tensors")
    assert gone[0] in message and "and 1 more" in message


def test_an_unknown_tensor_is_named(copy, state):
    folder = copy(weights=False)
    save_file(state | {"vision_model.extra.weight": torch.ones(1)}, folder / "model.safetensors")
    refuses(folder, r"holds 1 tensors .*vision_model\.extra\.weight")


def test_a_misshapen_tensor_is_named_with_both_shapes(copy, state):
    folder = copy(weights=False)
    key = "gen_head.vision_head.weight"
    save_file(state | {key: state[key].T.contiguous()}, folder / "model.safetensors")
    message = refuses(folder, "1 tensors of another shape")
    assert f"{key} is [64, 128], not [128, 64]" in message


def test_a_tensor_of_numbers_that_are_not_real_weights(copy, state):
    """Packed integers, as quantised files hold, must not be cast as if they were weights."""
    folder = copy(weights=False)
    key = "language_model.model.layers.0.mlp.up_proj.weight"
    save_file(state | {key: torch.ones_like(state[key], dtype=torch.int8)}, folder / "model.safetensors")
    refuses(folder, re.escape(key))


@pytest.mark.parametrize(
    ("entry", "value", "match"),
    [
        ("num_hidden_layers", 1, r"language_model\.model\.layers\.1\."),
        ("num_hidden_layers", 3, r"language_model\.model\.layers\.2\."),
        ("intermediate_size", 180, r"mlp\.gate_proj\.weight is \[176, 64\], not \[180, 64\]"),
    ],
)
def test_the_config_of_another_size(copy, edit, entry, value, match):
    folder = copy()
    edit(folder / "config.json", lambda config: config["language_config"].update({entry: value}))
    refuses(folder, match)


def test_the_config_of_another_architecture(copy, edit):
    folder = copy()
    edit(folder / "config.json", lambda config: config.update(model_type="llava"))
    refuses(folder, "'llava', not Janus")


def test_the_weights_of_another_architecture(copy):
    folder = copy(weights=False)
    save_file({"model.embed_tokens.weight": torch.ones(4, 4)}, folder / "model.safetensors")
    refuses(folder, "lacks 414 of the tensors.*belongs to another model")


@pytest.mark.parametrize("size", [-64, 2**62])
def test_a_config_no_network_can_be_built_from(copy, edit, size):
    """Nonsense that only building the network would show is still one clear sentence."""
    folder = copy()
    edit(folder / "config.json", lambda config: config["language_config"].update(intermediate_size=size))
    refuses(folder, "config.json")


# Finding


def test_an_index_beats_a_single_file_and_safetensors_beat_pickles(copy, state):
    folder = copy()
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert [path.name for path in find(folder).weights] == ["model.safetensors"]
    files = shard(folder, state)
    assert list(find(folder).weights) == files


def test_a_folder_here_beats_the_embedded_name(copy, monkeypatch):
    folder = copy(janus_core.DEFAULT_CHECKPOINT)
    monkeypatch.chdir(folder.parent)
    assert find(janus_core.DEFAULT_CHECKPOINT).folder.resolve() == folder.resolve()


# Loading


def test_weights_made_writable_are_copies_and_the_file_stays(copy, janus):
    folder = copy()
    norm = make_writable(janus_core.load(folder).model.language_model.model.norm)
    norm.weight.fill_(7.0)
    assert same_weights(janus_core.load(folder), janus)


def test_nothing_is_drawn_at_random_only_to_be_replaced():
    """It would cost a second and more: torch imports its compiler to draw for a tensor without memory."""
    program = "import sys, janus_core; janus_core.load(); print('torch._dynamo' in sys.modules)"
    root = Path(janus_core.__file__).parents[1]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)  # noqa: S603 (our own interpreter)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gen_vision_config": None, "gen_aligner_config": None, "gen_head_config": None}, "DeepSeek-VL, which reads"),
        ({"vision_gen_enc_config": {}}, "JanusFlow"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised by bitsandbytes"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "converted for MLX"),
    ],
)
def test_what_only_looks_like_a_janus_is_refused_by_what_it_is(copy, changes, what):
    folder = copy()
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"describes .*{what}.*as its authors published it"):
        janus_core.load(folder)


@pytest.mark.parametrize(
    ("file", "what"), [("model-Q4_K_M.gguf", "GGUF"), ("onnx/language_model.onnx", "ONNX"), ("weights.npz", "MLX")]
)
def test_other_programs_formats_are_refused_by_what_they_are(copy, file, what):
    folder = copy()
    (folder / "model.safetensors").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"GGUF")
    for given in (folder, folder / file):
        with pytest.raises(CheckpointError, match=f"{what}.*cannot open"):
            janus_core.load(given)


def test_what_fine_tunes_files_have_more_is_no_obstacle(copy, janus):
    """The transformer's keys again at the config's top level, and a tokenizer.json written anew, indented."""
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    more = {"_name_or_path": "/home/me/Janus-Pro-7B", "use_cache": False, "transformers_version": "4.49.0"}
    (folder / "config.json").write_text(json.dumps({**config["language_config"], **config, **more}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
    (folder / "training_args.bin").write_bytes(b"not weights")
    assert (
        janus_core.load(folder).generate("a cat", seed=1).ids.tolist() == janus.generate("a cat", seed=1).ids.tolist()
    )
