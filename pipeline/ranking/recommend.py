"""Computes top-k lists: which users a model serves, masks, ties, and tiles of bounded memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.console import log
from pipeline.models.base import Recommender
from pipeline.models.ops.topk import largest
from pipeline.ranking.pruned_topk import HEAD, DotProducts
from pipeline.training.interactions import History

TILE_BYTES = 256 * 2**20
"""Scores that are held at once."""
CPU_TILE_BYTES = 24 * 2**20
"""The same on a CPU: above 32 MB malloc maps new pages for every tile, which is slow."""
DOT_TILE = 8192
"""Users per tile where dot products are pruned."""
DOT_BYTES = 2**30
"""Scores that are held at once on CUDA, where all dot products are computed."""
LOWEST = torch.finfo(torch.float32).min
"""Lowest score of an item that is not masked; -inf means masked."""


class ScoreError(ValueError):
    """Scores of a model are NaN or infinite."""


@dataclass(frozen=True)
class Lists:
    """Top-k lists of N users, best first; shorter ones end in item -1 with score -inf."""

    items: Tensor  # (N, k) int64
    scores: Tensor  # (N, k) float32
    from_fallback: Tensor  # (N,) bool

    def __getitem__(self, rows: Tensor) -> "Lists":
        """The lists at `rows` (R,)."""
        return Lists(self.items[rows], self.scores[rows], self.from_fallback[rows])

    @classmethod
    def joined(cls, parts: "list[Lists]") -> "Lists":
        """Those of several parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(p, f) for p in parts]) for f in ("items", "scores", "from_fallback")))


@dataclass(frozen=True)
class ServeInputs:
    """Users to make lists for, and what is known about them; rows of `history` and `mask` belong to `users`."""

    users: Tensor
    """(N,) int64; -1 for a user that the fit has not seen."""
    history: History
    """Events that the model may read."""
    mask: History | None = None
    """Items that must not be listed."""
    fallback: Tensor | None = None
    """Scores (I,) for users that the model can't serve."""

    @property
    def n_items(self) -> int:
        """Size of the catalog."""
        return self.history.n_items

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""
        return self.users.device


def served(model: Recommender, users: Tensor, history: History) -> Tensor:
    """Which users the model serves, (N,) bool.

    A model with `serves_everyone` serves all; one that reads the history, users with a history; other models, users of
    the fit who have one. A model fitted on ratings also serves users of the fit without a positive row.
    """
    if model.serves_everyone:
        return torch.ones_like(users, dtype=torch.bool)
    has_history = history.lengths > 0
    if model.reads_history:
        return has_history
    return (users >= 0) & (has_history | model.needs_ratings)


def make_lists(
    model: Recommender,
    inputs: ServeInputs,
    k: int,
    *,
    allowed: Tensor | None = None,
    tile: int | None = None,
    holdout: History | None = None,
) -> tuple[Lists, Tensor]:
    """Top-k lists, and the number of items that tie with the last one listed, (N,), holdout items not counted.

    The count is 0 for lists that don't end within a tie. `allowed` (I,) bool limits the items for all users. `tile` is
    the number of users scored at once; it is halved, with a warning, whenever the device runs out of memory.
    """
    while True:
        try:
            return _make_lists(model, inputs, k, allowed, tile, holdout)
        except torch.OutOfMemoryError:
            sizes = (tile_size(inputs.n_items, inputs.device), dot_tile(inputs.n_items, inputs.device))
            size = min(tile or min(sizes), len(inputs.users))
            if size <= 1:
                raise
            tile = (size + 1) // 2
        torch.cuda.empty_cache()
        log.warning("out of device memory: continuing with %d users at a time", tile)


