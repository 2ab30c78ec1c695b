"""Beyond accuracy: how lists spread over the catalog, how surprising and how varied they are.

Functions take lists (N, k) of item indices, padded with -1, and `popular` (I,), the positive rows per item that the
model was fitted on; the catalog consists of the items with a row.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.training.interactions import History

DECILES = 10
SKETCH_DIM = 256
SKETCH_USERS = 1 << 16
"""Users whose random numbers are in memory at once, on a CPU: 64 MB."""
DEBIAS_POWER = 0.75
"""Of the inverse popularity; (γ + 1) / 2 with γ = 0.5 in Yang et al. 2018, sec. 4."""


def exposure(items: Tensor, n_items: int) -> Tensor:
    """Number of lists that contain each item, (I,) float64."""
    listed = items[items >= 0].flatten()
    return torch.bincount(listed, minlength=n_items).double().cpu()


def gini(items: Tensor, popular: Tensor) -> float:
    """Gini coefficient of exposure over the catalog: 0 if all items are listed equally often, near 1 if few items are.

    Fleder and Hosanagar 2009, sec. 3: Σ (2 j - n - 1) x_(j) / (n Σ x), x sorted ascending.
    """
    shown = torch.sort(exposure(items, len(popular))[(popular > 0).cpu()]).values  # (C,)
    n, total = len(shown), float(shown.sum())
    if not n or not total:
        return 0.0
    places = torch.arange(1, n + 1, dtype=torch.float64)
    return float(((2 * places - n - 1) * shown).sum() / (n * total))


def novelty(items: Tensor, owners: Tensor, n_users: int, cutoffs: Sequence[int]) -> Tensor:
    """Mean self-information in bits of the first k items of a list, (N, K): -log2(share of users with the item).

    Castells et al. 2011, sec. 4.1. `owners` (I,): users with each item. Items without users count as having one; an
    empty list is NaN.
    """
    share = owners.double().clamp(min=1) / max(n_users, 1)  # (I,)
    bits = -torch.log2(share.clamp(max=1.0))  # (I,)
    real = items >= 0  # (N, k)
    of_places = torch.where(real, bits[items.clamp(min=0)], 0.0)  # (N, k)
    return torch.stack([of_places[:, :k].sum(1) / real[:, :k].sum(1).double() for k in cutoffs], 1)


def signatures(history: History, generator: torch.Generator) -> Tensor:
    """(I, SKETCH_DIM) unit vectors whose dot products are, on average, the cosines of the items' user sets.

    Random projection of the columns of the history (Johnson and Lindenstrauss 1984): never items x items.
    """
    device, users, n = history.items.device, len(history), history.n_items
    size = SKETCH_USERS if device.type == "cpu" else max(users, 1)  # blocks of a CUDA generator are other numbers
    sums, counts = torch.zeros(n, SKETCH_DIM, device=device), torch.zeros(n, dtype=torch.long, device=device)
    for start in range(0, users, size):
        rows = torch.arange(start, min(start + size, users), device=device)  # (B,)
        plane = torch.randn(len(rows), SKETCH_DIM, generator=generator, device=device) / SKETCH_DIM**0.5  # (B, D)
        part = history[rows]
        wide = replace(part, items=part.items.long(), offsets=part.offsets.long(), facts=None, weights=None)
        by_item = wide.transposed()
        if by_item.doubled():
            by_item = wide.distinct().transposed()
        own = (by_item.lengths > 0).nonzero().squeeze(1)  # (J,) items of these users
        # The sums so far come first in each row, so that additions are in the order of users whatever the blocks are.
        some = by_item[own]
        starts = some.offsets + torch.arange(len(own) + 1, device=device)  # (J + 1,)
        index = torch.empty(len(some.items) + len(own), dtype=torch.long, device=device)
        is_sum = torch.zeros(len(index), dtype=torch.bool, device=device)
        is_sum[starts[:-1]] = True
        index[is_sum], index[~is_sum] = torch.arange(len(own), device=device), some.items + len(own)
        table = torch.cat([sums[own], plane])  # (J + B, D)
        sums[own] = torch.nn.functional.embedding_bag(index, table, starts, mode="sum", include_last_offset=True)
        counts += by_item.lengths
    return sums.div_(counts.clamp(min=1).sqrt().unsqueeze(1))


def diversity(items: Tensor, vectors: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """1 - mean cosine over the pairs of the first k items, (N, K); NaN for fewer than two (Ziegler et al. 2005).

    `vectors` (I, D) are unit vectors, or those of `signatures`. The dot products of all ordered pairs sum to
    |Σ v|² - Σ |v|², so no pair is formed.
    """
    real = items >= 0  # (N, k)
    weights, known = real.to(vectors.dtype), items.clamp(min=0)  # (N, k)
    squares = torch.where(real, vectors.double().square().sum(1)[known], 0.0)  # (N, k)
    found = []
    for k in cutoffs:
        n = real[:, :k].sum(1).double()  # (N,)
        sums = torch.nn.functional.embedding_bag(
            known[:, :k].contiguous(), vectors, mode="sum", per_sample_weights=weights[:, :k].contiguous()
        )  # (N, D)
        pairs = sums.double().square().sum(1) - squares[:, :k].sum(1)  # (N,): both ways
        found.append(torch.where(n > 1, 1 - pairs / (n * (n - 1)).clamp(min=1), torch.nan))
    return torch.stack(found, 1)


def popularity_deciles(popular: Tensor) -> Tensor:
    """1 (the most popular items) … 10, (I,) int64, each with about a tenth of all rows; 0: not in the catalog."""
    order = torch.argsort(popular, descending=True, stable=True)
    before = torch.cumsum(popular[order].double(), 0) - popular[order].double()  # (I,) rows of more popular items
    decile = torch.empty_like(order)
    decile[order] = (before / popular.sum().clamp(min=1) * DECILES).long().clamp(max=DECILES - 1) + 1
    return torch.where(popular > 0, decile, 0)


def exposure_by_decile(items: Tensor, popular: Tensor) -> list[float]:
    """Share of all list positions per popularity decile, from the most popular; 0.1 each is unbiased."""
    shown = exposure(items, len(popular))  # (I,)
    deciles = popularity_deciles(popular).cpu()
    total = max(float(shown.sum()), 1.0)
    return [float(shown[deciles == number].sum()) / total for number in range(1, DECILES + 1)]


def debiased_weights(holdout: Tensor, popular: Tensor) -> Tensor:
    """Weight of holdout events (E,) against popularity: (1 / rows of the item) ** DEBIAS_POWER.

    A hit rate with these weights estimates that of users who are exposed to items evenly (self-normalised inverse
    propensity, Yang et al., "Unbiased offline recommender evaluation …", RecSys 2018).
    """
    return popular[holdout].double().clamp(min=1).pow(-DEBIAS_POWER)
