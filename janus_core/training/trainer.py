"""The one training loop behind all three stages, for a mini from nothing and for a published checkpoint alike."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..model.janus import JanusModel
from ..pictures import preprocess
from ..processing import Processor
from ..weights.names import split_fused, tensor_slices
from . import distributed as parallel
from .progress import RunLog
from .samples import Mixture, Sample
from .stages import KINDS, Stage
from .vq import learning_rate_at, to_pixels


@dataclass
class Batch:
    """A micro-batch, padded on the right: ids [B, T] (-1 = nothing there), pixels, codes, and what is to be learned."""

    ids: Tensor
    pixels: Tensor | None  # [pictures, 3, S, S]
    codes: Tensor | None  # [drawings, n]
    drawn: Tensor  # bool [B], rows that draw
    starts: Tensor  # long [drawings], length of each one's prompt
    learned: Tensor  # bool [B, T], tokens of answers


class PlainAttention:
    """Causal attention over the tokens at hand as plain products, in the place of a KV cache.

    On a CPU, in bfloat16 and at the mini's lengths, PyTorch's own takes two to five times as long there and back: its
    fused kernel is made for longer ones, and its other way goes through float32.
    """

    length = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q, k, v [B, heads, T, head_dim] -> [B, heads, T, head_dim], all in v's type."""
        with torch.autocast(v.device.type, enabled=False):  # which would have a softmax in float32
            q, k = q.to(v.dtype), k.to(v.dtype)
            hidden = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=v.dtype, device=v.device).triu(1)
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + hidden
            return scores.softmax(-1) @ v


