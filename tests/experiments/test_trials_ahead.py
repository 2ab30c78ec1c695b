"""Trials that are carried out ahead change nothing: the study is that of one trial after another."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pipeline.core import spread
from pipeline.experiments import trials_ahead
from pipeline.experiments.space import Choices, Range
from pipeline.experiments.stopping import Limits
from pipeline.experiments.study import Failed, Search, Trial
from pipeline.experiments.trials_ahead import Ahead
from pipeline.models.registry import MODELS
from tests.support.engines import Elsewhere
from tests.support.tastes import one_night, write_log

SPACE = {"x": Range(low=0.0, high=1.0, step=0.125), "kind": Choices(("a", "b", [3, 4]))}
CONFIG = MODELS["ease"].Config()
SEARCHED = """[models.mf]
epochs = 4
embedding_dim = 4
[models.mf.search]
learning_rate = { low = 1e-4, high = 0.1, log = true }
l2 = [0.0, 0.01]
[search]
trials = 7
"""


def bowl(params: dict[str, Any], report: Any) -> float:
    """Some trials fail, one after it has reported; some are pruned; the metric of one is not a number."""
    value = -((params["x"] - 0.3) ** 2) - 0.1 * (params["kind"] != "b") + 1 / 3
    if params["x"] == 1.0:
        raise Failed("planted")
    for epoch in range(1, 6):
        report(epoch, value * epoch)
    if params["x"] == 0.875:
        raise Failed("late")
    return float("nan") if params["x"] == 0.75 else value


def printed(trials: list[Trial]) -> list[tuple]:
    return [(t.number, json.dumps(t.params), t.state, t.value, t.epochs, t.reason) for t in trials]


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize(("sampler", "asked"), [("grid", 0), ("random", 0), ("tpe", None)])
@pytest.mark.parametrize("seed", range(2))
def test_the_study_is_that_of_one_trial_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, asked: int | None, prune: bool, seed: int
):
    first = None if sampler == "grid" else {"x": 0.5, "kind": "a"}
    alone = Search(tmp_path / "alone", SPACE, bowl, Limits(14), sampler, prune, seed, first).run()
    monkeypatch.setattr(trials_ahead, "TrialObjective", lambda *_: bowl)
    monkeypatch.setattr(trials_ahead, "set_threads", lambda threads: None)
    run: Any = SimpleNamespace(settings=SimpleNamespace(threads=1))
    called: list[dict] = []
    objective = Ahead(lambda params, report: (called.append(params), bowl(params, report))[1], tmp_path / "ahead")
    search = Search(tmp_path / "study", SPACE, objective, Limits(14), sampler, prune, seed, first)
    ahead = search.independent(14)
    for params in ahead:
        trials_ahead.carry_out(run, tmp_path, "ease", CONFIG, params, tmp_path / "ahead")
    for file in (tmp_path / "ahead").iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 100.0}))
    there = replace(search, seconds_before=objective.taken).run()
    assert printed(there[0]) == printed(alone[0]) and there[1] == alone[1]
    for trial in there[0]:
        is_twin = (trial.reason or "").startswith("as trial")
        assert (trial.seconds >= 100) == (trial.params in ahead and not is_twin)
    if asked is None:
        assert 2 <= len(ahead) <= 5 and not any(params in ahead for params in called)
    else:
        assert called == [] and len(ahead) >= 8


def test_a_damaged_file_is_not_there(tmp_path: Path):
    search = Search(tmp_path / "study", SPACE, bowl, Limits(3), "random")
    objective = Ahead(bowl, tmp_path)
    params = search.independent(1)[0]
    trials_ahead._file_of(tmp_path, params).write_text('{"params"')
    value = bowl(params, lambda *_: None)
    assert objective(params, lambda *_: None) == value and objective.seconds == 0.0


def test_a_night_searches_as_without_an_engine(tmp_path: Path):
    found, engine = [], Elsewhere()
    for name, own in (("here", spread.Engine()), ("there", engine)):
        write_log(tmp_path / name / "data", n_users=60)
        with spread.using(own):
            run = one_night(tmp_path / name, SEARCHED, until="evaluate")
        (trials,) = run.home.lake(run.dataset).glob("5_searches/mf-*/trials.parquet")
        frame = pl.read_parquet(trials)
        assert frame["seconds"].min() > 0.001  # type: ignore[operator]
        (fit,) = run.home.lake(run.dataset).glob("5_models/mf-*")
        found.append((frame.drop("seconds").rows(), fit.name, trials.parent.name))
        assert not list(run.home.lake(run.dataset).rglob(".scratch-*"))
    assert found[0] == found[1] and len(found[0][0]) == 7
    assert engine.records.keys() == {*(f"mf trial {number}" for number in range(5)), "mf"}
