"""Row filters of the stage `clean`: duplicates, `keep_if`, the user sample, and minimum counts (k-core)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.config.dataset import Events, Feedback, Filter
from pipeline.core.errors import Refused
from pipeline.preparation import events as events_of
from pipeline.preparation.ids import any_twice, codes_of, id_hashes, pair_keys
from pipeline.preparation.row_names import NO_NAMES, RowNames
from pipeline.schemas.reasons import Reason
from pipeline.storage import expressions

Step = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class RowFilter:
    """Which raw rows take part, but for the minimum counts of items, which need the rows of all users."""

    feedback: Feedback
    filters: Filter
    seed: int
    names: RowNames = NO_NAMES
    """Which columns conditions may name, with the types of columns of text."""
    events: Events | None = None

    @property
    def weighted(self) -> bool:
        """Whether rows have the columns of tables.WEIGHTED: with `[events]` or `repeats`."""
        return self.events is not None or self.feedback.repeats is not None

    def before_k_core(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
        """The rows left before `k_core`, in source order, with the column `positive`, and what each step dropped.

        The rows of one user depend on the rows of no other user.
        """
        raw = raw.cast({"user_id": pl.Categorical, "item_id": pl.Categorical})  # as the lake stores them
        feedback, events, names = self.feedback, self.events, self.names
        steps: list[tuple[Reason, Step]] = [
            *(weighted_steps(feedback, events, names) if self.weighted else plain_steps(feedback, names)),
            (Reason.USER_NOT_SAMPLED, lambda rows: sample_users(rows, self.filters.user_fraction, self.seed)),
        ]
        rows, ledger = events_of.read_columns(raw, events, feedback) if self.weighted else raw, Counter[str]()
        for reason, step in steps:
            before = rows.height
            rows = step(rows)
            ledger[str(reason)] += before - rows.height
        return (rows.cast({"quantity": pl.Float32}) if self.weighted else rows), ledger

    def refuse_empty(self, n_raw: int, n_kept: int, n_positive: int, ledger: Mapping[str, int]) -> None:
        """Raise Refused if no row is left, or none is positive."""
        if not n_kept:
            removed = ", ".join(f"{reason} removed {n:,}" for reason, n in ledger.items() if n)
            raise Refused(f"no row is left of {n_raw:,} valid source rows: {removed or 'there were none'}")
        if not n_positive:
            condition = f"positive_if = {self.feedback.positive_if!r}"
            raise Refused(f"none of {n_kept:,} kept rows is positive ({condition})")


def apply_filters(
    raw: pl.DataFrame,
    feedback: Feedback,
    filters: Filter,
    seed: int,
    names: RowNames = NO_NAMES,
    events: Events | None = None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows that take part, in source order, with the column `positive`, and the ledger: rows by reason.

    `names` says which columns conditions may name. With `[events]` or `repeats` the rows also have the columns of
    tables.WEIGHTED. The ledger sums to the rows of `raw`. Raises Refused if no row is left or none is positive,
    SettingsError if a condition is not allowed.
    """
    rule = RowFilter(feedback, filters, seed, names.learnt(raw, feedback), events)
    rows, ledger = rule.before_k_core(raw)
    before = rows.height
    rows = k_core(rows, filters.min_user_interactions, filters.min_item_interactions)
    ledger[str(Reason.BELOW_MIN_INTERACTIONS)] += before - rows.height
    rule.refuse_empty(raw.height, rows.height, int(rows["positive"].sum()), ledger)
    return rows, {str(Reason.KEPT): rows.height, **dict(ledger)}


def plain_steps(feedback: Feedback, names: RowNames) -> list[tuple[Reason, Step]]:
    """One row per pair, the latest, then `keep_if`."""
    return [(Reason.DUPLICATE, keep_latest), (Reason.KEEP_IF, lambda rows: _kept(rows, feedback, names))]


def weighted_steps(feedback: Feedback, events: Events | None, names: RowNames) -> list[tuple[Reason, Step]]:
    """What becomes of event types, quantities and repeats. `keep_if` judges every row that is combined, not the sum."""
    keep: tuple[Reason, Step] = (
        Reason.KEEP_IF, lambda rows: events_of.learnt(_kept(rows, feedback, names), events)
    )  # fmt: skip
    combine: list[tuple[Reason, Step]] = [(Reason.DUPLICATE, lambda rows: events_of.combine(rows, feedback))]
    if feedback.repeats == "sum":
        combine.append((Reason.QUANTITY_NOT_POSITIVE, events_of.positive_sums))
    of_latest = feedback.repeats in (None, "latest")
    return [*events_of.steps(events, feedback).items(), *([*combine, keep] if of_latest else [keep, *combine])]


