"""Newer options reach ComfyUI's Schema where it has a place for them, and are left out where it has none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

NODES = (
    "load.JanusLoader",
    "generate.JanusTextToImage",
    "sampling.JanusSampling",
    "describe.JanusDescribeImage",
    "chat.JanusChat",
    "tokens.JanusVQDecode",
    "tokens.JanusVQEncode",
    "tokens.JanusPickTokens",
    "tokens.JanusJoinTokens",
    "token_files.JanusSaveTokens",
    "token_files.JanusLoadTokens",
)
WANTED = {
    "generate.JanusTextToImage": {"deepseek", "text to image", "autoregressive"},
    "describe.JanusDescribeImage": {"deepseek", "vqa", "caption"},
}


def schema_of(pack: Any, name: str) -> Any:
    pack("nodes.host.folders").register_folders()
    module, node = name.split(".")
    return getattr(pack(f"nodes.{module}"), node).define_schema()


@pytest.fixture
def newer_schema(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's Schema as newer versions have it."""
    io = pack("nodes.inputs").io
    known = {field.name for field in dataclasses.fields(io.Schema)}
    newer = [
        ("search_aliases", list, dataclasses.field(default_factory=list)),
        ("has_intermediate_output", bool, dataclasses.field(default=False)),
    ]
    missing = [field for field in newer if field[0] not in known]
    monkeypatch.setattr(io, "Schema", dataclasses.make_dataclass("Schema", missing, bases=(io.Schema,)))


@pytest.mark.parametrize("name", NODES)
def test_every_schema_can_be_made_here(pack: Any, name: str) -> None:
    assert schema_of(pack, name).node_id == name.split(".")[1]


@pytest.mark.usefixtures("newer_schema")
@pytest.mark.parametrize("name", NODES)
def test_newer_comfyui_gets_the_search_words(pack: Any, name: str) -> None:
    assert set(schema_of(pack, name).search_aliases) >= WANTED.get(name, {"deepseek"})


@pytest.mark.usefixtures("newer_schema")
def test_newer_comfyui_sends_the_pictures_again_when_a_run_comes_from_the_cache(pack: Any) -> None:
    assert schema_of(pack, "generate.JanusTextToImage").has_intermediate_output
