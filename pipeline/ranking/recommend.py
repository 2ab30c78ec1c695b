"""How lists are made: who serves whom, masks and rules, tiles of bounded memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.console import log
from pipeline.models.base import Recommender
from pipeline.models.ops.topk import largest
from pipeline.ranking.pruned_topk import HEAD, DotProducts
from pipeline.training.interactions import History

TILE_BYTES = 256 * 2**20  # of scores at once
CPU_TILE_BYTES = 24 * 2**20  # above 32 MB malloc gives fresh pages to every tile, which is slow
DOT_TILE = 8192  # users at once where dot products are pruned
DOT_BYTES = 2**30  # of scores at once where all dot products are computed, on CUDA
LOWEST = torch.finfo(torch.float32).min  # -inf is kept for masked items


class ScoreError(ValueError):
    """A model's scores are not numbers."""


@dataclass(frozen=True)
class Lists:
    """Top-k lists of N users, best first; shorter ones end in item -1 with score -inf."""

    items: Tensor  # (N, k) int64
    scores: Tensor  # (N, k) float32
    from_fallback: Tensor  # (N,) bool


def served(model: Recommender, users: Tensor, history: History) -> Tensor:
    """Whom the model serves, (N,): all; or users with history; those of the fit only, unless it reads history.

    A fit on ratings has learnt of all its users; the others know nothing of one without a positive row.
    """
    if model.serves_everyone:
        return torch.ones_like(users, dtype=torch.bool)
    has_history = history.lengths > 0
    if model.reads_history:
        return has_history
    return (users >= 0) & (has_history | model.needs_ratings)


def make_lists(
    model: Recommender,
    users: Tensor,
    history: History,
    mask: History | None,
    k: int,
    allowed: Tensor | None,
    fallback: Tensor | None,
    tile: int | None,
    holdout: History | None = None,
) -> tuple[Lists, Tensor]:
    """Lists; and for those that end within a tie, how many items but holdout have the last score, (N,).

    Where the device's memory is out, with half as many users at once, and so on.
    """
    while True:
        try:
            return _make_lists(model, users, history, mask, k, allowed, fallback, tile, holdout)
        except torch.OutOfMemoryError:
            size = tile or min(tile_size(history.n_items, users.device), dot_tile(history.n_items, users.device))
            if min(size, len(users)) <= 1:
                raise
            tile = (min(size, len(users)) + 1) // 2
        torch.cuda.empty_cache()
        log.warning("out of device memory: going on with %d users at once", tile)


def _make_lists(
    model: Recommender,
    users: Tensor,
    history: History,
    mask: History | None,
    k: int,
    allowed: Tensor | None,
    fallback: Tensor | None,
    tile: int | None,
    holdout: History | None,
) -> tuple[Lists, Tensor]:
    n, n_items, device = len(users), history.n_items, users.device
    depth, size = min(k, n_items), tile or tile_size(n_items, device)
    items = torch.full((n, k), -1, device=device)
    scores = torch.full((n, k), -torch.inf, device=device)
    equals = torch.zeros(n, dtype=torch.long, device=device)
    buffer = torch.empty(min(size, n), n_items, device=device)  # one for all tiles: fresh memory is slow

    def by_score(rows: Tensor, given: Tensor) -> None:
        known = torch.clamp(given.float(), min=LOWEST, out=buffer[: len(rows)])  # (B, I)
        if allowed is not None:
            known.masked_fill_(~allowed, -torch.inf)
        if mask is not None:
            masked = mask[rows]
            at = masked.rows, masked.items
            known[at] = known[at] - torch.inf  # NaN stays NaN, so it is noticed
        scores[rows, :depth], items[rows, :depth], tied = largest(known, depth)
        tied = tied.nonzero().squeeze(1)  # (R,)
        if holdout is not None and len(tied):
            held = holdout[rows[tied]]
            rivals = known[tied]  # (R, I)
            rivals[held.rows, held.items] = -torch.inf
            equals[rows[tied]] = (rivals == scores[rows[tied], depth - 1 : depth]).sum(1)

    by_model = served(model, users, history)
    left = by_model
    if depth and (dots := _dot_products(model, users, history, allowed, depth)):
        left = torch.zeros_like(by_model)
        for rows in in_tiles(by_model, tile or dot_tile(n_items, device)):
            vectors = model.user_factors(users[rows], history[rows])
            assert vectors is not None
            known = None if mask is None else mask[rows]
            scores[rows, :depth], items[rows, :depth], tied = dots.top(vectors.float(), known, depth)
            left[rows] = tied  # which of equal items to list, only all scores tell
    if depth:
        for rows in in_tiles(left, size):
            by_score(rows, model.score(users[rows], history[rows]))
        if fallback is not None:
            for rows in in_tiles(~by_model, size):
                by_score(rows, fallback.expand(len(rows), -1))
        refuse_non_finite(scores[:, 0], users)
    return Lists(torch.where(scores > -torch.inf, items, -1), scores, ~by_model), equals


def _dot_products(
    model: Recommender, users: Tensor, history: History, allowed: Tensor | None, k: int
) -> DotProducts | None:
    """For models whose scores are dot products, where there are items enough to save some."""
    n_items = history.n_items if allowed is None else int(allowed.sum())
    factors = model.factors() if n_items > 2 * HEAD > 4 * k and len(users) else None
    if factors is None or model.user_factors(users[:0], history[users[:0]]) is None:
        return None
    of_users, of_items, bias = factors
    return DotProducts(of_items.float(), bias, of_users.float(), allowed)


def in_tiles(chosen: Tensor, size: int) -> tuple[Tensor, ...]:
    """Indices of the rows chosen, (N,) bool, at most `size` at a time."""
    rows = chosen.nonzero().squeeze(1)
    return rows.split(size) if len(rows) else ()


def tile_size(n_items: int, device: torch.device) -> int:
    """Users whose scores fit the budget; at least 1."""
    return max(1, (CPU_TILE_BYTES if device.type == "cpu" else TILE_BYTES) // (4 * max(n_items, 1)))


def dot_tile(n_items: int, device: torch.device) -> int:
    """Users whose dot products are looked at at once; at least 1."""
    return DOT_TILE if device.type == "cpu" else max(1, min(DOT_TILE, DOT_BYTES // (4 * max(n_items, 1))))


def refuse_non_finite(best: Tensor, users: Tensor) -> None:
    """`best` (N,) are the largest scores of users, in whose place NaN and +inf show."""
    bad = (best.isnan() | (best == torch.inf)).nonzero().squeeze(1)
    if len(bad):
        raise ScoreError(f"{len(bad):,} users have scores that are NaN or infinite, first: user {int(users[bad[0]])}")
