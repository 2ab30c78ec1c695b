"""Describes the night's data: sample, nulls, density, distributions. Only the report reads it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from pipeline.config.dataset import Feedback
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall, StageName
from pipeline.publishing import item_tables
from pipeline.reporting import data_profile
from pipeline.reporting.data_profile import Counts, Values
from pipeline.storage import journal, lake
from pipeline.training.context import NotServable
from pipeline.training.normalizer import Normalizer

VERSION = 1
FILE = "profile.json"


def describe_data(run: Run, raw: Path, cleaned: Path, split_dir: Path) -> Path:
    """Write profile.json: the source (`raw`), the rows that are kept (`clean`), and the ratings of train as fitted.

    Keys: sample, columns, shapes.{raw,clean}, rows.{train,valid,test}, ratings.{raw,clean,fit}, activity and
    popularity, each of raw and clean; see `reporting.data_profile`. Logs how the filters changed the density.
    """
    feedback = run.settings.dataset.feedback

    def write(folder: Path) -> lake.StageResult:
        source, kept = (pl.read_parquet(at / "interactions.parquet") for at in (raw, cleaned))
        both = {"raw": source, "clean": kept}
        counts = {"raw": (of_source := Counts.of(source)), "clean": Counts.of(kept, of_source)}
        ratings = {name: Values.of(rows["rating"]) for name, rows in both.items()}
        described = {
            "dataset": run.dataset,
            "sample": data_profile.sample(source, item_tables.read_catalog(raw)),
            "columns": data_profile.columns(source, of_source),
            "shapes": {name: of.shape() for name, of in counts.items()},
            "rows": {name: _rows(split_dir / f"{name}.parquet") for name in ("train", "valid", "test")},
            "normalize": feedback.normalize,
            "ratings": {name: data_profile.distribution(of) for name, of in ratings.items()}
            | {"fit": data_profile.distribution(_scaled(split_dir / "train.parquet", feedback))},
            "activity": {name: data_profile.concentration(of.per_user) for name, of in counts.items()},
            "popularity": {name: data_profile.concentration(of.per_item) for name, of in counts.items()},
        }
        (folder / FILE).write_text(json.dumps(described, indent=1, ensure_ascii=False))
        return lake.StageResult(rows_in=source.height, info={"shapes": described["shapes"]})

    folder = lake.build(run, spec(run, raw, cleaned, split_dir), write)
    journal.update_run(run, profile=folder)
    before, after = lake.info(folder)["shapes"]["raw"], lake.info(folder)["shapes"]["clean"]
    if after["rows"] < before["rows"]:
        log.info(f"  of {in_words(before)}, {in_words(after)} take part")
    return folder


def spec(run: Run, raw: Path, cleaned: Path, split_dir: Path) -> lake.Spec:
    """Key of `describe_data`."""
    feedback = run.settings.dataset.feedback
    settings = {"normalize": feedback.normalize, "normalize_to": feedback.normalize_to}
    return lake.Spec(StageCall(StageName.PROFILE), "4_profile", VERSION, settings, parents=(raw, cleaned, split_dir))


def in_words(shape: dict) -> str:
    """`71,355 rows of 1,859 users and 2,823 items (density 1.36 %)`."""
    return "{rows:,} rows of {users:,} users and {items:,} items (density {percent:.3g} %)".format(
        **shape, percent=100 * shape["density"]
    )


def _scaled(train: Path, feedback: Feedback) -> Values:
    """Ratings of train on the scale that families learn on; none where they can't be normalised."""
    ratings = pl.read_parquet(train, columns=["rating"])["rating"].drop_nulls()
    whole = torch.from_numpy(ratings.to_numpy(writable=True)) if feedback.normalize != "none" else None  # (N,)
    try:
        normalizer = Normalizer.fit(feedback.normalize, whole, feedback.normalize_to)
    except NotServable:  # families that learn from ratings are then left out, with the reason
        return Values(np.empty(0), np.empty(0, dtype=np.int64))
    return Values.of(ratings).mapped(lambda values: normalizer.apply(torch.tensor(values)).numpy())


def _rows(path: Path) -> int:
    return pl.scan_parquet(path).select(pl.len()).collect().item()
