"""From logits to a token: guidance, filters, and noise that is a pure function of (seed, position, code)."""

import math
import sys
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError

MASK32 = 0xFFFFFFFF
GOLDEN32 = 0x9E3779B9
MAX_SEED = 2**64 - 1
ENTROPY_SCALE = 2.0  # nats


def is_finite(number: float) -> bool:
    """Whether it is neither NaN nor infinite, nor a whole number that is too large for a float."""
    return abs(number) <= sys.float_info.max


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.

    Tokens with less than `min_p` of the likeliest one's probability are left out: in answers at the temperature, in pictures
    at temperature 1 under the prompt (see `Drawing.guided`).

    For pictures only: `entropy_temperature` is added to the temperature where the model is sure, and less and less of it
    where it is not: T + entropy_temperature * exp(-entropy / ENTROPY_SCALE) (Ma et al. 2025, arXiv 2510.09012).

    For answers only: the logits of tokens that the answer has are divided by `repetition_penalty` where positive and
    multiplied where negative (Keskar et al. 2019, arXiv 1909.05858), then lowered by `presence_penalty`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    entropy_temperature: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not (is_finite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}: give 0 (greedy) or more, 1 being the model's own.")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}: give 0 (off) or the number of likeliest codes to keep.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: give a share above 0 and up to 1 (off).")
        if not 0 <= self.min_p < 1:
            raise InputError(f"min_p is {self.min_p}: give a share from 0 (off) to below 1, usually up to 0.1.")
        if not (is_finite(self.entropy_temperature) and self.entropy_temperature >= 0):
            raise InputError(
                f"entropy_temperature is {self.entropy_temperature}: give 0 (off) or more, usually up to 2."
            )
        if not (is_finite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}: give 1 (off) or more, usually up to 1.3; below 1 favours "
                "words that were there."
            )
        if not is_finite(self.presence_penalty):
            raise InputError(f"presence_penalty is {self.presence_penalty}: give a number, 0 being off.")

    @property
    def penalises(self) -> bool:
        """Whether a token's logit depends on the answer so far."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0

    @property
    def unfiltered(self) -> bool:
        """Whether a draw needs no more than logits over a temperature that float32 can hold, and min-p."""
        return self.temperature > 0.05 and self.top_k == 0 and self.top_p == 1 and self.entropy_temperature == 0


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit integers, stored in int64, each of whose output bits depends on every input bit."""
    x = x ^ (x >> 16)
    x.mul_(0x7FEB352D).bitwise_and_(MASK32)
    x.bitwise_xor_(x >> 15)
    x.mul_(0x846CA68B).bitwise_and_(MASK32)
    return x.bitwise_xor_(x >> 16)


