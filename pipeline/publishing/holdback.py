"""Users who get the lists of another model than the champion, so that what both are worth shows in what users do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pipeline.config.publishing import Export, Holdback
from pipeline.config.run import Run
from pipeline.models.popularity import Popularity, PopularityConfig
from pipeline.publishing.listed_users import Range
from pipeline.publishing.user_lists import FALLBACK, MODEL, Fitted, Part, Wanted, recommend
from pipeline.storage import warehouse
from pipeline.training.context import FitContext

NAME = "holdback"
"""Source of the rows."""


@dataclass(frozen=True)
class Serving:
    """A model that makes lists."""

    fitted: Fitted
    label: str


def popularity(champion: Fitted) -> Serving:
    """Popularity over the whole history, where the night has no second model."""
    known = champion.known
    model = Popularity(PopularityConfig(), known.n_users, known.n_items)
    model.fit(known, FitContext(known.users.device))
    return Serving(Fitted(model, known, champion.cold), "popularity")


def condition(holdback: Holdback) -> str:
    """SQL over user_id: whether a user is held back. It depends on the salt and the id only."""
    salted = f"concat_ws(chr(31), {warehouse.literal(holdback.salt)}, user_id)"
    return f"md5_number_lower({salted}) < {round(holdback.share * 2**64)}"


def held_users(users: pl.Series, holdback: Holdback) -> pl.Series:
    """Those of the user ids (U,) that are held back, as text."""
    with warehouse.scratch(threads=1) as con:
        con.register("_users", users.cast(pl.String).unique().alias("user_id").to_frame().to_arrow())
        return con.sql(f"SELECT user_id FROM _users WHERE {condition(holdback)} ORDER BY user_id").pl()["user_id"]


def with_holdback(
    run: Run,
    rows: pl.DataFrame,
    encoded: Path,
    wanted: Sequence[Wanted],
    models: tuple[Serving, Serving | None],
    only: Range | None = None,
) -> Iterator[Part]:
    """The parts of `user_lists.recommend` with the column `model`; `only`: these parts of all.

    `models`: the champion, and the one for the holdback. A held-back user whom the champion serves gets the
    list of the other model, by the same rules: its rows are `holdback` where they were `model` or `fallback`. A user
    whom the champion can't serve keeps the popular items, so that the two groups are drawn from the same users. Further
    lists, of `[lists]` and by attribute, are the champion's for all. What rules suppressed counts in the champion's
    lists.
    """
    champion, other = models
    parts = recommend(run, champion.fitted, rows, encoded, wanted, parts=only)
    holdback = run.settings.export.holdback
    if holdback is None:
        for part in parts:
            yield replace(part, lists=part.lists.with_columns(model=pl.lit(champion.label)))
        return
    other = other or popularity(champion.fitted)
    held = held_users(rows["user_id"], holdback)
    default = wanted[0]
    quiet = [replace(default, explorer=default.explorer and replace(default.explorer), suppressed=Counter())]
    without_reasons = run.settings.export.model_copy(update={"reasons": 0})
    alone = run.model_copy(update={"settings": run.settings.model_copy(update={"export": without_reasons})})
    lists = [part.lists for part in recommend(alone, other.fitted, rows, encoded, quiet, held, only)]
    theirs = pl.concat(lists).with_columns(pl.col("user_id").cast(pl.String)) if lists else None
    for part in parts:
        yield _exchanged(part, held, theirs, champion.label, other.label)


def _exchanged(part: Part, held: pl.Series, theirs: pl.DataFrame | None, champion: str, other: str) -> Part:
    """The part with the lists of `theirs` for those of the users `held` whom the champion serves.

    The other model may have nothing left for a user: it does not list the same items without events.
    """
    lists = part.lists.with_columns(pl.col("user_id").cast(pl.String), model=pl.lit(champion))
    if theirs is None:
        return replace(part, lists=lists)
    served = lists.filter(pl.col("user_id").is_in(held.implode()), source=MODEL).select("user_id").unique()
    new = theirs.join(served, on="user_id", how="semi").with_columns(
        source=pl.when(pl.col("source").is_in([MODEL, FALLBACK])).then(pl.lit(NAME)).otherwise("source"),
        model=pl.lit(other),
    )
    kept = lists.join(served, on="user_id", how="anti")
    reasons = part.reasons.join(served, on="user_id", how="anti")
    return replace(part, lists=pl.concat([kept, new.select(kept.columns)]).sort("user_id", "rank"), reasons=reasons)


def create_view(con: warehouse.Connection, export: Export) -> None:
    """Create the temporary view `held_users` of a published database, for the audit, from its table `users`."""
    where = condition(export.holdback) if export.holdback else "false"
    con.execute(f"CREATE TEMP VIEW held_users AS SELECT user_id FROM users WHERE {where}")
