"""Chooses the champion on valid, the one place where models are chosen: the best one, if the gate lets it pass."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.core.fault_injection import fault
from pipeline.evaluation import per_user, ranking_metrics
from pipeline.schemas.tables import metric_name
from pipeline.selection import gate
from pipeline.selection.comparison import activity_of
from pipeline.selection.incumbent import Contest
from pipeline.storage import journal, lake

NOBODY = Contest()
"""Nobody beside the recipe's models, and no incumbent."""
SIMPLE = ("target_variance", "rmse_mean", "rmse_bias")


def choose_champion(run: Run, measured: list[Path], split_dir: Path | None = None, contest: Contest = NOBODY) -> str:
    """Label with the best `select.metric` on valid (all users), unless the gate says otherwise (`gate.judge`).

    Ties go to the first in the recipe. A recipe's single model needs no figure; else a model without the figure (no
    predicted ratings for `rmse`) is left out with a note. Raises Refused when no model could be fitted and measured,
    or none has the figure. The journal keeps all figures, of errors also the spread of the ratings and the simple
    predictors' (SIMPLE), the gate's verdict, and the configuration that made the lists: the next night's incumbent.
    """
    fault("select:before_verdict")
    select = run.settings.select
    cutoff = select.recorded_cutoff
    if not measured:
        raise Refused("no model could be fitted, so there is nothing to publish")
    labels = [lake.info(folder)["label"] for folder in measured]
    own = [label for label in labels if label not in contest.added]
    figures = pl.concat([pl.read_parquet(folder / "metrics.parquet") for folder in measured])
    figures = figures.filter(split="valid", segment="all", protocol=select.protocol, cutoff=cutoff)
    simple = [name + "_scaled" * select.metric.endswith("_scaled") for name in SIMPLE]
    beside = figures.filter(pl.col("metric").is_in(simple)).unique("metric", maintain_order=True)
    figures = figures.filter(metric=select.metric)
    values = dict(zip(figures["model"], figures["value"], strict=True))
    name = metric_name(select.metric, cutoff)
    figure = f"{name} ({select.protocol})" if cutoff else name
    eligible = [label for label in labels if not math.isnan(values.get(label, math.nan))]
    if not eligible and len(own) == 1:
        return _settled(run, own[0], contest, {"decision": "unmeasured", "text": f"{own[0]} has no {figure} on valid"})
    if not eligible:
        raise Refused(
            f"can't choose a champion: no model has {figure} on valid. Set split.valid above 0, evaluate that "
            "protocol and cutoff, name a family that has the figure, or name one model only."
        )
    for label in labels:
        if label not in eligible:
            journal.note(run, f"{label} can't be champion: it has no {figure} on valid")
    choice: dict[str, Any] = {
        "metric": name,
        "split": "valid",
        "values": {label: values[label] for label in eligible},
    }
    if select.protocol == "error":
        choice["beside"] = dict(zip(beside["metric"], beside["value"], strict=True))
    journal.update_run(run, choice=choice)
    if not run.settings.gate.enabled or split_dir is None:
        sign = ranking_metrics.sign_of(select.metric)
        champion = max(eligible, key=lambda label: sign * values[label])
        return _settled(run, champion, contest, {"decision": "off", "text": f"off; {champion} is the best on valid"})
    by_user = {label: of for label, of in per_user.read(measured, "valid").items() if label in eligible}
    activity = activity_of(split_dir / "train.parquet")
    verdict = gate.judge(run.settings.gate, select, choice["values"], by_user, activity, contest, run.settings.seed)
    return _settled(run, verdict["published"], contest, verdict)


def _settled(run: Run, champion: str, contest: Contest, verdict: dict[str, Any]) -> str:
    """Journal and say what was decided."""
    made = contest.configurations.get(champion)
    configuration = {"champion_configuration": made.model_dump(mode="json")} if made else {}
    journal.update_run(run, champion=champion, gate={**verdict, "published": champion}, **configuration)
    journal.note(run, f"gate: {verdict['text']}")
    return champion
