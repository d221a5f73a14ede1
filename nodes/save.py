"""Save Janus: writes a checkpoint as one self-contained file."""

import re
import time
from pathlib import Path

from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.convert import check_name, convert
from ..janus_core.errors import shown
from ..janus_core.precision import NAMES
from . import inputs
from .host import canvas, folders

FORBIDDEN = r'\\/:*?"<>|\x00-\x1f\x7f\ud800-\udfff'  # the last are halves of a character, which no file name can have
FILENAME = re.compile(f"[^{FORBIDDEN}.][^{FORBIDDEN}]*")


def new_file(filename: str) -> Path:
    """The file to write in the checkpoint folder. Raises InputError for a name that no file in it can have."""
    if not FILENAME.fullmatch(filename):
        raise InputError(
            f"{shown(repr(filename))} is not a plain file name: give one without folders, such as janus-pro-7b-int8."
        )
    name = filename if filename.lower().endswith(".safetensors") else f"{filename}.safetensors"
    check_name(name)
    return folders.new_checkpoint_folder() / name


_last_missing: dict[Path, int] = {}  # when a run last found no file there, in ns


class JanusSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusSave",
            display_name="Save Janus",
            category="Janus",
            description="Writes a model as one file into your Janus model folder, smaller if you like, that loads fast "
            "and needs nothing beside it. Load Janus lists it from then on.",
            **inputs.search_aliases("janus pro", "convert checkpoint", "quantise", "int8", "fp8"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(folders.checkpoints()),
                    default=folders.EMBEDDED,
                    tooltip="The model to write, as it is stored on disk: LoRAs are not part of it.",
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
    def validate_inputs(cls, checkpoint: str | None = None, filename: str | None = None) -> bool | str:
        checks = []
        if checkpoint is not None:  # None: missing, or connected to another node
            checks += [lambda: inputs.check_kind("checkpoint", checkpoint), lambda: folders.checkpoint_path(checkpoint)]
        if filename is not None:
            checks += [lambda: inputs.check_kind("filename", filename), lambda: new_file(filename)]
        return inputs.problem_of(*checks)

    @classmethod
    def fingerprint_inputs(cls, filename: str | None, **_: object) -> int | None:
        """When the file was last missing, so that a deleted file is written again, and one that is there is not."""
        if filename is None:
            return None
        path = new_file(filename)
        if not path.exists():
            _last_missing[path] = time.time_ns()
        return _last_missing.get(path)

    @classmethod
    @inputs.checked
    def execute(cls, checkpoint: str, dtype: str, filename: str) -> io.NodeOutput:
        path = convert(folders.checkpoint_path(checkpoint), new_file(filename), dtype=dtype, progress=canvas.progress())
        return io.NodeOutput(ui={"text": [str(path)]})
