"""The night under Prefect: the same line, tasks with names, artifacts; and without a Prefect that answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from flows.cli.run import answers
from pipeline.core.errors import Refused
from pipeline.core.paths import CHECKOUT
from tests.support.nights import CHEAP
from tests.support.published_nights import without_mlflow


def nightrecs(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env={**clean, **environ}, capture_output=True, text=True, timeout=400)


@pytest.mark.server
def test_a_night_under_prefect(tmp_path, monkeypatch):
    """One temporary server for all: task names, tags, states and artifacts, as the UI shows them."""
    for name, value in {
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        from flows.tasks import nightly

        assert nightly(home=str(tmp_path / "home"), overrides=["models.mf.epochs=2"]) == "published"
        with get_client(sync_client=True) as client:
            runs = {run.name: run for run in client.read_task_runs()}
            artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
            flow = client.read_flow_runs()[0]
            with pytest.raises(Refused):
                nightly(home=str(tmp_path / "other"), overrides=["checks.max_age_days=0.001"])
            refused = next(run.state for run in client.read_flow_runs() if "refused" in run.tags)
            assert client.read_concurrency_limit_by_tag("gpu").concurrency_limit == 1
            check_stale_flow_runs(client, tmp_path / "home")
    assert flow.name.startswith("sample 2") and flow.state_name == "Completed"
    assert flow.state.message.startswith("The lists were made by ") and {"published", "sample"} <= set(flow.tags)
    assert {
        "ingest",
        "clean",
        "encode",
        "split",
        "train ease",
        "evaluate ease",
        "export",
        "audit",
        "publish",
    } <= set(runs)
    assert all(run.state_name == "Completed" for run in runs.values())
    assert {"sample", "model"} <= set(runs["train mf"].tags)
    assert set(artifacts) == {"sample-gate", "sample-leaderboard", "sample-ledger", "sample-night"}
    assert "sample.duckdb" in artifacts["sample-night"].data
    assert refused.type.value == "FAILED" and refused.message.startswith("the source is not fit for a night: ")
    assert "Traceback" not in refused.message


def check_stale_flow_runs(client, root: Path) -> None:
    """The flow run of a night that a reboot killed ends at the next start; those of nights that run do not."""
    from prefect import flow
    from prefect.states import Running

    from flows.orchestration.stale_flow_runs import end_flow_runs
    from flows.prepare import prepare
    from pipeline.storage import journal

    run = prepare(home=str(root))
    (night,) = (journal.read_run(run.home, "sample", i) for i in journal.run_ids(run.home, "sample"))
    assert client.read_flow_run(night["flow_run_id"]).state_name == "Completed"
    killed, runs = (str(client.create_flow_run(flow(lambda: None, name="n"), state=Running()).id) for _ in range(2))
    for number, flow_run_id in enumerate((killed, runs)):
        run_id = f"2999010{number + 1}T000000.000Z-dead"
        journal.open_run(run.model_copy(update={"run_id": run_id, "flow_run_id": flow_run_id}))
    journal._update(run.home.journal("sample") / "29990101T000000.000Z-dead", {"outcome": "crashed"})
    own = run.model_copy(update={"run_id": run.run_id, "flow_run_id": night["flow_run_id"]})
    assert end_flow_runs(own) == ["29990101T000000.000Z-dead"] and end_flow_runs(own) == []
    assert client.read_flow_run(killed).state_name == "Crashed"
    assert client.read_flow_run(runs).state_name == "Running"


@pytest.mark.server
def test_the_temporary_server_answers_nobody_else(tmp_path):
    from tests.faults.house import EVIL, asked, wait_for

    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
    words = [sys.executable, "-m", "flows.cli", "--home", str(tmp_path), "run", "--until", "split"]
    with (tmp_path / "log").open("w") as log:
        night = subprocess.Popen(words, cwd=CHECKOUT, env=clean, stderr=log)
    try:
        api = wait_for(lambda: temporary_api(night.pid) or (night.poll() is not None), 120)
        assert isinstance(api, str), (tmp_path / "log").read_text()
        assert wait_for(lambda: answers(api), 120), (tmp_path / "log").read_text()
        for headers in ({}, {"Origin": EVIL}, {"Host_": "evil.example"}):
            read = asked(f"{api}/admin/version", **headers)
            assert read.status == 401 and not read.readable, read
            made = asked(f"{api}/flow_runs/filter", "POST", {}, **headers)
            assert made.status in (401, 403) and not made.readable, made
        assert night.wait(300) == 0
    finally:
        night.kill()
        night.wait()
    output = (tmp_path / "log").read_text()
    assert "stopped: --until split" in output and "running without it" not in output, output
    assert not (tmp_path / ".prefect" / "api-auth.txt").exists(), "its string is for one time"


def temporary_api(parent: int) -> str | None:
    """The API of Prefect's temporary server that a process has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if is_child and "prefect.server.api.server:create_app" in words:
            return f"http://127.0.0.1:{words[words.index('--port') + 1]}/api"
    return None


def test_an_api_that_does_not_answer_does_not_stop_the_night(tmp_path):
    done = nightrecs("--home", str(tmp_path), "run", "--until", "split", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 0, done.stderr
    assert "does not answer); running without it" in done.stderr
    assert "stopped: --until split" in done.stderr


@pytest.mark.server
def test_prefect_lost_in_mid_night_is_gone_on_without(tmp_path, monkeypatch, capsys):
    import httpx

    import flows.tasks
    from flows.prepare import prepare
    from pipeline.storage import journal

    def dies(dataset, recipe, data, home, overrides, until, run_id):
        run = prepare(dataset, recipe, data, home, overrides, run_id)
        journal.open_run(run)
        journal.close_run(run, "crashed", "ConnectError")
        raise httpx.ConnectError("the server is gone")

    monkeypatch.setattr(flows.tasks, "nightly", dies)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["--home", str(tmp_path), "run", "--until", "split", "--json"]) == 0
    output = capsys.readouterr()
    assert "Prefect was lost on the way" in output.err and "going on without it as night" in output.err
    assert '"outcome": "stopped"' in output.out


def test_run_without_prefect_prints_the_sql_to_try(tmp_path, monkeypatch, capsys):
    without_mlflow(monkeypatch)
    (tmp_path / "cheap.toml").write_text(CHEAP)
    home = ["--home", str(tmp_path / "home")]
    assert main([*home, "run", "--recipe", str(tmp_path / "cheap.toml"), "--no-prefect"]) == 0
    query = next(line for line in capsys.readouterr().err.splitlines() if " sql sample " in line).split('"')[1]
    assert main([*home, "sql", "sample", query]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21


def test_an_unwritable_home_is_exit_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--home", str(tmp_path / "file"), "run", "--no-prefect"]) == 2
    error = capsys.readouterr().err
    assert "--home" in error and "Traceback" not in error


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["--debug", "--home", str(tmp_path), "recommend", "sample", "x"]) == 2
    assert "Traceback" in capsys.readouterr().err
