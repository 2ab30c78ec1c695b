"""Measures a family: on valid, where models are chosen, and on test, which is reported once."""

from pathlib import Path

import polars as pl

from pipeline import journal, lake, measure, tables
from pipeline.device import resolve_device, set_threads
from pipeline.models.saving import load
from pipeline.normalize import Normalizer
from pipeline.run import Run

VERSION = 2


def measure_model(run: Run, parts: Path, label: str, chosen: Path, tested: Path) -> Path:
    """Metrics of `label`: of the fit on train (`chosen`) on valid, of `tested` on test."""
    settings = run.settings
    spec = lake.Spec(
        stage=f"evaluate {label}",
        layer="6_metrics",
        version=VERSION,
        settings={
            **settings.evaluation.model_dump(), "seed": settings.seed,
            "feedback": settings.dataset.feedback.kind, "errors": settings.select.protocol == "error",
        },
        parents=(parts, chosen, tested),
        head=label,
    )  # fmt: skip

    def write(folder: Path) -> lake.Report:
        set_threads(settings.threads)
        device = resolve_device(settings.device)
        data = measure.load_parts(parts, device)
        records: measure.Records = []
        for split, folder_of, fit in (("valid", chosen, "train"), ("test", tested, lake.info(tested)["fit"])):
            model, normalizer = load(folder_of, device), Normalizer.load(folder_of)
            records += measure.measure(model, label, data, split, fit, settings, normalizer)
        metrics = pl.DataFrame(records, schema=tables.METRICS.without("run_id").schema, orient="row")
        tables.METRICS.without("run_id").check(metrics).write_parquet(folder / "metrics.parquet")
        return lake.Report(rows_out=metrics.height, info={"label": label})

    folder = lake.build(run, spec, write)
    journal.append(run, tables.METRICS, pl.read_parquet(folder / "metrics.parquet").to_dicts())
    return folder
