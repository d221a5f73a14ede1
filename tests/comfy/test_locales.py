"""The pack's words in every language, as ComfyUI serves them, against what its nodes say now.

English is the record of what the others translate: whoever changes a string in Python changes it here too, and is
reminded by these tests that zh and ja have it as well.
"""

import re
from typing import Any

import pytest
from comfy_server import ComfyServer

LANGUAGES = ("en", "zh", "ja")
SCRIPT = {"en": r"[A-Za-z]", "zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff]"}
Words = dict[str, str]


def flat(nested: Any, path: str = "") -> Words:
    """{"a": {"b": "c"}} -> {"a.b": "c"}."""
    if isinstance(nested, str):
        return {path: nested}
    return {k: v for key, inner in nested.items() for k, v in flat(inner, f"{path}.{key}" if path else key).items()}


def spoken(node: dict[str, Any]) -> dict[str, Any]:
    """What a node says, in the layout of nodeDefs.json."""
    inputs: dict[str, Words] = {}
    for group in ("required", "optional"):
        for name, (_, options) in node["input"].get(group, {}).items():
            inputs[name] = {"name": options.get("display_name") or name, "tooltip": options.get("tooltip", "")}
            if options.get("control_after_generate", name == "seed"):  # by default the frontend gives a seed one
                inputs["control_after_generate"] = {"name": "control after generate"}
    outputs = zip(node["output_name"], node["output_tooltips"] or [], strict=True)
    said = {"display_name": node["display_name"], "description": node["description"], "inputs": inputs}
    return said | {"outputs": {str(i): {"name": name, "tooltip": text} for i, (name, text) in enumerate(outputs)}}


@pytest.fixture(scope="module")
def words(server: ComfyServer) -> dict[str, Words]:
    """Language -> all that ComfyUI serves for it, flat."""
    return {language: flat(tree) for language, tree in server.get("/i18n").json().items()}


def test_english_is_what_the_nodes_say(nodes: dict[str, Any], words: dict[str, Words]) -> None:
    said = flat({"nodeDefs": {name: spoken(node) for name, node in nodes.items()}})
    written = {key: text for key, text in words["en"].items() if key.startswith("nodeDefs.")}
    missing = {key: text for key, text in said.items() if written.get(key) != text}
    stale = sorted(written.keys() - said.keys())
    assert not missing, f"missing or changed: bring locales/en, zh and ja after it: {missing}"
    assert not stale, f"no node says these any more: take them out of locales/en, zh and ja: {stale}"


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_every_string_is_translated_and_none_is_left_over(words: dict[str, Words], language: str) -> None:
    assert sorted(words["en"].keys() - words[language].keys()) == []
    assert sorted(words[language].keys() - words["en"].keys()) == []


def test_no_other_language_is_half_there(words: dict[str, Words]) -> None:
    assert set(words) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_in_their_language(words: dict[str, Words], language: str) -> None:
    sentences = {k: t for k, t in words[language].items() if k.endswith((".tooltip", ".description"))}
    assert len(sentences) > 30
    for key, text in sentences.items():
        assert re.search(SCRIPT[language], text), key


def test_translations_keep_every_number_and_path(words: dict[str, Words]) -> None:
    for key, english in words["en"].items():
        for fixed in re.findall(r"models/\w+|\w+\.json|int8|fp8_e4m3fn|bf16|\d[\d.]*\d|LoRA", english):
            for language in ("zh", "ja"):
                assert fixed in words[language][key], (key, language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frontend_can_compile_every_string(words: dict[str, Words], language: str) -> None:
    """Its message format gives {, }, |, @ a meaning, and an unmeant one shows as an error or cuts the text."""
    assert [key for key, text in words[language].items() if re.search(r"[{}|@]", text) or not text.strip()] == []


def test_the_socket_types_have_names(nodes: dict[str, Any], words: dict[str, Words]) -> None:
    kinds = {kind for node in nodes.values() for kind in node["output"] if kind.startswith("JANUS")}
    assert kinds
    assert {f"dataTypes.{kind}" for kind in kinds} <= words["en"].keys()
