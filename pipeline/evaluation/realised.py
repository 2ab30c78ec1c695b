"""Realised quality: the lists of earlier nights, measured on what users did after them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.config.run import Run
from pipeline.config.settings import Select
from pipeline.core.bootstrap import intervals
from pipeline.core.serial_means import welch
from pipeline.evaluation import ranking_metrics
from pipeline.evaluation.ranking_metrics import Hits
from pipeline.preparation.events import masking_condition, target_condition
from pipeline.preparation.seen import SeenRule
from pipeline.schemas import tables
from pipeline.schemas.tables import metric_name
from pipeline.storage import journal, warehouse
from pipeline.storage.generations import kept_generations

HORIZONS = (1, 7, 28)
"""Days after the end of the data that the lists were made of."""
METRICS = ("ndcg", "recall", "hit_rate")
"""Measured in addition to the metric that decides."""
PUBLISHED, POPULARITY, DIFFERENCE = "published", "popularity", "published - popularity"
"""Values of `list_source`."""
MODEL, HOLDBACK, CONTRAST = "model", "holdback", "model - holdback"
"""Sources of lists that are compared with each other, and the value of `list_source` for it."""
WINDOW = 30
"""Window of the popularity lists in days, where it was published; otherwise the whole history."""


@dataclass(frozen=True)
class Lists:
    """The lists of an earlier night, and the time after which they are measured."""

    run_id: str
    file: Path
    data_end: datetime
    """The newest interaction that they were made of."""
    horizon_days: int
    end: datetime | None = None
    """End of the interactions that count, if it is another one."""

    @property
    def until(self) -> datetime:
        """End of the interactions that count."""
        return self.end or self.data_end + timedelta(days=self.horizon_days)


def measure_earlier_lists(run: Run, raw: Path, encoded: Path) -> list[dict[str, Any]]:
    """Journal and return tables.REALISED for those kept generations whose horizon ended in tonight's data.

    For each of HORIZONS it is the newest one whose data ended at least so many days before tonight's newest
    interaction. Users count who have a list and a new positive interaction in the days after it, with `[events]` one
    of the target. Nothing is measured without times, or where no generation is old enough: 28 days need
    `keep.generations` above 28 with a night a day.
    """
    if run.as_of is not None:
        return []  # a replay stands alone; a backtest measures its nights itself
    records: list[dict[str, Any]] = []
    with facts(run, raw, encoded) as con:
        newest = con.sql("SELECT max(timestamp) FROM source_rows").fetchall()[0][0]
        for lists in due_lists(con, run, newest) if newest else []:
            records += measure(con, run, lists)
    journal.append(run, tables.REALISED, records)
    return records


@contextmanager
def facts(run: Run, raw: Path, encoded: Path) -> Iterator[warehouse.Connection]:
    """A connection with `source_rows` and `positives`, which the statement 4_realised reads."""
    with warehouse.scratch(run.settings.threads, run.settings.memory_limit) as con:
        files = {name: warehouse.literal(encoded / f"{name}.parquet") for name in ("interactions", "users", "items")}
        rows = warehouse.literal(raw / "interactions.parquet")
        kinds = run.settings.dataset.events
        con.execute(
            f"CREATE TEMP VIEW source_rows AS SELECT *, {SeenRule.of(run.settings).masks_until()} AS masks_until, "
            f"coalesce({masking_condition(kinds)}, false) AS masks, "
            f"coalesce({target_condition(kinds)}, false) AS is_target FROM read_parquet({rows})"
        )
        con.execute(
            f"CREATE TEMP VIEW positives AS SELECT user_id, item_id FROM read_parquet({files['interactions']}) "
            f"JOIN read_parquet({files['users']}) USING (user_idx) JOIN read_parquet({files['items']}) "
            f"USING (item_idx) WHERE positive{' AND target' if kinds else ''}"
        )
        yield con


def due_lists(con: warehouse.Connection, run: Run, newest: datetime) -> list[Lists]:
    """The lists to measure tonight, by horizon. Generations that can't be read are left out."""
    ends: list[tuple[datetime, str, Path]] = []
    for run_id in kept_generations(run.home, run.dataset):
        file = run.home.generation(run.dataset, run_id)
        try:
            with warehouse.attached(con, file, "published"):
                end = con.sql("SELECT max(last_timestamp) FROM published.interactions_summary").fetchall()[0][0]
        except warehouse.DatabaseError as error:
            journal.note(run, f"realised: generation {run_id} can't be read ({str(error).splitlines()[0]})")
            continue
        if end is not None:
            ends.append((end, run_id, file))
    due = []
    for days in HORIZONS:
        old = [each for each in ends if each[0] <= newest - timedelta(days=days)]
        if old:
            end, run_id, file = max(old)
            due.append(Lists(run_id, file, end, days))
    return due


def measure(con: warehouse.Connection, run: Run, lists: Lists) -> list[dict[str, Any]]:
    """Rows of tables.REALISED of one night's lists. Warns where they are significantly worse than popularity."""
    events, depth = events_of(con, lists)
    settings = run.settings
    metrics: list[str] = sorted({*METRICS, deciding(settings.select)})
    depth = _top_n(run, lists.run_id) or depth
    cutoffs = sorted(k for k in {*settings.evaluation.cutoffs, settings.select.cutoff} if k <= depth)
    of_all = {"run_id": lists.run_id, "horizon_days": lists.horizon_days, "measured_by": run.run_id}
    records = [
        {**of_all, "segment": segment, **record}
        for segment, part in segments(events)
        for record in values_of(part, metrics, cutoffs, settings.seed)
    ]
    records += [{**of_all, "segment": "all", **record} for record in contrasts(events, metrics, cutoffs)]
    _warn(run, lists, records)
    return records


