"""Load Janus gets a published checkpoint when it is chosen, against a hub on this machine; and at no other time."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, Message, node_of, shipped
from safetensors.torch import load_file
from small_hub import SmallHub, Trouble

TINY = PACK / "tests" / "data" / "tiny_deepseek"
LABEL = "Janus-Pro-1B (download, 4.2 GB)"
REPO = "deepseek-ai/Janus-Pro-1B"
MEGABYTE = 1_000_000


def as_published(shards: int) -> dict[str, bytes]:
    """The tiny model as DeepSeek's pages have theirs: a README, pictures, pickled weights; these are 30 MB of them."""
    files = {path.name: path.read_bytes() for path in TINY.iterdir() if path.suffix == ".json"}
    files |= {"README.md": b"# a card", "teaser.png": b"a picture", ".gitattributes": b""}
    state = load_file(TINY / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    state["vision_model.vision_tower.attn_pool.latent"] = torch.rand(26 * MEGABYTE // 4, generator=noise)
    names = ["pytorch_model.bin"]
    if shards > 1:
        names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
        weight_map = {key: names[i % shards] for i, key in enumerate(state)}
        files["pytorch_model.bin.index.json"] = str({"weight_map": weight_map}).replace("'", '"').encode()
    for i, name in enumerate(names):
        buffer = io.BytesIO()
        torch.save(dict(list(state.items())[i::shards]), buffer)
        files[name] = buffer.getvalue()
    return files


@pytest.fixture(scope="module")
def hub() -> Iterator[SmallHub]:
    with SmallHub() as hub:
        hub.repos[REPO] = as_published(1)
        hub.repos["deepseek-ai/Janus-Pro-7B"] = as_published(2)
        yield hub


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, hub: SmallHub) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("download"), HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0") as server:
        yield server


@pytest.fixture
def server(own_server: ComfyServer, hub: SmallHub) -> Iterator[ComfyServer]:
    """With nothing downloaded or remembered, and a hub without troubles that has not been asked anything."""
    own_server.forget()
    hub.asked.clear()
    hub.trouble = Trouble()
    yield own_server
    hub.trouble.over.set()
    shutil.rmtree(models(own_server))
    models(own_server).mkdir()


def models(server: ComfyServer) -> Path:
    return server.base / "models" / "janus"


def offered(server: ComfyServer, by: str = "JanusLoader") -> list[str]:
    node = server.get(f"/object_info/{by}").json()[by]
    return node["input"]["required"]["checkpoint"][1]["options"]


def graph_with(checkpoint: str) -> Graph:
    graph = shipped("text_to_image")
    graph[node_of(graph, "JanusLoader")]["inputs"]["checkpoint"] = checkpoint
    return graph


def error_of(server: ComfyServer, graph: Graph) -> str:
    error = server.run(graph).error
    assert "\n" not in error
    assert re.search(r"[.!?] +[A-Z]", error) is None
    return error


def assert_says_what_to_do(error: str, server: ComfyServer, hub: SmallHub) -> None:
    assert (
        f"get the files from {hub.address}/{REPO} yourself and put them into {models(server) / 'Janus-Pro-1B'}" in error
    )


def test_lists_what_can_be_downloaded_and_asks_the_hub_nothing(server: ComfyServer, hub: SmallHub) -> None:
    downloads = [LABEL, "Janus-Pro-7B (download, 14.8 GB)", "Janus-1.3B (download, 4.2 GB)"]
    fine_tunes = ("Janus-4o-7B", "T2I-R1", "Janus-Pro-R1-7B", "ReasonGen-R1", "ReasonGen-R1-SFT", "Janus-FocusDiff-7B")
    downloads += [f"{name} (download, 7B)" for name in fine_tunes]
    assert offered(server)[1:] == downloads
    assert server.run(shipped("text_to_image")).end == "execution_success"
    assert not set(downloads) & set(offered(server, by="JanusSave"))
    assert hub.asked == []


def test_downloads_the_files_it_needs_and_draws(server: ComfyServer, hub: SmallHub) -> None:
    graph = graph_with(LABEL)
    run = server.run(graph)
    assert run.end == "execution_success"
    folder = models(server) / "Janus-Pro-1B"
    needed = {name: data for name, data in hub.repos[REPO].items() if name.endswith((".json", ".bin"))}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == needed
    assert [path.name for path in models(server).iterdir()] == ["Janus-Pro-1B"]
    size = sum(map(len, needed.values()))
    assert run.progress(node_of(graph, "JanusLoader"))[-1] == (size, size)


def test_a_downloaded_fine_tune_is_spoken_to_in_its_own_dialect(server: ComfyServer, hub: SmallHub) -> None:
    hub.repos["CaraJ/T2I-R1"] = as_published(1)
    seen = len(server.log.read_text())
    assert server.run(graph_with("T2I-R1 (download, 7B)")).end == "execution_success"
    assert "T2I-R1 is spoken to as T2I-R1" in server.log.read_text()[seen:]


def test_once_there_it_goes_by_all_its_names_and_nothing_is_fetched(server: ComfyServer, hub: SmallHub) -> None:
    first = graph_with(LABEL)
    pictures = [server.pictures(server.run(first), node_of(first, "SaveImage"))[0].tobytes()]
    assert "Janus-Pro-1B" in offered(server) and LABEL not in offered(server)
    hub.asked.clear()
    for name in (LABEL, "Janus-Pro-1B", REPO):
        graph = graph_with(name)
        graph[node_of(graph, "JanusTextToImage")]["inputs"]["batch_size"] = 1 + len(pictures)
        pictures.append(server.pictures(server.run(graph), node_of(graph, "SaveImage"))[0].tobytes())
    assert len(set(pictures)) == 1
    assert hub.asked == []


def test_a_repository_s_name_alone_is_no_request_to_download_it(server: ComfyServer, hub: SmallHub) -> None:
    assert f"no Janus checkpoint {REPO!r} here" in error_of(server, graph_with(REPO))
    assert hub.asked == []


def test_finds_the_weights_of_another_pack_where_they_lie(server: ComfyServer, hub: SmallHub) -> None:
    theirs = server.base / "models" / "Janus-Pro"
    shutil.copytree(TINY, theirs / "Janus-Pro-1B")
    try:
        assert "Janus-Pro-1B" in offered(server) and LABEL not in offered(server)
        assert server.run(graph_with(REPO)).end == "execution_success"
    finally:
        shutil.rmtree(theirs)
    assert hub.asked == []


def interrupt_when_stalled(server: ComfyServer, hub: SmallHub, graph: Graph) -> None:
    """Run until the hub stalls in the middle of a file, and interrupt then; the stall goes on."""
    loader = node_of(graph, "JanusLoader")
    interrupted = threading.Event()

    def watch(message: Message) -> None:
        data = message["data"]
        stuck = message["type"] == "progress" and data["node"] == loader and data["value"] > 10 * MEGABYTE
        if stuck and not interrupted.is_set():
            interrupted.set()
            server.post("/interrupt")

    assert server.run(graph, watch).end == "execution_interrupted"
    assert interrupted.is_set() and not hub.trouble.over.is_set()


def test_an_interrupted_download_ends_at_once_and_goes_on_with_the_next_run(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.stall_at = 15 * MEGABYTE
    graph = graph_with(LABEL)
    interrupt_when_stalled(server, hub, graph)
    assert "Janus-Pro-1B" not in offered(server) and LABEL in offered(server)
    [part] = models(server).glob(".*/*.part")
    arrived = part.stat().st_size
    assert arrived > 10 * MEGABYTE

    hub.trouble.stall_at = None
    run = server.run(graph)
    assert run.end == "execution_success"
    assert hub.ranges("pytorch_model.bin") == [None, f"bytes={arrived}-"]
    whole = (models(server) / "Janus-Pro-1B" / "pytorch_model.bin").read_bytes()
    assert whole == hub.repos[REPO]["pytorch_model.bin"]
    assert run.progress(node_of(graph, "JanusLoader"))[0][0] >= arrived


def test_what_comes_after_the_interruption_is_not_written(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.stall_at = 15 * MEGABYTE
    stalled = hub.trouble
    graph = graph_with(LABEL)
    interrupt_when_stalled(server, hub, graph)
    hub.trouble = Trouble()
    assert server.run(graph).end == "execution_success"
    stalled.stall_at = None
    stalled.over.set()  # the first connection goes on and ends
    whole = (models(server) / "Janus-Pro-1B" / "pytorch_model.bin").read_bytes()
    assert whole == hub.repos[REPO]["pytorch_model.bin"]
    assert [path.name for path in models(server).iterdir()] == ["Janus-Pro-1B"]


def test_shards_that_have_come_are_kept_and_do_not_make_a_checkpoint(server: ComfyServer, hub: SmallHub) -> None:
    graph = graph_with("Janus-Pro-7B (download, 14.8 GB)")
    hub.trouble.stall_at = 15 * MEGABYTE
    interrupt_when_stalled(server, hub, graph)
    assert offered(server)[1:3] == [LABEL, "Janus-Pro-7B (download, 14.8 GB)"]
    hub.asked.clear()
    hub.trouble.stall_at = None
    assert server.run(graph).end == "execution_success"
    fetched = [path for path, _ in hub.asked if path.endswith(".bin")]
    assert "config.json" not in str(hub.asked) and len(fetched) == len(set(fetched))
    assert "Janus-Pro-7B" in offered(server)


def test_a_connection_cut_in_mid_file_is_taken_up_in_the_same_run(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.cut_at = 22 * MEGABYTE
    assert server.run(graph_with(LABEL)).end == "execution_success"
    first, second = hub.ranges("pytorch_model.bin")
    assert first is None and re.fullmatch(r"bytes=[1-9]\d*-", second or "")
    whole = (models(server) / "Janus-Pro-1B" / "pytorch_model.bin").read_bytes()
    assert whole == hub.repos[REPO]["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "hf auth login"), (403, "access"), (404, "HF_ENDPOINT"), (500, "later")]
)
def test_a_refusal_is_said_with_the_cure(server: ComfyServer, hub: SmallHub, status: int, expected: str) -> None:
    hub.trouble.status = status
    error = error_of(server, graph_with(LABEL))
    assert f"error {status}" in error and expected in error
    assert_says_what_to_do(error, server, hub)
    assert LABEL in offered(server)


def test_too_little_room_is_said_before_anything_is_fetched(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.listed_larger = 10**15
    error = error_of(server, graph_with(LABEL))
    assert re.search(r"needs 1,000,000\.\d GB more and the disk of .* has [\d,.]+ GB left: make room", error)
    assert_says_what_to_do(error, server, hub)
    assert [path for path, _ in hub.asked] == [f"/api/models/{REPO}"]


def test_a_file_of_another_size_than_the_list_says_is_not_taken(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.listed_larger = 10
    error = error_of(server, graph_with(LABEL))
    assert "could not be downloaded" in error and "size" in error
    assert_says_what_to_do(error, server, hub)
    assert LABEL in offered(server)
    hub.trouble.listed_larger = 0
    assert server.run(graph_with(LABEL)).end == "execution_success"


def test_a_damaged_file_is_thrown_away_and_fetched_anew(server: ComfyServer, hub: SmallHub) -> None:
    hub.trouble.flip_at = 12 * MEGABYTE
    error = error_of(server, graph_with(LABEL))
    assert "pytorch_model.bin of Janus-Pro-1B came damaged" in error
    assert_says_what_to_do(error, server, hub)
    hub.trouble.flip_at = None
    assert server.run(graph_with(LABEL)).end == "execution_success"


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_offline_is_said_plainly(tmp_path: Path, environment: dict[str, str]) -> None:
    code = """
        import sys; from pathlib import Path
        from janus_core.published import PUBLISHED; from janus_core.weights.download import fetch
        try: fetch(PUBLISHED[0], Path(sys.argv[1]), progress=lambda *step: None)
        except ValueError as error: print(error)
    """
    said = subprocess.check_output(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], cwd=PACK, env=os.environ | environment, text=True
    )
    page = f"{environment.get('HF_ENDPOINT', 'https://huggingface.co')}/{REPO}"
    [sentence] = said.splitlines()
    assert re.match(rf"Janus-Pro-1B could not be downloaded from {page} \(.+\): check the connection", sentence)
    assert ". " not in sentence
    assert sentence.endswith(f"get the files from {page} yourself and put them into {tmp_path / 'Janus-Pro-1B'}.")
