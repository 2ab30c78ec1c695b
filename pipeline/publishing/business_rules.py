"""Business rules: which items may be listed, and how many that share an attribute."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import Export
from pipeline.core.errors import Ids, UnreadableInput
from pipeline.ranking.recommend import Lists

Held = dict[tuple[int, str, str], int]
"""(item index, rule, reason) to the number of users whose list would have had the item."""
Listed = dict[str, dict[str, str]]
"""Lists in force today by rule, `exclude_items` or `only_items`: item ids to their reason."""


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

    def out(self, ids: pl.Series) -> pl.Series:
        """Ids of the items that are not allowed."""
        return ids.filter(~self.allowed.numpy()) if self.allowed is not None else ids.head(0)

    def __bool__(self) -> bool:
        return self.allowed is not None or bool(self.groups)


def read_list(folder: Path, name: str, today: dt.date) -> dict[str, str]:
    """Item ids of a rule's CSV to their reason, for the rows that are in force today.

    Columns: item_id; optional: reason, from and until (ISO dates; from is included, until is not).
    """
    path = folder / Path(name).expanduser()
    if not path.is_file():
        raise UnreadableInput(f"there is no rule file {path}; export.exclude_items and only_items name it")
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UnreadableInput(f"the rule file {path} can't be read: {str(error).splitlines()[0]}") from None
    if "item_id" not in frame.columns:
        raise UnreadableInput(f"the rule file {path} has no column item_id; it has {', '.join(frame.columns)}")
    known = [column for column in ("reason", "from", "until") if column in frame.columns]
    frame = frame.select("item_id", *known).with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("reason", "from", "until") if name not in known
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
    rows = dates.filter(holds, pl.col("item_id").is_not_null())
    return dict(zip(rows["item_id"], rows["reason"].fill_null(""), strict=True))


def read_lists(export: Export, folder: Path, today: dt.date) -> Listed:
    """The lists that the recipe names, as `read_list` returns them."""
    named = {"exclude_items": export.exclude_items, "only_items": export.only_items}
    return {rule: read_list(folder, name, today) for rule, name in named.items() if name}


def fingerprint(listed: Listed) -> str | None:
    """Hash of the rules' files, which the lake's key needs in addition to the settings. None without lists."""
    both = [listed.get(rule) for rule in ("exclude_items", "only_items")]
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


def rules_of(export: Export, listed: Listed, ids: pl.Series, last_seen: pl.Series, catalog: pl.DataFrame) -> Rules:
    """The rules for items `ids` (I,) with last interactions `last_seen` (I,); `catalog` has their attributes."""
    rules = Rules(rule=[""] * len(ids), reason=[""] * len(ids))
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
        newest = last_seen.max()
        if newest is None:
            raise UnreadableInput("export.fresh_days goes by time, and this data set has no times")
        hold(last_seen < newest - dt.timedelta(days=export.fresh_days), "fresh_days")  # type: ignore[operator]
    if held.any():
        rules.allowed = ~held
    for name, limit in export.max_per_attribute.items():
        rules.groups.append((_values(name, ids, catalog), limit))
    return rules


def _values(name: str, ids: pl.Series, catalog: pl.DataFrame) -> Tensor:
    """Which values of an attribute each item has, (I, A) bool."""
    texts = dict(zip(catalog["item_id"], catalog["attributes"], strict=True))
    lists = [json.loads(texts.get(item) or "{}").get(name, []) for item in ids]
    values = {value: at for at, value in enumerate(sorted({v for row in lists for v in row}))}
    if not values:
        raise UnreadableInput(f"export.max_per_attribute: the item catalog has no attribute {name!r}; see [items]")
    has = torch.zeros(len(ids), len(values), dtype=torch.bool)
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


def apply(rules: Rules, make: Callable[[int, Tensor | None], Lists], k: int, n_items: int) -> tuple[Lists, Held]:
    """Lists that follow the rules, and what was held back. `make(k, allowed)` makes lists without rules."""
    if not rules:
        return make(k, None), {}
    plain, depth = make(k, None), k
    while True:
        lists = make(depth, rules.allowed)
        short = torch.zeros(len(lists.items), dtype=torch.bool)
        if rules.groups:
            more = lists.items[:, -1] >= 0  # (N,): there may be further items
            lists, short = keep_to_limits(lists, rules.groups, k)
            short &= more
        if not short.any() or depth >= n_items:
            break
        depth = min(depth * 4, n_items)
    gone = (plain.items.unsqueeze(2) != lists.items.unsqueeze(1)).all(2) & (plain.items >= 0)  # (N, k)
    held: Held = {}
    for item, users in zip(*(t.tolist() for t in torch.unique(plain.items[gone], return_counts=True)), strict=True):
        rule = rules.rule[item] or "max_per_attribute"
        held[item, rule, rules.reason[item]] = users
    return lists, held
