"""The whole house: both UIs answer, a scheduled night runs by itself and shows itself, Ctrl-C leaves nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli.up import links
from flows.orchestration import deployments
from flows.orchestration.api_access import auth_of, file_of
from flows.orchestration.deployments import Api, headers_of
from pipeline.core.paths import CHECKOUT, Home
from pipeline.storage import journal
from pipeline.storage.running_servers import running_up
from pipeline.storage.secret_files import secret_at
from tests.faults.doors import closed_to_pages
from tests.faults.house import heed_ctrl_c, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.server]
NIGHTRECS = [sys.executable, "-m", "flows.cli"]
START, RUN, STOP = 240, 400, 40  # seconds
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PREFECT, MLFLOW = 14210, 15010


def command(home: Path, *words: str) -> list[str]:
    return [*NIGHTRECS, "--home", str(home), *words]


def called(home: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(home, *words), cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)


def started(home: Path) -> tuple[subprocess.Popen, dict[str, str]]:
    """A running `up`, and where its UIs are."""
    ports = ["--prefect-port", str(PREFECT), "--mlflow-port", str(MLFLOW)]
    output = (home / "up.log").open("w")
    process = subprocess.Popen(command(home, "up", *ports), cwd=CHECKOUT, stderr=output, preexec_fn=heed_ctrl_c)
    at = Home(home)
    wait_for(lambda: running_up(at) or process.poll() is not None, START)
    found = running_up(at)
    assert found, (home / "up.log").read_text()
    return process, found["urls"]


def api_of(home: Path, urls: dict[str, str]) -> Api:
    """Prefect's, as the owner of the home asks it."""
    return Api(f"{urls['Prefect']}/api", auth_of(Home(home)))


def asking(home: Path, url: str) -> urllib.request.Request:
    """A request with MLflow's login, which Prefect's pages ignore."""
    return urllib.request.Request(url, headers=headers_of(secret_at(Home(home).mlflow_auth)))


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
        with urllib.request.urlopen(asking(home, url), timeout=20) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
    check = called(home, "up", "--check", "--json")
    printed = json.loads(check.stdout)
    assert (
        check.returncode == 0 and printed["answers"] == {"Prefect": True, "MLflow": True} and printed["next"]["sample"]
    )
    assert "answers" in called(home, "up", "--check").stdout
    again = called(home, "up")
    assert again.returncode == 3 and "it is up already" in again.stderr
    output = (home / "up.log").read_text()
    assert str(file_of(Home(home))) in output and auth_of(Home(home)) not in output
    login = Home(home).mlflow_auth
    assert str(login) in output and secret_at(login) not in output and secret_at(login).partition(":")[2] not in output
    assert f"{urls['MLflow']}/#/experiments?workflowType=machine_learning" in output


