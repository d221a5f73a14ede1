"""Save Janus: a checkpoint as one file that loads alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.precision import NAMES
from ..janus_core.weights.convert import convert
from . import host
from .load import EMBEDDED, checkpoints, resolve

FILENAME = re.compile(r'[^\\/:*?"<>|\x00-\x1f.][^\\/:*?"<>|\x00-\x1f]*')


def place_of(filename: str) -> Path:
    """The file in the model folder that a plain name stands for. Raises InputError for names that could lead elsewhere."""
    if not FILENAME.fullmatch(filename):
        raise InputError(f"{filename!r} is not a plain file name: give one without folders, such as janus-pro-7b-int8.")
    return host.model_folder() / (filename if filename.lower().endswith(".safetensors") else f"{filename}.safetensors")


_missing: Counter[Path] = Counter()  # how often a run found that a file was not there yet, or no more


class JanusSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusSave",
            display_name="Save Janus",
            category="Janus",
            description="Writes a model as one file into your Janus model folder, smaller if you like, that loads fast "
            "and needs nothing beside it. Load Janus lists it from then on.",
            **host.search_aliases("janus pro", "convert checkpoint", "quantise", "int8", "fp8"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(checkpoints()),
                    default=EMBEDDED,
                    tooltip="The model to write, as it lies on disk: LoRAs are not part of it.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(NAMES),
                    default="bf16",
                    tooltip="How exactly the weights are kept. bf16 keeps what downloaded models hold; int8 and "
                    "fp8_e4m3fn take about half of that, and int8 is the more exact of the two.",
                ),
                io.String.Input(
                    "filename",
                    default="janus-bf16",
                    tooltip="The new file's name, without a folder. A file that is there already is never overwritten.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None, filename: str | None) -> bool | str:
        try:
            if checkpoint is not None:  # else it comes over a link, and is known only when the graph runs
                resolve(checkpoint)
            if filename is not None:
                place_of(filename)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, filename: str | None, **_: object) -> int | None:
        """A file that is there is not written again; one that was deleted is."""
        if filename is None:
            return None
        path = place_of(filename)
        _missing[path] += not path.exists()
        return _missing[path]

    @classmethod
    def execute(cls, checkpoint: str, dtype: str, filename: str) -> io.NodeOutput:
        path = convert(resolve(checkpoint), place_of(filename), dtype=dtype, progress=host.progress())
        return io.NodeOutput(ui={"text": [str(path)]})
