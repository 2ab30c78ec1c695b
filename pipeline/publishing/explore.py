"""Exploration: places of the lists that `[export.explore]` keeps for new items, of which a model can't know much yet.

The places of a user are drawn below the top, and so are their items: every new item that the rules allow and that the
user neither has nor gets anyway is equally likely. Draws depend on the seed, the newest interaction, the user's id and
the item's place among the new items, so equal data gives equal lists, and the next day's data others. An item may be
one that the fit does not have: one of the catalog without any interaction, or one that the filters left out.
"""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.config.dataset import Dataset
from pipeline.config.publishing import Explore, Export
from pipeline.config.run import Run
from pipeline.core.errors import SettingsError
from pipeline.core.seeding import mix, seed_of, stable_hash
from pipeline.preparation.seen import hidden
from pipeline.publishing import business_rules, item_conditions, rule_files
from pipeline.publishing.business_rules import Ruled
from pipeline.ranking.recommend import Lists
from pipeline.storage.expressions import night_date

NAME = "explore"
"""Value of `source`, and of `rule` in tables.SUPPRESSED."""
DRAWS = 64
"""New items that are drawn per user at first; where none of them fits, all are tried."""
CELLS = 1 << 22
"""Numbers in one tensor: bounds the users per tile."""
SCORE = 0.0
"""Score of a place that was drawn."""


def places(explore: Explore | None, k: int) -> int:
    """Number of places of a list of k that are kept for new items: the share, rounded, at least one below the top."""
    return 0 if explore is None else min(max(round(explore.share * k), 1), k - 1)


def check(export: Export, dataset: Dataset) -> None:
    """Raise SettingsError where no item can be found to be new, since there are no times."""
    if export.explore and export.explore.available_from is None and dataset.columns.timestamp is None:
        raise SettingsError(
            f"export.explore: an item is new from its first interaction on, and the data set {dataset.name} has no "
            "times: name their column in [columns] timestamp, or in export.explore.available_from a column of the item "
            "catalog with the first day on which an item can be had"
        )


def new_items(explore: Explore, frame: pl.DataFrame, newest: object, night: dt.date) -> pl.Series:
    """Which items of `item_conditions.item_frame` are new, (I,) bool.

    `newest`: the newest interaction, or None in untimed data, where the night's date takes its place. An item is new
    for `new_days` up to it from its first interaction on, or from its date in the column `available_from`, if it has
    one. A date after the night is still to come. Raises SettingsError if that column has no dates.
    """
    until = newest if isinstance(newest, dt.datetime) else dt.datetime.combine(night, dt.time())
    since = until - dt.timedelta(days=explore.new_days)
    first = pl.col("first_seen")
    if explore.available_from is not None:
        item_conditions.check_dates(explore.available_from, frame)
        stated = pl.col(explore.available_from).cast(pl.Datetime("us"), strict=False)
        to_come = stated >= dt.datetime.combine(night + dt.timedelta(days=1), dt.time())
        is_new = pl.when(stated.is_null()).then(first > since).otherwise((stated > since) & ~to_come)
    else:
        is_new = first > since
    return frame.select(is_new.fill_null(False)).to_series()


def explorable(export: Export, listed: rule_files.Listed, frame: pl.DataFrame, clock: "Clock") -> pl.DataFrame:
    """Column item_id: the new items of `item_frame` that no rule excludes, by id."""
    if export.explore is None:
        return pl.DataFrame(schema={"item_id": pl.String})
    new = frame.filter(new_items(export.explore, frame, clock.newest, clock.night))
    out = business_rules.excluded_of(export, listed, new, clock.newest_of_fit)
    return new.filter(~pl.col("item_id").is_in(out.implode())).select("item_id").sort("item_id")


def explorable_of_night(run: Run, export: Export, frame: pl.DataFrame, encoded: Path) -> pl.DataFrame:
    """`explorable` of the published items, for the audit; `frame`: `item_conditions.of_published`."""
    if export.explore is None:
        return explorable(export, {}, frame, Clock(None, None, dt.date.min))
    fit = pl.read_parquet(encoded / "items.parquet")["item_id"]
    of_fit = frame.filter(pl.col("item_id").is_in(fit.implode()))["last_seen"].max()
    clock = Clock(frame["last_seen"].max(), of_fit, night_date(run.as_of, run.started_at))
    listed = rule_files.read_lists(export, run.data, run.started_at.date())
    return explorable(export, listed, frame, clock)