def a_night_runs_by_itself(home: Path, urls: dict[str, str]) -> None:
    """Nobody triggers it: the schedule does, within a minute."""
    api, at = api_of(home, urls), Home(home)
    ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    assert wait_for(lambda: api.ask("/flow_runs/filter", ended), RUN), (home / "up.log").read_text()
    (run, *_) = api.ask("/flow_runs/filter", ended)
    night = journal.run_ids(at, "sample")[0]
    assert run["state_type"] == "COMPLETED" and run["auto_scheduled"] and run["name"].startswith("sample 2")
    assert {"nightrecs", "sample", "published"} <= set(run["tags"])
    assert run["state"]["message"].startswith("The lists were made by ")
    of_run = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    artifacts = {a["key"]: a for a in api.ask("/artifacts/filter", of_run)}
    assert set(artifacts) == {f"sample-{name}" for name in ("leaderboard", "gate", "ledger", "night")}
    record = journal.read_run(at, "sample", night)
    page = artifacts["sample-night"]["data"]
    login = secret_at(at.mlflow_auth)
    assert links(urls["MLflow"], login) == [
        f"{urls['MLflow']}/#/experiments/1/runs?workflowType=machine_learning  sample"
    ]
    assert f"{urls['MLflow']}/#/experiments/1/runs/{record['mlflow_run_id']}" in page and str(at.live("sample")) in page
    got = Api(urls["MLflow"], login).ask(f"/api/2.0/mlflow/runs/get?run_id={record['mlflow_run_id']}")
    tags = {tag["key"]: tag["value"] for tag in got["run"]["data"]["tags"]}
    assert f"{urls['Prefect']}/runs/flow-run/{run['id']}" in tags["mlflow.note.content"]
    kept = f"{urls['MLflow']}/get-artifact?path=report.html&run_uuid={record['mlflow_run_id']}"
    with urllib.request.urlopen(asking(home, kept), timeout=20) as report:
        assert b"<html" in report.read().lower()
    logs = api.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    printed = [entry["message"] for entry in logs]
    assert any(line.startswith("ingest") and " rows" in line for line in printed)
    assert "Finished in state Completed()" not in printed, "every stage has a line of its own that says more"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A home in which `up` runs, and where its UIs are."""
    home = tmp_path_factory.mktemp("house")
    assert called(home, "schedule", "sample", "--cron", "0 3 * * *").returncode == 0
    process, urls = started(home)
    try:
        yield home, urls
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(STOP)
    assert code == 0


def test_what_is_no_longer_scheduled_is_forgotten_and_runs_that_were_asked_for_stay(house):
    home, urls = house
    api = api_of(home, urls)
    assert "03:00 UTC" in called(home, "up", "--check").stdout
    known = api.ask(deployments.path_of("sample"))
    own = {
        "flow_id": known["flow_id"],
        "tags": ["nightrecs"],
        "parameters": {"home": str(home), "schedule": "x"},
    }
    held = api.ask("/deployments/", {**own, "name": "held"})  # nobody serves it, so nothing starts
    api.ask("/deployments/", {**own, "name": "gone"})
    api.ask("/deployments/", {**own, "name": "old", "parameters": {"home": str(home), "dataset": "sample"}})
    api.ask("/deployments/", {**own, "name": "foreign", "parameters": {"home": "/elsewhere"}})
    for hours in (50, 26, 2, -22):
        at = {"type": "SCHEDULED", "state_details": {"scheduled_time": in_hours(-hours)}}
        api.ask(f"/deployments/{held['id']}/create_flow_run", {"state": at})
    printed = deployments.tidy(Home(home), api, {"sample", "held", "old"})
    waiting = "3 runs that were asked for in addition to the schedule of held waited; they start now"
    assert sorted(printed) == [
        waiting,
        "gone is no longer scheduled",
        "old is registered again: an earlier version had done it",
    ]
    assert {d["name"] for d in api.ask("/deployments/filter", {})} == {"sample", "held", "foreign"}
    of_held = {"deployments": {"name": {"any_": ["held"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs = api.ask("/flow_runs/filter", of_held)
    assert [(run["state_type"], run["auto_scheduled"]) for run in runs] == [("SCHEDULED", False)] * 4
    assert deployments.tidy(Home(home), api, {"sample", "held", "old"}) == [waiting]
    with pytest.raises(RuntimeError, match="none would run"):
        deployments.plan(api, "gone")


def test_other_pages_and_names_get_nothing(house):
    home, urls = house
    api = api_of(home, urls)
    deployment = api.ask(deployments.path_of("sample"))["id"]
    before = api.ask("/flow_runs/count", {})
    assert closed_to_pages(SimpleNamespace(api=api, urls=urls, home=Home(home)), deployment) > 100
    assert api.ask("/flow_runs/count", {}) == before
    assert "answers" in called(home, "up", "--check").stdout


def test_run_reports_to_the_up_of_its_home(house):
    """With the string of the home, which the user doesn't have to name."""
    home, urls = house
    api = api_of(home, urls)
    before = api.ask("/flow_runs/count", {})
    words = command(home, "run", "sample", "--until", "split")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PREFECT_API_URL": api.url}
    done = subprocess.run(words, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=RUN, check=False)
    assert done.returncode == 0 and "running without it" not in done.stderr, done.stderr
    assert api.ask("/flow_runs/count", {}) == before + 1
    wrong = {**environ, "PREFECT_API_AUTH_STRING": "nightrecs:not-the-one"}
    done = subprocess.run(words, cwd=CHECKOUT, env=wrong, capture_output=True, text=True, timeout=RUN, check=False)
    assert done.returncode == 0 and "running without it" in done.stderr and "401" in done.stderr, done.stderr
    assert "not-the-one" not in done.stderr and api.ask("/flow_runs/count", {}) == before + 1


