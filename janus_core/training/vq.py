"""Training of the VQ tokenizer, the eye that draws: reconstruction, codebook, commitment, and no code left dead.

The codes start as k-means of raw picture patches, seen along their principal axes: for the first `seeded_steps` a patch's code is its nearest patch
centre, which the encoder learns to name (cross-entropy over the codebook) while the decoder learns to draw it. From
then on the encoder chooses for itself. Reconstruction reaches the codebook directly and the encoder straight through
the choice (van den Oord et al. 2017); a code that nothing chooses is moved onto a vector that no code stands for well.

A tokenizer that a transformer has learned to speak through must keep its codes: there the decoder alone learns on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VQConfig
from ..model.vq import VQModel
from .progress import RunLog

Pictures = Callable[[np.random.Generator, int], np.ndarray]
UNUSED = 1e3  # the coordinates of a centre that stands for no patch
LONELY = 0.1  # squared distance between unit vectors from which on a vector has no code of its own
SHARPNESS = 20.0  # cosine likeness -> logits, when the encoder learns to name codes


@dataclass(frozen=True)
class VQRecipe:
    """How the tokenizer is trained. `warm_up` steps ease the learning rate in, the last `decay` share eases it out."""

    steps: int = 4500
    batch: int = 8
    learning_rate: float = 1e-3
    warm_up: int = 50
    decay: float = 0.5
    seed_pictures: int = 1000
    seeded_steps: int = 4400
    commitment: float = 0.25
    naming: float = 0.1  # weight of the cross-entropy while seeded
    edges: float = 0.5  # weight of the L1 between neighbouring pixels' differences
    worst: float = 0.2  # weight of the L1 over each picture's worst 4x4 pixels, for specks that a mean forgives
    dead_after: int = 400  # steps without being chosen
    seed: int = 0
    save_every: int = 200
    report_every: int = 50


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def learning_rate_at(step: int, peak: float, warm_up: int, steps: int, decay: float) -> float:
    """Linear warm-up, a plateau, and a linear way down to nothing over the last `decay` share of the steps."""
    down = (steps - step) / (steps * decay) if decay else 1.0
    return peak * min((step + 1) / max(warm_up, 1), 1.0, max(down, 0.0))


def patches_of(pixels: Tensor, side: int) -> Tensor:
    """Pixels [N, 3, H, W] -> the patches that become one code each, [N * h * w, 3 * side * side]."""
    return F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def seed_centres(patches: Tensor, size: int, generator: torch.Generator, rounds: int = 3) -> Tensor:
    """k-means++ of the distinct patches among [n, p]: `size` centres [size, p]; the last stay unused if they are fewer."""
    patches = patches.unique(dim=0)
    centres = patches[torch.randint(len(patches), (1,), generator=generator)].repeat(size, 1)
    distance = (patches - centres[:1]).square().sum(-1)
    for index in range(1, size):
        if distance.max() < 1e-6:
            centres[index:] = UNUSED  # nothing is left to stand for; no patch is ever nearest to these
            break
        centres[index] = patches[torch.multinomial(distance, 1, generator=generator)]
        distance = torch.minimum(distance, (patches - centres[index]).square().sum(-1))
    for _ in range(rounds):
        ids = nearest_centre(patches, centres)
        counts = torch.bincount(ids, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, ids, patches)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def nearest_centre(patches: Tensor, centres: Tensor) -> Tensor:
    """Which centre each patch [n, p] is nearest to, [n]."""
    return (patches @ centres.T - centres.square().sum(-1) / 2).argmax(-1)


def reconstruction_loss(drawn: Tensor, pixels: Tensor, edges: float, worst: float) -> Tensor:
    """L1 + L2 + `edges` times the L1 of neighbouring pixels' differences + `worst` times that of the worst 4x4 pixels."""
    errors = (drawn - pixels).abs()
    loss = errors.mean() + errors.square().mean()
    loss = loss + worst * F.avg_pool2d(errors.mean(1, keepdim=True), 4).flatten(1).amax(1).mean()
    for dim in (2, 3):
        loss = loss + edges * F.l1_loss(drawn.diff(dim=dim), pixels.diff(dim=dim))
    return loss


