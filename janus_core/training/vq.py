"""Training of the VQ tokenizer: reconstruction, codebook and commitment losses, and the revival of unused codes.

The codes start as k-means centres of raw picture patches, projected on the centres' principal axes. For the first
`seeded_steps` the code of a patch is its nearest centre: the encoder learns to classify it (cross-entropy over the
codebook) and the decoder to draw it. After that the encoder chooses the codes. The reconstruction loss reaches the
codebook directly and the encoder by the straight-through estimate (van den Oord et al. 2017). A code that is unused for
long is moved to a vector that is far from every code.

A language model depends on the codes of its tokenizer. Of a trained tokenizer only the decoder is trained further.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VQConfig
from ..model.vq import VQModel
from ..weights.loading import make_writable
from ..weights.saving import save_tensors
from .loop import ADAM_BETAS, learning_rate_at, optimizer_step, write_state
from .progress import RunLog
from .samples import PictureSource

K_MEANS_ROUNDS = 3
UNUSED_CENTRE = 1e3  # coordinates of a centre that no patch belongs to
MIN_REVIVAL_DISTANCE = 0.1  # squared, between unit vectors: unused codes move only to vectors this far from their code
PLAIN_REACH = 4  # pixels
SHARPNESS = 20.0  # cosine similarity -> logits of the codes, in the classification loss


@dataclass(frozen=True)
class VQRecipe:
    """How the tokenizer is trained. `warm_up` is in steps; the learning rate falls to 0 over the last `decay` share."""

    steps: int = 4500
    batch: int = 8
    learning_rate: float = 1e-3
    warm_up: int = 50
    decay: float = 0.5
    seed_pictures: int = 1000
    seeded_steps: int = 4400
    commitment: float = 0.25
    naming: float = 0.1  # weight of the classification loss during the seeded steps
    edges: float = 0.5  # weight of the L1 loss on differences between neighbouring pixels
    worst: float = 0.2  # weight of the L1 loss on each picture's worst 4x4 pixels, because a mean hides specks
    plain: float = 0.4  # weight of the largest errors on plain ground, where a speck shows and edges have no part
    dead_after: int = 400  # steps after which a code that was not chosen is revived
    seed: int = 0
    save_every: int = 200
    report_every: int = 50


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def patches_of(pixels: Tensor, side: int) -> Tensor:
    """Pixels [N, 3, H, W] -> their patches of one code each, [N * h * w, 3 * side * side]."""
    return F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def seed_centres(patches: Tensor, size: int, *, generator: torch.Generator) -> Tensor:
    """k-means++ of the distinct patches among [n, p]: centres [size, p].

    If there are fewer distinct patches than centres, the rest stay unused.
    """
    patches = patches.unique(dim=0)
    centres = patches[torch.randint(len(patches), (1,), generator=generator)].repeat(size, 1)
    distance = (patches - centres[:1]).square().sum(-1)
    for index in range(1, size):
        if distance.max() < 1e-6:
            centres[index:] = UNUSED_CENTRE
            break
        centres[index] = patches[torch.multinomial(distance, 1, generator=generator)]
        distance = torch.minimum(distance, (patches - centres[index]).square().sum(-1))
    for _ in range(K_MEANS_ROUNDS):
        ids = nearest_centre(patches, centres)
        counts = torch.bincount(ids, minlength=size)[:, None]
        means = torch.zeros_like(centres).index_add_(0, ids, patches) / counts.clamp(min=1)
        centres = torch.where(counts > 0, means, centres)
    return centres


def nearest_centre(patches: Tensor, centres: Tensor) -> Tensor:
    """The index of the centre nearest to each patch [n, p], [n]."""
    return (patches @ centres.T - centres.square().sum(-1) / 2).argmax(-1)


def plain_ground(pixels: Tensor) -> Tensor:
    """Which pixels of [N, 3, H, W] are of one colour with all within PLAIN_REACH of them, bool [N, 1, H, W]."""
    side = 2 * PLAIN_REACH + 1
    highest, lowest = (F.max_pool2d(sign * pixels, side, stride=1, padding=PLAIN_REACH) * sign for sign in (1, -1))
    return (highest == lowest).all(1, keepdim=True)


def reconstruction_loss(
    reconstruction: Tensor, pixels: Tensor, *, gradient_weight: float, worst_patch_weight: float, plain_weight: float
) -> Tensor:
    """The loss of pixels [N, 3, H, W] in -1..1: L1 + L2, and three weighted terms.

    `gradient_weight` is of the L1 of differences between neighbouring pixels, `worst_patch_weight` of the L1 of each
    picture's worst 4x4 pixels, `plain_weight` of the errors' 8-norm on each picture's plain ground: about the largest.
    """
    errors = (reconstruction - pixels).abs()
    loss = errors.mean() + errors.square().mean()
    loss = loss + worst_patch_weight * F.avg_pool2d(errors.mean(1, keepdim=True), 4).flatten(1).amax(1).mean()
    plain_errors = (errors * plain_ground(pixels)).flatten(1)
    loss = loss + plain_weight * torch.linalg.vector_norm(plain_errors, 8, dim=1).mean()
    for dim in (2, 3):
        loss = loss + gradient_weight * F.l1_loss(reconstruction.diff(dim=dim), pixels.diff(dim=dim))
    return loss


class VQTrainer:
    """A tokenizer in training, a new one or `start`, of which only the decoder is trained."""

    def __init__(
        self,
        config: VQConfig,
        recipe: VQRecipe,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        start: VQModel | None = None,
    ):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.dtype, self.side = recipe, torch.device(device), dtype, config.downsampling
        self.keeps_codes = start is not None
        self.model = (start or VQModel(config, nn, {})).to(device)
        if self.keeps_codes:
            make_writable(self.model).requires_grad_(False)
            self.model.post_quant_conv.requires_grad_(True)
            self.model.decoder.requires_grad_(True)
        else:
            codebook = self.model.quantize.embedding.weight
            codebook.data = F.normalize(codebook.data, dim=-1)
        self.optimizer = torch.optim.AdamW(
            [weight for weight in self.model.parameters() if weight.requires_grad], betas=ADAM_BETAS, weight_decay=0.0
        )
        self.rng = np.random.default_rng(recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.last_chosen = torch.zeros(config.codebook_size, dtype=torch.long)
        self.centres: Tensor | None = None
        self.steps_done = 0

    def seed(self, pixels: Tensor) -> None:
        """Initialise the codes by k-means of these pictures' patches, pixels [N, 3, H, W]."""
        patches, embedding = patches_of(pixels, self.side), self.model.quantize.embedding
        centres = self.centres = seed_centres(patches, len(self.last_chosen), generator=self.generator).to(self.device)
        used = centres[centres[:, 0] < UNUSED_CENTRE]
        mean = used.mean(0)
        axes = torch.linalg.svd(used - mean, full_matrices=False).Vh[: embedding.embedding_dim]
        embedding.weight.data[: len(used)] = F.normalize((used - mean) @ axes.T, dim=-1)

    def step(self, pixels: Tensor) -> dict[str, float]:
        """One optimiser step on pixels [N, 3, H, W] in -1..1. Returns the figures of the log."""
        recipe, quantize = self.recipe, self.model.quantize
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with autocast:
            z = self.model.quant_conv(self.model.encoder(pixels))
        z = F.normalize(z.float(), dim=1).permute(0, 2, 3, 1)  # [N, h, w, d]
        vectors = z.flatten(0, 2)  # [N * h * w, d]
        chosen = quantize.nearest(vectors.detach())
        if self.centres is not None and self.steps_done < recipe.seeded_steps:
            ids = nearest_centre(patches_of(pixels, self.side), self.centres)
            logits = SHARPNESS * vectors @ F.normalize(quantize.embedding.weight, dim=-1).T
            classification = F.cross_entropy(logits, ids)
        else:
            ids, classification = chosen, z.new_zeros(())
        code = quantize.lookup(ids)
        commitment = (code - vectors).square().sum(-1).mean()
        # Straight through: the value is `code`, the gradient goes to both.
        quantized = (code + vectors - vectors.detach()).view_as(z).permute(0, 3, 1, 2).contiguous()
        with autocast:
            reconstruction = self.model.decoder(self.model.post_quant_conv(quantized)).float()
        loss = reconstruction_loss(
            reconstruction,
            pixels,
            gradient_weight=recipe.edges,
            worst_patch_weight=recipe.worst,
            plain_weight=recipe.plain,
        )
        (loss + recipe.commitment * commitment + recipe.naming * classification).backward()
        rate = learning_rate_at(
            self.steps_done, peak=recipe.learning_rate, warm_up=recipe.warm_up, steps=recipe.steps, decay=recipe.decay
        )
        optimizer_step(self.optimizer, rate)
        self.steps_done += 1
        self.last_chosen[chosen.cpu()] = self.steps_done
        revived = 0
        if self.steps_done > recipe.seeded_steps and not self.keeps_codes:
            revived = self._revive(vectors.detach(), code.detach())
        error = F.mse_loss(reconstruction.detach().clamp(-1, 1), pixels).item() / 4  # of pixels in 0..1
        return {
            "loss": loss.item(),
            "psnr": -10 * math.log10(error),
            "commitment": commitment.item(),
            "named": (chosen == ids).float().mean().item(),
            "revived": float(revived),
        }

    @torch.no_grad()
    def _revive(self, vectors: Tensor, codes: Tensor) -> int:
        """Move up to 8 codes that are unused for long to vectors that are far from their codes; return how many."""
        far = (vectors - codes).square().sum(-1).cpu()
        far = far * (far > MIN_REVIVAL_DISTANCE)
        unused = (self.steps_done - self.last_chosen > self.recipe.dead_after).nonzero().squeeze(1)
        unused = unused[: min(8, int((far > 0).sum()))]
        if len(unused):
            onto = torch.multinomial(far, len(unused), generator=self.generator)
            self.model.quantize.embedding.weight[unused] = vectors[onto]
            self.last_chosen[unused] = self.steps_done
        return len(unused)

    def save(self, path: Path) -> None:
        """Write all that `resume` needs."""
        write_state(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "centres": self.centres,
                "last_chosen": self.last_chosen,
                "steps_done": self.steps_done,
                "generator": self.generator.get_state(),
                "rng": self.rng.bit_generator.state,
            },
            path,
        )

    def resume(self, path: Path) -> None:
        """Continue exactly where `save` was called."""
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
    *,
    pictures: PictureSource,
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    start: VQModel | None = None,
) -> VQModel:
    """Train a new tokenizer, or the decoder of `start`, on pictures with sides that are multiples of its downsampling.

    Resumes from `folder/vq_state.pt` if it exists. Writes `vq.safetensors`, `vq.csv` and `vq.png` to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer, state = VQTrainer(config, recipe, device=device, dtype=dtype, start=start), folder / "vq_state.pt"
    if state.exists():
        trainer.resume(state)
    elif start is None:
        trainer.seed(to_pixels(pictures(trainer.rng, recipe.seed_pictures)))
        trainer.save(state)
    log = RunLog(folder, "vq", ("loss", "psnr", "commitment", "named", "revived"), step=trainer.steps_done)
    while trainer.steps_done < recipe.steps:
        figures = trainer.step(to_pixels(pictures(trainer.rng, recipe.batch)).to(device))
        step = trainer.steps_done
        if step % recipe.report_every == 0:
            log.report(step, recipe.steps, figures)
        if step % recipe.save_every == 0 or step == recipe.steps:
            trainer.save(state)
            log.draw()
    save_tensors(trainer.model.state_dict(), folder / "vq.safetensors")
    return trainer.model.eval()