def take_part(rows: pl.DataFrame, feedback: Feedback, events: Events | None, names: RowNames) -> pl.DataFrame:
    """The positive rows that take part but for the number of interactions; for users whom the filters left out.

    Of event types and repeats they have the columns of tables.WEIGHTED.
    """
    rows = rows.cast({"user_id": pl.Categorical, "item_id": pl.Categorical})
    if events or feedback.repeats:
        rows, of_rows = events_of.read_columns(rows, events, feedback), weighted_steps(feedback, events, names)
    else:
        of_rows = plain_steps(feedback, names)
    for _, step in of_rows:
        rows = step(rows)
    return rows.filter("positive")


def _kept(rows: pl.DataFrame, feedback: Feedback, names: RowNames) -> pl.DataFrame:
    return mark(rows, feedback, names).filter("kept").drop("kept")


def mark(rows: pl.DataFrame, feedback: Feedback, names: RowNames = NO_NAMES) -> pl.DataFrame:
    """Add the boolean columns `kept` (by `keep_if`) and `positive` (by `positive_if`)."""
    texts = {"kept": ("keep_if", feedback.keep_if), "positive": ("positive_if", feedback.positive_if)}
    conditions = {
        column: expressions.parse(text, f"dataset.feedback.{key}") for column, (key, text) in texts.items() if text
    }
    named = names.view(rows, {name for condition in conditions.values() for name in condition.names})
    marks = {column: expressions.passing(condition, named) for column, condition in conditions.items()}
    return rows.with_columns(**{column: marks.get(column, pl.lit(True)) for column in texts})


def keep_latest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per user and item: the latest; at equal times, or without times, the last in the source."""
    pairs = pair_keys(rows, "user_id", "item_id")
    return rows.filter(latest_of_pairs(pairs, rows["timestamp"])) if any_twice(pairs) else rows


def latest_of_pairs(pairs: pl.Series, timestamp: pl.Series) -> np.ndarray:
    """Which rows `keep_latest` keeps, (R,) bool, of rows with these `pair_keys` and times."""
    rows = pl.DataFrame({"timestamp": timestamp, "pair": pairs})
    repeated = rows.with_row_index("row").filter(pairs.is_duplicated())
    latest = repeated.sort("timestamp", "row", nulls_last=False).unique("pair", keep="last", maintain_order=True)
    stays = np.ones(rows.height, dtype=bool)  # (R,)
    stays[repeated["row"].to_numpy()] = False
    stays[latest["row"].to_numpy()] = True
    return stays


def sample_users(rows: pl.DataFrame, fraction: float, seed: int) -> pl.DataFrame:
    """All rows of about `fraction` of the users; the sample depends on user ids and seed only."""
    if fraction >= 1:
        return rows
    users = rows["user_id"].unique().cast(pl.String)
    drawn = users.filter(sampled(users, fraction, seed))
    return rows.filter(pl.col("user_id").is_in(drawn.cast(pl.Categorical).implode()))


def sampled(users: pl.Series, fraction: float, seed: int) -> np.ndarray:
    """Which of these users are in the sample, (U,) bool."""
    return id_hashes(users, seed, "user sample") < np.uint64(fraction * 2**64)


def k_core(rows: pl.DataFrame, min_user: int, min_item: int) -> pl.DataFrame:
    """The largest set of rows in which every user has at least `min_user` rows and every item `min_item`."""
    if max(min_user, min_item) <= 1:
        return rows
    user = codes_of(rows["user_id"])[0].to_numpy()  # (R,)
    item = codes_of(rows["item_id"])[0].to_numpy()  # (R,)
    stays = np.arange(rows.height)
    while True:
        dense = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
        if dense.all():
            return rows[stays]
        stays, user, item = stays[dense], user[dense], item[dense]


def k_core_of_parts(parts: Sequence[tuple[np.ndarray, np.ndarray]], min_user: int, min_item: int) -> list[np.ndarray]:
    """Which rows of each part `k_core` of all rows keeps, (R,) bool each; no user is in two parts.

    Each part: codes of users, its own, and of items, the same in all parts, (R,) each. The largest such set of rows is
    unique, so the order in which rows are dropped does not matter.
    """
    stays = [np.ones(len(user), dtype=bool) for user, _ in parts]
    n_items = max((int(item.max(initial=-1)) + 1 for _, item in parts), default=0)
    changed = max(min_user, min_item) > 1
    while changed:
        per_item = np.zeros(n_items, dtype=np.int64)  # (I,)
        for (_, item), mine in zip(parts, stays, strict=True):
            per_item += np.bincount(item[mine], minlength=n_items)
        changed = False
        for at, (user, item) in enumerate(parts):
            mine = stays[at]
            dense = mine & (per_item[item] >= min_item)
            dense &= (np.bincount(user[dense], minlength=int(user.max(initial=-1)) + 1) >= min_user)[user]
            changed |= int(dense.sum()) < int(mine.sum())
            stays[at] = dense
    return stays
