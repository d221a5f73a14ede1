"""The training loop of all three stages, for a new model and for a published checkpoint."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..model.janus import JanusModel
from ..model.llama import causal
from ..pictures import preprocess
from ..processing import Processor
from ..weights.loading import make_writable
from ..weights.names import split_fused, tensor_slices
from . import distributed
from .loop import ADAM_BETAS, learning_rate_at, optimizer_step, write_state
from .progress import RunLog
from .samples import Mixture, Sample
from .stages import KINDS, Stage
from .vq import to_pixels

SAVE_SECONDS = 120.0  # between two saved states


@dataclass
class Batch:
    """A micro-batch, padded on the right."""

    ids: Tensor  # long [B, T], -1 = padding
    pixels: Tensor | None  # [pictures, 3, S, S], of all understanding samples in order
    codes: Tensor | None  # long [drawings, n]
    is_drawing: Tensor  # bool [B]
    prompt_lengths: Tensor  # long [drawings]
    is_answer: Tensor  # bool [B, T]


def plain_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention as plain matrix products: q, k, v [B, heads, T, head_dim] -> [B, heads, T, head_dim] in v's type.

    On a CPU, in bfloat16 and for a few hundred tokens, PyTorch's attention takes two to five times as long forward and
    backward: its fused kernel is made for longer sequences, and its other path computes in float32.
    """
    with torch.autocast(v.device.type, enabled=False):  # autocast runs softmax in float32
        q, k = q.to(v.dtype), k.to(v.dtype)
        future = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=v.dtype, device=v.device).triu(1)
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + future).softmax(-1) @ v


class Losses(nn.Module):
    """A trainer's `losses` as a module, with the model in it, which is what DistributedDataParallel wraps."""

    def __init__(self, trainer: "Trainer"):
        super().__init__()
        self.model, self.of = trainer.model, trainer.losses

    def forward(self, batch: Batch, kinds: list[str]) -> dict[str, Tensor]:
        return self.of(batch, kinds)


