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
BULK_BYTES = 2**29
"""Scores that are computed at once on a CPU by a model with `scores_in_bulk`; more of large catalogs, since its matrix
is read once for them all: a third of the size of the matrix."""
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
    maker = ListMaker(inputs, k, allowed, tile, holdout)
    left = maker.start(model)
    for rows in in_tiles(left, tile or bulk_size(model, inputs.n_items, inputs.device)):
        maker.take(rows, model.score(inputs.users[rows], inputs.history[rows]))
    return maker.end()


class ListMaker:
    """Makes the lists of `make_lists` from scores, which the caller computes and hands over tile by tile."""

    def __init__(
        self, inputs: ServeInputs, k: int, allowed: Tensor | None, tile: int | None, holdout: History | None = None
    ):
        self.inputs, self.allowed, self.tile, self.holdout = inputs, allowed, tile, holdout
        n, n_items, device = len(inputs.users), inputs.n_items, inputs.device
        self.depth, self.size = min(k, n_items), tile or tile_size(n_items, device)
        self.items = torch.full((n, k), -1, device=device)
        self.scores = torch.full((n, k), -torch.inf, device=device)
        self.equals = torch.zeros(n, dtype=torch.long, device=device)
        self.buffer = torch.empty(0, device=device)  # reused by all tiles: new memory is slow
        self.by_model = torch.zeros(n, dtype=torch.bool, device=device)

    def start(self, model: Recommender) -> Tensor:
        """Make the lists that take no scores of all items; which rows do take them, (N,) bool."""
        inputs, depth = self.inputs, self.depth
        left = self.by_model = served(model, inputs.users, inputs.history)
        if not depth:
            return torch.zeros_like(left)
        if not model.personal and model.serves_everyone:
            return self._from_one_order(model, left)
        if dots := _dot_products(model, inputs.users, inputs.history, self.allowed, depth):
            left = torch.zeros_like(left)
            for rows in in_tiles(self.by_model, self.tile or dot_tile(inputs.n_items, inputs.device)):
                vectors = model.user_factors(inputs.users[rows], inputs.history[rows])
                assert vectors is not None
                masked = None if inputs.mask is None else inputs.mask[rows]
                self.scores[rows, :depth], self.items[rows, :depth], tied = dots.top(vectors.float(), masked, depth)
                left[rows] = tied  # which of the equal items to list depends on all scores
        return left

    def take(self, rows: Tensor, scores: Tensor) -> None:
        """List the best items of rows (B,) by scores (B, I)."""
        for some, own in zip(rows.split(self.size), scores.split(self.size), strict=True):
            self._list_best(some, own)

    def end(self) -> tuple[Lists, Tensor]:
        """The lists, with those of the fallback, and the number of further items that tie with the last one."""
        if self.depth:
            if self.inputs.fallback is not None:
                for rows in in_tiles(~self.by_model, self.size):
                    self._list_best(rows, self.inputs.fallback.expand(len(rows), -1))
            refuse_non_finite(self.scores[:, 0], self.inputs.users)
        return Lists(torch.where(self.scores > -torch.inf, self.items, -1), self.scores, ~self.by_model), self.equals

    def _list_best(self, rows: Tensor, given: Tensor) -> None:
        if len(self.buffer) < len(rows):
            self.buffer = torch.empty(len(rows), self.inputs.n_items, device=self.inputs.device)
        kept = torch.clamp(given.float(), min=LOWEST, out=self.buffer[: len(rows)])  # (B, I)
        if self.allowed is not None:
            kept.masked_fill_(~self.allowed, -torch.inf)
        if self.inputs.mask is not None:
            masked = self.inputs.mask[rows]
            at = masked.rows, masked.items
            kept[at] = kept[at] - torch.inf  # NaN stays NaN, so that it is noticed
        depth = self.depth
        self.scores[rows, :depth], self.items[rows, :depth], tied = largest(kept, depth)
        tied = tied.nonzero().squeeze(1)  # (R,)
        if self.holdout is not None and len(tied):
            held = self.holdout[rows[tied]]
            rivals = kept[tied]  # (R, I)
            rivals[held.rows, held.items] = -torch.inf
            self.equals[rows[tied]] = (rivals == self.scores[rows[tied], depth - 1 : depth]).sum(1)

    def _from_one_order(self, model: Recommender, left: Tensor) -> Tensor:
        """Lists by a model with the same scores for all users; which rows it left, (N,) bool: those with few items
        among the best HEAD that are not masked, or with a tie at the end."""
        inputs, depth = self.inputs, self.depth
        some = left.nonzero().squeeze(1)[:1]
        if inputs.n_items <= 2 * HEAD or 4 * depth > HEAD or not len(some):
            return left
        scores = model.score(inputs.users[some], inputs.history[some])[0].float().clamp(min=LOWEST)  # (I,)
        if self.allowed is not None:
            scores = scores.masked_fill(~self.allowed, -torch.inf)
        best, order = scores.sort(descending=True, stable=True)  # (I,): equal scores by item
        if not bool(best[:HEAD].isfinite().all()):
            return left
        place = torch.full_like(order, HEAD)  # (I,) of the best HEAD, HEAD: another item
        place[order[:HEAD]] = torch.arange(HEAD, device=order.device)
        left = left.clone()
        for rows in in_tiles(self.by_model, DOT_TILE):
            free = torch.ones(len(rows), HEAD + 1, dtype=torch.bool, device=order.device)  # (B, HEAD + 1)
            if inputs.mask is not None:
                masked = inputs.mask[rows]
                free[masked.rows, place[masked.items]] = False
            count = free[:, :HEAD].cumsum(1, dtype=torch.int32)  # (B, HEAD) free items up to each place
            wanted = torch.arange(1, depth + 2, dtype=torch.int32, device=order.device).expand(len(rows), -1)
            at = torch.searchsorted(count, wanted.contiguous())  # (B, depth + 1): place of the 1st … free one
            done = at[:, depth] < HEAD  # (B,)
            at = at.clamp(max=HEAD - 1)
            done &= best[at[:, depth - 1]] > best[at[:, depth]]
            self.items[rows, :depth], self.scores[rows, :depth] = order[at[:, :depth]], best[at[:, :depth]]
            left[rows] = ~done
        return left


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


def bulk_size(model: Recommender, n_items: int, device: torch.device) -> int:
    """Users that a model scores at once."""
    listed = tile_size(n_items, device)
    in_bulk = model.scores_in_bulk and device.type == "cpu"
    return max(listed, BULK_BYTES // (4 * max(n_items, 1)), n_items // 3) if in_bulk else listed


def dot_tile(n_items: int, device: torch.device) -> int:
    """Users per tile where scores are dot products; at least 1."""
    return DOT_TILE if device.type == "cpu" else max(1, min(DOT_TILE, DOT_BYTES // (4 * max(n_items, 1))))


def refuse_non_finite(best: Tensor, users: Tensor) -> None:
    """Raise ScoreError if one of the largest scores (N,) is NaN or +inf; both sort first, so they show up there."""
    bad = (best.isnan() | (best == torch.inf)).nonzero().squeeze(1)
    if len(bad):
        raise ScoreError(f"{len(bad):,} users have scores that are NaN or infinite, first: user {int(users[bad[0]])}")
