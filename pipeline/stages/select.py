"""Chooses the champion: the best on valid, the one place where models are chosen."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import journal, lake, metrics
from pipeline.contracts import Refused
from pipeline.run import Run

SIMPLE = ("target_variance", "rmse_mean", "rmse_bias")


def choose_champion(run: Run, measured: list[Path]) -> str:
    """Label with the best `select.metric` on valid (all users); ties go to the first in the recipe.

    With a single model there is nothing to choose. A model without the figure (no predicted ratings for `rmse`)
    is left out with a note. Raises Refused when no model could be fitted and measured, or none has the figure.
    The journal keeps all figures; of errors also the spread of the ratings and the simple predictors' (SIMPLE).
    """
    select = run.settings.select
    cutoff = 0 if select.protocol == "error" else select.cutoff
    if not measured:
        raise Refused("no model could be fitted, so there is nothing to publish")
    labels = [lake.info(folder)["label"] for folder in measured]
    if len(labels) == 1:
        return labels[0]
    figures = pl.concat([pl.read_parquet(folder / "metrics.parquet") for folder in measured])
    figures = figures.filter(split="valid", segment="all", protocol=select.protocol, cutoff=cutoff)
    beside = figures.filter(pl.col("metric").is_in(SIMPLE)).unique("metric", maintain_order=True)
    figures = figures.filter(metric=select.metric)
    values = dict(zip(figures["model"], figures["value"], strict=True))
    figure = f"{select.metric}@{cutoff} ({select.protocol})" if cutoff else select.metric
    eligible = [label for label in labels if not math.isnan(values.get(label, math.nan))]
    if not eligible:
        raise Refused(
            f"can't choose a champion: no model has {figure} on valid. Set split.valid above 0, evaluate that "
            "protocol and cutoff, name a family that has the figure, or name one model only."
        )
    for label in labels:
        if label not in eligible:
            journal.note(run, f"{label} can't be champion: it has no {figure} on valid")
    sign = 1 if metrics.higher_is_better(select.metric) else -1
    champion = max(eligible, key=lambda label: sign * values[label])
    verdict: dict[str, Any] = {
        "metric": f"{select.metric}@{cutoff}" if cutoff else select.metric,
        "split": "valid",
        "values": {label: values[label] for label in eligible},
    }
    if select.protocol == "error":
        verdict["beside"] = dict(zip(beside["metric"], beside["value"], strict=True))
    journal.update_run(run, champion=champion, choice=verdict)
    return champion
