"""Data about a night and the nights before it, from the journal and the lake; what is gone is left out."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, lake, state_files

NIGHTS = 30
"""Number of nights that are shown, this one included."""


@dataclass(frozen=True)
class Fit:
    """A family's fit on train, from its folder in the lake."""

    label: str
    family: str
    info: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Search:
    """A search and its trials."""

    info: dict[str, Any]
    trials: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Night:
    """One night; each part is read when it is first used."""

    home: Home
    dataset: str
    run_id: str

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json."""
        return journal.read_run(self.home, self.dataset, self.run_id)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings tree; empty where it can't be read."""
        return journal.read_settings(self.home, self.dataset, self.run_id) or {}

    @property
    def is_published(self) -> bool:
        """Whether its tables went live."""
        return self.record["outcome"] == "published"

    @cached_property
    def file(self) -> Path | None:
        """Its published database, where it is still kept."""
        generation = self.home.generation(self.dataset, self.run_id)
        return generation if self.is_published and generation.exists() else None

    def table(self, table: Table) -> pl.DataFrame:
        """This night's rows of a journal table."""
        return journal.read(self.home, self.dataset, table, self.run_id)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """Metrics of all models."""
        return self.table(tables.METRICS)

    @cached_property
    def notes(self) -> list[str]:
        """Notes and warnings of the night."""
        return journal.notes(self.home, self.dataset, self.run_id)

    @cached_property
    def selection_metric(self) -> tuple[str, str, int]:
        """Protocol, metric and cutoff (0: none) by which champions are chosen."""
        select = self.settings.get("select", {})
        protocol, metric = select.get("protocol", "full"), select.get("metric", "ndcg")
        return protocol, metric, 0 if protocol == "error" else select.get("cutoff", 10)

    @cached_property
    def nights(self) -> pl.DataFrame:
        """This night and those before it, oldest first: tables.RUNS with rows, rejected, value, ci_low, ci_high.

        The last three are the champion's deciding metric on test; null where there is none.
        """
        runs = journal.read(self.home, self.dataset, tables.RUNS).filter(pl.col("run_id") <= self.run_id)
        runs = runs.sort("run_id").tail(NIGHTS)
        inputs = self._of_nights(runs, tables.INPUTS).select("run_id", "rows", "rejected")
        protocol, metric, cutoff = self.selection_metric
        metrics = self._of_nights(runs, tables.METRICS).filter(
            split="test", segment="all", protocol=protocol, metric=metric, cutoff=cutoff
        )
        metrics = metrics.select("run_id", "value", "ci_low", "ci_high", "n", champion="model")
        return runs.join(inputs, on="run_id", how="left").join(metrics, on=["run_id", "champion"], how="left")

    @cached_property
    def churn_of_nights(self) -> pl.DataFrame:
        """tables.CHURN of the published ones among these nights."""
        published = self.nights.filter(outcome="published")
        return self._of_nights(published, tables.CHURN).join(published.select("run_id", "started_at"), on="run_id")

    @cached_property
    def drift_of_nights(self) -> pl.DataFrame:
        """tables.DRIFT of these nights, with started_at."""
        return self._of_nights(self.nights, tables.DRIFT).join(self.nights.select("run_id", "started_at"), on="run_id")

    @cached_property
    def realised_of_nights(self) -> pl.DataFrame:
        """tables.REALISED of these nights' lists, as known in this night, with started_at of the lists' night."""
        known = journal.read(self.home, self.dataset, tables.REALISED).filter(pl.col("measured_by") <= self.run_id)
        return known.join(self.nights.select("run_id", "started_at"), on="run_id")

    def _of_nights(self, runs: pl.DataFrame, table: Table) -> pl.DataFrame:
        parts = [journal.read(self.home, self.dataset, table, run_id) for run_id in runs["run_id"]]
        return pl.concat(parts) if parts else table.empty()

    def folder(self, path: str | Path) -> Path:
        """A folder of the lake that a journal or manifest names, in the home's present place."""
        return self.home.lake(self.dataset).joinpath(*Path(path).parts[-2:])

    def made(self, kind: str) -> list[Path]:
        """Folders that the night made (`fitted`, `searched`, `encoded`, …) and that still exist."""
        named = (self.record.get("made") or {}).get(kind) or []
        found = map(self.folder, [named] if isinstance(named, str) else named)
        return [folder for folder in found if state_files.read(folder / lake.MANIFEST, dict)]

    @cached_property
    def profile(self) -> dict[str, Any] | None:
        """The profile of the data, from stage `profile`."""
        named = self.record.get("profile")
        return state_files.read(self.folder(named) / "profile.json", dict) if named else None

    @cached_property
    def raw(self) -> Path | None:
        """Folder of the source rows."""
        with suppress(OSError, ValueError, KeyError, IndexError):
            folder = self.folder(lake.read_manifest(self.folder(self.record["profile"]))["parents"][0])
            return folder if (folder / "interactions.parquet").is_file() else None
        return None

    @cached_property
    def fits(self) -> list[Fit]:
        """Fits on train, in the recipe's order."""
        infos = [lake.info(folder) for folder in self.made("fitted")]
        return [Fit(info["label"], info["family"], info) for info in infos]

    @cached_property
    def searches(self) -> list[Search]:
        """Searches, with the parameters of their trials parsed."""
        return list(self._searches())

    def _searches(self) -> Iterator[Search]:
        for folder in self.made("searched"):
            trials = pl.read_parquet(folder / "trials.parquet").to_dicts()
            yield Search(lake.info(folder), [{**t, "params": json.loads(t["params"])} for t in trials])

    @cached_property
    def lineage(self) -> list[dict[str, Any]]:
        """Folders of the lake that the night made or reused, in order: layer, folder, stage, rows, parents."""
        names = dict.fromkeys(state_files.read_lines(self.home.journal(self.dataset) / self.run_id / "folders.txt"))
        rows = []
        for name in names:
            entry: dict[str, Any] = {"layer": Path(name).parent.name, "folder": Path(name).name}
            with suppress(OSError, ValueError, KeyError):
                manifest = lake.read_manifest(self.folder(name))
                parents = [Path(parent).name for parent in manifest["parents"]]
                entry |= {"stage": manifest["stage"], "rows": manifest["rows_out"], "parents": parents}
            rows.append(entry)
        return rows

    @cached_property
    def source(self) -> dict[str, Any]:
        """Info of stage ingest: `data_hash`, and `files` with the hashes of their contents."""
        with suppress(OSError, ValueError, KeyError):
            return lake.info(self.raw) if self.raw else {}
        return {}
