"""Chooses the champion by its metric on valid: the best model, if the gate lets it pass."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.core.fault_injection import fault
from pipeline.evaluation import per_user, ranking_metrics
from pipeline.schemas.tables import metric_name
from pipeline.selection import challenge, fit_cost, gate, list_changes
from pipeline.selection.comparison import PairedComparison, ValidationResults, activity_of
from pipeline.selection.gate import Verdict
from pipeline.selection.incumbent import Contest
from pipeline.selection.list_changes import ListChanges, Refits
from pipeline.storage import journal, lake

RECIPE_ONLY = Contest()
"""The recipe's models alone, without incumbent and baseline."""
SIMPLE_PREDICTORS = ("target_variance", "rmse_mean", "rmse_bias")


def to_refit(run: Run, evaluated: list[Path], split_dir: Path, contest: Contest) -> list[str]:
    """The incumbent and the challengers of equal quality, for a gate that compares their lists.

    Empty where there is no incumbent or no such challenger.
    """
    settings = run.settings.gate
    metrics, _ = _selecting(run, evaluated)
    incumbent, values = contest.incumbent, {label: v for label, v in metrics.items() if not math.isnan(v)}
    if not settings.enabled or incumbent is None or incumbent not in values:
        return []
    results = _results(evaluated, split_dir, values)
    challengers = gate.challengers_of(gate.best_first(run.settings.select, results), contest)
    paired = PairedComparison(settings, run.settings.select.metric, results, run.settings.seed)
    equal = challenge.equals(paired, challengers, incumbent)
    return [incumbent, *equal] if equal else []


def choose_champion(
    run: Run,
    evaluated: list[Path],
    split_dir: Path | None = None,
    contest: Contest = RECIPE_ONLY,
    refits: Refits | None = None,
) -> str:
    """Return the label with the best `select.metric` on valid (all users), unless the gate decides otherwise.

    Ties go to the first model in the recipe. The only model of a recipe needs no metric; with several, a model without
    the metric (no predicted ratings for `rmse`) is left out with a note. Raises Refused when no model could be fitted
    and evaluated, or none has the metric. The journal keeps all values, for errors also the spread of the ratings and
    the errors of SIMPLE_PREDICTORS, the gate's verdict, and the configuration that is published: the incumbent of the
    next night. `refits`: of the models of `to_refit`.
    """
    fault("select:before_verdict")
    select = run.settings.select
    cutoff = select.recorded_cutoff
    if not evaluated:
        raise Refused("no model could be fitted, so there is nothing to publish")
    labels = [lake.info(folder)["label"] for folder in evaluated]
    own = [label for label in labels if label not in contest.added]
    values, metrics = _selecting(run, evaluated)
    name = metric_name(select.metric, cutoff)
    with_protocol = f"{name} ({select.protocol})" if cutoff else name
    eligible = [label for label in labels if not math.isnan(values.get(label, math.nan))]
    if not eligible and len(own) == 1:
        verdict = Verdict("unmeasured", own[0], f"{own[0]} has no {with_protocol} on valid")
        return _journaled(run, contest, verdict)
    if not eligible:
        raise Refused(
            f"can't choose a champion: no model has {with_protocol} on valid. Set split.valid above 0, evaluate that "
            "protocol and cutoff, name a family that has the metric, or name one model only."
        )
    for label in labels:
        if label not in eligible:
            journal.note(run, f"{label} can't be champion: it has no {with_protocol} on valid")
    values = {label: values[label] for label in eligible}
    choice: dict[str, Any] = {"metric": name, "split": "valid", "values": values}
    if select.protocol == "error":
        choice["beside"] = _errors_of_simple_predictors(metrics, select.metric)
    journal.update_run(run, choice=choice)
    if not run.settings.gate.enabled or split_dir is None:
        sign = ranking_metrics.sign_of(select.metric)
        best = max(eligible, key=lambda label: sign * values[label])
        return _journaled(run, contest, Verdict("off", best, f"off; {best} is the best on valid"))
    changes = _changes(run, contest, refits) if refits else {}
    results = _results(evaluated, split_dir, values, changes)
    return _journaled(run, contest, gate.judge(run.settings.gate, select, results, contest, run.settings.seed))


def _selecting(run: Run, evaluated: list[Path]) -> tuple[dict[str, float], pl.DataFrame]:
    """The selecting metric on valid by label, and all metrics of its protocol and cutoff."""
    select = run.settings.select
    metrics = pl.concat([pl.read_parquet(folder / "metrics.parquet") for folder in evaluated])
    metrics = metrics.filter(
        split="valid", segment="all", protocol=select.protocol, cutoff=select.recorded_cutoff
    )  # fmt: skip
    selecting = metrics.filter(metric=select.metric)
    return dict(zip(selecting["model"], selecting["value"], strict=True)), metrics


def _results(
    evaluated: list[Path], split_dir: Path, values: dict[str, float], changes: ListChanges | None = None
) -> ValidationResults:
    """What the gate compares, of the labels in `values`."""
    by_user = {label: of for label, of in per_user.read(evaluated, "valid").items() if label in values}
    activity = activity_of(split_dir / "train.parquet")
    return ValidationResults(values, by_user, activity, fit_cost.by_label(evaluated), changes or {})


def _changes(run: Run, contest: Contest, refits: Refits) -> ListChanges:
    """How models would change the published lists; a note says so."""
    with journal.stage(run, "select"):
        changes = list_changes.measure(run, contest.live, refits)
    name = gate.LabelNames(contest)
    of = [f"{name(label)} {of_users.mean():.3g}" for label, of_users in changes.items()]
    count = len(next(iter(changes.values()), []))
    text = f"list changes of {count:,} users (1 - Jaccard with the published lists): {', '.join(of)}"
    journal.note(run, text if changes else "list changes: no published list can be compared")
    return changes


def _errors_of_simple_predictors(metrics: pl.DataFrame, selecting: str) -> dict[str, float]:
    """Values by name, on the scale of the selecting metric."""
    names = [name + "_scaled" * selecting.endswith("_scaled") for name in SIMPLE_PREDICTORS]
    found = metrics.filter(pl.col("metric").is_in(names)).unique("metric", maintain_order=True)
    return dict(zip(found["metric"], found["value"], strict=True))


def _journaled(run: Run, contest: Contest, verdict: Verdict) -> str:
    """Journal the verdict and return the champion's label."""
    champion = verdict.published
    published = contest.configurations.get(champion)
    configuration = {"champion_configuration": published.model_dump(mode="json")} if published else {}
    journal.update_run(run, champion=champion, gate=verdict.record(), **configuration)
    journal.note(run, f"gate: {verdict.text}")
    return champion