def events_of(con: warehouse.Connection, lists: Lists) -> tuple[pl.DataFrame, int]:
    """The rows of 4_realised for lists, and the length of the longest one."""
    with warehouse.attached(con, lists.file, "published"):
        depth, windows = con.sql(
            "SELECT (SELECT max(rank) FROM published.recommendations), "
            "(SELECT list(DISTINCT window_days) FROM published.popular_items)"
        ).fetchall()[0]
        found = warehouse.run_sql(
            con, "4_realised", after=lists.data_end, until=lists.until,
            window_days=WINDOW if WINDOW in (windows or []) else 0,
        )  # fmt: skip
        assert found is not None
        return found.pl(), depth or 0


def segments(events: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """All users, then those of each source of lists; lists of promoted items only are in no source."""
    if events.height:
        yield "all", events
    for source in sorted(events["source"].drop_nulls().unique()):
        yield source, events.filter(source=source)


def values_of(
    events: pl.DataFrame, metrics: Sequence[str], cutoffs: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    """Means over users with intervals, of both lists and of their paired difference.

    `events`: user_id, item_id, rank, popularity_rank, ordered by user.
    """
    for metric in metrics:
        for cutoff in cutoffs:
            both = by_user(events, ("rank", "popularity_rank"), metric, cutoff)  # (U, 2)
            three = torch.cat([both, both[:, :1] - both[:, 1:]], 1)  # (U, 3)
            ends = intervals(three, seed)  # (3, 2)
            for at, source in enumerate((PUBLISHED, POPULARITY, DIFFERENCE)):
                yield {
                    "list_source": source, "metric": metric, "cutoff": cutoff, "value": float(three[:, at].mean()),
                    "ci_low": float(ends[at, 0]), "ci_high": float(ends[at, 1]), "n": len(three),
                }  # fmt: skip


def contrasts(events: pl.DataFrame, metrics: Sequence[str], cutoffs: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The champion's lists compared with those of the holdback, which other users have: Welch's interval."""
    two = [part for source, part in segments(events) if source in (HOLDBACK, MODEL)]  # in this order
    if len(two) < 2:
        return
    for metric in metrics:
        for cutoff in cutoffs:
            held, own = (by_user(part, ("rank",), metric, cutoff).flatten().numpy() for part in two)  # (U,) each
            found = welch(own, held)
            if found is not None:
                yield {
                    "list_source": CONTRAST, "metric": metric, "cutoff": cutoff, "value": found.value,
                    "ci_low": found.ci_low, "ci_high": found.ci_high, "n": len(held) + len(own),
                }  # fmt: skip


def by_user(events: pl.DataFrame, columns: Sequence[str], metric: str, cutoff: int) -> Tensor:
    """The metric of every user, (U, C), one column for each column of ranks. `events` are ordered by user."""
    per_user = events.group_by("user_id", maintain_order=True).len()
    n_holdout = torch.from_numpy(per_user["len"].cast(pl.Int64).to_numpy(writable=True))  # (U,)
    rows = torch.repeat_interleave(torch.arange(len(n_holdout)), n_holdout)  # (E,)
    return torch.stack([_values(events[column], metric, cutoff, rows, n_holdout) for column in columns], 1)


def _values(ranks: pl.Series, metric: str, cutoff: int, rows: Tensor, n_holdout: Tensor) -> Tensor:
    places = torch.from_numpy(ranks.cast(pl.Float64).fill_null(float("inf")).to_numpy(writable=True))  # (E,)
    hit = (places <= cutoff).double()  # (E,)
    places = torch.where(hit > 0, places, torch.full_like(places, 1e9))  # (E,): inf * 0 would be no number
    hits = Hits(places, hit, rows, n_listed=n_holdout, n_holdout=n_holdout, k=cutoff)  # events in no list are there too
    return ranking_metrics.METRICS[metric](hits).double()  # (U,)


def _top_n(run: Run, run_id: str) -> int | None:
    """export.top_n of a night; None where its settings are gone. Lists are shorter where a user has seen most items."""
    export = (journal.read_settings(run.home, run.dataset, run_id) or {}).get("export")
    top_n = export.get("top_n") if isinstance(export, dict) else None
    return top_n if isinstance(top_n, int) else None


def deciding(select: Select) -> str:
    """The metric that decides: the selecting one, or ndcg where that is an error."""
    return select.metric if select.metric in ranking_metrics.METRICS else METRICS[0]


def create_deciding(con: warehouse.Connection, run: Run) -> None:
    """Create the temporary table `deciding` (metric, cutoff), for the audit of `realised`."""
    select = run.settings.select
    params = {"metric": deciding(select), "cutoff": select.cutoff}
    con.execute("CREATE TEMP TABLE deciding AS SELECT $metric AS metric, $cutoff AS cutoff", params)


def _warn(run: Run, lists: Lists, records: Sequence[dict[str, Any]]) -> None:
    metric, cutoff = deciding(run.settings.select), run.settings.select.cutoff
    wanted = (DIFFERENCE, "all", metric, cutoff)
    for record in records:
        of = (record["list_source"], record["segment"], record["metric"], record["cutoff"])
        if of == wanted and record["ci_high"] < 0:
            journal.note(
                run,
                f"{journal.WARNING}the lists of night {lists.run_id} were worse than popularity on what "
                f"{record['n']:,} users did in the {lists.horizon_days} days after: {metric_name(metric, cutoff)} "
                f"{record['value']:+.4g} [{record['ci_low']:.4g}, {record['ci_high']:.4g}]",
            )