class VQTrainer:
    """The tokenizer, its optimiser and its place in the run; `step` does one step on pixels [N, 3, H, W] in -1..1.

    Of a trained tokenizer `start` only the decoder learns.
    """

    def __init__(
        self,
        config: VQConfig,
        recipe: VQRecipe,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        start: VQModel | None = None,
    ):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.dtype, self.side = recipe, torch.device(device), dtype, config.downsampling
        self.keeps_codes = start is not None
        self.model = (start or VQModel(config, nn, {})).to(device)
        if self.keeps_codes:
            self.model.requires_grad_(False)
            self.model.post_quant_conv.requires_grad_(True)
            self.model.decoder.requires_grad_(True)
        else:
            codebook = self.model.quantize.embedding.weight
            codebook.data = F.normalize(codebook.data, dim=-1)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
        self.rng = np.random.default_rng(recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.last_chosen = torch.zeros(config.codebook_size, dtype=torch.long)
        self.centres: Tensor | None = None
        self.steps_done = 0

    def seed(self, pixels: Tensor) -> None:
        """Start the codes as k-means of these pictures' patches."""
        patches, embedding = patches_of(pixels, self.side), self.model.quantize.embedding
        centres = self.centres = seed_centres(patches, len(self.last_chosen), self.generator).to(self.device)
        used = centres[centres[:, 0] < UNUSED]
        mean = used.mean(0)
        axes = torch.linalg.svd(used - mean, full_matrices=False).Vh[: embedding.embedding_dim]
        embedding.weight.data[: len(used)] = F.normalize((used - mean) @ axes.T, dim=-1)

    def step(self, pixels: Tensor) -> dict[str, float]:
        recipe, quantize = self.recipe, self.model.quantize
        rate = learning_rate_at(self.steps_done, recipe.learning_rate, recipe.warm_up, recipe.steps, recipe.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with autocast:
            z = self.model.quant_conv(self.model.encoder(pixels))
        z = F.normalize(z.float(), dim=1).permute(0, 2, 3, 1)  # [N, h, w, d]
        vectors = z.flatten(0, 2)
        chosen = quantize.nearest(vectors.detach())
        if self.centres is not None and self.steps_done < recipe.seeded_steps:
            ids = nearest_centre(patches_of(pixels, self.side), self.centres)
            codes = F.normalize(quantize.embedding.weight, dim=-1)
            naming = F.cross_entropy(SHARPNESS * vectors @ codes.T, ids)
        else:
            ids, naming = chosen, z.new_zeros(())
        code = quantize.lookup(ids)
        commitment = (code - vectors).square().sum(-1).mean()
        passed = (code + vectors - vectors.detach()).view_as(z).permute(0, 3, 1, 2).contiguous()
        with autocast:
            drawn = self.model.decoder(self.model.post_quant_conv(passed))
        drawn = drawn.float()
        loss = reconstruction_loss(drawn, pixels, recipe.edges, recipe.worst)
        total = loss + recipe.commitment * commitment + recipe.naming * naming
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps_done += 1
        self.last_chosen[chosen.cpu()] = self.steps_done
        revives = self.steps_done > recipe.seeded_steps and not self.keeps_codes
        revived = self._revive(vectors.detach(), code.detach()) if revives else 0
        error = F.mse_loss(drawn.detach().clamp(-1, 1), pixels).item() / 4
        named = (chosen == ids).float().mean().item()
        figures: dict[str, float] = {
            "loss": loss.item(),
            "psnr": -10 * math.log10(error),
            "commitment": commitment.item(),
            "named": named,
        }
        return figures | {"revived": float(revived)}

    @torch.no_grad()
    def _revive(self, vectors: Tensor, codes: Tensor) -> int:
        """Move codes long unchosen onto vectors that lie far from their codes; where none does, none is needed."""
        far = (vectors - codes).square().sum(-1).cpu()
        far = far * (far > LONELY)
        dead = (self.steps_done - self.last_chosen > self.recipe.dead_after).nonzero().squeeze(1)
        dead = dead[: min(8, int((far > 0).sum()))]
        if len(dead):
            onto = torch.multinomial(far, len(dead), generator=self.generator)
            self.model.quantize.embedding.weight[dead] = vectors[onto]
            self.last_chosen[dead] = self.steps_done
        return len(dead)

    def save(self, path: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "centres": self.centres}
        state |= {"last_chosen": self.last_chosen, "steps_done": self.steps_done}
        state |= {"generator": self.generator.get_state(), "rng": self.rng.bit_generator.state}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.rng.bit_generator.state = state["rng"]
        self.centres, self.steps_done = state["centres"], state["steps_done"]
        self.last_chosen = state["last_chosen"].cpu()


def train_vq(
    config: VQConfig,
    recipe: VQRecipe,
    pictures: Pictures,
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    start: VQModel | None = None,
) -> VQModel:
    """Train a tokenizer on `pictures(rng, count)`: uint8 [count, H, W, 3], sides multiples of the downsampling.

    Of a trained one, `start`, only the decoder learns: its codes stay. Goes on from `folder/vq_state.pt` where there is
    one; leaves `vq.safetensors`, `vq.csv` and `vq.png` in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer, state = VQTrainer(config, recipe, device, dtype, start), folder / "vq_state.pt"
    if state.exists():
        trainer.resume(state)
    elif start is None:
        trainer.seed(to_pixels(pictures(trainer.rng, recipe.seed_pictures)))
        trainer.save(state)
    log = RunLog(folder, "vq", ("loss", "psnr", "commitment", "named", "revived"), trainer.steps_done)
    while trainer.steps_done < recipe.steps:
        figures = trainer.step(to_pixels(pictures(trainer.rng, recipe.batch)).to(device))
        step = trainer.steps_done
        if step % recipe.report_every == 0:
            log.report(step, recipe.steps, figures)
        if step % recipe.save_every == 0 or step == recipe.steps:
            trainer.save(state)
            log.draw()
    save_file({k: v.contiguous() for k, v in trainer.model.state_dict().items()}, folder / "vq.safetensors")
    return trainer.model.eval()
