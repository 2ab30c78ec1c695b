"""Event types, quantities and repeats: what each row of an event log counts for. Functions on Polars frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.config.dataset import Dataset, Events, Feedback
from pipeline.core.errors import SettingsError
from pipeline.schemas.reasons import Reason
from pipeline.sources.extra_columns import stored_name
from pipeline.storage import warehouse

Step = Callable[[pl.DataFrame], pl.DataFrame]
PAIR = ("user_id", "item_id")
BLANKS = " \t\r\n"
"""Around an event type they don't matter."""
DERIVED = ("event", "quantity", "target", "masks")
"""Columns that a weighted data set has in the contract `clean`."""


def read_columns(rows: pl.DataFrame, events: Events | None, feedback: Feedback) -> pl.DataFrame:
    """Add `event`, `quantity` (null where it can't be read), `target`, `masks`, and `at`, the place in time order."""
    kind, is_target, masks = pl.lit(None, pl.String), pl.lit(True), pl.lit(True)
    if events:
        kind = _kind(events)
        is_target, masks = (pl.col("event").is_in(kinds) for kinds in (events.targets, events.masks))
    rows = rows.with_columns(event=kind, quantity=_quantity(events, feedback))
    order = rows.select("timestamp").with_row_index("row").sort("timestamp", "row", nulls_last=False)
    places = order.select("row").with_row_index("at").sort("row")["at"]
    return rows.with_columns(target=is_target.fill_null(False), masks=masks.fill_null(False), at=places)


def _kind(events: Events) -> pl.Expr:
    """The event type of raw rows."""
    return pl.col(stored_name(events.column)).cast(pl.String).str.strip_chars(BLANKS)


def _quantity(events: Events | None, feedback: Feedback) -> pl.Expr:
    if events and events.quantity:
        text = pl.col(stored_name(events.quantity))
        number = text.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
        number = pl.when(number.cast(pl.Float32).is_finite()).then(number)  # models weigh by 32 bits
        return pl.when(text.is_null()).then(1.0).otherwise(number)
    if feedback.kind == "implicit" and feedback.repeats:
        return pl.col("rating").fill_null(1.0)
    return pl.lit(1.0)


def steps(events: Events | None, feedback: Feedback) -> dict[Reason, Step]:
    """The steps, in order, by the reason of the rows that each one drops; `combine` comes after them."""
    negative_counts = feedback.repeats == "sum"  # a return reduces what was bought
    found: dict[Reason, Step] = {}
    if events:
        known = [*events.weights, *events.withdraws]
        found |= {
            Reason.UNKNOWN_EVENT: lambda rows: rows.filter(pl.col("event").is_in(known).fill_null(False)),
            Reason.WITHDRAWN: lambda rows: _without_withdrawn(rows, events),
            Reason.WITHDRAWAL: lambda rows: rows.filter(~pl.col("event").is_in(list(events.withdraws))),
        }
    found[Reason.QUANTITY_UNREADABLE] = lambda rows: rows.filter(pl.col("quantity").is_not_null())
    if not negative_counts:
        found[Reason.QUANTITY_NOT_POSITIVE] = lambda rows: rows.filter(pl.col("quantity") > 0)
    if events:
        found[Reason.OVER_DAILY_CAP] = lambda rows: _capped(rows, events)
        idle = [kind for kind, weight in events.weights.items() if not weight and kind not in events.masks]
        found[Reason.EVENT_NOT_LEARNT] = lambda rows: rows.filter(~pl.col("event").is_in(idle))
    return found


def combine(rows: pl.DataFrame, feedback: Feedback) -> pl.DataFrame:
    """One row per user, item and event type, the latest, with the quantity that `feedback.repeats` says.

    `separate` keeps all rows.
    """
    if feedback.repeats == "separate":
        return rows
    group = [*PAIR, "event"]
    quantity = {
        "sum": pl.col("quantity").sum().over(group),
        "count": pl.len().over(group).cast(pl.Float64),
        "max": pl.col("quantity").max().over(group),
    }.get(feedback.repeats or "latest", pl.col("quantity"))
    is_latest = pl.col("at") == pl.col("at").max().over(group)
    return rows.with_columns(quantity=quantity).filter(is_latest)


