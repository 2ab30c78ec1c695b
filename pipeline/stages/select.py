"""Chooses the champion: the best on valid, the one place where models are chosen."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline import journal, lake, metrics
from pipeline.contracts import Refused
from pipeline.run import Run


def choose_champion(run: Run, measured: list[Path]) -> str:
    """Label with the best `select.metric` on valid (all users); ties go to the first in the recipe.

    With a single model there is nothing to choose. Raises Refused when no model could be fitted and measured.
    """
    select = run.settings.select
    cutoff = 0 if select.protocol == "error" else select.cutoff
    if not measured:
        raise Refused("no model could be fitted, so there is nothing to publish")
    labels = [lake.info(folder)["label"] for folder in measured]
    if len(labels) == 1:
        return labels[0]
    figures = pl.concat([pl.read_parquet(folder / "metrics.parquet") for folder in measured])
    figures = figures.filter(
        (pl.col("split") == "valid") & (pl.col("segment") == "all") & (pl.col("metric") == select.metric)
        & (pl.col("protocol") == select.protocol) & (pl.col("cutoff") == cutoff)
    )  # fmt: skip
    values = dict(zip(figures["model"], figures["value"], strict=True))
    if missing := [label for label in labels if label not in values]:
        raise Refused(
            f"can't choose a champion: no {select.metric}@{select.cutoff} ({select.protocol}) on valid for "
            f"{', '.join(missing)}. Set split.valid above 0, evaluate that protocol and cutoff, or name one model only."
        )
    sign = 1 if metrics.higher_is_better(select.metric) else -1
    champion = max(labels, key=lambda label: sign * values[label])
    verdict: dict[str, Any] = {
        "metric": f"{select.metric}@{select.cutoff}",
        "split": "valid",
        "values": values,
    }
    journal.update_run(run, champion=champion, choice=verdict)
    return champion
