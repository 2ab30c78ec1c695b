"""Searches the hyperparameters of one model and keeps every trial."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.core import progress
from pipeline.core.console import log
from pipeline.core.errors import Skipped
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation import ranking_metrics
from pipeline.experiments import budget
from pipeline.experiments.families import family_of, rows_of, sized
from pipeline.experiments.recipe_checks import space_of
from pipeline.experiments.space import Choices, usual_point
from pipeline.experiments.stopping import STALLED_AFTER, Limits, Turn
from pipeline.experiments.study import Limit, Objective, Report, Search, Trial, best_of
from pipeline.experiments.trial import TrialObjective
from pipeline.experiments.trials_ahead import Ahead
from pipeline.models import registry
from pipeline.schemas import table, tables
from pipeline.selection.leaderboard import family_name
from pipeline.storage import journal, lake
from pipeline.training.context import ModelConfig
from pipeline.training.device import on_device, resolve_device, set_threads

VERSION = 1
LAYER = "5_searches"
USUAL_TRIALS, MOST_TRIALS = 20, 100


def search_model(
    run: Run,
    split_dir: Path,
    label: str,
    train_fit: Path | None = None,
    turn: Turn | None = None,
) -> Path:
    """Search as `[models.<label>.search]` and `[search]` say; the folder holds the trials, its info the best one.

    With a budget, `train_fit` is the fit with the configured hyperparameters, whose metric is not computed again, and
    `turn` is the part of the search that is carried out. The trials are also kept in a study next to the folder, which
    is identified by data, family, space, seed and device. A search that was killed, or gets more trials or minutes,
    continues from it. Raises Skipped when there is no metric to search by, or no time for a single trial.
    """
    settings = run.settings
    set_threads(settings.threads)
    wanted = spec(run, split_dir, label, train_fit, turn)
    title = wanted.call.title
    logger = TrialLogger(run, title)

    def write(folder: Path) -> lake.StageResult:
        space, config = space_of(settings, label), config_of_trials(settings, label, split_dir)
        limits = _limits(run, label, train_fit, turn)
        logger.begin(limits.trials)
        objective = Ahead(TrialObjective(run, split_dir, label, config, limits), trials_folder(run, split_dir, label))
        search = replace(
            _search(run, split_dir, label, objective, limits),
            known=_known_metric(train_fit, settings),
            on_trial=logger,
            seconds_before=objective.taken,
        )
        trials, ended = search.run()
        trials = trials[: limits.trials]  # the study may have more, of a night that wanted more
        if not trials:
            raise Skipped(f"no trial: {ended}")
        sign, best = logger.sign, best_of(trials)
        records = [
            {"number": t.number, "state": t.state, "value": None if t.value is None else sign * t.value,
             "epochs": t.epochs, "seconds": t.seconds, "params": json.dumps(t.params), "reason": t.reason}
            for t in trials
        ]  # fmt: skip
        table.rows(tables.TRIALS, records).write_parquet(folder / "trials.parquet")
        info = {
            "label": label, "family": family_name(settings, label), "ended": ended, "metric": logger.metric,
            "best": best and {"number": best.number, "params": best.params, "value": sign * (best.value or 0),
                              "figure": best.value},
            "better": best is not None and (best.params != usual_point(space, config) or _was_cut_short(train_fit)),
            "log": [name for name, of in space.items() if not isinstance(of, Choices) and of.log],
            "searched": list(space), "seconds": round(sum(t.seconds for t in trials), 3),
            "longest": round(max(t.seconds for t in trials), 3),
        }  # fmt: skip
        return lake.StageResult(rows_out=len(trials), info=info)

    folder = lake.build(run, wanted, write)
    shutil.rmtree(trials_folder(run, split_dir, label), ignore_errors=True)
    (log.info if turn is not None else partial(journal.note, run))(f"{title}: {summary_of(folder)}")
    return folder


def _search(run: Run, split_dir: Path, label: str, objective: Objective, limit: Limit) -> Search:
    settings, space = run.settings, space_of(run.settings, label)
    return Search(
        path=study_file(run, split_dir, label),
        space=space,
        objective=objective,
        limit=limit,
        sampler=settings.search.sampler,
        prune=settings.search.prune and settings.search.sampler != "grid",
        seed=settings.seed,
        first=usual_point(space, config_of_trials(settings, label, split_dir)),
    )


def trials_ahead(run: Run, split_dir: Path, label: str) -> list[tuple[Any, ...]]:
    """Calls of `trials_ahead.carry_out`, at most 100, for a search without a time limit that is not begun yet."""
    is_begun = study_file(run, split_dir, label).exists()
    if is_begun or run.settings.search.minutes or run.settings.budget.minutes:
        return []
    limits = _limits(run, label, None, None)
    search = _search(run, split_dir, label, _never, limits)
    config, into = config_of_trials(run.settings, label, split_dir), trials_folder(run, split_dir, label)
    points = search.independent(min(limits.trials or MOST_TRIALS, MOST_TRIALS))
    return [(run, split_dir, label, config, params, into) for params in points]


def _never(params: dict[str, Any], report: Report) -> float:
    raise AssertionError("no trial is carried out")


def trials_folder(run: Run, split_dir: Path, label: str) -> Path:
    """Where trials are that were carried out ahead. It goes after the search, or at the start of the next night."""
    return study_file(run, split_dir, label).with_name(f".scratch-{label}-{study_spec(run, split_dir, label).key}")


def spec(
    run: Run,
    split_dir: Path,
    label: str,
    train_fit: Path | None = None,
    turn: Turn | None = None,
) -> lake.Spec:
    """Key of `search_model`; with `turn`, the key of the next turn of this night."""
    search, study = run.settings.search, study_spec(run, split_dir, label)
    call, within = study.call, {"trials": search.trials, "minutes": search.minutes}
    if turn is not None:  # the result of a turn depends on the time that the night had, so it is not shared
        number = budget.Timings(run).turns(label) + 1
        call, within = replace(call, turn=number), {**within, "night": run.run_id, "turn": number}
    return replace(study, call=call, settings={**study.settings, **within}, head=label)


def study_file(run: Run, split_dir: Path, label: str) -> Path:
    """Where the study is kept."""
    return run.home.lake(run.dataset) / LAYER / f".study-{label}-{study_spec(run, split_dir, label).key}.jsonl"


def study_spec(run: Run, split_dir: Path, label: str) -> lake.Spec:
    """Key of the study: everything that its trials depend on, but not their number."""
    settings = run.settings
    family, finder = family_of(settings, label)[0], settings.models[label].finder
    config = config_of_trials(settings, label, split_dir)
    determines = {
        **registry.key_of(family, rows_of(split_dir), config),
        "config": config.model_dump(), "label": label,
        "space": {name: repr(of) for name, of in space_of(settings, label).items()},
        "sampler": settings.search.sampler,
        "prune": settings.search.prune, "seed": settings.seed, "select": settings.select.model_dump(),
        "feedback": _feedback_key(settings), "precision": settings.precision,
        "device": on_device(resolve_device(settings.device)),
        "finder": finder.model_dump() if finder and finder.use else None,
    }  # fmt: skip
    return lake.Spec(StageCall(StageName.SEARCH, label), LAYER, VERSION, determines, (split_dir,))


def _feedback_key(settings: Settings) -> dict[str, Any]:
    """The settings of feedback; `repeats`, which came later, only where it is set."""
    found = settings.dataset.feedback.model_dump(mode="json")
    return found if found["repeats"] else {name: value for name, value in found.items() if name != "repeats"}


def config_of_trials(settings: Settings, label: str, split_dir: Path) -> ModelConfig:
    """The configured hyperparameters, with the epochs of `[search]` if the family has epochs."""
    _, config = sized(settings, label, split_dir)
    if settings.search.epochs and "epochs" in type(config).model_fields:
        return config.model_copy(update={"epochs": settings.search.epochs})
    return config


class TrialLogger:
    """Logs every finished trial."""

    def __init__(self, run: Run, title: str):
        select = run.settings.select
        self.title, self.sign = title, ranking_metrics.sign_of(select.metric)
        self.metric = tables.metric_name(select.metric, select.recorded_cutoff)
        self.total: int | None = None

    def begin(self, total: int | None) -> None:
        """Report the start of the search; `total`: the largest number of trials, if there is a limit."""
        self.total = total
        progress.listener().advance("trial", 0, total)

    def __call__(self, trial: Trial) -> None:
        """Log one line for a trial."""
        value = None if trial.value is None else self.sign * trial.value
        metrics = {} if value is None else {self.metric: value}
        progress.listener().advance("trial", trial.number + 1, self.total, metrics)
        result = trial.state if value is None else f"{self.metric} {value:.4g}"
        result += " (pruned)" if trial.state == "pruned" else f" ({trial.reason})" if trial.reason else ""
        params = _params_text(trial.params)
        log.info(f"  {self.title}  trial {trial.number}: {result}, {params}, {trial.seconds:.1f} s")


def summary_of(folder: Path) -> str:
    """The result of a search as a sentence."""
    info, n_trials = lake.info(folder), lake.read_manifest(folder)["rows_out"]
    best, found = info["best"], "no trial has a metric, so the configured hyperparameters stay"
    if best:
        found = f"best {info['metric']} on valid {best['value']:.4g} with {_params_text(best['params'])}"
    return f"{found} ({n_trials} trials; ended by {info['ended']})"


def _limits(run: Run, label: str, train_fit: Path | None, turn: Turn | None) -> Limits:
    """The limits that `[search]` and `[budget]` set."""
    search, minutes = run.settings.search, run.settings.search.minutes
    usual = None if search.sampler == "grid" or turn is not None else MOST_TRIALS if minutes else USUAL_TRIALS
    limits = Limits(search.trials or usual, minutes and minutes * 60)
    if turn is not None:
        fit = lake.info(train_fit)["seconds"] if train_fit else 0.0
        limits.turn, limits.usual = turn.seconds, budget.trial(run, label, fit)
        end = limits.clock() + budget.spare(run, label, limits.usual, turn.kept)
        limits.spare, limits.afterwards = lambda: end - limits.clock(), budget.logging(run)
        if turn.until_stalled and search.sampler == "tpe":
            limits.patience = max(STALLED_AFTER, 5 * len(space_of(run.settings, label)))
    return limits


def _known_metric(train_fit: Path | None, settings: Settings) -> float | None:
    """Metric of the fit with the configured hyperparameters; None where trials are fitted with other epochs."""
    if train_fit is None or settings.search.epochs or _was_cut_short(train_fit):
        return None
    return lake.info(train_fit).get("valid")


def _was_cut_short(train_fit: Path | None) -> bool:
    """Whether the budget ended the fit: with all its epochs, the configured hyperparameters may be better."""
    return train_fit is not None and StageCall.parse(lake.read_manifest(train_fit)["stage"]).cut_short


def _params_text(params: dict) -> str:
    return ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in params.items())