@dataclass(frozen=True)
class Clock:
    """The moments from which settings count days."""

    newest: object
    """Newest interaction; None in untimed data."""
    newest_of_fit: object
    """Newest interaction with an item of the fit, from which fresh_days counts."""
    night: dt.date


@dataclass
class Explorer:
    """New items, and who has them; fills places of lists with them."""

    ids: pl.Series
    """(E,) ids of the new items."""
    codes: Tensor
    """(E,) item index of each in the fit; those that it does not have count on from the fit's last one."""
    n_items: int
    """Items of the fit."""
    count: int
    """Places per list."""
    salt: int
    had: pl.DataFrame
    """user_id, and place `e` of a new item that the user must not be recommended."""
    groups: list[tuple[Tensor, int]] = field(default_factory=list)
    """Values of an attribute of the fit's items and then the others, (I', A) bool, and the limit in one list."""
    filled: int = 0
    """Places that were filled so far."""
    seen: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """Keys row * E + e of what the users of a call have, (S,)."""

    @property
    def added_ids(self) -> pl.Series:
        """Ids of the new items that the fit does not have, in the order of their codes."""
        return self.ids.filter(pl.Series((self.codes >= self.n_items).numpy()))

    def summary(self, name: str, rows: int) -> str:
        """What was filled, for a note; `rows`: of all lists of this `name`, empty for the default one."""
        where = f" in the list {name}" if name else ""
        text = f"explore{where}: {self.filled:,} of {rows:,} places are drawn from {len(self.ids):,} new items"
        return text if len(self.ids) else f"{text}: no item that the rules allow is new"

    @property
    def widest(self) -> int:
        """Most values of an attribute with a limit; 1 without limits."""
        return max([1, *(has.shape[1] for has, _ in self.groups)])

    def fill(self, ruled: Ruled, users: pl.Series) -> tuple[Ruled, Tensor]:
        """Lists (N, k) of `users` (N,), ids, with new items in some places, and which places those are, (N, k) bool.

        Promoted items keep their place, and so does the top; of the other items those with the lowest scores give way.
        An item that has the place of a promotion by its score is promoted to it where it would move below. A list that
        has no item left to draw keeps its own.
        """
        explored = torch.zeros_like(ruled.promoted)  # (N, k)
        if not (len(self.ids) and self.count):
            return ruled, explored
        hashes = np.array([stable_hash(user) for user in users], dtype=np.uint64)  # (N,)
        items, scores = ruled.lists.items.cpu().clone(), ruled.lists.scores.cpu().clone()
        promoted, by_score = ruled.promoted.cpu().clone(), [(item.cpu(), at) for item, at in ruled.by_score]
        here = users.alias("user_id").to_frame().with_row_index("row").join(self.had, on="user_id")
        self.seen = torch.from_numpy((here["row"].cast(pl.Int64) * len(self.ids) + here["e"]).to_numpy(writable=True))
        rows = torch.arange(len(items))  # (N,)
        for tile in rows.split(max(1, CELLS // (DRAWS * self.widest))):
            chosen = self._draw(items[tile], promoted[tile], hashes[tile.numpy()], rows[tile])  # (B, m)
            fixed = promoted[tile] | _reserved(by_score, promoted[tile], tile)
            at = self._places(items[tile], fixed, hashes[tile.numpy()], (chosen >= 0).sum(1))  # (B, k)
            for item, column in by_score:
                _keep_above(items, scores, promoted, (tile, item[tile], column, at))
            items[tile], scores[tile] = _placed(items[tile], scores[tile], promoted[tile], chosen, at)
            explored[tile] = at.to(explored.device)
        self.filled += int(explored.sum())
        device = ruled.lists.items.device
        held = ruled.held | displaced(ruled.lists.items.cpu(), items)
        lists = Lists(items.to(device), scores.to(device), ruled.lists.from_fallback)
        return Ruled(lists, promoted.to(device), held, ruled.by_score), explored

    def _draw(self, items: Tensor, promoted: Tensor, hashes: np.ndarray, rows: Tensor) -> Tensor:
        """Codes of the new items for each list (B, k), first drawn first and -1 where none is left, (B, m)."""
        room = ((items >= 0) & ~promoted)[:, 1:].sum(1).clamp(max=self.count)  # (B,)
        every = len(self.ids) <= DRAWS
        chosen = self._among(self._order(hashes, every), items, promoted, rows)
        short = ((chosen >= 0).sum(1) < room).nonzero().squeeze(1)
        if not every:
            for part in short.split(max(1, CELLS // (len(self.ids) * self.widest))):
                order = self._order(hashes[part.numpy()], every=True)
                chosen[part] = self._among(order, items[part], promoted[part], rows[part])
        wanted = torch.arange(chosen.shape[1]) < room.unsqueeze(1)  # (B, m)
        return torch.where(wanted, chosen, -1)

    def _order(self, hashes: np.ndarray, every: bool) -> Tensor:
        """New items in drawn order: all of them, (B, E), or DRAWS with repeats, (B, C)."""
        n, of = len(hashes), len(self.ids)
        width = of if every else DRAWS
        keys = mix(np.full(n * width, self.salt, dtype=np.uint64), np.repeat(hashes, width),
                   np.tile(np.arange(width, dtype=np.uint64), n)).reshape(n, width)  # fmt: skip
        drawn = keys.argsort(axis=1, kind="stable") if every else (keys % np.uint64(of)).astype(np.int64)
        return torch.from_numpy(drawn)

    def _among(self, order: Tensor, items: Tensor, promoted: Tensor, rows: Tensor) -> Tensor:
        """The first m of each row of `order` (B, C) that may be listed, as codes, -1 where there are fewer, (B, m)."""
        codes = self.codes[order]  # (B, C)
        free = ~torch.isin(rows.unsqueeze(1) * len(self.ids) + order, self.seen)  # (B, C)
        for column in items.T:  # (B,)
            free &= codes != column.unsqueeze(1)
        counts = [_counts(items, promoted, has) for has, _ in self.groups]  # (B, A) each
        chosen = []
        for _ in range(self.count):
            fits = free.clone()
            for (has, limit), count in zip(self.groups, counts, strict=True):
                full = count >= limit  # (B, A)
                fits &= ~(has[codes] & full.unsqueeze(1)).any(2)
            first = fits.int().argmax(1, keepdim=True)  # (B, 1)
            one = torch.where(fits.any(1), codes.gather(1, first).squeeze(1), -1)  # (B,)
            chosen.append(one)
            free &= codes != one.unsqueeze(1)
            for (has, _), count in zip(self.groups, counts, strict=True):
                count += has[one.clamp(min=0)] & (one >= 0).unsqueeze(1)
        return torch.stack(chosen, 1)

    def _places(self, items: Tensor, fixed: Tensor, hashes: np.ndarray, wanted: Tensor) -> Tensor:
        """`wanted` (B,) places of each list (B, k), drawn below the top from those not `fixed`, (B, k) bool."""
        n, k = items.shape
        keys = mix(np.full(n * k, self.salt + 1, dtype=np.uint64), np.repeat(hashes, k),
                   np.tile(np.arange(k, dtype=np.uint64), n)).reshape(n, k)  # fmt: skip
        ordered = torch.from_numpy((keys >> np.uint64(1)).astype(np.int64))  # (B, k)
        taken = fixed | (items < 0)
        taken[:, 0] = True
        ordered[taken] = torch.iinfo(torch.int64).max
        turn = ordered.argsort(dim=1, stable=True).argsort(dim=1)  # (B, k) place in the drawn order
        return (turn < wanted.unsqueeze(1)) & ~taken


def _counts(items: Tensor, promoted: Tensor, has: Tensor) -> Tensor:
    """How many items of each list (B, k) have each value, promoted ones aside, (B, A)."""
    counted = (items >= 0) & ~promoted  # (B, k)
    return sum((has[items[:, j].clamp(min=0)] & counted[:, j : j + 1]).int() for j in range(items.shape[1]))  # type: ignore


def _placed(items: Tensor, scores: Tensor, promoted: Tensor, chosen: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Lists (B, k) with `chosen` (B, m) at the places `at` (B, k), promoted items as they were, others in order."""
    rest = (items >= 0) & ~promoted  # (B, k)
    slots = rest & ~at
    source = (~rest).int().argsort(dim=1, stable=True)  # (B, k): places of the rest, best first
    own = source.gather(1, (slots.int().cumsum(1) - 1).clamp(min=0))  # (B, k)
    turn = (at.int().cumsum(1) - 1).clamp(min=0, max=chosen.shape[1] - 1)  # (B, k)
    new_items = torch.where(at, chosen.gather(1, turn), torch.where(slots, items.gather(1, own), items))
    new_scores = torch.where(at, SCORE, torch.where(slots, scores.gather(1, own), scores))
    return new_items, new_scores


def _reserved(by_score: list[tuple[Tensor, int]], promoted: Tensor, rows: Tensor) -> Tensor:
    """Columns of promotions whose item has the place by its score, in the lists `rows` (B,), (B, k) bool."""
    reserved = torch.zeros_like(promoted)
    for item, column in by_score:
        if column < reserved.shape[1]:
            reserved[:, column] |= item[rows] >= 0
    return reserved


def _keep_above(items: Tensor, scores: Tensor, promoted: Tensor, wanted: tuple[Tensor, Tensor, int, Tensor]) -> None:
    """Promote items to their column, in place, where new items at the places `at` (B, k) would move them below it.

    `wanted`: the lists (B,), their item or -1, (B,), the column, and `at`.
    """
    lists, item, column, at = wanted
    if column >= items.shape[1]:
        return
    rest = (items[lists] >= 0) & ~promoted[lists]  # (B, k)
    is_it = (items[lists] == item.unsqueeze(1)) & rest  # (B, k)
    before = (rest.int().cumsum(1) * is_it).sum(1) - 1  # (B,): items of the rest above it
    slots = (rest & ~at)[:, : column + 1].sum(1)  # (B,): places for the rest down to the column
    falls = is_it.any(1) & (before >= slots) & rest[:, column]
    for row in falls.nonzero().squeeze(1).tolist():  # few
        own, now = int(lists[row]), int(is_it[row].int().argmax())
        columns = [at for at in range(now, column + 1) if rest[row, at]]
        for values in (items, scores):
            values[own, columns] = values[own, [*columns[1:], now]]
        promoted[own, column] = True


def displaced(before: Tensor, after: Tensor) -> business_rules.Held:
    """Items of the lists (N, k) that gave way to new ones."""
    return {(item, NAME, ""): users for item, users in business_rules.missing(before, after)}


def explorer_of(run: Run, export: Export, new: pl.DataFrame, frames: "Frames", rows: pl.DataFrame) -> "Explorer | None":
    """What fills the places for the items `new` (see `explorable`); None if there is no section `explore`.

    rows: raw rows of the source.
    """
    count = places(export.explore, min(export.top_n, frames.fit.height))
    if export.explore is None:
        return None
    ids = new["item_id"]
    fit = frames.fit.select("item_id").with_row_index("at")
    at = new.join(fit, on="item_id", how="left", maintain_order="left")["at"].cast(pl.Int64)
    codes = torch.from_numpy(at.fill_null(-1).to_numpy(writable=True))  # (E,)
    missing = codes < 0
    codes[missing] = frames.fit.height + torch.arange(int(missing.sum()))
    own = rows.with_row_index("row").filter(pl.col("item_id").is_in(ids.implode()))
    own = own.filter(hidden(rows, own["row"], run.settings, rows["timestamp"].max()))
    had = own.select(pl.col("user_id", "item_id").cast(pl.String)).unique()
    had = had.join(new.with_row_index("e"), on="item_id").select("user_id", pl.col("e").cast(pl.Int64))
    explorer = Explorer(
        ids, codes, frames.fit.height, count, seed_of(run.settings.seed, NAME, rows["timestamp"].max()), had
    )
    added = explorer.added_ids.to_frame().join(frames.others, on="item_id", how="left", maintain_order="left")
    both = pl.concat([frames.fit, added.select(frames.fit.columns)])
    limits = export.max_per_attribute.items()
    explorer.groups = [(business_rules.values_of(name, both, frames.catalog), limit) for name, limit in limits]
    return explorer


@dataclass(frozen=True)
class Frames:
    """What is known about items."""

    fit: pl.DataFrame
    """`item_conditions.item_frame` of the items of the fit, (I rows)."""
    others: pl.DataFrame
    """The same of all further items."""
    catalog: pl.DataFrame
    """tables.CATALOG."""
