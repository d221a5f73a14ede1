"""The benchmarks measure what they say: engines over the same weights, a table and a JSON file."""

import json
import sys

import beside
import pytest
import torch
from engines import Original, Transformers, transformers_twin

import janus_core
from janus_core.__main__ import main
from janus_core.bench import jacobi
from janus_core.bench.engine import SPECIAL, Ours
from janus_core.bench.measure import prompt_of, step_bytes
from janus_core.bench.random_weights import in_8_bits, random_model
from janus_core.weights.checkpoint import find


@pytest.fixture(scope="module")
def model():
    return random_model(find(janus_core.DEFAULT_CHECKPOINT).config(), torch.device("cpu"), torch.float32)


@pytest.mark.slow
def test_the_peers_run_on_the_very_weights_of_ours(model):
    twin = transformers_twin(model)
    shared = twin.model.language_model.layers[0].self_attn.q_proj.weight
    assert shared.data_ptr() == model.language_model.model.layers[0].self_attn.qkv_proj.weight.data_ptr()
    embeds = model.embed_text(torch.tensor([prompt_of(20)]))
    theirs = twin.model.language_model(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(model.language_model.model(embeds), theirs, atol=1e-4, rtol=0)
    h, w = model.config.grid
    ids = torch.arange(h * w)[None]
    drawn = model.gen_vision_model.decode(ids, (h, w)).permute(0, 2, 3, 1)
    torch.testing.assert_close(drawn, twin.decode_image_tokens(ids), atol=1e-4, rtol=1e-4)


def test_the_originals_loop_draws_codes_of_the_codebook(model):
    device = torch.device("cpu")
    engine = Original(model, transformers_twin(model), device)
    ids, ours = (e.draw(prompt_of(12), steps=5, count=3, token=lambda: None) for e in (engine, Ours(model, device)))
    assert ids.shape == ours.shape == (3, 5)
    assert int(ids.min()) >= 0 and int(ids.max()) < model.config.vq.codebook_size


def test_each_engine_says_so_at_each_of_its_tokens(model):
    device = torch.device("cpu")
    twin = transformers_twin(model)
    pixels = torch.zeros(1, 3, model.config.vision.image_size, model.config.vision.image_size)
    question = [*prompt_of(12), *[SPECIAL["image"]] * model.config.vision.tokens, 10]
    for engine in (Original(model, twin, device), Transformers(twin, device), Ours(model, device)):
        said: list[str] = []
        engine.draw(prompt_of(12), steps=5, count=2, token=lambda said=said: said.append("code"))
        engine.answer(question, pixels, count=4, token=lambda said=said: said.append("token"))
        assert said == ["code"] * 5 + ["token"] * 4, engine.name


@torch.no_grad()
def test_the_8_bit_model_shares_all_but_its_big_layers(model):
    small = in_8_bits(model)
    assert small.gen_head.vision_head.weight.data_ptr() == model.gen_head.vision_head.weight.data_ptr()
    embeds = model.embed_text(torch.tensor([prompt_of(20)]))
    mine, theirs = (m.language_model.model(embeds) for m in (small, model))
    assert 0 < (mine - theirs).norm() < 0.05 * theirs.norm()


def test_the_floor_counts_weights_once_and_the_cache_of_both_rows_of_each_picture(model):
    llama = model.config.llama
    a_token = 2 * llama.num_hidden_layers * llama.hidden_size * 4 * 2  # keys and values, both rows, float32
    assert step_bytes(model, 3, 100) - step_bytes(model, 3, 0) == 3 * 100 * a_token
    parts = [model.language_model.model.layers, model.language_model.model.norm, model.gen_head, model.gen_aligner]
    assert step_bytes(model, 1, 0) == sum(p.numel() * 4 for part in parts for p in part.parameters())


def measured(tmp_path, capsys, run):
    """The rows that a quick run on one picture writes as JSON, and the table that it prints, as lists of cells."""
    figures = tmp_path / "bench.json"
    flags = ["--model", janus_core.DEFAULT_CHECKPOINT, "--dtype", "fp32", "--quick", "--pictures", "1"]
    run([*flags, "--json", str(figures)])
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return json.loads(figures.read_text())["rows"], table


@pytest.mark.slow
@pytest.mark.parametrize("peers", [False, True], ids=["bench", "beside"])
def test_a_benchmark_prints_a_table_and_writes_the_same_figures_as_json(tmp_path, capsys, monkeypatch, peers):
    if peers:
        run, others, theirs = beside.main, {"original loop", "transformers"}, {"transformers"}
    else:
        monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
        monkeypatch.setattr(jacobi, "PICTURES", 2)  # the other run draws them all
        run, others, theirs = lambda flags: main(["bench", *flags]), set(), set()
    rows, table = measured(tmp_path, capsys, run)
    assert len(rows) == len(table) - 2
    step = rows[0]
    ours = table[0].index("ours")
    assert set(step["values"]) == others | {"ours"}
    assert min(step["values"].values()) > 0 and step["floor"] > 0
    named = {(row["what"], row["unit"]): row for row in rows}
    assert set(named["VQ decode, N=1", "s"]["values"]) == theirs | {"ours"}
    for what in ("load", "load a converted file"):
        load, peak = named[what, "s"], named[f"{what}: peak memory, mapped file included", "GB"]
        assert set(load["values"]) == theirs | {"ours"}
        assert min(load["values"].values()) > 0 and min(peak["values"].values()) > peak["floor"] > 0
    for window in (4, 8, 16):
        what = f"jacobi on {janus_core.DEFAULT_CHECKPOINT}, window {window}"
        assert 0 < named[what, "passes a code"]["values"]["ours"] < 1
        assert named[what, "s"]["values"].keys() == {"sequential", "ours"}
    assert float(table[2][ours]) == pytest.approx(step["values"]["ours"], rel=1e-2)


def test_tritons_kernels_are_not_measured_where_they_cannot_run(capsys):
    assert main(["bench", "--triton"]) == 2
    assert "its kernels are for cuda" in capsys.readouterr().err
