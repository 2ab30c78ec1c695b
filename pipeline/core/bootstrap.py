"""Confidence intervals of means over users, by resampling users (Efron and Tibshirani 1993, ch. 13 and 16)."""

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.core.memory import total_memory
from pipeline.core.seeding import generator

RESAMPLES = 1000
CHUNK = 4096  # users whose weights are in memory at once
ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)
KEPT = min(total_memory() // 16, 1 << 29)
KEPT_ON_CUDA = 1 << 30
"""Number of cached draws, one byte each. A later call with the same number of users uses them again."""
RECENT = 100
"""Requests after which cached draws may give their place to others."""


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over n users, its interval (of 95 % by default), and the two-sided p-value of no difference."""

    value: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def intervals(values: Tensor, seed: int, *, counts: Tensor | None = None, resamples: int = RESAMPLES) -> Tensor:
    """95 % percentile intervals of the column means of (U, M) values, (M, 2); equal seeds give equal resamples.

    With `counts` (U,), rows per user or the sum of their weights, values are sums over those rows, and the means are
    over rows. Computed on the device of `values`.
    """
    return torch.quantile(_means(values, counts, seed, resamples), ENDS.to(values.device), dim=0).T


def paired_difference(
    a: Tensor, b: Tensor, seed: int = 42, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Difference:
    """Compare two models on the same users, (U,) each; users with NaN in either are left out.

    The interval is the percentile interval at `confidence`. p is the share of resampled differences, shifted to
    mean 0, that are at least as far from 0 as the observed one, with one added to numerator and denominator.
    Raises ValueError if the shapes differ or no user is left.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values must be of the same users: got {len(a):,} and {len(b):,}")
    change = (a - b).double().cpu()
    change = change[~change.isnan()]
    if not len(change):
        raise ValueError("there is no user to compare on")
    return paired_differences(change.unsqueeze(1), seed, resamples, confidence)[0]


def paired_differences(
    changes: Tensor, seed: int = 42, resamples: int = RESAMPLES, confidence: float = 0.95
) -> list[Difference]:
    """Like `paired_difference`, for each column of (U, M) changes without NaN, from one resampling of the users."""
    changes = changes.double().cpu()  # (U, M)
    mean = changes.mean(0)  # (M,)
    resampled = _means(changes, None, seed, resamples)  # (R, M)
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(resampled, ends, dim=0).numpy()  # (M,) each
    rounding = 1e-12 * changes.abs().amax(0)  # (M,)
    further = ((resampled - mean).abs() >= mean.abs() - rounding).sum(0)  # (M,)
    p_values = ((1 + further) / (1 + resamples)).numpy()
    found = zip(mean.numpy(), low, high, p_values, strict=True)
    return [Difference(*map(float, of), n=len(changes)) for of in found]


def _means(values: Tensor, counts: Tensor | None, seed: int, resamples: int) -> Tensor:
    """Means of resampled users, (R, M).

    Each user is drawn Poisson(1) times, independently of the others: the limit of drawing U of U users, without
    a pass over all users at once (Chamandy et al. 2012, "Estimating uncertainty for massive data streams").
    """
    values, device = values.double(), values.device  # (U, M)
    counts = torch.ones(len(values), device=device) if counts is None else counts.to(device)
    counts = counts.double().unsqueeze(1)  # (U, 1)
    mean = values.sum(0) / counts.sum()  # (M,)
    both = torch.cat([values - mean * counts, counts], 1)  # (U, M + 1), centred
    sums = torch.zeros(resamples, both.shape[1], dtype=torch.float64, device=device)  # (R, M + 1)
    drawn = _CACHE.get(seed, len(values), resamples, device)
    buffer = both.new_empty(resamples * min(CHUNK, len(values)))  # of all chunks: new memory is slow
    for chunk, times in zip(torch.split(both, CHUNK), drawn, strict=True):
        sums += buffer[: times.numel()].view(times.shape).copy_(times) @ chunk
    drawn_counts = sums[:, -1:]  # (R, 1), 0 where nobody was drawn, and below 1 where they are small weights
    return mean + sums[:, :-1] / torch.where(drawn_counts > 0, drawn_counts, 1.0)


Draw = tuple[int, int, int, torch.device]
"""Seed, number of users, number of resamples, device."""


@dataclass
class _Cache:
    """Draws that are used again: metrics of all models are computed over the same numbers of users."""

    held: OrderedDict[Draw, tuple[list[Tensor], int]] = field(
        default_factory=OrderedDict[Draw, tuple[list[Tensor], int]]
    )
    """Draws and the request that used them last, by their arguments; the most recent last."""
    requests: int = 0

    def get(self, seed: int, n: int, resamples: int, device: torch.device) -> Iterable[Tensor]:
        """The draws of `_drawn`, from the cache or into it, if there is room or others have not been used lately."""
        key, size = (seed, n, resamples, device), n * resamples
        self.requests += 1
        if key in self.held:
            draws = self.held.pop(key)[0]
        elif not self._has_room(size, device):
            return _drawn(seed, n, resamples, device)
        else:
            draws = [*_drawn(seed, n, resamples, device)]
        self.held[key] = draws, self.requests
        return draws

    def _has_room(self, size: int, device: torch.device) -> bool:
        """Whether `size` draws fit, perhaps in the place of older ones that were not used lately."""
        most = KEPT_ON_CUDA if device.type == "cuda" else KEPT
        while (total := sum(key[1] * key[2] for key in self.held if key[3] == device)) + size > most:
            oldest = next((key for key in self.held if key[3] == device), None)
            if oldest is None or total == 0 or self.requests - self.held[oldest][1] < RECENT:
                return False
            del self.held[oldest]
        return True


_CACHE = _Cache()


def _drawn(seed: int, n: int, resamples: int, device: torch.device) -> Iterator[Tensor]:
    """How often each of n users is drawn in each resample, (R, up to CHUNK) uint8, chunk by chunk.

    The random numbers come from numpy on every device.
    """
    rng = generator(seed, "bootstrap", n)
    table = torch.as_tensor(_POISSON_BYTES).to(device)  # (65536,)
    for start in range(0, n, CHUNK):
        shape = resamples, min(CHUNK, n - start)
        if shape[0] * shape[1] % 4 == 0 and sys.byteorder == "little":  # a draw is a quarter of a raw number
            points = rng.bit_generator.random_raw(shape[0] * shape[1] // 4).view(np.uint16).reshape(shape)
        else:
            points = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        if device.type == "cpu":
            yield torch.as_tensor(_POISSON_BYTES[points])
        else:
            yield table[torch.as_tensor(points.view(np.int16)).to(device).int() & 0xFFFF]


def _poisson_quantiles() -> np.ndarray:
    """Poisson(1) at 2**16 equally likely points: a lookup is ten times faster than drawing."""
    counts = np.arange(9)
    cumulative = np.cumsum(np.exp(-1) / np.cumprod(np.maximum(counts, 1)))  # P(X <= count)
    points = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.searchsorted(cumulative, points).astype(np.float64)


_POISSON = _poisson_quantiles()  # (65536,)
_POISSON_BYTES = _POISSON.astype(np.uint8)
