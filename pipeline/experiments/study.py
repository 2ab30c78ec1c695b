"""Searches a space of hyperparameters. The study is kept in a file, so that a killed search resumes from it."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pipeline.core.console import log_once
from pipeline.core.filesystem import set_aside
from pipeline.core.seeding import seed_of
from pipeline.experiments.space import Choices, Range, Space, grid_of

optuna.logging.set_verbosity(optuna.logging.ERROR)

STARTUP = 5
"""Trials of `tpe` with a metric that are drawn at random before it learns from them."""
SAME = 10
"""A search ends after this many trials in a row that repeat earlier ones, or that fail from the start."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

Report = Callable[[int, float], None]
"""Takes epoch and metric; raises Pruned."""
Objective = Callable[[dict[str, Any], Report], float]
"""Maps hyperparameters to the metric, higher is better. Calls its Report after every epoch; raises Failed."""
Limit = Callable[[list["Trial"]], str | None]
"""Returns, given the finished trials, why there must not be another one, or None."""


class Failed(Exception):
    """The trial has no metric, for the reason in the message; the search continues."""


class Pruned(Exception):
    """Raised by `Report` to end a fit that is not promising. Objectives must not catch it."""


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    number: int
    params: dict[str, Any]
    state: str
    """complete, pruned or failed."""
    value: float | None
    """The metric, higher is better; for a pruned trial the last one reported."""
    epochs: int
    """Number of epochs that reported a metric."""
    seconds: float
    reason: str | None = None
    """Why it failed, or where its metric is taken from."""


@dataclass(frozen=True)
class Search:
    """A search for the hyperparameters with the best metric.

    What trial n tries depends only on the seed and on the trials before it. A search that was killed therefore ends
    with the same trials as an undisturbed one: a trial that was interrupted is repeated. Hyperparameters that were
    tried before get the metric of the earlier trial.
    """

    path: Path
    """File of the study."""
    space: Space
    objective: Objective
    limit: Limit
    sampler: str = "tpe"
    prune: bool = True
    seed: int = 42
    first: dict[str, Any] | None = None
    """Hyperparameters to try before those that the sampler proposes."""
    known: float | None = None
    """Metric of `first`, where it is known already."""
    on_trial: Callable[[Trial], None] = lambda trial: None
    """Called after each trial."""
    clock: Callable[[], float] = time.monotonic
    seconds_before: Callable[[], float] = lambda: 0.0
    """Seconds that the last trial took ahead of the search."""

    def run(self) -> tuple[list[Trial], str]:
        """Run trials until `limit` says stop or nothing new is left; all trials of the study, and why it ended."""
        study = _opened(self.path, self.prune)
        grid = grid_of(self.space) if self.sampler == "grid" else None
        while True:
            done = trials_of(study)
            if ended := self.limit(done) or _nothing_new(done, grid):
                return done, ended
            trial, point = self._ask(study, [trial.params for trial in done], grid)
            known = self.known if point is not None and point == self.first else None
            self._run_trial(study, trial, done, known)
            self.on_trial(trials_of(study)[-1])

    def _ask(
        self, study: optuna.Study, tried: list[dict[str, Any]], grid: list[dict[str, Any]] | None
    ) -> tuple[optuna.Trial, dict[str, Any] | None]:
        """The next trial after those that were tried, and its point if that is not for the sampler to say."""
        point = next(p for p in grid if p not in tried) if grid is not None else None if tried else self.first
        study.sampler = _sampler(self.sampler, seed_of(self.seed, "trial", len(tried)), self.space, point)
        return study.ask({name: _distribution(of) for name, of in self.space.items()}), point

    def independent(self, most: int) -> list[dict[str, Any]]:
        """Hyperparameters of the first trials, at most so many, that no metric of another trial decides; no two equal.

        All of a grid and of random ones; of `tpe` those before it has metrics to learn from.
        """
        grid = grid_of(self.space) if self.sampler == "grid" else None
        most = min(most, len(grid) if grid is not None else STARTUP if self.sampler == "tpe" else most)
        study, tried = optuna.create_study(), []
        while len(tried) < most:
            trial, _ = self._ask(study, tried, grid)
            tried.append(self._params(trial))
            study.tell(trial, 0.0)
        return [params for number, params in enumerate(tried) if params not in tried[:number]]

    def _params(self, trial: optuna.Trial) -> dict[str, Any]:
        return {name: _decoded(of, trial.params[name]) for name, of in self.space.items()}

    def _run_trial(self, study: optuna.Study, trial: optuna.Trial, done: list[Trial], known: float | None) -> None:
        """Run one trial and record its result in the study."""

        def report(epoch: int, value: float) -> None:
            trial.report(value, epoch)
            if self.prune and trial.should_prune():
                raise Pruned

        params = self._params(trial)
        started, value, state = self.clock(), None, TrialState.FAIL
        twin = next((t for t in done if t.params == params and t.state == "complete"), None)
        try:
            if known is not None:
                value, reason = known, "the fit with the configured hyperparameters"
            elif twin:
                value, reason = twin.value, f"as trial {twin.number}"
            else:
                value, reason = self.objective(params, report), None
            state = TrialState.COMPLETE
            if value is None or value != value:
                value, state, reason = None, TrialState.FAIL, "the metric is not a number"
        except Pruned:
            state, reason = TrialState.PRUNED, None
        except Failed as error:
            reason = str(error)
        seconds = self.clock() - started + self.seconds_before()
        ended = {"params": params, "seconds": round(seconds, 3), "reason": reason}
        trial.set_user_attr("ended", ended)
        study.tell(trial, value, state)


