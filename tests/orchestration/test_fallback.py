"""Prefect that is lost on the way: no stage is run twice or left out for it, and no family is blamed."""

import httpx
import pytest

from flows.orchestration.fallback import Reporting
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import journal

CLEAN = StageCall(StageName.CLEAN)
GONE = httpx.ConnectError("the server is gone")


class Prefect:
    """Runs stages as long as it lives; `dies` says when it is lost: before a stage, after it, or before its error."""

    def __init__(self, dies: str):
        self.dies, self.asked = dies, 0

    def __call__(self, call, stage, *args):
        self.asked += 1
        if self.dies == "before":
            raise GONE
        try:
            result = stage(*args)
        except Exception:
            if self.dies == "before its error":
                raise GONE from None
            raise
        if self.dies == "after":
            raise GONE
        return result


def counted(calls: list, error: Exception | None = None):
    def stage(*args):
        calls.append(args)
        if error:
            raise error
        return f"folder {len(calls)}"

    return stage


@pytest.mark.parametrize("dies", ["before", "after"])
def test_each_stage_runs_once_and_prefect_is_not_asked_again(run, capsys, dies):
    calls, prefect = [], Prefect(dies)
    step = Reporting(run, prefect)
    assert [step(CLEAN, counted(calls), n) for n in range(3)] == ["folder 1", "folder 2", "folder 3"]
    assert calls == [(0,), (1,), (2,)] and prefect.asked == 1 and step.lost
    assert journal.notes(run.home, run.dataset, run.run_id) == [
        "Prefect was lost on the way (the server is gone); the night goes on without it"
    ]


@pytest.mark.parametrize("dies", ["never", "before its error"])
def test_a_stage_s_own_error_is_what_is_raised(run, dies):
    step = Reporting(run, Prefect(dies))
    with pytest.raises(Refused, match="too few"):
        step(CLEAN, counted([], Refused("too few rows")))
    assert step.lost == (dies == "before its error")


def test_a_hung_stage_is_not_taken_for_a_lost_prefect(run):
    from prefect.task_engine import TaskRunTimeoutError

    def hung(call, stage, *args):
        raise TaskRunTimeoutError("Scope timed out after 3600 second(s).")

    step, calls = Reporting(run, hung), []
    with pytest.raises(TaskRunTimeoutError):
        step(CLEAN, counted(calls))
    assert not step.lost and calls == []


def test_a_refusal_that_did_not_reach_prefect_is_exit_3(tmp_path, monkeypatch, capsys):
    import flows.tasks
    from flows.cli import main
    from flows.prepare import prepare

    def dies(dataset, recipe, data, home, overrides, until, run_id):
        run = prepare(dataset, recipe, data, home, overrides, run_id)
        journal.open_run(run)
        journal.close_run(run, "refused", "too few rows")
        raise GONE

    monkeypatch.setattr(flows.tasks, "nightly", dies)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["--home", str(tmp_path), "run", "--until", "split"]) == 3
    output = capsys.readouterr().err
    assert "too few rows" in output and "going on without it" not in output