def _mix_seed(seed: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit integers, so no two seeds give the same keys."""
    mask = MAX_SEED
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def seed_keys(seed: int, rows: int, device: torch.device | str, *, salts: tuple[int, ...] = (0,)) -> Tensor:
    """Keys long [rows, 2] of the seeds seed, seed + 1, ... (mod 2**64). Raises InputError outside 0..2**64-1.

    With several `salts`, each seed has one key per salt, in succession. A salt other than 0 gives noise of its own.
    """
    seed = int(seed)  # numpy's integers overflow in the mixing
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed is {seed}: give a whole number from 0 to {MAX_SEED}.")
    seeds = [_mix_seed((seed + i) & MAX_SEED) for i in range(rows // len(salts))]
    mixed = [_mix_seed(z ^ salt) if salt else z for z in seeds for salt in salts]
    return torch.tensor([[z & MASK32, z >> 32] for z in mixed], dtype=torch.int64, device=device)


def gumbel_noise(keys: Tensor, position: int | Tensor, codes: int) -> Tensor:
    """Standard Gumbel noise, float32 [rows, codes], the same on every device and in every batch.

    With `position` a tensor [rows, T], the noise is [rows, T, codes].
    """
    low, high = keys[:, :1], keys[:, 1:]
    if not isinstance(position, int):
        low, high, position = low[..., None], high[..., None], position[..., None]
    first = _mix((low + position * GOLDEN32) & MASK32)
    second = _mix(first ^ high)
    code = torch.arange(codes, device=keys.device, dtype=torch.int64)
    code.mul_(GOLDEN32)
    bits = _mix(_mix((code + first).bitwise_and_(MASK32)).bitwise_xor_(second))
    # The uniform variable is 1 - u rather than u, so that the large values, which win the draw, keep full precision.
    rest = bits.to(torch.float32).add_(0.5).mul_(2**-32).clamp_(max=1 - 2**-24)
    log = log1m(rest) if keys.device.type == "mps" else rest.neg_().log1p_()
    return log.neg_().log_().neg_()


def log1m(x: Tensor) -> Tensor:
    """log(1 - x) of 0 < x < 1, exact also where x is so small that 1 - x rounds to 1, without `log1p`.

    On MPS before torch 2.8, log1p is log(1 + x) as it stands, which gives infinite noise, and that always wins.
    """
    left = 1 - x
    return torch.where(left == 1, -x, left.log() * (x / (1 - left)))


def guide(cond: Tensor, uncond: Tensor, weight: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022) of logits of equal shapes: weight 0 is unconditional, 1 conditional."""
    return uncond + weight * (cond - uncond)


def tempered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [..., codes] divided by a temperature above 0, in float32 or better; -inf for codes that are filtered out."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # With the largest at 0, a tiny temperature gives -inf and never inf.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    temperature: float | Tensor = max(float(sampling.temperature), 1e-30)  # no whole number: PyTorch's have 64 bits
    if sampling.entropy_temperature:
        entropy = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        temperature = temperature + float(sampling.entropy_temperature) * (-entropy / ENTROPY_SCALE).exp()
    logits = logits / temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        p, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        beyond = p.cumsum(dim=-1) - p >= sampling.top_p
        beyond[..., 0] = False  # float32 rounds a tiny top_p to 0
        logits = logits.masked_fill(beyond.gather(-1, order.argsort(dim=-1)), -torch.inf)
    return logits


def penalised(logits: Tensor, sampling: Sampling, used: Tensor) -> Tensor:
    """Logits [rows, tokens] with the penalties on those that are `used`, bool [rows, tokens]."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    factor = sampling.repetition_penalty
    less_likely = logits.clamp(min=0) / factor + logits.clamp(max=0) * factor - sampling.presence_penalty
    return torch.where(used, less_likely, logits)


def likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """An answer's logits [..., tokens], -inf for tokens below `min_p` at the temperature."""
    least = sampling.temperature * math.log(sampling.min_p)
    return logits.masked_fill(logits - logits.amax(dim=-1, keepdim=True) < least, -torch.inf)


def noisy_scores(logits: Tensor, sampling: Sampling, keys: Tensor, position: int | Tensor) -> Tensor:
    """Scores of logits [rows, codes], or [rows, T, codes] with `position` [rows, T]: the largest is the code that is drawn.

    log p + Gumbel noise, whose largest is a draw from p; the logits for temperature 0.
    """
    if sampling.temperature == 0:
        return logits
    return gumbel_noise(keys, position, logits.shape[-1]).add(tempered(logits, sampling))


def draw_tokens(
    logits: Tensor, sampling: Sampling, keys: Tensor, position: int | Tensor, kernels: ModuleType | None = None
) -> Tensor:
    """One token a row, long [rows], from logits [rows, codes].

    With `position` [rows, T] and logits [rows, T, codes], the tokens are [rows, T], and `kernels` may be `triton_kernels`.
    """
    if kernels and sampling.temperature > 0:
        return kernels.draw(tempered(logits, sampling), keys, position)
    return noisy_scores(logits, sampling, keys, position).argmax(dim=-1)


def check_finite(computed: Tensor) -> None:
    """Raise CheckpointError when logits or pixels are NaN or infinite: broken weights, or a dtype too small for them."""
    if not bool(computed.isfinite().all()):
        raise CheckpointError(
            "The model computes NaN: its weights are damaged, or overflow in this dtype, so try bf16 or fp32."
        )