class Trainer:
    """One stage of training on a model in place. `step` takes one optimiser step; `save`/`resume` keep it exact.

    The model's weights should be float32; arithmetic runs under autocast in `dtype`. After construction exactly the
    parts the stage names require gradients.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        stage: Stage,
        mixture: Mixture,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.model, self.processor, self.stage, self.mixture = model.to(device), processor, stage, mixture
        self.device, self.dtype = torch.device(device), dtype
        model.requires_grad_(False)
        for part in stage.trained:
            model.get_submodule(part).requires_grad_(True)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=0.0, betas=(0.9, 0.95), weight_decay=stage.weight_decay, fused=True
        )
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()} if stage.ema else {}
        self.steps_done = 0

    def step(self) -> dict[str, float]:
        """One optimiser step on the next `batch` samples; returns the mean loss of each kind and the gradient's norm.

        Of several processes each goes through its share of the samples; all take the same step.
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
        whole = sum(shares[kind] for kind in present)

        rate = learning_rate_at(self.steps_done, stage.learning_rate, stage.warm_up, stage.steps, stage.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = dict.fromkeys(present, 0.0)
        mine = samples[parallel.rank() :: parallel.count()]
        for begin in range(0, len(mine), stage.micro_batch):
            together = mine[begin : begin + stage.micro_batch]
            losses = self.losses(self.collate(together), [sample.kind for sample in together])
            torch.stack(
                [shares[kind] / whole / tokens[kind] * value for kind, value in losses.items()]
            ).sum().backward()
            for kind, value in losses.items():
                sums[kind] += value.item()
        if parallel.count() > 1:
            sums = self._sum_over_processes(sums)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        for name, average in self.averages.items():
            # Early on the mean is over what there is, so that it does not remember the start.
            keep = min(stage.ema, self.steps_done / (self.steps_done + 10))
            average.lerp_(self.trained[name].detach(), 1 - keep)
        return {kind: sums[kind] / tokens[kind] for kind in present} | {"gradient": norm.item(), "rate": rate}

    def _sum_over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        """Sum the gradients, in place, and the losses of all processes."""
        for weight in self.trained.values():  # of a kind that is in no sample here
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        losses = torch.tensor(list(sums.values()), device=self.device)
        parallel.sum_over_processes([*(w.grad for w in self.trained.values() if w.grad is not None), losses])
        return dict(zip(sums, losses.tolist(), strict=True))

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples as tensors on the device; pictures to draw that come without codes are encoded here."""
        drawing = [sample for sample in samples if sample.kind == "generation"]
        seen = [picture for sample in samples if sample.kind == "understanding" for picture in sample.pictures]
        pixels = codes = None
        if seen:
            images = [Image.fromarray(picture) for picture in seen]
            pixels = preprocess(images, self.processor.image_size, self.processor.normalisation).to(self.device)
        if drawing:
            given = [torch.from_numpy(s.codes) if s.codes is not None else self._encode(s.pictures[0]) for s in drawing]
            codes = torch.stack(given).to(self.device)
        length = max(len(sample.ids) for sample in samples)
        ids = torch.full((len(samples), length), -1)
        learned = torch.zeros_like(ids, dtype=torch.bool)
        for row, sample in enumerate(samples):
            ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
            for start, end in sample.answers:
                learned[row, start:end] = True
        starts = torch.tensor([len(sample.ids) for sample in drawing])
        drawn = torch.tensor([sample.kind == "generation" for sample in samples])
        drawn, starts, learned = (tensor.to(self.device) for tensor in (drawn, starts, learned))
        return Batch(ids.to(self.device), pixels, codes, drawn, starts, learned)

    @torch.no_grad()
    def _encode(self, picture: np.ndarray) -> Tensor:
        vq = self.model.gen_vision_model
        pixels = to_pixels(picture[None]).to(self.device, vq.quantize.embedding.weight.dtype)
        return vq.encode(pixels)[1][0].cpu()

    def losses(self, batch: Batch, kinds: list[str]) -> dict[str, Tensor]:
        """Summed cross-entropy per kind present: on the answers' tokens, and on the pictures' codes."""
        model = self.model
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            embeds = model.embed_text(batch.ids.clamp(min=0))
            if batch.pixels is not None:
                features = model.embed_images(batch.pixels).flatten(0, 1).to(embeds.dtype)
                embeds = embeds.masked_scatter((batch.ids == self.processor.image)[..., None], features)
            spots = None
            if batch.codes is not None:
                count = batch.codes.shape[1]
                longest = int(batch.starts.max()) + count - 1
                embeds = F.pad(embeds, (0, 0, 0, max(longest - embeds.shape[1], 0)))
                rows = batch.drawn.nonzero()  # [drawings, 1]
                spots = (rows, batch.starts[:, None] + torch.arange(count, device=self.device))
                drawn = model.embed_codes(batch.codes[:, :-1]).to(embeds.dtype)
                embeds = embeds.index_put((spots[0], spots[1][:, :-1]), drawn)
            hidden = model.language_model.model(embeds, cache=PlainAttention() if self.device.type == "cpu" else None)
            picture_logits = model.gen_head(hidden[spots[0], spots[1] - 1]) if spots is not None else None
            rows, columns = batch.learned.nonzero(as_tuple=True)
            word_logits = model.language_model.lm_head(hidden[rows, columns - 1]) if len(rows) else None
        found: dict[str, Tensor] = {}
        if picture_logits is not None and batch.codes is not None:
            found["generation"] = F.cross_entropy(
                picture_logits.float().flatten(0, 1), batch.codes.flatten(), reduction="sum"
            )
        if word_logits is not None:
            each = F.cross_entropy(word_logits.float(), batch.ids[rows, columns], reduction="none")
            for kind in ("understanding", "text"):
                mine = torch.tensor([k == kind for k in kinds], device=self.device)[rows]
                if mine.any():
                    found[kind] = each[mine].sum()
        return found

    def state(self) -> dict:
        return {
            "stage": asdict(self.stage),
            "seed": self.mixture.seed,
            "steps_done": self.steps_done,
            "weights": {name: p.detach() for name, p in split_fused(self.trained).items()},
            "optimizer": self._optimizer_state(),
            "averages": split_fused(self.averages),
        }

    def _optimizer_state(self) -> dict:
        """AdamW's moments by DeepSeek's tensors, numbered: how the model packs them is no business of a file's."""
        moments = [
            (place, self.optimizer.state.get(self.trained[place.key])) for place in tensor_slices(self.trained).values()
        ]
        return {
            "state": {
                i: {kind: place.of(value) if value.ndim else value for kind, value in values.items()}
                for i, (place, values) in enumerate(moments)
                if values
            }
        }

    def _load_optimizer(self, saved: dict) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        numbers = {key: i for i, key in enumerate(self.trained)}
        for i, place in enumerate(tensor_slices(self.trained).values()):
            mine = state.setdefault(numbers[place.key], {})
            for kind, value in saved["state"].get(i, {}).items():
                mine[kind] = torch.cat((mine[kind], value)) if kind in mine and value.ndim else value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {i: s for i, s in state.items() if s}})

    def save(self, path: Path) -> None:
        """Write all that the run needs to go on; whole or not at all."""
        torch.save(self.state(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self, path: Path) -> None:
        """Go on exactly where `save` was called. Raises InputError when the file belongs to another stage or seed."""
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
        """Put the running mean of the weights, if there is one, in the weights' place."""
        for name, average in self.averages.items():
            self.trained[name].copy_(average)


def run_stage(trainer: Trainer, name: str, folder: Path, report_every: int = 50, save_seconds: float = 120.0) -> None:
    """Train a stage to its end, going on from `folder/<name>.pt` where there is one; log to `folder/<name>.csv`/`.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{name}.pt"
    if state.exists():
        trainer.resume(state)
    columns = (*KINDS, "gradient", "rate")
    log = RunLog(folder, name, columns, trainer.steps_done) if parallel.rank() == 0 else None
    saved, recent = time.monotonic(), []
    while trainer.steps_done < trainer.stage.steps:
        recent.append(trainer.step())
        step, last = trainer.steps_done, trainer.steps_done == trainer.stage.steps
        if step % report_every == 0 or last:
            means = {key: [row[key] for row in recent if key in row] for key in columns}
            if log:
                log.report(step, trainer.stage.steps, {key: sum(v) / len(v) for key, v in means.items() if v})
            recent = []
        if log and (last or time.monotonic() - saved > save_seconds):
            trainer.save(state)
            log.draw()
            saved = time.monotonic()
    trainer.finish()
