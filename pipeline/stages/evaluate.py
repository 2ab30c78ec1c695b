"""Measures a family: on valid, where models are chosen, and on test, which is reported once."""

from pathlib import Path

import polars as pl

from pipeline import journal, lake, measure, tables
from pipeline.device import resolve_device, set_threads
from pipeline.models.saving import load
from pipeline.run import Run

VERSION = 1


def measure_model(run: Run, parts: Path, label: str, chosen: Path, tested: Path) -> Path:
    """Metrics of `label`: of the fit on train (`chosen`) on valid, of `tested` on test."""
    settings = run.settings
    spec = lake.Spec(
        stage=f"evaluate {label}",
        layer="6_metrics",
        version=VERSION,
        settings={**settings.evaluation.model_dump(), "seed": settings.seed},
        parents=(parts, chosen, tested),
        head=label,
    )

    def write(folder: Path) -> lake.Report:
        set_threads(settings.threads)
        device = resolve_device(settings.device)
        data = measure.load_parts(parts, device)
        records = measure.measure(load(chosen, device), label, data, "valid", "train", settings)
        records += measure.measure(
            load(tested, device), label, data, "test", lake.info(tested)["fit"], settings
        )
        metrics = pl.DataFrame(records, schema=tables.METRICS.without("run_id").schema, orient="row")
        tables.METRICS.without("run_id").check(metrics).write_parquet(folder / "metrics.parquet")
        return lake.Report(rows_out=metrics.height, info={"label": label})

    folder = lake.build(run, spec, write)
    journal.append(run, tables.METRICS, pl.read_parquet(folder / "metrics.parquet").to_dicts())
    return folder
