"""The whole house: both UIs answer, a scheduled night runs by itself and shows itself, Ctrl-C leaves nothing."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows import deployed
from pipeline import journal
from pipeline.paths import Home

pytestmark = [pytest.mark.slow, pytest.mark.server]
CHECKOUT = Path(__file__).parent.parent
NIGHTRECS = [sys.executable, "-m", "flows.cli"]
START, RUN, STOP = 240, 400, 40  # seconds
PREFECT, MLFLOW = 14210, 15010


def command(home: Path, *words: str) -> list[str]:
    return [*NIGHTRECS, "--home", str(home), *words]


def called(home: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(home, *words), cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)


def started(home: Path) -> tuple[subprocess.Popen, dict[str, str]]:
    """A running `up`, and where its UIs are."""
    ports = ["--prefect-port", str(PREFECT), "--mlflow-port", str(MLFLOW)]
    said = (home / "up.log").open("w")
    process = subprocess.Popen(command(home, "up", *ports), cwd=CHECKOUT, stderr=said, preexec_fn=heed_ctrl_c)
    state = home / "warehouse" / "up.json"
    wait_for(lambda: state.exists() or process.poll() is not None, START)
    assert state.exists(), (home / "up.log").read_text()
    return process, json.loads(state.read_text())["urls"]


def heed_ctrl_c() -> None:
    """Whoever runs the tests in the background may have it ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(what, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.5)
    return False


def of_home(home: Path) -> list[str]:
    """Command lines of the processes that have the home in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"NIGHTRECS_HOME={home}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_house_stands_works_and_falls(tmp_path):
    nothing = called(tmp_path, "up", "--check", "--json")
    assert nothing.returncode == 3 and json.loads(nothing.stdout)["up"] is False
    assert called(tmp_path, "schedule", "sample", "--cron", "* * * * *").returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", PREFECT))
        taken.listen()
        process, urls = started(tmp_path)
        try:
            assert urls == {"Prefect": f"http://127.0.0.1:{PREFECT + 1}", "MLflow": f"http://127.0.0.1:{MLFLOW}"}
            look_around(tmp_path, urls)
            a_night_runs_by_itself(tmp_path, urls)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(STOP)
    assert code == 0, (tmp_path / "up.log").read_text()
    assert of_home(tmp_path) == []
    assert is_free(PREFECT + 1) and is_free(MLFLOW)
    assert not (tmp_path / "warehouse" / "up.json").exists()
    assert called(tmp_path, "up", "--check").returncode == 3


def look_around(home: Path, urls: dict[str, str]) -> None:
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=20) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
    check = called(home, "up", "--check", "--json")
    told = json.loads(check.stdout)
    assert check.returncode == 0 and told["answers"] == {"Prefect": True, "MLflow": True} and told["next"]["sample"]
    assert "answers" in called(home, "up", "--check").stdout
    again = called(home, "up")
    assert again.returncode == 3 and "it is up already" in again.stderr


def a_night_runs_by_itself(home: Path, urls: dict[str, str]) -> None:
    """Nobody triggers it: the schedule does, within a minute."""
    api, at = f"{urls['Prefect']}/api", Home(home)
    ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    assert wait_for(lambda: deployed.ask(f"{api}/flow_runs/filter", ended), RUN), (home / "up.log").read_text()
    (run, *_) = deployed.ask(f"{api}/flow_runs/filter", ended)
    night = journal.run_ids(at, "sample")[0]
    assert run["state_type"] == "COMPLETED" and run["auto_scheduled"] and run["name"].startswith("sample 2")
    assert {"nightrecs", "sample", "published"} <= set(run["tags"])
    assert run["state"]["message"].startswith("The lists are made by ")
    of_run = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    artifacts = {a["key"]: a for a in deployed.ask(f"{api}/artifacts/filter", of_run)}
    assert set(artifacts) == {f"sample-{name}" for name in ("leaderboard", "gate", "ledger", "night")}
    record = journal.read_run(at, "sample", night)
    page = artifacts["sample-night"]["data"]
    assert f"{urls['MLflow']}/#/experiments/1/runs/{record['mlflow_run_id']}" in page and str(at.live("sample")) in page
    got = f"{urls['MLflow']}/api/2.0/mlflow/runs/get?run_id={record['mlflow_run_id']}"
    tags = {tag["key"]: tag["value"] for tag in deployed.ask(got)["run"]["data"]["tags"]}
    assert f"{urls['Prefect']}/runs/flow-run/{run['id']}" in tags["mlflow.note.content"]
    kept = f"{urls['MLflow']}/get-artifact?path=report.html&run_uuid={record['mlflow_run_id']}"
    with urllib.request.urlopen(kept, timeout=20) as report:
        assert b"<html" in report.read().lower()
    logs = deployed.ask(f"{api}/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    told = [entry["message"] for entry in logs]
    assert any(line.startswith("ingest") and " rows" in line for line in told)
    assert "Finished in state Completed()" not in told, "every stage has a line of its own that says more"


def test_what_is_no_longer_scheduled_is_forgotten_and_missed_nights_run_once(tmp_path):
    assert called(tmp_path, "schedule", "sample", "--cron", "0 3 * * *").returncode == 0
    process, urls = started(tmp_path)
    api = f"{urls['Prefect']}/api"
    try:
        assert "03:00 UTC" in called(tmp_path, "up", "--check").stdout
        known = deployed.ask(deployed.address(api, "sample"))
        own = {"flow_id": known["flow_id"], "tags": ["nightrecs"], "parameters": {"home": str(tmp_path)}}
        held = deployed.ask(f"{api}/deployments/", {**own, "name": "held"})  # nobody serves it, so nothing starts
        deployed.ask(f"{api}/deployments/", {**own, "name": "gone"})
        deployed.ask(f"{api}/deployments/", {**own, "name": "foreign", "parameters": {"home": "/elsewhere"}})
        for hours in (50, 26, 2, -22):
            at = {"type": "SCHEDULED", "state_details": {"scheduled_time": in_hours(-hours)}}
            deployed.ask(f"{api}/deployments/{held['id']}/create_flow_run", {"state": at})
        told = deployed.tidy(Home(tmp_path), api, {"sample", "held"})
        assert sorted(told) == ["3 nights of held were missed; one of them runs now", "gone is no longer scheduled"]
        assert {d["name"] for d in deployed.ask(f"{api}/deployments/filter", {})} == {"sample", "held", "foreign"}
        of_held = {"deployments": {"name": {"any_": ["held"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = deployed.ask(f"{api}/flow_runs/filter", of_held)
        assert [run["state_type"] for run in runs] == ["CANCELLED", "CANCELLED", "SCHEDULED", "SCHEDULED"]
        assert runs[0]["state"]["message"] == deployed.MISSED
        assert deployed.tidy(Home(tmp_path), api, {"sample", "held"}) == []
        with pytest.raises(RuntimeError, match="none would run"):
            deployed.plan(api, "gone")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP) == 0


def in_hours(hours: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600 * hours))
