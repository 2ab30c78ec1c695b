"""`nightrecs runs`: the nights of a data set, newest first, including refused and crashed ones."""

from argparse import Namespace
from contextlib import suppress

import polars as pl

from flows.cli.output import show
from pipeline.config.settings import Select
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.datasets.names import dataset_name, unknown_dataset
from pipeline.schemas import tables
from pipeline.storage import journal
from pipeline.storage.generations import kept_generations, live_run_id
from pipeline.storage.lock import lock_holder


def runs(options: Namespace) -> None:
    """Print outcome, champion, its selection metric on test, and which tables are live or kept for a rollback."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    frame = journal.read(home, dataset, tables.RUNS).sort("run_id", descending=True).head(options.n)
    if frame.is_empty():
        raise UnreadableInput(unknown_dataset(home, dataset))
    seconds = (pl.col("finished_at") - pl.col("started_at")).dt.total_milliseconds() / 1000
    frame = frame.with_columns(pl.col("started_at").dt.truncate("1s"), seconds=seconds.round(1))
    live, kept = live_run_id(home, dataset), set(kept_generations(home, dataset))
    records = []
    is_held = lock_holder(home.lock(dataset)) is not None
    for place, night in enumerate(frame.iter_rows(named=True)):
        run_id = night["run_id"]
        if night["outcome"] == "running" and (place or not is_held):  # the next night closes it
            night = journal.as_ended(night, live)
        record = {key: night[key] for key in ("run_id", "started_at", "seconds", "outcome", "champion")}
        record["figure"], record["value"] = selection_metric(home, dataset, run_id, night["champion"])
        record["tables"] = "live" if run_id == live else "kept" if run_id in kept else None
        records.append({**record, "recipe": night["recipe"], "reason": night["reason"]})
    show(records, options)


def selection_metric(home: Home, dataset: str, run_id: str, champion: str | None) -> tuple[str | None, float | None]:
    """Name and value of the metric that selects the champion, on test, over all users."""
    if champion is None:
        return None, None
    with suppress(ValueError, KeyError):
        settings = journal.read_settings(home, dataset, run_id) or {}
        select = Select.model_validate(settings["select"])
        metric, cutoff = select.metric, select.recorded_cutoff
        found = journal.read(home, dataset, tables.METRICS, run_id).filter(
            pl.col("model") == champion, split="test", segment="all",
            protocol=select.protocol, metric=metric, cutoff=cutoff,
        )  # fmt: skip
        if found.height == 1:
            return tables.metric_name(metric, cutoff), round(found["value"].item(), 4)
    return None, None