TRY = """async ({url, method, body, mode, headers}) => {
    try {
        const answer = await fetch(url, {method, body, mode, headers});
        return {status: answer.status, text: await answer.text()};
    } catch (error) {
        return {status: -1, text: String(error)};
    }
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser_a_page_of_another_origin_gets_nothing(house):
    sync_api = pytest.importorskip("playwright.sync_api")
    home, urls = house
    api = api_of(home, urls)
    deployment = api.ask(deployments.path_of("sample"))["id"]
    before = api.ask("/flow_runs/count", {})
    start = f"{api.url}/deployments/{deployment}/create_flow_run"
    search = f"{urls['MLflow']}/api/2.0/mlflow/experiments/search"
    wanted = json.dumps({"parameters": {"overrides": ["gate.enabled=false"]}})
    asked = (
        {"url": f"{api.url}/deployments/filter", "method": "POST", "body": "{}"},
        {"url": start, "method": "POST", "body": wanted, "headers": {"content-type": "application/json"}},
        {"url": start, "method": "POST", "body": wanted, "mode": "no-cors"},
        {"url": f"{urls['Prefect']}/ui-settings", "method": "GET"},
        {"url": f"{search}?max_results=9", "method": "GET"},
        {"url": search, "method": "POST", "body": '{"max_results": 9}'},
        {"url": f"{urls['MLflow']}/graphql", "method": "POST", "body": "{}", "mode": "no-cors"},
    )
    with page_server() as port, sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            login = {"username": "me", "password": secret_at(Home(home).mlflow_auth)}  # as the owner has logged in
            tab = browser.new_context(http_credentials=login).new_page()
            for origin in (f"http://evil.example:{port}", f"http://127.0.0.1:{port}"):
                tab.goto(origin)
                for request in asked:
                    answer = tab.evaluate(TRY, request)
                    opaque = request.get("mode") == "no-cors" and answer == {"status": 0, "text": ""}
                    assert answer["status"] == -1 or opaque, (origin, request, answer)
            rebound = {name: url.replace("127.0.0.1", "evil.example") for name, url in urls.items()}
            tab.goto(f"{rebound['Prefect']}/ui-settings")
            for path, codes in (
                ("/api/deployments/filter", (401, 403)),
                (f"/api{start.removeprefix(api.url)}", (401, 403)),
            ):
                answer = tab.evaluate(TRY, {"url": path, "method": "POST", "body": "{}"})
                assert answer["status"] in codes, (path, answer)
            answer = tab.goto(f"{rebound['MLflow']}/api/2.0/mlflow/experiments/search?max_results=9")
            assert answer and answer.status == 403
            show_themselves_to_their_owner(tab, home, urls)
        finally:
            browser.close()
    assert api.ask("/flow_runs/count", {}) == before


def show_themselves_to_their_owner(tab, home: Path, urls: dict[str, str]) -> None:
    """The other side: the login takes the string of the file, and then the UI shows what is scheduled."""
    tab.goto(f"{urls['Prefect']}/v2/deployments")
    tab.fill("input[type=password]", auth_of(Home(home)), timeout=60_000)
    tab.keyboard.press("Enter")
    tab.get_by_text("sample").first.wait_for(timeout=60_000)
    for url in (urls["MLflow"], urls["MLflow"].replace("127.0.0.1", "localhost")):
        tab.goto(f"{url}/#/experiments?workflowType=machine_learning")
        tab.get_by_text("Experiments").first.wait_for(timeout=60_000)
        answer = tab.evaluate(TRY, {"url": "/ajax-api/2.0/mlflow/experiments/search?max_results=9", "method": "GET"})
        assert answer["status"] == 200, answer


@contextmanager
def page_server():
    """The port of a server of empty pages."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>a page</title>")

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def in_hours(hours: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600 * hours))
