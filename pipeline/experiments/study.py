"""Searches a space of hyperparameters, trial by trial. The study is a file, so a killed search goes on from it."""

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

SAME = 10
"""Trials in a row that propose what was tried before, or that fail from the start, after which a search ends."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

Report = Callable[[int, float], None]
Objective = Callable[[dict[str, Any], Report], float]
"""Hyperparameters to the figure, higher is better. Tells its figure at every epoch; raises Failed."""
Limit = Callable[[list["Trial"]], str | None]
"""Looks at the trials so far; why there must not be another one, or None."""


class Failed(Exception):
    """A trial has no figure, for the reason in the message; the search goes on."""


class Pruned(Exception):
    """Raised by `Report`: the trial is hopeless, its fit ends. Objectives let it pass."""


@dataclass(frozen=True)
class Trial:
    """A trial that ended. `value`: higher is better; of a pruned one, its last figure."""

    number: int
    params: dict[str, Any]
    state: str
    """complete, pruned or failed."""
    value: float | None
    epochs: int
    """That told a figure."""
    seconds: float
    reason: str | None = None
    """Why it failed, or whose figure it has."""


def search(
    path: Path,
    space: Space,
    objective: Objective,
    limit: Limit,
    sampler: str = "tpe",
    prune: bool = True,
    seed: int = 42,
    first: dict[str, Any] | None = None,
    known: float | None = None,
    told: Callable[[Trial], None] = lambda trial: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[Trial], str]:
    """Try until `limit` says stop, or nothing new is left; all trials of the study at `path`, and why it ended.

    `first` is tried before what the sampler proposes; `known` is its figure, where it is known. What trial n tries
    depends on the seed and the trials before it alone, so a search that was killed ends with the trials that it
    would have had undisturbed: a trial that the kill cut off is done again. Points tried before take their figure
    from there.
    """
    study = _opened(path, prune)
    grid = grid_of(space) if sampler == "grid" else None
    while True:
        done = trials_of(study)
        if ended := limit(done) or _nothing_new(done, grid):
            return done, ended
        tried = [trial.params for trial in done]
        point = next(p for p in grid if p not in tried) if grid is not None else None if done else first
        study.sampler = _sampler(sampler, seed_of(seed, "trial", len(done)), space, point)
        given = known if point is not None and point == first else None
        trial = study.ask({name: _distribution(of) for name, of in space.items()})
        params = {name: _decoded(of, trial.params[name]) for name, of in space.items()}
        _run(study, trial, params, done, objective, given, prune, clock)
        told(trials_of(study)[-1])


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    params: dict[str, Any],
    done: list[Trial],
    objective: Objective,
    known: float | None,
    prune: bool,
    clock: Callable[[], float],
) -> None:
    """One trial, from its hyperparameters to its end in the study."""

    def report(epoch: int, value: float) -> None:
        trial.report(value, epoch)
        if prune and trial.should_prune():
            raise Pruned

    started, value, state = clock(), None, TrialState.FAIL
    twin = next((t for t in done if t.params == params and t.state == "complete"), None)
    try:
        if known is not None:
            value, reason = known, "the fit with the configured hyperparameters"
        elif twin:
            value, reason = twin.value, f"as trial {twin.number}"
        else:
            value, reason = objective(params, report), None
        state = TrialState.COMPLETE
        if value is None or value != value:
            value, state, reason = None, TrialState.FAIL, "the figure is not a number"
    except Pruned:
        state, reason = TrialState.PRUNED, None
    except Failed as error:
        reason = str(error)
    trial.set_user_attr("ended", {"params": params, "seconds": round(clock() - started, 3), "reason": reason})
    study.tell(trial, value, state)


def trials_of(study: optuna.Study) -> list[Trial]:
    """The trials that ended; those that a kill cut off are left out."""
    return list(_ended(study))


def _ended(study: optuna.Study) -> Iterator[Trial]:
    whole = [t for t in study.get_trials(deepcopy=False, states=tuple(STATES)) if "ended" in t.user_attrs]
    for number, frozen in enumerate(whole):
        about, epochs = frozen.user_attrs["ended"], len(frozen.intermediate_values)
        state, value = STATES[frozen.state], frozen.value
        yield Trial(number, about["params"], state, value, epochs, about["seconds"], about["reason"])


def best_of(trials: list[Trial]) -> Trial | None:
    """The complete trial with the highest figure, the earliest of equals."""
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
    """The study at `path`; what a kill left half done there is put right, and what can't be read is set aside."""
    try:
        study = _study(path, prune)
        trials_of(study)
        return study
    except Exception as error:  # of optuna, which trusts its file
        aside = set_aside(path) if path.exists() else None
        if aside is None:
            raise
        log_once(f"{path} is damaged ({type(error).__name__}); it is set aside as {aside.name}")
        return _study(path, prune)


def _study(path: Path, prune: bool) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    for lock in path.parent.glob(f"{path.name}.lock*"):  # one process at a time: the data set is locked
        lock.unlink()
    with suppress(FileNotFoundError):
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:  # a torn last line would spoil the next one
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
    """Proposes `point`, where one is given."""
    random = optuna.samplers.RandomSampler(seed=seed % (1 << 32))
    if point is not None:
        fixed = {name: _encoded(space[name], value) for name, value in point.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(fixed, random)
    return optuna.samplers.TPESampler(seed=seed % (1 << 32), n_startup_trials=5) if name == "tpe" else random


def _distribution(of: Choices | Range) -> BaseDistribution:
    if isinstance(of, Choices):
        return CategoricalDistribution([json.dumps(value) for value in of.values])  # lists can be choices, too
    if of.whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log, step=int(of.step or 1))
    return FloatDistribution(of.low, of.high, log=of.log, step=of.step)


def _encoded(of: Choices | Range, value: Any) -> Any:
    if not isinstance(of, Choices):
        return value
    return json.dumps(next(v for v in of.values if v == value and isinstance(v, bool) == isinstance(value, bool)))


def _decoded(of: Choices | Range, value: Any) -> Any:
    return json.loads(value) if isinstance(of, Choices) else value
