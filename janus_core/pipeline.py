"""Janus for callers: text to picture codes, codes to pictures and back, pictures and words to words."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .generation import image, text
from .generation.cpu_kernels import Plain, prepacked
from .generation.jacobi import draw_codes_jacobi
from .generation.recorder import draw_codes_graphed, graphable, words_graphed
from .generation.sampling import Sampling
from .model.janus import JanusModel
from .model.quantised import DEFAULT_LAYERS, Layers
from .pictures import check_images
from .precision import Precision
from .processing import Processor, Turn
from .tokens import ImageTokens, fingerprint
from .weights.checkpoint import find
from .weights.loading import load_model

DEFAULT_CHECKPOINT = "janus-mini"
SAMPLERS = ("sequential", "jacobi")
DEFAULT_SHA256 = "5d7092d237b8bc2179b9c9c569ae546df88b64e30e4cb70c0ffc42daec159943"  # of its model.safetensors
Pictures = Tensor | list[Tensor]
# Drawing and answering change for a while how layers compute, and torch as a whole: other threads wait. A progress
# callback may still ask for more.
_one_at_a_time = threading.RLock()


def load(
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    compute: torch.dtype | None = None,
    layers: Layers = DEFAULT_LAYERS,
) -> Janus:
    """Load a Janus or Janus-Pro checkpoint of either dialect.

    `checkpoint` is a folder, a weight file (self-contained, or beside its config.json), or an embedded one's name.
    Weights are cast to `dtype`, a floating-point type or "bf16", "fp16", "fp32", "fp8_e4m3fn", "int8"; the VQ tokenizer
    stays float32 under float16, where its activations overflow. The 8-bit types hold the transformer's and SigLIP's
    Linear layers; the rest, and the arithmetic, is in `compute`, bfloat16 by default.
    `layers` are the classes the model is built from.
    Raises CheckpointError when the model would not be whole, InputError for a dtype that cannot be.
    """
    precision = Precision.of(dtype, compute)
    precision.check(device)
    source = find(checkpoint)
    config = source.config()
    processor = Processor(source, config)
    model = load_model(source, device, precision, layers=layers, config=config)
    return Janus(model, processor, torch.device(device), precision.compute)


class Janus:
    """A loaded model. `device` is where its arithmetic runs, `dtype` the type it runs in.

    Threads may share it: of drawings and answers, whatever the model, one is made at a time.
    A host that patches layers as they are used sets `plain`, which tells those that it leaves as they are, and one that
    wants no CUDA graphs clears `graphs`. `kernels`, set to the module `janus_core.generation.kernels`, which needs Triton,
    has fewer and larger kernels in a drawing's graphs.
    """

    def __init__(self, model: JanusModel, processor: Processor, device: torch.device, dtype: torch.dtype):
        self.model = model
        self.processor = processor
        self.device = device
        self.dtype = dtype
        self.plain: Plain = lambda layer: True
        self.graphs = True
        self.kernels: Any = None
        self.codebook = fingerprint(model.gen_vision_model.quantize.embedding.weight)
        self.vq_dtype = model.gen_vision_model.quantize.embedding.weight.dtype

    @property
    def context(self) -> int:
        """How many tokens the model can hold at once."""
        return self.model.config.llama.max_position_embeddings

    def generate(
        self,
        prompt: str,
        count: int = 1,
        seed: int = 0,
        cfg_weight: float = 5.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        progress: image.Progress | None = None,
        sampler: str = "sequential",
        window: int = 8,
    ) -> ImageTokens:
        """Draw `count` pictures of the prompt; picture i has seed + i and is the same in any batch.

        `cfg_weight` is the strength of guidance (1 = none), `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 are off.
        `progress(step, total, ids [count, step])` is called after each step and may raise to stop.
        `sampler` "jacobi" draws the same pictures while looking `window` codes ahead: fewer, heavier steps, which pays
        for few pictures where reading the weights is what takes the time. The global random state is neither read nor
        changed. Raises InputError for an empty or too long prompt and settings out of range.
        """
        if count < 1:
            raise InputError(f"The batch size is {count}: ask for at least one picture.")
        if not math.isfinite(cfg_weight):
            raise InputError(f"The CFG weight is {cfg_weight}: give a number, usually between 1 and 10.")
        if sampler not in SAMPLERS:
            raise InputError(f"There is no sampler {sampler!r}: choose 'sequential' or 'jacobi'.")
        if window < 1:
            raise InputError(f"The window is {window}: look at least 1 code ahead.")
        sampling = Sampling(temperature, top_k, top_p)
        ids = self.processor.drawing_prompt(prompt)
        grid = self.model.config.grid
        steps = grid[0] * grid[1]
        self._check_length(len(ids), steps, "prompt")
        drawing = image.Drawing(ids, self.processor.pad, steps, count, seed, cfg_weight, sampling)
        graphs = self.graphs and graphable([*self.model.decoding_parts, self.model.gen_embed], self.plain)
        draw = image.draw_codes
        if sampler == "jacobi":
            draw = partial(draw_codes_jacobi, window=window, graphs=graphs)
        elif graphs:
            draw = partial(draw_codes_graphed, kernels=self.kernels)
        rows = count * len(drawing.prefixes) * (window if sampler == "jacobi" else 1)
        with _one_at_a_time, prepacked(self.model.decoding_parts, rows, self.device, self.plain):
            codes = draw(self.model, drawing, self.device, progress)
        return ImageTokens(codes, grid, self.codebook)

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, progress: Callable[[int, int], object] | None = None) -> Tensor:
        """Codes -> pictures float32 [N, H, W, 3] in 0..1. Raises InputError for another model's codes.

        `progress(pictures decoded, pictures)` is called after each picture and may raise to stop.
        """
        size = self.model.config.vq.codebook_size
        h, w = tokens.grid
        if tokens.codebook != self.codebook:
            raise InputError(
                "These tokens were drawn with another model's codebook: decode them with the Janus that drew them."
            )
        ids = tokens.ids
        if ids.is_floating_point() or ids.ndim != 2 or min(len(ids), h, w) < 1 or ids.shape[1] != h * w:
            raise InputError(
                f"These tokens have shape {list(ids.shape)} and type {ids.dtype}, which is not whole numbers "
                f"[N, {h} x {w}]: they are damaged, so draw or encode them again."
            )
        if int(ids.min()) < 0 or int(ids.max()) >= size:
            raise InputError(
                f"These tokens reach outside the codebook of {size} codes: they are damaged, so draw or encode them again."
            )
        ids = ids.to(self.device)
        # One picture at a time: the decoder's activations, not its weights, are what fills memory.
        pixels = []
        for one in ids:
            pixels.append(self.model.gen_vision_model.decode(one[None], tokens.grid).float())
            if progress is not None:
                progress(len(pixels), len(ids))
        return ((torch.cat(pixels) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageTokens:
        """Pictures float [N, H, W, 3] in 0..1, sides multiples of the VQ's 16 pixels -> their codes.

        Raises InputError for other sides, shapes, or NaN.
        """
        factor = self.model.config.vq.downsampling
        height, width = check_images(images).shape[1:3]
        if height % factor or width % factor:
            raise InputError(
                f"The picture is {width} x {height} pixels: crop or scale both sides to multiples of {factor}."
            )
        pixels = (images.clamp(0, 1) * 2 - 1).permute(0, 3, 1, 2).to(self.device, self.vq_dtype)
        ids = torch.cat([self.model.gen_vision_model.encode(one[None])[1] for one in pixels])
        return ImageTokens(ids, (height // factor, width // factor), self.codebook)

    def answer(
        self,
        question: str | list[Turn],
        images: Pictures | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        progress: text.Progress | None = None,
    ) -> str:
        """Answer a question, or go on with a conversation, about no, one or several pictures.

        `images`, float [N, H, W, 3] in 0..1 or a list of [H, W, 3] of any sizes, stand where the text says
        `<image_placeholder>`, else before the first question. `temperature` 0 is greedy.
        Raises InputError for an empty question, a context too long, bad pictures.
        """
        if isinstance(images, Tensor):
            check_images(images)
        pictures = [] if images is None else images
        return self.answer_batch([question], [pictures], max_new_tokens, temperature, seed, progress)[0]

    @torch.no_grad()
    def answer_batch(
        self,
        questions: list[str | list[Turn]],
        images: list[Pictures] | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        progress: text.Progress | None = None,
    ) -> list[str]:
        """`answer` for several questions at once; question i has the pictures `images[i]` and seed + i.

        Each answer is the one the question gets alone. `progress(step, total, ids so far of each)` may raise to stop.
        """
        if max_new_tokens < 1:
            raise InputError(f"The answer may take {max_new_tokens} tokens: allow at least one.")
        sampling = Sampling(temperature)
        if not questions or (images and len(images) != len(questions)):
            raise InputError(
                f"There are {len(questions)} questions and {len(images or [])} sets of pictures: give at least one "
                "question, and as many sets as questions or none."
            )
        counts = [len(batch) for batch in images] if images else [0] * len(questions)
        prompts = [self.processor.question_prompt(q, n) for q, n in zip(questions, counts, strict=True)]
        self._check_length(max(map(len, prompts)), max_new_tokens, "question")
        features = None
        if images and any(counts):
            flat = [picture for batch in images for picture in batch]
            pixels = self.processor.pixels(flat).to(self.device, self.dtype)
            features = self.model.embed_images(pixels)
        embeds, mask = text.embed_prompts(
            self.model, prompts, self.processor.image, self.processor.pad, features, self.device
        )
        eos = self.processor.eos
        # Of several answers, some are short, and copies would not pay.
        alone = [self.model.language_model] if len(questions) == 1 else []
        words = text.words
        if self.graphs and graphable(self.model.answering_parts, self.plain):
            words = words_graphed
        with _one_at_a_time, prepacked(alone, 1, self.device, self.plain):
            ids = text.answer_ids(self.model, embeds, mask, eos, max_new_tokens, seed, sampling, progress, words)
        return [self.processor.decode(row) for row in ids]

    def _check_length(self, prompt: int, new: int, what: str) -> None:
        limit = self.context
        if prompt + new > limit:
            raise InputError(
                f"The {what} takes {prompt} tokens and {new} more are to be made, {prompt + new} in all, where this "
                f"model holds {limit}: shorten the {what} or ask for less."
            )
