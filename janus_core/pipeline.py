"""Janus for callers: text to picture codes, codes to pictures and back, pictures and text to text."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import memory
from .defaults import DrawingDefaults
from .errors import InputError, context_exceeded, shown
from .generation import image, prefill, text
from .generation.codes import Drawing
from .generation.cpu_kernels import fast_layers
from .generation.execution import Execution
from .generation.jacobi import draw_codes_jacobi
from .generation.sampling import Sampling, check_finite
from .generation.self_check import decide
from .memory import Need, says_what_to_lower
from .model.janus import JanusModel
from .pictures import check_images
from .precision import Precision
from .processing import Processor, Turn
from .tokens import ImageTokens, check_tokens, fingerprint

SAMPLERS = ("sequential", "jacobi")
Pictures = Tensor | list[Tensor]
# Drawing and answering temporarily replace layers' forward methods and change global PyTorch settings, so other threads
# wait: those that decode and encode on a CPU too. Reentrant: a progress callback may itself draw, decode or answer.
_one_at_a_time = threading.RLock()


class Janus:
    """A loaded model. Threads may share it: drawings and answers are made one at a time, across all models."""

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        *,
        precision: Precision,
        execution: Execution,
        defaults: DrawingDefaults = DrawingDefaults(),  # noqa: B008 (it is frozen)
    ):
        self.model = model
        self.processor = processor
        self.precision = precision
        self.execution = execution
        self.defaults = defaults
        self.codebook = fingerprint(model.gen_vision_model.quantize.embedding.weight)
        self.vq_dtype = model.gen_vision_model.quantize.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the arithmetic runs."""
        return self.execution.device

    @property
    def dtype(self) -> torch.dtype:
        """The type the arithmetic runs in."""
        return self.precision.compute

    @property
    def context(self) -> int:
        """How many tokens the model can hold at once."""
        return self.model.config.llama.max_position_embeddings

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures that it draws, in pixels."""
        height, width = self.model.config.grid
        factor = self.model.config.vq.downsampling
        return height * factor, width * factor

    def generate(
        self,
        prompt: str,
        count: int = 1,
        *,
        seed: int = 0,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float | None = None,
        cfg_end: float | None = None,
        cfg_power: float = 1.0,
        entropy_temperature: float = 0.0,
        progress: image.Progress | None = None,
        sampler: str = "sequential",
        window: int = 8,
    ) -> ImageTokens:
        """Draw `count` pictures of the prompt; picture i has seed + i and is the same in any batch.

        `cfg_weight` is the strength of guidance (1 = none), `temperature` 0 is greedy, `top_k` 0, `top_p` 1 and `min_p` 0
        are off. Where cfg_weight, temperature, top_k and min_p are None they are the checkpoint's own: 5, 1, 0 and 0 for Janus-Pro.
        With `cfg_end`, the weight changes to that of the last code, as the `cfg_power` of the share that is drawn.
        min_p and `entropy_temperature` are explained in `Sampling`.
        `progress(step, total, ids [count, step])` is called after each step and may raise to stop.
        `sampler` "jacobi" draws the same pictures while looking `window` codes ahead: fewer but heavier steps; faster for
        one or two pictures, where reading the weights dominates. The global random state is neither read nor changed.
        Raises InputError for an empty or too long prompt and settings out of range, CheckpointError if the model
        computes NaN.
        """
        drawing = self.drawing_of(
            prompt,
            count,
            seed=seed,
            cfg_weight=cfg_weight,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            cfg_end=cfg_end,
            cfg_power=cfg_power,
            entropy_temperature=entropy_temperature,
            sampler=sampler,
            window=window,
        )
        return self.draw(drawing, progress)

    def drawing_of(
        self,
        prompt: str,
        count: int = 1,
        *,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float | None = None,
        entropy_temperature: float = 0.0,
        sampler: str = "sequential",
        window: int = 8,
        **more: Any,
    ) -> Drawing:
        """The drawing that `generate` draws with these settings; `more` are other fields of it. Raises InputError."""
        own = self.defaults
        if sampler not in SAMPLERS:
            raise InputError(f"There is no sampler {shown(repr(sampler))}: choose 'sequential' or 'jacobi'.")
        drawing = Drawing(
            prompt=self.processor.drawing_prompt(prompt),
            pad=self.processor.pad,
            steps=math.prod(self.model.config.grid),
            count=count,
            cfg_weight=own.cfg_weight if cfg_weight is None else cfg_weight,
            sampling=Sampling(
                own.temperature if temperature is None else temperature,
                own.top_k if top_k is None else top_k,
                top_p,
                own.min_p if min_p is None else min_p,
                entropy_temperature,
            ),
            window=window if window < 1 else min(window, math.prod(self.model.config.grid)),
            **more,
        )
        self._check_length(drawing.length, drawing.steps, "prompt")
        return drawing if sampler == "jacobi" else replace(drawing, window=1)

    def draw(
        self, drawing: Drawing, progress: image.Progress | None = None, *, cull: image.Cull | None = None
    ) -> ImageTokens:
        """The pictures of a `drawing_of`, or one like it; its kept codes get their likelihood. Raises as `generate` does.

        `cull` chooses after each row which pictures to continue, in a plain, sequential drawing.
        """
        draw = partial(image.draw_codes, cull=cull) if drawing.window == 1 else draw_codes_jacobi
        task = f"drawing a batch of {drawing.count}"
        with self.working(task, "draw fewer at once", self.model.drawing_parts, rows=drawing.rows):
            embeds = prefill.embed_prefixes(self.model, drawing, self.device)[0]
            execution = decide(self.execution, self.model.language_model.model, embeds)
            del embeds  # large, and made again
            ids = draw(self.model, drawing, execution, progress)
        return ImageTokens(ids, self.model.config.grid, self.codebook)

    def drawing_need(self, prompt: str, count: int = 1, **settings: Any) -> Need:
        """What `generate` needs on the device with these settings. Raises InputError as `generate` does."""
        return self.need_of(self.drawing_of(prompt, count, **settings))

    def need_of(self, drawing: Drawing) -> Need:
        """What `draw` needs on the device."""
        return memory.drawing_need(self.model, drawing, precision=self.precision, execution=self.execution)

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, *, progress: Callable[[int, int], object] | None = None) -> Tensor:
        """Codes -> pictures float32 [N, H, W, 3] in 0..1. Raises InputError for another model's codes and damaged ones,
        CheckpointError if the model computes NaN.

        `progress(pictures decoded, pictures)` is called after each picture, or several small ones, and may raise to stop.
        """
        self.check_tokens(tokens)
        ids = tokens.ids.to(self.device)
        # As much at once as one picture of the model's size: activations, not weights, are what fills memory.
        pixels, done = [], 0
        with says_what_to_lower(f"decoding a batch of {len(ids)}", "decode fewer at once", self.device), self._alone():
            for some in ids.split(memory.decoded_at_once(self.model.config, tokens.grid)):
                pixels.append(self.model.gen_vision_model.decode(some, tokens.grid).float())
                done += len(some)
                check_finite(pixels[-1])
                if progress is not None:
                    progress(done, len(ids))
            return ((torch.cat(pixels) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).contiguous()

    def check_tokens(self, tokens: ImageTokens) -> None:
        """Raise InputError for another model's codes and damaged ones."""
        size = self.model.config.vq.codebook_size
        if tokens.codebook != self.codebook:
            raise InputError(
                "These tokens were drawn with another model's codebook: decode them with the Janus that drew them."
            )
        ids = check_tokens(tokens).ids
        if int(ids.min()) < 0 or int(ids.max()) >= size:
            raise InputError(
                f"These tokens include ids outside the codebook of {size} codes: they are damaged, so draw or encode them again."
            )

    def decoding_need(self, tokens: ImageTokens | None = None) -> Need:
        """What `decode` needs on the device; without tokens, for one picture of the size that the model draws."""
        count, grid = (1, None) if tokens is None else (len(tokens), tokens.grid)
        work = memory.decoding_bytes(self.model.config, self.precision, pictures=count, grid=grid)
        return Need(memory.DECODING, work)

    @torch.no_grad()
    def encode(self, images: Tensor, *, progress: Callable[[int, int], object] | None = None) -> ImageTokens:
        """Pictures of any float type and number, [N, H, W, 3] in 0..1, sides multiples of the VQ's 16 pixels -> their codes.

        `progress(pictures encoded, pictures)` is called after each picture and may raise to stop.
        Raises InputError for other sides, shapes or types, and for NaN.
        """
        grid, ids = self._grid_of(images), []
        what = f"encoding a batch of {len(images)}"
        with says_what_to_lower(what, "encode fewer or smaller ones at once", self.device), self._alone():
            for image in images:
                pixels = (image[None].clamp(0, 1) * 2 - 1).permute(0, 3, 1, 2).to(self.device, self.vq_dtype)
                ids.append(self.model.gen_vision_model.encode(pixels)[1])
                if progress is not None:
                    progress(len(ids), len(images))
            return ImageTokens(torch.cat(ids), grid, self.codebook)

    def encoding_need(self, images: Tensor) -> Need:
        """What `encode` needs on the device, where one picture is at a time. Raises InputError as `encode` does."""
        work = memory.decoding_bytes(self.model.config, self.precision, pictures=1, grid=self._grid_of(images))
        return Need(memory.DECODING, work)

    def _grid_of(self, images: Tensor) -> tuple[int, int]:
        """The grid (h, w) of the codes of pictures. Raises InputError for what `encode` cannot take."""
        factor = self.model.config.vq.downsampling
        height, width = check_images(images).shape[1:3]
        if height % factor or width % factor:
            raise InputError(
                f"The picture is {width} x {height} pixels: crop or scale both sides to multiples of {factor}."
            )
        return height // factor, width // factor

    def answer(
        self,
        question: str | list[Turn],
        images: Pictures | None = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        progress: text.Progress | None = None,
        **more: Any,
    ) -> str:
        """Answer a question, or continue a conversation, about no, one or several pictures.

        `images`, float [N, H, W, 3] in 0..1 or a list of [H, W, 3] of any sizes, replace each `<image_placeholder>` in
        the text, or precede the first question. `temperature` 0 is greedy; `more` are other fields of `Sampling`: top_k,
        top_p, min_p, repetition_penalty, presence_penalty.
        Raises InputError for an empty question, a context too long, bad pictures or settings, CheckpointError if the
        model computes NaN.
        """
        if isinstance(images, Tensor):
            check_images(images)
        [answer] = self.answer_batch(
            [question],
            [[] if images is None else images],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=progress,
            **more,
        )
        return answer

    @torch.no_grad()
    def answer_batch(
        self,
        questions: list[str | list[Turn]],
        images: list[Pictures] | None = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        progress: text.Progress | None = None,
        **more: Any,
    ) -> list[str]:
        """`answer` for several questions at once; question i has the pictures `images[i]` and seed + i.

        Batching does not change the answers. `progress(step, total, ids so far of each)` may raise to stop. Raises as
        `answer` does, and InputError for no questions or another number of picture sets.
        """
        if max_new_tokens < 1:
            raise InputError(f"The answer may take {max_new_tokens} tokens: give at least 1 as max_new_tokens.")
        sampling = Sampling(temperature, **more)
        prompts = self._question_prompts(questions, images, max_new_tokens)
        # In a batch the packed copies would not pay for themselves: short answers end early.
        alone = [self.model.language_model] if len(questions) == 1 else []
        cure = "ask fewer questions at once, about fewer pictures, or lower max_new_tokens"
        with self.working(f"answering a batch of {len(questions)}", cure, alone, rows=1):
            embeds, mask = self.embed_prompts(prompts, [picture for batch in images or [] for picture in batch])
            ids = text.answer_ids(
                self.model,
                embeds,
                mask,
                decide(self.execution, self.model.language_model.model, embeds),
                eos=self.processor.eos,
                max_new_tokens=max_new_tokens,
                seed=seed,
                sampling=sampling,
                progress=progress,
            )
        return [self.processor.decode(row) for row in ids]

    @torch.no_grad()
    def first_logits(self, questions: list[str | list[Turn]], images: list[Pictures] | None = None) -> Tensor:
        """What `answer_batch` would draw the first token of each answer from, float [questions, vocabulary].

        Raises as `answer_batch` does.
        """
        prompts = self._question_prompts(questions, images, 1)
        cure = "ask fewer questions at once, or about fewer pictures"
        with says_what_to_lower(f"answering a batch of {len(questions)}", cure, self.device), _one_at_a_time:
            embeds, mask = self.embed_prompts(prompts, [picture for batch in images or [] for picture in batch])
            execution = decide(self.execution, self.model.language_model.model, embeds)
            return text.first_logits(self.model, embeds, mask, execution)

    def _question_prompts(
        self, questions: list[str | list[Turn]], images: list[Pictures] | None, new: int
    ) -> list[list[int]]:
        """The ids of questions about their pictures. Raises InputError where a length or a number is wrong."""
        if not questions or (images and len(images) != len(questions)):
            raise InputError(
                f"There are {len(questions)} questions and {len(images or [])} sets of pictures: give at least one "
                "question, and as many sets as questions or none."
            )
        counts = [len(batch) for batch in images] if images else [0] * len(questions)
        prompts = [self.processor.question_prompt(q, n) for q, n in zip(questions, counts, strict=True)]
        self._check_length(max(map(len, prompts)), new, "question")
        return prompts

    @torch.no_grad()
    def embed_prompts(self, prompts: list[list[int]], pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompt ids -> left-padded embeddings [B, T, D] and their mask, bool [B, T], True on tokens.

        `pictures`, float [H, W, 3] in 0..1, take the placeholders' positions in the order of the prompts.
        """
        pixels = self.processor.pixels(pictures).to(self.device, self.dtype) if pictures else None
        return text.embed_prompts(
            self.model,
            prompts,
            image_id=self.processor.image,
            pad=self.processor.pad,
            features=None if pixels is None else self.model.embed_images(pixels),
            device=self.device,
        )

    def answering_need(
        self, question: str | list[Turn], pictures: int = 0, *, max_new_tokens: int = 512, rows: int = 1
    ) -> Need:
        """What `answer` about that many pictures needs on the device, or `answer_batch` for `rows` such questions.

        Raises InputError for an empty question and a context too long.
        """
        prompt = len(self.processor.question_prompt(question, pictures))
        self._check_length(prompt, max_new_tokens, "question")
        sizes = {"rows": rows, "prompt": prompt, "new": max_new_tokens, "pictures": rows * pictures}
        work = memory.answering_bytes(self.model.config, self.precision, **sizes)
        return Need(memory.ANSWERING, work)

    @contextmanager
    def working(self, task: str, cure: str, parts: Sequence[nn.Module], rows: int) -> Iterator[None]:
        """Around work with the decode step's `parts`, `rows` tokens a pass; if memory runs out it says to do `cure`."""
        fast = fast_layers(parts, rows=rows, execution=self.execution)
        with says_what_to_lower(task, cure, self.device), _one_at_a_time, fast:
            yield

    def _alone(self) -> AbstractContextManager[object]:
        """Where drawing switches kernels for the whole process, which is on a CPU, other work waits for its end."""
        return _one_at_a_time if self.device.type == "cpu" else nullcontext()

    def _check_length(self, used: int, new: int, what: str) -> None:
        if used + new > self.context:
            cure = f"shorten the {what} or ask for less"
            raise context_exceeded(what, used=used, new=new, limit=self.context, cure=cure)
