"""`python -m janus_core doctor`: it finds this machine well, and says in numbered sentences what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_core import machine
from janus_core.__main__ import main
from janus_core.checkpoints import DEFAULT_CHECKPOINT
from janus_core.generation.context import Context
from janus_core.model import cpu_ops
from janus_core.model.janus import GenHead
from janus_core.weights import checkpoint

CHECKS = (
    *("versions", "devices", "cpu kernels", "dtype", "loading", "drawing", "known codes", "agreement", "pictures"),
    *("answer", "device kernels", "peak memory", "speed"),
)

pytestmark = pytest.mark.slow


def ill(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The JSON of a doctor on the CPU who finds problems."""
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--device", "cpu", "--json", *arguments])
    assert stopped.value.code == 1
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model, one of whose weights is another."""
    folder = shutil.copytree(checkpoint.ASSETS / DEFAULT_CHECKPOINT, tmp_path / DEFAULT_CHECKPOINT)
    monkeypatch.setattr(checkpoint, "ASSETS", tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight"))
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors")
    return folder


def test_all_is_well_with_the_embedded_model_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [*CHECKS, "All well."]
    assert f"  torch: {torch.__version__}" in lines and "  of the picture: 'a red circle'" in lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_json_is_one_object_with_each_check_and_no_problems(capsys, dtype):
    assert main(["doctor", "--device", "cpu", "--dtype", dtype, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert tuple(report) == (*CHECKS, "problems") and report["problems"] == []
    assert report["dtype"]["examined"] == dtype
    assert report["known codes"] == {"file as published": True, "codes as known": True}
    assert report["agreement"]["codes as in fp32 on the CPU"] >= (1 if dtype == "fp32" else 0.99)
    assert report["pictures"]["codes kept by decoding and encoding"] == 1
    assert 0 < report["speed"]["floor, ms"] < report["speed"]["decode step, ms"]


def test_a_changed_weight_is_named_and_the_other_checks_still_run(damaged, capsys):
    report = ill(capsys)
    assert report["known codes"] == {"file as published": False, "codes as known": False}
    assert any("known codes: The embedded model does not draw as it should" in text for text in report["problems"])
    assert all("install this pack again" in text for text in report["problems"] if "known codes" in text)
    assert all(report[check] for check in CHECKS)


def test_problems_are_numbered_sentences(damaged, capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "\n1. known codes: " in out and "All well." not in out


def test_nan_is_a_problem_of_what_draws_and_of_nothing_else(monkeypatch, capsys):
    forward = GenHead.forward
    monkeypatch.setattr(GenHead, "forward", lambda self, x: forward(self, x) * float("nan"))
    report = ill(capsys)
    assert [text.partition(":")[0] for text in report["problems"]] == ["drawing", "known codes", "speed"]
    assert all("The model computes NaN" in text for text in report["problems"])
    assert tuple(report) == (*CHECKS, "problems") and "estimate for a drawing, GB" in report["peak memory"]


def test_steps_that_compute_something_else_than_a_whole_picture_are_noticed(monkeypatch, capsys):
    step = Context.step
    late = lambda self, embeds, slots, end, **named: step(self, embeds, slots, end, positions=slots - 3)
    monkeypatch.setattr(Context, "step", late)
    [first, *_] = [text for text in ill(capsys, "--dtype", "fp32")["problems"] if text.startswith("agreement")]
    assert "fp32 on cpu is computed wrongly" in first and "please report it" in first


def test_a_check_that_raises_is_a_sentence_with_what_it_raised(monkeypatch, capsys):
    def refuse() -> dict:
        raise OSError("no such\n  driver")

    monkeypatch.setattr(machine, "versions", refuse)
    report = ill(capsys)
    assert report["problems"] == ["versions: OSError (no such driver): please report it with this output."]
    assert report["versions"] == {} and all(report[check] for check in CHECKS[1:])


def test_a_kernel_that_fails_its_trial_is_a_problem(monkeypatch, capsys):
    trial = cpu_ops.Probe(lambda: True, lambda x, weight: 2 * x.float() @ weight.float().T)
    monkeypatch.setitem(cpu_ops.PROBES, "packed float32", trial)
    report = ill(capsys)
    cpu_ops.is_usable.cache_clear()
    assert report["cpu kernels"]["packed float32"] == "not used"
    [problem] = report["problems"]
    assert (
        problem.startswith("cpu kernels: ") and "packed float32 cannot be used (its result is off by 100.0%)" in problem
    )


def test_without_a_checkpoint_the_machine_is_still_examined(tmp_path, capsys):
    report = ill(capsys, "--checkpoint", str(tmp_path / "nowhere"))
    assert tuple(report) == ("versions", "devices", "cpu kernels", "dtype", "problems")
    [problem] = report["problems"]
    assert "There is no Janus checkpoint at" in problem and report["devices"]["RAM, GB"] > 0


def test_another_model_is_examined_too(capsys):
    tiny = Path(__file__).parents[1] / "data" / "tiny_deepseek"
    assert main(["doctor", "--device", "cpu", "--checkpoint", str(tiny), "--dtype", "bf16"]) == 0
    out = capsys.readouterr().out
    assert "skipped: only those of the embedded model are known" in out and out.endswith("All well.\n")


@pytest.mark.parametrize(("generation", "dtype"), [(6, torch.float32), (7, torch.float16), (9, torch.bfloat16)])
def test_each_gpu_has_a_name_its_memory_and_the_dtype_it_is_fast_in(monkeypatch, generation, dtype):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (3e9, 8e9))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    found = machine.devices()
    assert (found["cuda:1"], found["cuda:1, GB"], found["cuda:1 free, GB"]) == ("card 1", 8, 3)
    assert machine.fastest_dtype(torch.device("cuda")) == dtype
    assert machine.free_memory(torch.device("cuda")) == 3e9


@pytest.mark.parametrize("device", ["toaster", "cuda:77"])
def test_an_unknown_device_is_one_sentence(capsys, device):
    assert main(["doctor", "--device", device]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"device {device} cannot be used" in err and len(err.strip().splitlines()) == 1
