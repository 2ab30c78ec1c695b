"""The stage `clean`, shard by shard: the rows and counts that it has of all rows at once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.preparation import events as event_rows
from pipeline.preparation import shard_parts
from pipeline.preparation.events import EventCounts
from pipeline.preparation.filters import RowFilter, k_core_of_parts
from pipeline.preparation.ids import LAKE_PARQUET, codes_of
from pipeline.preparation.shard_parts import Part
from pipeline.schemas.reasons import Reason

EVENTS = ("by_type", "items_of_types")
"""Frames of EventCounts."""


@dataclass
class Cleaned:
    """What was counted on the way; all of it is a sum over users."""

    n_raw: int = 0
    positive: int = 0
    ledger: Counter[str] = field(default_factory=Counter[str])
    events: list[EventCounts] = field(default_factory=list[EventCounts])
    rows: list[int] = field(default_factory=list[int])
    """Kept rows of each shard."""


def clean_shards(files: list[Path], rule: RowFilter, scratch: Path, write: Callable[[pl.DataFrame], None]) -> Cleaned:
    """Pass the kept rows of each shard to `write`, in order; removes `files`. Raises Refused.

    Minimum counts need the items' counts over all shards: rows then wait in `scratch`, and only their codes are in
    memory, 8 bytes a row.
    """
    least = rule.filters.min_user_interactions, rule.filters.min_item_interactions
    found, waiting = Cleaned(), [scratch / f"waiting-{number}.parquet" for number in range(len(files))]
    codes: list[tuple[np.ndarray, pl.Series, pl.Series]] = []

    def keep(rows: pl.DataFrame) -> None:
        found.rows.append(rows.height)
        found.positive += int(rows["positive"].sum())
        write(rows)

    for number, part in enumerate(shard_parts.parts(clean_shard, [(file, rule) for file in files], scratch)):
        files[number].unlink()
        found.n_raw += part.counts["n_raw"]
        found.ledger.update(part.counts["ledger"])
        if rule.events:
            by_type, items = (part.frames.pop(name) for name in EVENTS)
            found.events.append(EventCounts(by_type, items, part.counts["pairs"]))
        rows = part.frames.pop("rows")
        if max(least) <= 1:
            keep(rows)
        else:
            codes.append((codes_of(rows["user_id"])[0].to_numpy(), *codes_of(rows["item_id"])))
            rows.write_parquet(waiting[number], **LAKE_PARQUET)
        del rows
    found.ledger[str(Reason.BELOW_MIN_INTERACTIONS)] += 0
    for later, stays in zip(waiting, _stays(codes, *least), strict=False):
        found.ledger[str(Reason.BELOW_MIN_INTERACTIONS)] += int((~stays).sum())
        keep(pl.read_parquet(later).filter(stays))
        later.unlink()
    rule.refuse_empty(found.n_raw, sum(found.rows), found.positive, found.ledger)
    return found


def clean_shard(file: Path, rule: RowFilter) -> Part:
    """The rows of a shard but for minimum counts, and what was counted."""
    raw, frames, counts = pl.read_parquet(file), {}, {}
    if rule.events:
        columns = event_rows.read_columns(raw, rule.events, rule.feedback)
        events = EventCounts.of(columns, rule.events)
        frames, counts = dict(zip(EVENTS, (events.by_type, events.items), strict=True)), {"pairs": events.pairs}
        del columns
    rows, ledger = rule.before_k_core(raw)
    return Part({"rows": rows, **frames}, {"n_raw": raw.height, "ledger": dict(ledger), **counts})


def _stays(codes: list[tuple[np.ndarray, pl.Series, pl.Series]], min_user: int, min_item: int) -> list[np.ndarray]:
    """Which rows of each shard are dense enough. `codes`: of users, of items, and the shard's own items, sorted."""
    if not codes:
        return []
    catalog = pl.concat([items for *_, items in codes]).unique().sort()
    places = [catalog.search_sorted(items).to_numpy() for *_, items in codes]  # (I of the shard,) each
    numbered = [
        (user, place[item.to_numpy()].astype(np.int32)) for (user, item, _), place in zip(codes, places, strict=True)
    ]
    return k_core_of_parts(numbered, min_user, min_item)
