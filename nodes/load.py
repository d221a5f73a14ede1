"""Load Janus: from a name in a list to a model."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from comfy_api.latest import io

from ..janus_core import DEFAULT_CHECKPOINT, CheckpointError
from ..janus_core.published import PUBLISHED, Published
from ..janus_core.weights.checkpoint import WEIGHT_FILES, WEIGHT_SUFFIXES, find, metadata_texts
from ..janus_core.weights.download import fetch
from . import host

JanusType = io.Custom("JANUS")
EMBEDDED = f"{DEFAULT_CHECKPOINT} (embedded, draws shapes)"
SHARD = re.compile(r"-\d+-of-\d+\.")


def checkpoints() -> dict[str, str | Path]:
    """What the list shows -> what janus_core opens: the embedded checkpoint, then all that lie in the model folders."""
    found: dict[str, str | Path] = {EMBEDDED: DEFAULT_CHECKPOINT}
    for root in host.model_roots():
        for folder, subfolders, files in os.walk(root, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            whole = _checkpoints_of if "config.json" in files else _self_contained
            for path in whole(Path(folder), files):
                name = path.relative_to(root).as_posix() if path != root else root.name
                found.setdefault(name, path)
    return found


def _checkpoints_of(folder: Path, files: list[str]) -> list[Path]:
    """The folder itself where its files are named as a whole checkpoint's, and each weight file that stands alone."""
    weights = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
    loose = sorted(name for name in weights if name not in WEIGHT_FILES and not SHARD.search(name))
    whole = len(loose) < len(weights) or any(name in files for name in WEIGHT_FILES)
    return [folder] * whole + [folder / name for name in loose]


def _self_contained(folder: Path, files: list[str]) -> list[Path]:
    """The weight files that carry their own config and tokenizer."""
    paths = [folder / name for name in sorted(files) if name.endswith(".safetensors")]
    return [path for path in paths if path.is_file() and _carries_config(path, path.stat().st_mtime_ns)]


@lru_cache(maxsize=256)
def _carries_config(path: Path, changed: int) -> bool:
    try:
        return metadata_texts(path) is not None
    except CheckpointError:
        return False


def downloads() -> dict[str, Published]:
    """What the list shows -> the published checkpoints that lie in no model folder. Nothing is asked of the network."""
    here = {name.rpartition("/")[2] for name in checkpoints()}
    missing = (model for model in PUBLISHED if model.name not in here)
    return {f"{model.name} (download, {model.size / 1e9:.1f} GB)": model for model in missing}


def resolve(name: str) -> str | Path:
    """Look a name up, which may come from anyone's workflow; only what lies in the model folders can be found.

    A published checkpoint also goes by its repository's name, and by what the list showed before it was downloaded.
    """
    found = checkpoints()
    if name in found:
        return found[name]
    published = name.partition(" (download, ")[0]
    for model in PUBLISHED:
        if published in (model.name, model.repo):
            for other, path in found.items():
                if other.rpartition("/")[2] == model.name:
                    return path
    raise CheckpointError(
        f"There is no Janus checkpoint {name!r} here: put its folder or file into ComfyUI's models/janus and refresh, "
        "or choose another in Load Janus, which can also download the published ones."
    )


class JanusLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusLoader",
            display_name="Load Janus",
            category="Janus",
            description="Opens a Janus or Janus-Pro model, which both draws pictures and answers questions about them.",
            **host.search_aliases("janus pro", "autoregressive", "checkpoint", "multimodal"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*checkpoints(), *downloads()],
                    default=EMBEDDED,
                    tooltip="The model to use. Those marked (download) come from Hugging Face into models/janus when "
                    "you run, and stay there. Your own models go there too, each in its own folder with its "
                    "config.json, or as single files that Save Janus wrote. The embedded one needs no download.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(host.DTYPES),
                    default="auto",
                    tooltip="How exactly the model calculates. Auto takes what your graphics card does best, and int8 "
                    "when it has too little free memory for that; the log says which. bf16 and fp16 take half the "
                    "memory of fp32, int8 and fp8_e4m3fn about half of that again, and int8 is the more exact.",
                ),
            ],
            outputs=[
                JanusType.Output(display_name="janus", tooltip="The model, for all the other Janus nodes."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        try:
            if checkpoint is not None and checkpoint not in downloads():  # None comes over a link, and later
                find(resolve(checkpoint)).config()
        except CheckpointError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, dtype: str | None) -> object:
        """Changes when a file of the checkpoint is replaced on disk."""
        return None if checkpoint is None or checkpoint in downloads() else host.file_stamps(resolve(checkpoint))

    @classmethod
    def execute(cls, checkpoint: str, dtype: str) -> io.NodeOutput:
        if model := downloads().get(checkpoint):
            fetch(model, host.model_folder(), progress=host.progress())
        return io.NodeOutput(host.load_janus(resolve(checkpoint), dtype))
