"""Files of tokens, and tokens picked from a batch and joined."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from janus_core import CheckpointError, ImageTokens, InputError
from janus_core.tokens import MAX_CODES, joined, picked, read_tokens, write_tokens

CODEBOOK = "0123456789abcdef"


def tokens(count=3, grid=(4, 6), seed=0, **changes) -> ImageTokens:
    ids = torch.randint(16384, (count, grid[0] * grid[1]), generator=torch.Generator().manual_seed(seed))
    return replace(ImageTokens(ids, grid, CODEBOOK), **changes)


def equal(one: ImageTokens, two: ImageTokens) -> bool:
    return torch.equal(one.ids, two.ids) and (one.grid, one.codebook) == (two.grid, two.codebook)


@pytest.fixture
def file(tmp_path):
    """The tokens' file, and nothing else in its folder."""
    return tmp_path / "some.tokens.safetensors"


def test_what_is_written_is_read(file):
    write_tokens(tokens(), file)
    assert equal(read_tokens(file), tokens()) and read_tokens(file).ids.dtype == torch.long


def test_the_file_is_small_and_alone(file):
    write_tokens(tokens(1, (24, 24)), file)
    assert file.stat().st_size < 5_000
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("ids", [torch.zeros(1, 24), torch.zeros(24).long(), torch.zeros(1, 23).long()])
def test_damaged_tokens_are_not_written(file, ids):
    write_tokens(tokens(), file)
    with pytest.raises(InputError, match="they are damaged"):
        write_tokens(tokens(ids=ids), file)
    assert equal(read_tokens(file), tokens())


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="could not be written"):
        write_tokens(tokens(), tmp_path / "no" / "a.safetensors")


def test_every_cut_of_a_file_is_refused(file):
    write_tokens(tokens(1, (2, 2)), file)
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
            read_tokens(file)


GOOD = {"ids": torch.zeros(1, 2, 2, dtype=torch.long)}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (GOOD, None),
        (GOOD, {"codebook": ""}),
        (GOOD, {"codebook": CODEBOOK + "\n"}),
        (GOOD, {"codebook": "../../etc/passwd"}),
        ({"other": GOOD["ids"]}, {"codebook": CODEBOOK}),
        (GOOD | {"more": torch.zeros(1)}, {"codebook": CODEBOOK}),
        ({"ids": torch.zeros(1, 2, 2)}, {"codebook": CODEBOOK}),
        ({"ids": torch.zeros(1, 4, dtype=torch.long)}, {"codebook": CODEBOOK}),
    ],
    ids=["no codebook", "empty", "newline", "path", "name", "two", "float", "flat"],
)
def test_another_safetensors_file_is_refused(file, tensors, metadata):
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(CheckpointError, match="holds no picture tokens: choose"):
        read_tokens(file)


@pytest.mark.parametrize("shape", [(0, 2, 2), (1, 0, 2), (MAX_CODES + 1, 1, 1)])
def test_a_file_of_no_tokens_or_beyond_reason_is_refused_before_it_is_read(file, shape):
    size = shape[0] * shape[1] * shape[2] * 8
    header = {
        "__metadata__": {"codebook": CODEBOOK},
        "ids": {"dtype": "I64", "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with file.open("r+b") as hole:
        hole.truncate(8 + len(text) + size)
    with pytest.raises(CheckpointError, match="tokens and may hold 1 to"):
        read_tokens(file)


def test_a_file_that_is_missing_is_said(tmp_path):
    with pytest.raises(CheckpointError):
        read_tokens(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(("index", "length", "rows"), [(0, 1, [0]), (2, 1, [2]), (1, 2, [1, 2]), (1, 4096, [1, 2])])
def test_picks_some_of_a_batch(index, length, rows):
    assert equal(picked(tokens(), index, length), tokens(ids=tokens().ids[rows]))


@pytest.mark.parametrize(
    ("index", "length", "match"),
    [(3, 1, "index is 3 and the tokens are of 3 pictures: give 0 to 2"), (-1, 1, "index is -1"), (0, 0, "length is 0")],
)
def test_nothing_can_be_picked_beyond_a_batch(index, length, match):
    with pytest.raises(InputError, match=match):
        picked(tokens(), index, length)


def test_joins_what_was_picked():
    assert equal(joined(picked(tokens(), 0), picked(tokens(), 1, 2)), tokens())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codebook": "f" * 16}, "two models' codebooks"),
        ({"grid": (6, 4)}, "two sizes, 6 x 4 and 4 x 6 tokens"),
        ({"ids": torch.zeros(1, 5).long()}, "they are damaged"),
    ],
)
def test_tokens_that_do_not_belong_together_are_not_joined(changes, match):
    with pytest.raises(InputError, match=match):
        joined(tokens(), tokens(**changes))