def _make_lists(
    model: Recommender,
    inputs: ServeInputs,
    k: int,
    allowed: Tensor | None,
    tile: int | None,
    holdout: History | None,
) -> tuple[Lists, Tensor]:
    users, history, mask = inputs.users, inputs.history, inputs.mask
    n, n_items, device = len(users), inputs.n_items, inputs.device
    depth, size = min(k, n_items), tile or tile_size(n_items, device)
    items = torch.full((n, k), -1, device=device)
    scores = torch.full((n, k), -torch.inf, device=device)
    equals = torch.zeros(n, dtype=torch.long, device=device)
    buffer = torch.empty(min(size, n), n_items, device=device)  # reused by all tiles: new memory is slow

    def list_best(rows: Tensor, given: Tensor) -> None:
        kept = torch.clamp(given.float(), min=LOWEST, out=buffer[: len(rows)])  # (B, I)
        if allowed is not None:
            kept.masked_fill_(~allowed, -torch.inf)
        if mask is not None:
            masked = mask[rows]
            at = masked.rows, masked.items
            kept[at] = kept[at] - torch.inf  # NaN stays NaN, so that it is noticed
        scores[rows, :depth], items[rows, :depth], tied = largest(kept, depth)
        tied = tied.nonzero().squeeze(1)  # (R,)
        if holdout is not None and len(tied):
            held = holdout[rows[tied]]
            rivals = kept[tied]  # (R, I)
            rivals[held.rows, held.items] = -torch.inf
            equals[rows[tied]] = (rivals == scores[rows[tied], depth - 1 : depth]).sum(1)

    by_model = served(model, users, history)
    left = by_model
    if depth and (dots := _dot_products(model, users, history, allowed, depth)):
        left = torch.zeros_like(by_model)
        for rows in in_tiles(by_model, tile or dot_tile(n_items, device)):
            vectors = model.user_factors(users[rows], history[rows])
            assert vectors is not None
            masked = None if mask is None else mask[rows]
            scores[rows, :depth], items[rows, :depth], tied = dots.top(vectors.float(), masked, depth)
            left[rows] = tied  # which of the equal items to list depends on all scores
    if depth:
        for rows in in_tiles(left, size):
            list_best(rows, model.score(users[rows], history[rows]))
        if inputs.fallback is not None:
            for rows in in_tiles(~by_model, size):
                list_best(rows, inputs.fallback.expand(len(rows), -1))
        refuse_non_finite(scores[:, 0], users)
    return Lists(torch.where(scores > -torch.inf, items, -1), scores, ~by_model), equals


def _dot_products(
    model: Recommender, users: Tensor, history: History, allowed: Tensor | None, k: int
) -> DotProducts | None:
    """For models whose scores are dot products, if the catalog is large enough for pruning to pay; else None."""
    n_items = history.n_items if allowed is None else int(allowed.sum())
    factors = model.factors() if n_items > 2 * HEAD > 4 * k and len(users) else None
    if factors is None or model.user_factors(users[:0], history[users[:0]]) is None:
        return None
    of_users, of_items, bias = factors
    return DotProducts(of_items.float(), bias, of_users.float(), allowed)


def in_tiles(chosen: Tensor, size: int) -> tuple[Tensor, ...]:
    """Indices of the rows where `chosen` (N,) is True, at most `size` per tile."""
    rows = chosen.nonzero().squeeze(1)
    return rows.split(size) if len(rows) else ()


def tile_size(n_items: int, device: torch.device) -> int:
    """Users whose scores of all items fit the budget; at least 1."""
    return max(1, (CPU_TILE_BYTES if device.type == "cpu" else TILE_BYTES) // (4 * max(n_items, 1)))


def dot_tile(n_items: int, device: torch.device) -> int:
    """Users per tile where scores are dot products; at least 1."""
    return DOT_TILE if device.type == "cpu" else max(1, min(DOT_TILE, DOT_BYTES // (4 * max(n_items, 1))))


def refuse_non_finite(best: Tensor, users: Tensor) -> None:
    """Raise ScoreError if one of the largest scores (N,) is NaN or +inf; both sort first, so they show up there."""
    bad = (best.isnan() | (best == torch.inf)).nonzero().squeeze(1)
    if len(bad):
        raise ScoreError(f"{len(bad):,} users have scores that are NaN or infinite, first: user {int(users[bad[0]])}")
