"""Save Tokens and Load Tokens: picture tokens as small files in ComfyUI's output and input folders."""

import re

from comfy_api.latest import io

from ..janus_core import ImageTokens, InputError
from ..janus_core.errors import shown
from ..janus_core.tokens import read_tokens, write_tokens
from . import inputs
from .host import folders
from .save import FILENAME
from .types import TokensType


def check_prefix(prefix: str) -> None:
    """Raise InputError for a `filename_prefix` with a part that no file has, or that leads elsewhere."""
    if not all(FILENAME.fullmatch(part) for part in re.split(r"[/\\]", prefix)):
        raise InputError(
            f"{shown(repr(prefix))} is no place in ComfyUI's output folder: give a name, with folders before it if you "
            "like, such as janus/tokens."
        )


class JanusSaveTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusSaveTokens",
            display_name="Save Tokens",
            category="Janus",
            description="Saves picture tokens as a small file in ComfyUI's output folder. Load Tokens brings them back, "
            "without drawing again.",
            **inputs.search_aliases("save codes", "export tokens", "autoregressive"),
            inputs=[
                TokensType.Input(
                    "tokens", tooltip="The tokens to keep, of one or more pictures. They go into one file."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="janus",
                    tooltip="The beginning of the file's name, after folders if you like: janus/cats. A number follows, so "
                    "that no file is overwritten.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        # None: missing, or connected to another node.
        return filename_prefix is None or inputs.problem_of(
            lambda: inputs.check_kind("filename_prefix", filename_prefix), lambda: check_prefix(filename_prefix)
        )

    @classmethod
    @inputs.checked
    def execute(cls, tokens: ImageTokens, filename_prefix: str) -> io.NodeOutput:
        check_prefix(filename_prefix)
        path = folders.new_token_file(filename_prefix)
        write_tokens(tokens, path)
        return io.NodeOutput(ui={"text": [str(path)]})


class JanusLoadTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusLoadTokens",
            display_name="Load Tokens",
            category="Janus",
            description="Brings back picture tokens that Save Tokens kept.",
            **inputs.search_aliases("load codes", "import tokens", "autoregressive"),
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list(folders.token_files()),
                    tooltip="A file of Save Tokens, from ComfyUI's input or output folder. Press R to see new ones.",
                ),
            ],
            outputs=[
                TokensType.Output(
                    display_name="tokens", tooltip="The tokens, for VQ Decode with the model that drew or encoded them."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        # None: missing, or connected to another node.
        return file is None or inputs.problem_of(
            lambda: inputs.check_kind("file", file), lambda: folders.token_path(file)
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> folders.Stamps | None:
        """Changes when the file is replaced on disk."""
        return None if file is None else folders.file_stamps([folders.token_path(file)])

    @classmethod
    @inputs.checked
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(read_tokens(folders.token_path(file)))
