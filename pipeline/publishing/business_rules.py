"""Business rules: which items may be listed, raised or placed, and how many that share an attribute."""

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass, field

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import Export
from pipeline.config.run import Run
from pipeline.core.errors import UnreadableInput
from pipeline.publishing.item_conditions import CATALOG, ItemConditions
from pipeline.publishing.promotions import MakeLists, Promotion, promote
from pipeline.publishing.rule_files import Listed, read_lists
from pipeline.ranking.recommend import Lists
from pipeline.ranking.servable import both
from pipeline.storage import expressions

Held = dict[tuple[int, str, str], int]
"""(item index, rule, reason) to the number of users whose list would have had the item."""


@dataclass
class Rules:
    """The `[export]` rules of a recipe, applied to the items of one fit."""

    allowed: Tensor | None = None
    """(I,) bool; None: all."""
    rule: list[str] = field(default_factory=list)
    """By item: the rule that excludes it, empty where it is allowed."""
    reason: list[str] = field(default_factory=list)
    groups: list[tuple[Tensor, int]] = field(default_factory=list)
    """An attribute's values as (I, A) bool, and how many items of one value a list may have."""
    boost: Tensor | None = None
    """(I,) float; factors of the scores. None: no boost."""
    promotions: list[Promotion] = field(default_factory=list)
    servable: Tensor | None = None
    """(I,) bool; items that the model can score (see servable.py). None: all."""

    @property
    def listable(self) -> Tensor | None:
        """Items that may be listed, (I,) bool; None: all."""
        return both(self.allowed, self.servable)

    def out(self, ids: pl.Series) -> pl.Series:
        """Ids of the items that are not allowed."""
        return ids.filter(~self.allowed.numpy()) if self.allowed is not None else ids.head(0)

    def __bool__(self) -> bool:
        return self.allowed is not None or bool(self.groups) or bool(self.promotions)


@dataclass(frozen=True)
class Ruled:
    """Lists that follow the rules."""

    lists: Lists
    promoted: Tensor
    """(N, k) bool."""
    held: Held
    """What the rules kept out of lists."""
    by_score: list[tuple[Tensor, int]] = field(default_factory=list[tuple[Tensor, int]])
    """Items that must not move below a column, (N,) or -1: they have the place of a promotion by their score."""


def rules_of(export: Export, listed: Listed, frame: pl.DataFrame, catalog: pl.DataFrame) -> Rules:
    """The rules for the items of `frame` (I rows, see item_conditions.item_frame); `catalog` has their attributes."""
    rules = Rules(rule=[""] * frame.height, reason=[""] * frame.height)
    _hold_back(rules, export, listed, frame, frame["last_seen"].max())
    for name, limit in export.max_per_attribute.items():
        rules.groups.append((values_of(name, frame, catalog), limit))
    for boost, where in zip(export.boost, ItemConditions.of(export).boost, strict=True):
        factors = torch.where(_mask(expressions.passing(where, frame, CATALOG)), boost.factor, 1.0)  # (I,)
        rules.boost = factors if rules.boost is None else rules.boost * factors
    for place, items in promoted_items(export, listed, frame).items():
        rules.promotions.append(Promotion(place, _mask(items)))
    return rules


def excluded_of(export: Export, listed: Listed, frame: pl.DataFrame, newest: object) -> pl.Series:
    """Ids of the items of `frame` that a rule excludes, for items that the fit does not have.

    `newest`: the last interaction of the items that it has, from which fresh_days counts.
    """
    rules = Rules(rule=[""] * frame.height, reason=[""] * frame.height)
    _hold_back(rules, export, listed, frame, newest)
    return rules.out(frame["item_id"])


def excluded_counts(rules: Rules) -> dict[str, int]:
    """Rules to the number of items that each one excludes, the first that does."""
    return dict(sorted(Counter(rule for rule in rules.rule if rule).items()))


def promotable_counts(rules: Rules) -> dict[int, tuple[int, int]]:
    """Places to the numbers of items that may be promoted to them: those that the other rules allow, and all."""
    free = torch.ones(len(rules.rule), dtype=torch.bool) if rules.listable is None else rules.listable  # (I,)
    return {each.place: (int((each.items & free).sum()), int(each.items.sum())) for each in rules.promotions}


def _hold_back(rules: Rules, export: Export, listed: Listed, frame: pl.DataFrame, newest: object) -> None:
    """Set which items are allowed, and for the others the first rule that excludes them, with its reason."""
    ids, last_seen = frame["item_id"], frame["last_seen"]
    held = torch.zeros(len(ids), dtype=torch.bool)

    def hold(out: pl.Series, rule: str, reasons: dict[str, str] | None = None) -> None:
        for at in out.arg_true().to_list():
            if not held[at]:
                held[at] = True
                rules.rule[at], rules.reason[at] = rule, (reasons or {}).get(ids[at], "")

    if (excluded := listed.get("exclude_items")) is not None:
        hold(ids.is_in(list(excluded)), "exclude_items", excluded)
    if (only := listed.get("only_items")) is not None:
        hold(~ids.is_in(list(only)), "only_items")
    if export.fresh_days is not None:
        if not isinstance(newest, dt.datetime):
            raise UnreadableInput("export.fresh_days goes by time, and this data set has no times")
        hold(last_seen < newest - dt.timedelta(days=export.fresh_days), "fresh_days")
    for rule, out in ItemConditions.of(export).excluded(frame).items():
        hold(out, rule, dict.fromkeys(ids, str(getattr(export, rule))))
    if held.any():
        rules.allowed = ~held