def trials_of(study: optuna.Study) -> list[Trial]:
    """The finished trials; trials that were interrupted are left out."""
    return list(_ended(study))


def _ended(study: optuna.Study) -> Iterator[Trial]:
    whole = [t for t in study.get_trials(deepcopy=False, states=tuple(STATES)) if "ended" in t.user_attrs]
    for number, frozen in enumerate(whole):
        about, epochs = frozen.user_attrs["ended"], len(frozen.intermediate_values)
        state, value = STATES[frozen.state], frozen.value
        yield Trial(number, about["params"], state, value, epochs, about["seconds"], about["reason"])


def best_of(trials: list[Trial]) -> Trial | None:
    """The complete trial with the highest metric; of equals, the earliest."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def _nothing_new(done: list[Trial], grid: list[dict[str, Any]] | None) -> str | None:
    if grid is not None:
        tried = [trial.params for trial in done]
        return None if any(point not in tried for point in grid) else "every point of the grid was tried"
    if len(done) >= SAME and all(t.reason and t.reason.startswith("as trial") for t in done[-SAME:]):
        return "nothing new was proposed"
    failed = len(done) >= SAME and len({t.reason for t in done}) == 1 and all(t.state == "failed" for t in done)
    return f"every trial fails: {done[0].reason}" if failed else None


def _opened(path: Path, prune: bool) -> optuna.Study:
    """Open or create the study at `path`. A file that was cut off is repaired; an unreadable one is set aside."""
    try:
        study = _study(path, prune)
        trials_of(study)
        return study
    except Exception as error:  # optuna does not validate its file
        aside = set_aside(path) if path.exists() else None
        if aside is None:
            raise
        log_once(f"{path} is damaged ({type(error).__name__}); it is set aside as {aside.name}")
        return _study(path, prune)


def _study(path: Path, prune: bool) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    for lock in path.parent.glob(f"{path.name}.lock*"):  # stale: the lock of the data set admits one process
        lock.unlink()
    with suppress(FileNotFoundError):
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:  # a partial last line would corrupt the next one
            path.write_bytes(whole[0] + whole[1])
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="search",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
        if prune
        else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _sampler(name: str, seed: int, space: Space, point: dict[str, Any] | None) -> optuna.samplers.BaseSampler:
    """The sampler of the next trial; it proposes `point`, if given."""
    random = optuna.samplers.RandomSampler(seed=seed % (1 << 32))
    if point is not None:
        fixed = {name: _encoded(space[name], value) for name, value in point.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(fixed, random)
    return optuna.samplers.TPESampler(seed=seed % (1 << 32), n_startup_trials=STARTUP) if name == "tpe" else random


def _distribution(of: Choices | Range) -> BaseDistribution:
    if isinstance(of, Choices):
        return CategoricalDistribution([json.dumps(value) for value in of.values])  # choices can be lists
    if of.whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log, step=int(of.step or 1))
    return FloatDistribution(of.low, of.high, log=of.log, step=of.step)


def _encoded(of: Choices | Range, value: Any) -> Any:
    if not isinstance(of, Choices):
        return value
    return json.dumps(next(v for v in of.values if v == value and isinstance(v, bool) == isinstance(value, bool)))


def _decoded(of: Choices | Range, value: Any) -> Any:
    return json.loads(value) if isinstance(of, Choices) else value