def positive_sums(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose combined quantity is above 0: of the others, all was returned."""
    return rows.filter(pl.col("quantity") > 0)


def learnt(rows: pl.DataFrame, events: Events | None) -> pl.DataFrame:
    """Rows of types with weight 0, which are only there for the mask, are not positive."""
    if not events:
        return rows
    idle = [kind for kind, weight in events.weights.items() if not weight]
    return rows.with_columns(positive=pl.col("positive") & ~pl.col("event").is_in(idle))


def _without_withdrawn(rows: pl.DataFrame, events: Events) -> pl.DataFrame:
    """The rows that no later event of the same user and item cancels."""
    stays = pl.lit(True)
    for kind, cancelled in events.withdraws.items():
        last = pl.col("at").filter(pl.col("event") == kind).max().over(PAIR)
        stays &= ~(pl.col("event").is_in(cancelled) & (pl.col("at") < last)).fill_null(False)
    return rows.filter(stays)


def _capped(rows: pl.DataFrame, events: Events) -> pl.DataFrame:
    """At most `caps.per_user_per_day` rows of a user and day (UTC), the first ones, and all rows of the target."""
    limit = events.caps.per_user_per_day
    if limit is None:
        return rows
    if rows["timestamp"].null_count():
        raise SettingsError("dataset.events.caps.per_user_per_day counts by day, and this data set has no times")
    place = pl.col("at").rank("ordinal").over("user_id", pl.col("timestamp").dt.date())
    return rows.filter(pl.col("target") | (place <= limit))


@dataclass(frozen=True)
class EventCounts:
    """What the log of some users has; `funnel` adds up the counts of all users."""

    by_type: pl.DataFrame
    """event, rows, users."""
    items: pl.DataFrame
    """event, item_id: the distinct ones."""
    pairs: dict[str, int]

    @classmethod
    def of(cls, rows: pl.DataFrame, events: Events) -> "EventCounts":
        """Of all rows of these users, after `read_columns`."""
        by_type = rows.group_by("event").agg(rows=pl.len(), users=pl.col("user_id").n_unique())
        known = rows.filter(pl.col("event").is_in([*events.weights, *events.withdraws]).fill_null(False))
        pairs = known.group_by(PAIR).agg(
            types=pl.col("event").n_unique(),
            withdrawn=pl.col("event").is_in(list(events.withdraws)).any(),
            target=pl.col("target").any(),
        )
        counts = {
            "pairs": pairs.height,
            "pairs_of_several_types": int((pairs["types"] > 1).sum()),
            "pairs_withdrawn_and_target": int((pairs["withdrawn"] & pairs["target"]).sum()),
            "withdrawals_of_nothing": _withdrawals_of_nothing(known, events),
        }
        return cls(by_type, rows.select("event", "item_id").unique(), counts)


def funnel(counts: Sequence[EventCounts], events: Events) -> dict[str, Any]:
    """What the log has: rows, users and items by type, most weight first, and pairs. No user is in two counts.

    Pairs of user and item: with several types; with a withdrawing event and one of the target; withdrawing events that
    had nothing to withdraw.
    """
    weights = {kind: 0.0 for kind in events.withdraws} | events.weights
    by_type = pl.concat(part.by_type for part in counts).group_by("event").agg(pl.col("rows", "users").sum())
    items = pl.concat(part.items for part in counts).unique().group_by("event").agg(items=pl.len())
    by_type = by_type.join(items, on="event", nulls_equal=True)
    found = {row["event"]: row for row in by_type.to_dicts()}
    nothing = {"rows": 0, "users": 0, "items": 0}
    types = [
        {"event": kind, "weight": weights[kind], "target": kind in events.targets,
         "withdraws": kind in events.withdraws, **{name: found.get(kind, nothing)[name] for name in nothing}}
        for kind in sorted(weights, key=lambda kind: (weights[kind], kind))
    ]  # fmt: skip
    unknown = by_type.filter(~pl.col("event").is_in(list(weights)).fill_null(False))
    unknown = unknown.sort("rows", "event", descending=[True, False])
    return {
        "types": types,
        "unknown": {str(row["event"])[:40]: row["rows"] for row in unknown.head(10).to_dicts()},
        "unknown_rows": int(unknown["rows"].sum()),
        "rows": int(by_type["rows"].sum()),
        **{name: sum(part.pairs[name] for part in counts) for name in counts[0].pairs},
    }


def _withdrawals_of_nothing(rows: pl.DataFrame, events: Events) -> int:
    count = 0
    for kind, cancelled in events.withdraws.items():
        first = pl.col("at").filter(pl.col("event").is_in(cancelled)).min().over(PAIR)
        count += rows.filter((pl.col("event") == kind) & ~(first < pl.col("at")).fill_null(False)).height
    return count


def key_settings(dataset: Dataset) -> dict[str, Any]:
    """The settings that decide the rows, for lake keys; of a weight only whether it is 0. Empty where none is set."""
    events, repeats = dataset.events, dataset.feedback.repeats
    found: dict[str, Any] = {"repeats": repeats, "kind": dataset.feedback.kind} if repeats else {}
    if events:
        own = events.model_dump(exclude={"weights", "search", "target", "mask"})
        learnt_from = {kind: weight > 0 for kind, weight in sorted(events.weights.items())}
        found["events"] = {**own, "weights": learnt_from, "target": events.targets, "mask": events.masks}
    return found


def target_rows(rows: pl.DataFrame, events: Events, feedback: Feedback) -> pl.DataFrame:
    """The raw rows of the target's types that no later event of the user and item cancels."""
    marked = _without_withdrawn(read_columns(rows, events, feedback), events)
    return marked.filter("target").select(rows.columns)


def masking_rows(rows: pl.DataFrame, places: pl.Series, events: Events) -> pl.Series:
    """Which of the raw rows at `places` are of a type after which an item is not recommended again; boolean."""
    masks = rows.select(_kind(events).is_in(events.masks).fill_null(False)).to_series()
    return masks.gather(places)


def codes(rows: pl.DataFrame, events: Events | None) -> pl.Series:
    """Event types of rows of `clean` as in the contract `encoded`, Int64; 0 without `[events]`."""
    if not events:
        return pl.zeros(rows.height, pl.Int64, eager=True)
    places = {kind: code for code, kind in enumerate(events.kinds)}
    return rows["event"].replace_strict(places, return_dtype=pl.Int64)


def masking_condition(events: Events | None) -> str:
    """SQL condition on raw rows: of a type after which an item is not recommended again; null without a type."""
    return _is_one_of(events, events.masks) if events else "true"


def target_condition(events: Events | None) -> str:
    """SQL condition on raw rows: of a type that metrics count; null without a type."""
    return _is_one_of(events, events.targets) if events else "true"


def _is_one_of(events: Events, kinds: list[str]) -> str:
    listed = ", ".join(warehouse.literal(kind) for kind in kinds)
    column = warehouse.quoted(stored_name(events.column))
    return f"trim(CAST({column} AS VARCHAR), {warehouse.literal(BLANKS)}) IN ({listed})" if kinds else "false"