class Trainer:
    """One stage of training of a model, in place.

    The model's weights should be float32; arithmetic runs under autocast in `dtype`. After construction only the parts
    that the stage names require gradients.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        *,
        stage: Stage,
        mixture: Mixture,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ):
        if stage.batch < distributed.process_count():
            raise InputError(
                f"{distributed.process_count()} processes share the {stage.batch} samples of a step: give a --batch of at "
                "least one a process."
            )
        self.model, self.processor, self.stage, self.mixture = model.to(device), processor, stage, mixture
        self.device, self.dtype = torch.device(device), dtype
        model.requires_grad_(False)
        for part in stage.trained:
            make_writable(model.get_submodule(part)).requires_grad_(True)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=0.0, betas=ADAM_BETAS, weight_decay=stage.weight_decay, fused=True
        )
        self.parallel: nn.Module = Losses(self)
        if distributed.process_count() > 1:
            # 1. A process may have no sample of some kind, and then no gradient for the weights that only this kind uses.
            # 2. All processes have read the same weights. Frozen ones may be a read-only file, which nobody may write into.
            self.parallel = DistributedDataParallel(
                self.parallel, find_unused_parameters=True, init_sync=False, broadcast_buffers=False
            )
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()} if stage.ema else {}
        self.steps_done = 0

    def step(self) -> dict[str, float]:
        """One optimiser step on the next `batch` samples. Returns the mean loss of each kind, the gradient's norm, the rate.

        The loss is the mean over each kind's tokens, weighted by the kind's share of the mix. With several processes,
        each computes part of the samples; all take the same step.
        """
        stage = self.stage
        first = self.steps_done * stage.batch
        samples = [self.mixture.sample(index) for index in range(first, first + stage.batch)]
        samples.sort(key=lambda sample: sample.length(self.processor.image_tokens))
        tokens: dict[str, int] = dict.fromkeys(KINDS, 0)
        for sample in samples:
            answers = sum(end - start for start, end in sample.answers)
            tokens[sample.kind] += self.processor.image_tokens if sample.kind == "generation" else answers
        present = [kind for kind in KINDS if tokens[kind]]
        shares: dict[str, float] = dict(zip(KINDS, self.mixture.shares, strict=True))
        total = sum(shares[kind] for kind in present)

        sums = dict.fromkeys(present, 0.0)
        processes = distributed.process_count()
        mine = samples[distributed.rank() :: processes]
        for begin in range(0, len(mine), stage.micro_batch):
            part = mine[begin : begin + stage.micro_batch]
            with self._gradients_stay_here(len(part) + begin < len(mine)):
                losses = self.parallel(self.collate(part), [sample.kind for sample in part])
                # DistributedDataParallel takes the mean over the processes, where the sum is meant.
                weighted = [processes * shares[kind] / total / tokens[kind] * loss for kind, loss in losses.items()]
                torch.stack(weighted).sum().backward()
            for kind, loss in losses.items():
                sums[kind] += loss.item()
        if processes > 1:
            over_all = torch.tensor(list(sums.values()), device=self.device)
            dist.all_reduce(over_all)
            sums = dict(zip(sums, over_all.tolist(), strict=True))
        rate = learning_rate_at(
            self.steps_done, peak=stage.learning_rate, warm_up=stage.warm_up, steps=stage.steps, decay=stage.decay
        )
        norm = optimizer_step(self.optimizer, rate)
        self.steps_done += 1
        for name, average in self.averages.items():
            # The first steps are weighted equally, so that the average does not keep the initial weights.
            average.lerp_(self.trained[name].detach(), 1 - min(stage.ema, self.steps_done / (self.steps_done + 10)))
        return {kind: sums[kind] / tokens[kind] for kind in present} | {"gradient": norm.item(), "rate": rate}

    def _gradients_stay_here(self, stay: bool) -> AbstractContextManager[object]:
        """Inside, a backward pass that is not the step's last one does not exchange gradients with other processes."""
        if stay and isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return nullcontext()

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples as tensors on the device. Pictures to draw that have no codes are encoded here."""
        drawing = [sample for sample in samples if sample.kind == "generation"]
        seen = [picture for sample in samples if sample.kind == "understanding" for picture in sample.pictures]
        pixels = codes = None
        if seen:
            pixels = preprocess(
                [Image.fromarray(picture) for picture in seen], self.processor.image_size, self.processor.normalisation
            ).to(self.device)
        if drawing:
            given = [torch.from_numpy(s.codes) if s.codes is not None else self._encode(s.pictures[0]) for s in drawing]
            codes = torch.stack(given).to(self.device)
        length = max(len(sample.ids) for sample in samples)
        ids = torch.full((len(samples), length), -1)
        is_answer = torch.zeros_like(ids, dtype=torch.bool)
        for row, sample in enumerate(samples):
            ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
            for start, end in sample.answers:
                is_answer[row, start:end] = True
        prompt_lengths = torch.tensor([len(sample.ids) for sample in drawing])
        is_drawing = torch.tensor([sample.kind == "generation" for sample in samples])
        ids, is_drawing, prompt_lengths, is_answer = (
            tensor.to(self.device) for tensor in (ids, is_drawing, prompt_lengths, is_answer)
        )
        return Batch(ids, pixels, codes, is_drawing, prompt_lengths, is_answer)

    @torch.no_grad()
    def _encode(self, picture: np.ndarray) -> Tensor:
        vq = self.model.gen_vision_model
        pixels = to_pixels(picture[None]).to(self.device, vq.quantize.embedding.weight.dtype)
        return vq.encode(pixels)[1][0].cpu()

    def losses(self, batch: Batch, kinds: list[str]) -> dict[str, Tensor]:
        """Summed cross-entropy of each kind present, over the answers' tokens and the pictures' codes.

        `kinds` are the kinds of the batch's rows.
        """
        model = self.model
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            # 1. Input embeddings [B, T, D]: text, SigLIP's features at the placeholders, codes after their prompts.
            embeds = model.embed_text(batch.ids.clamp(min=0))
            if batch.pixels is not None:
                features = model.embed_images(batch.pixels).flatten(0, 1).to(embeds.dtype)
                embeds = embeds.masked_scatter((batch.ids == self.processor.image)[..., None], features)
            rows = columns = None  # where the codes are: [drawings, 1] and [drawings, n]
            if batch.codes is not None:
                count = batch.codes.shape[1]
                longest = int(batch.prompt_lengths.max()) + count - 1  # the last code is not an input
                embeds = F.pad(embeds, (0, 0, 0, max(longest - embeds.shape[1], 0)))
                rows = batch.is_drawing.nonzero()
                columns = batch.prompt_lengths[:, None] + torch.arange(count, device=self.device)
                codes = model.embed_codes(batch.codes[:, :-1]).to(embeds.dtype)
                embeds = embeds.index_put((rows, columns[:, :-1]), codes)
            # 2. One forward pass. The logits of a position predict the next one.
            hidden = model.language_model.model(embeds, attend=plain_attention if self.device.type == "cpu" else causal)
            code_logits = model.gen_head(hidden[rows, columns - 1]) if columns is not None else None
            answer_rows, answer_columns = batch.is_answer.nonzero(as_tuple=True)
            text_logits = (
                model.language_model.lm_head(hidden[answer_rows, answer_columns - 1]) if len(answer_rows) else None
            )
        # 3. Cross-entropy.
        losses: dict[str, Tensor] = {}
        if code_logits is not None and batch.codes is not None:
            losses["generation"] = F.cross_entropy(
                code_logits.float().flatten(0, 1), batch.codes.flatten(), reduction="sum"
            )
        if text_logits is not None:
            each = F.cross_entropy(text_logits.float(), batch.ids[answer_rows, answer_columns], reduction="none")
            for kind in ("understanding", "text"):
                mine = torch.tensor([k == kind for k in kinds], device=self.device)[answer_rows]
                if mine.any():
                    losses[kind] = each[mine].sum()
        return losses

    def _optimizer_state(self) -> dict:
        """AdamW's moments by the number of DeepSeek's tensor, so that a file does not depend on which layers are fused."""
        state = {}
        for i, part in enumerate(tensor_slices(self.trained).values()):
            if moments := self.optimizer.state.get(self.trained[part.key]):
                state[i] = {name: part.of(value) if value.ndim else value for name, value in moments.items()}
        return {"state": state}

    def _load_optimizer(self, saved: dict) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        numbers = {key: i for i, key in enumerate(self.trained)}
        for i, part in enumerate(tensor_slices(self.trained).values()):
            moments = state.setdefault(numbers[part.key], {})
            for name, value in saved["state"].get(i, {}).items():
                moments[name] = torch.cat((moments[name], value)) if name in moments and value.ndim else value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {i: s for i, s in state.items() if s}})

    def save(self, path: Path) -> None:
        """Write all that `resume` needs."""
        write_state(
            {
                "stage": asdict(self.stage),
                "seed": self.mixture.seed,
                "steps_done": self.steps_done,
                "weights": {name: p.detach() for name, p in split_fused(self.trained).items()},
                "optimizer": self._optimizer_state(),
                "averages": split_fused(self.averages),
            },
            path,
        )

    def resume(self, path: Path) -> None:
        """Continue exactly where `save` was called. Raises InputError for the file of another stage or seed."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["seed"] != self.mixture.seed or state["stage"]["trained"] != self.stage.trained:
            raise InputError(
                f"{path} belongs to another run (its seed or its trained parts differ): use another folder."
            )
        with torch.no_grad():
            for name, weight in split_fused(self.trained).items():
                weight.copy_(state["weights"][name])
            for name, average in split_fused(self.averages).items():
                average.copy_(state["averages"].get(name, state["weights"][name]))
        self._load_optimizer(state["optimizer"])
        self.steps_done = state["steps_done"]

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the weights by their moving average, if the stage keeps one."""
        for name, average in self.averages.items():
            self.trained[name].copy_(average)


def run_stage(
    trainer: Trainer,
    name: str,
    folder: Path,
    *,
    report_every: int = 50,
    after_step: Callable[[int], object] | None = None,
) -> None:
    """Train a stage to its end, resuming from `folder/<name>.pt` if it exists; log to `folder/<name>.csv` and `.png`.

    `after_step(steps done)` is called after each step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{name}.pt"
    if state.exists():
        trainer.resume(state)
    columns = (*KINDS, "gradient", "rate")
    log = RunLog(folder, name, columns, step=trainer.steps_done) if distributed.rank() == 0 else None
    saved, recent = time.monotonic(), []
    while trainer.steps_done < trainer.stage.steps:
        recent.append(trainer.step())
        step, last = trainer.steps_done, trainer.steps_done == trainer.stage.steps
        if after_step is not None:
            after_step(step)
        if step % report_every == 0 or last:
            means = {key: [row[key] for row in recent if key in row] for key in columns}
            if log:
                log.report(step, trainer.stage.steps, {key: sum(v) / len(v) for key, v in means.items() if v})
            recent = []
        if log and (last or time.monotonic() - saved > SAVE_SECONDS):
            trainer.save(state)
            log.draw()
            saved = time.monotonic()
    trainer.finish()
