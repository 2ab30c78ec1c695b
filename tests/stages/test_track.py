"""When the parts of a night are logged to MLflow: with a budget, publishing does not wait for plots."""

import datetime as dt
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.reporting.plots import night as night_plots
from pipeline.reporting.plots import worker
from pipeline.stages import track
from pipeline.storage import journal

START = dt.datetime(2026, 1, 1)
PLOTS = "log_plots of {None: 'parent', 'ease': 'child'}"


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The calls of the module that imports mlflow, in order."""
    done: list[str] = []
    client = SimpleNamespace(
        prepare=lambda *_: done.append("prepare"),
        log_night=lambda run: (done.append("log_night"), ("parent", {None: "parent", "ease": "child"}))[1],
        log_plots=lambda run, runs, drawer: done.append(f"log_plots of {runs}"),
        end_night=lambda *_: done.append("end_night"),
    )
    monkeypatch.setattr(track, "_tracking", lambda: client)
    monkeypatch.setattr(track, "_catch_up", lambda run: None)
    monkeypatch.setattr(worker, "Drawer", lambda: nullcontext(SimpleNamespace(ask=lambda sources: None)))
    monkeypatch.setattr(night_plots, "of_night", lambda record, metric: [])
    return done


def opened(tmp_path, *overrides: str) -> Run:
    settings, _ = loader.load_settings("sample", "best", list(overrides), environ={})
    run = Run(
        run_id="20260101T000000.000Z-aaaa", home_root=tmp_path, data=tmp_path, settings=settings, started_at=START
    )
    journal.open_run(run)
    return run


def log(run: Run) -> None:
    track.log_night(run, run.data, run.data, run.data, [], [], "ease")


def test_with_a_budget_plots_are_logged_when_the_night_ends(tmp_path, calls, caplog):
    run = opened(tmp_path)
    track.prepare(run)
    log(run)
    assert calls == ["prepare", "log_night"]
    track.end_night(run, "published")
    track.end_night(run, "published")
    assert calls[2:] == [PLOTS, "end_night", "end_night"]  # plots once
    assert [line.split()[0] for line in caplog.messages if "plots" in line] == ["plots:", "plots"]  # begin and end


def test_without_a_budget_plots_are_logged_with_the_night(tmp_path, calls):
    run = opened(tmp_path)
    settings = run.settings.model_copy(update={"budget": run.settings.budget.model_copy(update={"minutes": None})})
    run = run.model_copy(update={"settings": settings})
    log(run)
    assert calls == ["log_night", PLOTS]
    track.end_night(run, "published")
    assert calls[2:] == ["end_night"]


def test_a_night_that_fails_to_open_mlflow_goes_on(tmp_path, calls, monkeypatch):
    def gone():
        raise ConnectionError("MLflow is gone")

    monkeypatch.setattr(track, "_tracking", gone)
    run = opened(tmp_path)
    track.prepare(run)
    assert any("MLflow is gone" in note for note in journal.notes(run.home, run.dataset, run.run_id))
