"""Lists as files: what is read, what is written and where, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_core import InputError
from janus_core.__main__ import main
from janus_core.batch.items import Item, picture_items, prompt_items
from janus_core.batch.output import Files, Table
from janus_core.batch.presets import Wording, read_presets, wording
from janus_core.batch.sizes import fitting, fitting_pictures, fitting_rows
from janus_core.pictures import from_uint8, read_picture

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"


def fail(*args: object) -> None:
    raise AssertionError(args)


def complete_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_a_list_may_have_its_own_questions_keys_and_seeds(album, tmp_path):
    folder = album(3)
    rows = [
        {"image": "album/000.png"},
        {"image": str(folder / "001.png"), "question": "How many?", "key": "second", "seed": 9},
    ]
    listed = tmp_path / "list.jsonl"
    listed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = picture_items(listed, question="What?", seed=5, failed=fail)
    assert (first.key, first.text, first.picture, first.seed) == ("album/000.png", "What?", folder / "000.png", 5)
    assert (second.key, second.text, second.picture, second.seed) == ("second", "How many?", folder / "001.png", 9)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\nan owl\n", encoding="utf-8-sig")
    drawn = [(item.key, item.text, item.seed) for item in prompt_items(prompts, seed=3, count=2, failed=fail)]
    assert drawn == [
        ("000001_0", "a cat", 3),
        ("000001_1", "a cat", 4),
        ("000003_0", "an owl", 7),
        ("000003_1", "an owl", 8),
    ]


def test_bad_lines_of_a_list_are_reported_and_the_rest_is_there(tmp_path):
    lines = ['{"prompt": "a cat"}', "no json", "[1]", '{"key": "x"}', '{"prompt": "b", "seed": -1}', '{"prompt": 7}']
    lines += ['{"prompt": "a", "key": "same"}', '{"prompt": "b", "key": "same"}', '{"prompt": "c", "key": true}']
    listed, bad = tmp_path / "list.jsonl", {}
    listed.write_text("\n".join(lines), encoding="utf-8")
    good = list(prompt_items(listed, seed=0, failed=lambda key, error: bad.setdefault(key, str(error))))
    assert [item.key for item in good] == ["000001", "same"]
    assert list(bad) == ["2", "3", "x", "5", "6", "same", "True"]
    assert "not JSON" in bad["2"] and "no prompt" in bad["x"] and "seed is -1" in bad["5"] and "already" in bad["same"]


@pytest.mark.parametrize("key", ["../out", "/etc/out", "a/../../out", "..", "a\\b", "a\0b"])
def test_a_key_cannot_lead_out_of_the_folder(tmp_path, key):
    with pytest.raises(InputError, match="is no name for a file"):
        Files(tmp_path / "in", ".txt").path(Item(key, ""))


def test_two_pictures_with_one_text_file_are_no_silent_loss(tmp_path):
    files = Files(tmp_path, ".txt")
    files.write_text(Item("a.png", ""), "first")
    with pytest.raises(InputError, match=r"a\.txt is already for a\.png"):
        files.has(Item("a.jpg", ""))


@pytest.mark.parametrize(
    ("existing", "expected"), [("skip", "mine\n"), ("overwrite", "new\n"), ("append", "mine\nnew\n")]
)
def test_texts_that_are_there_are_skipped_overwritten_or_added_to(tmp_path, existing, expected):
    files, item = Files(tmp_path, ".txt", existing=existing), Item("sub/ä.png", "")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ä.txt").write_text("mine\n", encoding="utf-8")
    if not files.has(item):
        files.write_text(item, "new")
    assert (tmp_path / "sub" / "ä.txt").read_bytes().decode() == expected


def test_a_table_keeps_the_rows_of_other_lists_and_half_characters_of_names(tmp_path):
    path = tmp_path / "out.jsonl"
    for keys in (["b", "\udc80"], ["a", "b", "c"]):
        with Table(path) as table:
            for key in keys:
                if not table.has(Item(key, "")):
                    table.write({"key": key, "question": "?", "answer": f"of {key}"})
    assert [row["key"] for row in complete_lines(path)] == ["\udc80", "a", "b", "c"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_in_shards_grows_and_has_each_row_once(tmp_path):
    path = tmp_path / "out.jsonl"
    for keys, shard in (("ac", None), ("abcde", 2), ("abcde", 2), ("abcdef", 4)):
        with Table(path, shard=shard) as table:
            for key in keys:
                if not table.has(Item(key, "")):
                    table.write({"key": key, "question": "?", "answer": key})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out-00001-of-00002.jsonl", "out-00002-of-00002.jsonl"]
    found = ["".join(row["key"] for row in complete_lines(file)) for file in sorted(tmp_path.iterdir())]
    assert found == ["abcd", "ef"]


def test_a_kill_while_the_table_is_finished_costs_nothing(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt), Table(path, shard=1) as table:
        for key in "abc":
            table.write({"key": key, "question": "?", "answer": key})
        write = table._write_file

        def stop(file: Path, rows: object) -> None:
            if "00002" in file.name.partition("-of-")[0]:
                raise KeyboardInterrupt
            write(file, rows)

        monkeypatch.setattr(table, "_write_file", stop)
    assert len(list(tmp_path.iterdir())) == 2  # the first shard, and the part file
    with Table(path, shard=1) as table:
        assert [key for key in "abc" if table.has(Item(key, ""))] == ["a", "b", "c"]
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"out-0000{i}-of-00003.jsonl" for i in (1, 2, 3)]
    assert [row["key"] for file in files for row in complete_lines(file)] == ["a", "b", "c"]


def test_a_second_run_on_the_same_table_is_refused(tmp_path):
    with (
        Table(tmp_path / "out.jsonl"),
        pytest.raises(InputError, match="by another program"),
        Table(tmp_path / "out.jsonl"),
    ):
        pass


def test_a_file_that_is_no_such_table_is_left_alone(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"image": "a.png", "prompt": "a cat"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="none of such a table's"), Table(path):
        pass
    assert path.read_text(encoding="utf-8") == '{"image": "a.png", "prompt": "a cat"}\n'


def test_a_full_disk_loses_no_row_that_was_written(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="disk is full"), Table(path) as table:
        table.write({"key": "a", "question": "?", "answer": "one"})
        whole = table._file

        class Full:
            def __getattr__(self, name: str) -> object:
                return getattr(whole, name)

            def write(self, data: bytes) -> int:
                return whole.write(data[:7])

        table._file = Full()  # pyright: ignore[reportAttributeAccessIssue]
        table.write({"key": "b", "question": "?", "answer": "two"})
    with Table(path) as table:
        assert table.has(Item("a", "")) and not table.has(Item("b", ""))
    assert [row["key"] for row in complete_lines(path)] == ["a"]


def test_parquet_without_its_library_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    assert main(["describe", str(tmp_path / "list.parquet"), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert main(["describe", str(tmp_path), "--out", str(tmp_path / "out.parquet")]) == 2
    assert capsys.readouterr().err.count("Parquet files need the library pyarrow") == 2


def test_parquet_is_read_and_written_by_key(janus, album, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    folder = album(3)
    content = (folder / "001.png").read_bytes()
    rows = [
        {"key": "a", "image": {"bytes": content, "path": None}},
        {"key": "b", "image": {"bytes": b"no", "path": None}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    command = ["describe", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.parquet")]
    assert main([*command, "--checkpoint", str(TINY), "--max-new-tokens", "6", "--question", "What?"]) == 0
    [row] = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    picture = from_uint8(np.array(read_picture(folder / "001.png")))
    expected = janus.answer("What?", [picture], max_new_tokens=6)
    assert row == {"key": "a", "question": "What?", "answer": expected}
    assert [row["key"] for row in complete_lines(tmp_path / "out.errors.jsonl")] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["describe", "nowhere", "--out", "out.jsonl"], "nowhere is no list"),
        (["describe", "missing.jsonl", "--out", "out.jsonl"], "missing.jsonl cannot be read"),
        (["describe", "a.png", "b.png", "--out", "out.jsonl"], "2 are given"),
        (["describe", ".", "--out", "out.csv"], "none of the kinds"),
        (["describe", ".", "--out", "out.jsonl", "--batch", "0"], "--batch is 0"),
        (["describe", ".", "--out", "out.jsonl", "--shard", "0"], "--shard is 0"),
        (["describe", ".", "--out", "out.jsonl", "--preset", "odd"], "no preset 'odd'"),
        (["describe", ".", "--out", "out.jsonl", "--preset", "training"], "there is none"),
        (["describe", ".", "--out", "out.jsonl", "--trigger", "sks"], "has no place"),
        (["describe", "a.png", "--preset", "short"], "give --out"),
        (["generate"], "either a prompt or --prompts"),
        (["generate", "a", "--prompts", "list.txt"], "either a prompt or --prompts"),
        (["generate", "a", "--batch", "2"], "give --prompts"),
        (["generate", "--prompts", ".", "--out", "out"], "is a folder"),
        (["generate", "--prompts", "list.txt", "--out", "out.jsonl"], "no place for pictures"),
        (["generate", "--prompts", "list.txt", "--sampler", "jacobi"], "for few pictures"),
        (["generate", "--prompts", "list.txt", "--out", "out", "--top-p", "2"], "top_p is 2"),
    ],
)
def test_bad_arguments_for_a_list_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, named):
    (tmp_path / "list.txt").write_text("a cat\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and named in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_the_batch_is_the_largest_that_fits_the_free_memory(janus, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("janus_core.batch.sizes.free_memory", lambda device: 1000)
    found = [fitting(lambda batch, each=each: batch * each, cpu, memory=1000) for each in (1, 200, 300, 5000)]
    assert found == [8, 4, 2, 1]
    assert fitting_rows(janus, max_new_tokens=8) == 1
    monkeypatch.undo()
    assert fitting_rows(janus, max_new_tokens=8) == fitting_pictures(janus) == 8


def test_presets_are_questions_with_a_place_for_a_trigger_word(tmp_path):
    presets = read_presets()
    assert set(presets) == {"short", "long", "tags", "training", "alt text"}
    assert wording("training", "").with_trigger(" sks ").caption("a cat") == "sks, a cat"
    assert Wording("What?").within("photo of ", ".").with_trigger("").caption("a cat") == "photo of a cat."
    broken = tmp_path / "presets.json"
    for text in ("[", "[]", '{"a": "b"}', '{"a": {"prefix": "b"}}', '{"a": {"question": 1}}'):
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="is no list of presets"):
            read_presets(broken)