def promoted_items(export: Export, listed: Listed, frame: pl.DataFrame) -> dict[int, pl.Series]:
    """Places to the items of `frame` that may be promoted to them, (I,) bool."""
    found = {}
    for n, (promotion, where) in enumerate(zip(export.promote, ItemConditions.of(export).promote, strict=True)):
        if where:
            found[promotion.place] = expressions.passing(where, frame, CATALOG)
            continue
        places = listed[f"promote[{n}]"]
        for place in sorted({int(place) for place in places.values()}):
            here = [item for item, its_place in places.items() if int(its_place) == place]
            found[place] = frame["item_id"].is_in(here)
    return found


def promotable(run: Run, export: Export, frame: pl.DataFrame) -> pl.DataFrame:
    """Columns place and item_id: items of `item_conditions.item_frame` for each promoted place, for the audit."""
    if not export.promote:
        return pl.DataFrame(schema={"place": pl.Int64, "item_id": pl.String})
    listed = read_lists(export, run.data, run.started_at.date())
    places = promoted_items(export, listed, frame).items()
    return pl.concat(frame.filter(items).select(pl.lit(at, pl.Int64).alias("place"), "item_id") for at, items in places)


def _mask(items: pl.Series) -> Tensor:
    return torch.from_numpy(items.to_numpy(writable=True))  # (I,) bool


def values_of(name: str, frame: pl.DataFrame, catalog: pl.DataFrame) -> Tensor:
    """Which values of an attribute each item of `frame` has, (I, A) bool; A is 0 if no item has one.

    It is an attribute of `catalog`, else a column of `frame`, of which an item has one value or none.
    """
    listed = {item: json.loads(text or "{}") for item, text in catalog.select("item_id", "attributes").iter_rows()}
    if any(name in of_item for of_item in listed.values()):
        lists = [listed.get(item, {}).get(name, []) for item in frame["item_id"]]
    elif name in frame.columns:
        is_list = isinstance(frame.schema[name], pl.List)  # of a catalog without lines
        lists = [[] if value is None else value if is_list else [value] for value in frame[name].to_list()]
    else:
        raise UnreadableInput(f"export.max_per_attribute: the item catalog has no attribute {name!r}; see [items]")
    values = {value: at for at, value in enumerate(sorted({v for row in lists for v in row}))}
    has = torch.zeros(frame.height, len(values), dtype=torch.bool)
    for at, row in enumerate(lists):
        has[at, [values[v] for v in row]] = True
    return has


def keep_to_limits(lists: Lists, groups: list[tuple[Tensor, int]], k: int) -> tuple[Lists, Tensor]:
    """The best k of longer lists (N, K) within the limits, and which lists are still too short, (N,).

    Greedy from the top: an item is taken if all of its values are below their limit.
    """
    n, depth = lists.items.shape
    device = lists.items.device
    counts = [torch.zeros(n, has.shape[1], dtype=torch.int32, device=device) for has, _ in groups]
    taken = torch.zeros(n, depth, dtype=torch.bool, device=device)
    values = [has.to(device) for has, _ in groups]  # (I, A) each
    size = torch.zeros(n, dtype=torch.long, device=device)
    for place in range(depth):
        item = lists.items[:, place]  # (N,)
        fits = (item >= 0) & (size < k)  # (N,)
        own = [has[item.clamp(min=0)] for has in values]  # (N, A) each
        for mine, count, (_, limit) in zip(own, counts, groups, strict=True):
            fits &= ~(mine & (count >= limit)).any(1)
        for mine, count in zip(own, counts, strict=True):
            count += mine & fits.unsqueeze(1)
        taken[:, place] = fits
        size += fits
    order = torch.argsort((~taken).int(), dim=1, stable=True)[:, :k]  # (N, k) taken ones first, best first
    kept = taken.gather(1, order)
    items = torch.where(kept, lists.items.gather(1, order), -1)
    scores = torch.where(kept, lists.scores.gather(1, order), -torch.inf)
    return Lists(items, scores, lists.from_fallback), size < k


def apply(rules: Rules, make: MakeLists, k: int, n_items: int) -> Ruled:
    """Lists that follow the rules, and what was held back. `make(k, allowed)` makes lists without rules."""
    plain = make(k, None)
    if not rules:
        return Ruled(plain, torch.zeros_like(plain.items, dtype=torch.bool), {})
    depth = k
    while True:
        lists = plain if depth == k and rules.allowed is None else make(depth, rules.allowed)
        short = torch.zeros(len(lists.items), dtype=torch.bool)
        if rules.groups:
            more = lists.items[:, -1] >= 0  # (N,): there may be further items
            lists, short = keep_to_limits(lists, rules.groups, k)
            short &= more
        if not short.any() or depth >= n_items:
            break
        depth = min(depth * 4, n_items)
    held: Held = {}
    for item, users in missing(plain.items, lists.items):
        held[item, rules.rule[item] or "max_per_attribute", rules.reason[item]] = users
    ruled, promoted, by_score = promote(lists, rules.promotions, make, rules.allowed)
    for item, users in missing(lists.items, ruled.items):
        held[item, "promote", ""] = users
    return Ruled(ruled, promoted, held, by_score)


def missing(before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """Items (item index, number of users) of lists of items (N, k) that are not in those after."""
    listed = after.sort(1).values.contiguous()  # (N, k')
    at = torch.searchsorted(listed, before.contiguous()).clamp(max=max(listed.shape[1] - 1, 0))  # (N, k)
    gone = (listed.gather(1, at) != before) & (before >= 0) if listed.shape[1] else before >= 0
    items, users = torch.unique(before[gone], return_counts=True)
    return list(zip(items.tolist(), users.tolist(), strict=True))
