"""Business rules: which items may be listed, raised or placed, and how many that share an attribute."""

import datetime as dt
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import Export
from pipeline.config.run import Run
from pipeline.core.errors import Ids, SettingsError, UnreadableInput
from pipeline.publishing.item_conditions import CATALOG, ItemConditions
from pipeline.publishing.promotions import MakeLists, Promotion, promote
from pipeline.ranking.recommend import Lists
from pipeline.ranking.servable import both
from pipeline.storage import expressions

Held = dict[tuple[int, str, str], int]
"""(item index, rule, reason) to the number of users whose list would have had the item."""
Listed = dict[str, dict[str, str]]
"""Lists in force today by rule: of `exclude_items` and `only_items`, item ids to their reason; of `promote[0]` and so
on, item ids to their place."""


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


def read_list(folder: Path, name: str, today: dt.date) -> dict[str, str]:
    """Item ids of a rule's CSV to their reason, for the rows that are in force today.

    Columns: item_id; optional: reason, from and until (ISO dates; from is included, until is not).
    """
    rows = _in_force(folder, name, today)
    return dict(zip(rows["item_id"], rows["reason"].fill_null(""), strict=True))


def read_promotion(folder: Path, name: str, place: int, today: dt.date) -> dict[str, str]:
    """Item ids of a promotion's CSV to their place, as text, for the rows that are in force today.

    Columns as in `read_list`, and optional `place`, which is `place` where it is absent or empty.
    """
    rows = _in_force(folder, name, today)
    places = rows["place"].str.strip_chars().fill_null(str(place))
    if (wrong := places.filter(~places.str.contains(r"^[1-9][0-9]{0,5}$"))).len():
        raise UnreadableInput(f"{folder / name}: place is a number from 1, not {wrong[0]!r}")
    return dict(zip(rows["item_id"], places, strict=True))


def _in_force(folder: Path, name: str, today: dt.date) -> pl.DataFrame:
    """Rows of a rule's CSV that are in force today: item_id, reason, place, from, until."""
    path = folder / Path(name).expanduser()
    if not path.is_file():
        raise UnreadableInput(
            f"there is no rule file {path}; export.exclude_items, only_items or promote in the recipe names it"
        )
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UnreadableInput(f"the rule file {path} can't be read: {str(error).splitlines()[0]}") from None
    if "item_id" not in frame.columns:
        raise UnreadableInput(f"the rule file {path} has no column item_id; it has {', '.join(frame.columns)}")
    optional = ("reason", "place", "from", "until")
    frame = frame.select("item_id", *(column for column in optional if column in frame.columns)).with_columns(
        pl.lit(None, pl.String).alias(name) for name in optional if name not in frame.columns
    )
    try:
        dates = frame.with_columns(pl.col("from", "until").str.strip_chars().str.to_date("%Y-%m-%d"))
    except pl.exceptions.PolarsError as error:
        raise UnreadableInput(
            f"{path}: from and until are dates like 2026-11-30: {str(error).splitlines()[0]}"
        ) from None
    holds = (pl.col("from").is_null() | (pl.col("from") <= today)) & (
        pl.col("until").is_null() | (pl.col("until") > today)
    )
    return dates.filter(holds, pl.col("item_id").is_not_null())


def read_lists(export: Export, folder: Path, today: dt.date) -> Listed:
    """The lists that the recipe names, as `read_list` and `read_promotion` return them.

    Raises SettingsError if a file gives a place that is beyond `top_n` or that another promotion has.
    """
    named = {"exclude_items": export.exclude_items, "only_items": export.only_items}
    listed = {rule: read_list(folder, name, today) for rule, name in named.items() if name}
    owners = {promotion.place: f"promote[{n}]" for n, promotion in enumerate(export.promote) if promotion.where}
    for n, promotion in enumerate(export.promote):
        if promotion.items:
            key = f"promote[{n}]"
            listed[key] = read_promotion(folder, promotion.items, promotion.place, today)
            for place in {int(place) for place in listed[key].values()}:
                if place > export.top_n or owners.setdefault(place, key) != key:
                    why = f"beyond top_n = {export.top_n}" if place > export.top_n else f"that of {owners[place]}, too"
                    raise SettingsError(f"export.{key}: place {place} of {promotion.items} is {why}")
    return listed


def fingerprint(listed: Listed) -> str | None:
    """Hash of the rules' files, which the lake's key needs in addition to the settings. None without lists."""
    both: list[object] = [listed.get(rule) for rule in ("exclude_items", "only_items")]
    both += [(rule, items) for rule, items in sorted(listed.items()) if rule.startswith("promote")]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()[:16] if listed else None


def unknown_items(listed: Listed, source: pl.Series) -> list[tuple[str, Ids]]:
    """A warning, and the first ids, for every list with items that the source does not have."""
    warnings = []
    for rule, items in listed.items():
        ids = pl.Series(list(items), dtype=pl.String)
        unknown = ids.filter(~ids.is_in(source.implode()))
        if len(unknown):
            text = f"export.{rule}: {len(unknown):,} of {len(ids):,} items are not in the source"
            warnings.append((text, {"item_id": unknown.head(3).to_list()}))
    return warnings


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
    size = torch.zeros(n, dtype=torch.long, device=device)
    for place in range(depth):
        item = lists.items[:, place]  # (N,)
        fits = (item >= 0) & (size < k)  # (N,)
        own = [has.to(device)[item.clamp(min=0)] for has, _ in groups]  # (N, A) each
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
    ruled, promoted = promote(lists, rules.promotions, make, rules.allowed)
    for item, users in missing(lists.items, ruled.items):
        held[item, "promote", ""] = users
    return Ruled(ruled, promoted, held)


def missing(before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """Items (item index, number of users) of lists of items (N, k) that are not in those after."""
    gone = (before.unsqueeze(2) != after.unsqueeze(1)).all(2) & (before >= 0)  # (N, k)
    items, users = torch.unique(before[gone], return_counts=True)
    return list(zip(items.tolist(), users.tolist(), strict=True))
