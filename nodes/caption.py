"""Janus Caption Folder: a text file for each picture of a folder, written as the captions come."""

import logging
from pathlib import Path

from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.batch.answers import answer_all
from ..janus_core.batch.items import Item, picture_items
from ..janus_core.batch.output import EXISTING, Files
from ..janus_core.batch.presets import Wording, read_presets, wording
from . import inputs
from .host import canvas, folders
from .host.weights import HostedJanus

OWN = "own question"


def preset_names() -> list[str]:
    """The presets, and OWN. A file that was edited wrongly is said in the log, and leaves OWN."""
    try:
        return [*read_presets(), OWN]
    except InputError as error:
        logging.getLogger(__name__).warning("Janus Caption Folder: %s", error)
        return [OWN]


def words_of(preset: str, question: str, trigger: str, prefix: str, suffix: str) -> Wording:
    """What to ask, and what stands around the answer. Raises InputError."""
    chosen = wording(None if preset == OWN else preset, question)
    if not chosen.question.strip():
        raise InputError("The question is empty: ask something about the pictures, or choose a preset.")
    return chosen.within(prefix, suffix).with_trigger(trigger)


class JanusCaptionFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        presets = preset_names()
        return io.Schema(
            node_id="JanusCaptionFolder",
            display_name="Janus Caption Folder",
            category="Janus",
            description="Writes a caption for each picture of a folder into a text file of the same name, for training or "
            "for the web. Stop it when you like: the next run does the rest.",
            **inputs.search_aliases(
                "caption", "dataset", "tagger", "batch", "image to text", "lora training", "alt text"
            ),
            inputs=[
                inputs.MODEL,
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="my pictures",
                    tooltip="The folder with the pictures, in ComfyUI's input or output folder. Folders inside it count too.",
                ),
                io.Combo.Input(
                    "preset",
                    options=presets,
                    default=presets[0],
                    tooltip="What kind of caption to ask for. Training puts your trigger word first. Own question asks "
                    "what you write below.",
                ),
                io.String.Input(
                    "question",
                    multiline=True,
                    default="Describe the picture.",
                    tooltip="What to ask about each picture, if the preset is own question.",
                ),
                io.String.Input(
                    "trigger",
                    default="",
                    tooltip="The word that your LoRA shall listen to. The preset training puts it first; elsewhere write "
                    "[trigger] where it belongs, in question, prefix or suffix.",
                ),
                io.String.Input(
                    "prefix", default="", tooltip="Text to put before each caption, with a space at its end."
                ),
                io.String.Input("suffix", default="", tooltip="Text to put after each caption."),
                io.String.Input(
                    "output_folder",
                    default="",
                    tooltip="Where the text files go: a folder in ComfyUI's output folder. Leave it empty to put each beside "
                    "its picture.",
                ),
                io.Combo.Input(
                    "existing",
                    options=list(EXISTING),
                    default=EXISTING[0],
                    tooltip="What to do where a text file is there already. Skip leaves it and saves the work, overwrite "
                    "replaces it, append adds a line.",
                ),
                inputs.MAX_TOKENS,
                inputs.ANSWER_TEMPERATURE,
                inputs.seed(
                    control_after_generate=False,  # a new seed would repeat every caption
                    tooltip="Varies the words when the temperature is above 0; at 0 it changes nothing. The second "
                    "picture has seed + 1, and so on.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="texts",
                    is_output_list=True,
                    tooltip="What is in the text files, in the order of the pictures' names. Pictures that cannot be read "
                    "have none.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None, output_folder: str | None = None) -> bool | str:
        checks = []
        if folder is not None:  # None: missing, or connected to another node
            checks += [lambda: inputs.check_kind("folder", folder), lambda: folders.picture_folder(folder)]
        if output_folder:
            checks += [lambda: inputs.check_kind("output_folder", output_folder)]
            checks += [lambda: folders.text_folder(output_folder)]
        return inputs.problem_of(*checks)

    @classmethod
    def fingerprint_inputs(
        cls, folder: str | None, output_folder: str | None, existing: str | None, **_: object
    ) -> object:
        """Changes with the pictures, and where nothing would be appended twice, with the text files that are missing."""
        if folder is None or output_folder is None:
            return None
        pictures = folders.picture_folder(folder)
        items = list(picture_items(pictures, question="", seed=0, failed=lambda *_: None))
        stamps = folders.file_stamps(pictures / item.key for item in items)
        texts = Files(folders.text_folder(output_folder) if output_folder else pictures, ".txt")
        missing = [item.key for item in _sorted_out(items, texts)[0]]
        return stamps, existing != "append" and missing

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        folder: str,
        preset: str,
        question: str,
        *,
        trigger: str,
        prefix: str,
        suffix: str,
        output_folder: str,
        existing: str,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> io.NodeOutput:
        words = words_of(preset, question, trigger, prefix, suffix)
        pictures = folders.picture_folder(folder)
        files = Files(folders.text_folder(output_folder) if output_folder else pictures, ".txt", existing=existing)
        items = list(picture_items(pictures, question=words.question, seed=seed, failed=lambda *_: None))
        if not items:
            raise InputError(f"The folder {pictures} has no pictures: put some into it, or choose another.")
        new, bad = _sorted_out(items, files)
        run = _Run(cls.hidden.unique_id, len(new), len(items) - len(new) - len(bad), bad)

        def finished(item: Item, answer: str) -> None:
            files.write_text(item, words.caption(answer))
            run.finished(item, words.caption(answer))

        if new:
            core, rows = janus.ready_to_answer(words.question, most=len(new), max_new_tokens=max_tokens)
            settings = {"max_new_tokens": max_tokens, "temperature": temperature}
            answer_all(
                core,
                new,
                rows=rows,
                **settings,
                finished=finished,
                failed=run.failed,
                progress=canvas.raise_if_interrupted,
            )
        texts = [_read(files.path(item)) for item in items if item.key not in bad]
        return io.NodeOutput(texts, ui={"text": run.report()})


class _Run:
    """What the node shows while it works, and at the end."""

    def __init__(self, node: str, total: int, there: int, bad: dict[str, str]):
        self.node, self.total, self.there, self.bad = node, total, there, bad
        self.done, self.ended = 0, 0
        self.move_bar = canvas.progress()

    def finished(self, item: Item, caption: str) -> None:
        self.done += 1
        self._move([f"{item.key}: {caption}"])

    def failed(self, item: Item, error: InputError) -> None:
        self.bad[item.key] = str(error)
        self._move([])

    def _move(self, last: list[str]) -> None:
        self.ended += 1
        canvas.show_output(self.node, {"text": [*self.report(), *last]})
        self.move_bar(self.ended, self.total, None)

    def report(self) -> list[str]:
        """How many captions were written, and which pictures have none and why."""
        there = f", {self.there} there already" if self.there else ""
        bad = f", {len(self.bad)} could not be done:" if self.bad else ""
        return [f"{self.done} captions written{there}{bad}", *(f"{key}: {why}" for key, why in self.bad.items())]


def _sorted_out(items: list[Item], files: Files) -> tuple[list[Item], dict[str, str]]:
    """The items without a text, and those that can have none, with the reasons."""
    new, bad = [], {}
    for item in items:
        try:
            new += [] if files.has(item) else [item]
        except InputError as error:
            bad[item.key] = str(error)
    return new, bad


def _read(path: Path) -> str:
    """The text in a file; what is not UTF-8 in it is shown as such."""
    return path.read_text(encoding="utf-8", errors="replace").strip()
