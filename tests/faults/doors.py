"""Who may use the servers of `nightrecs up`, and how many of them a home has."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flows.orchestration import deployments
from flows.orchestration.deployments import headers_of
from pipeline.core.paths import Home
from pipeline.storage.secret_files import secret_at

from .ground import DATASET, Ground, rows
from .house import CHECKOUT, EVIL, House, asked, house, started, wait_for
from .table import row

PORTS = 14_700, 15_700
PATIENCE = 180
"""Seconds, on a busy machine."""
PREFLIGHT = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
READS = ("/deployments/filter", "/flow_runs/filter", "/flows/filter", "/artifacts/filter", "/logs/filter")
FOREIGN: tuple[dict[str, Any], ...] = (
    {"overrides": ["gate.enabled=false"]},
    {"home": "/tmp/elsewhere"},
    {"dataset": "sample", "data": "/etc"},
)
"""What a run of a scheduled night must not bring along; test_scheduled.py has many more."""


def closed_to_pages(one: House, deployment: str) -> int:
    """No page of another origin, and no request by another name, gets data or changes any; how many were tried."""
    api, mlflow = one.api.url, one.urls["MLflow"]
    others = (EVIL, "null", "http://127.0.0.1:9", one.urls["MLflow"])
    names = ("evil.example", "127.0.0.1.evil.example", "evil.example:4200")
    tried = 0
    for headers in [{"Origin": origin} for origin in others] + [{"Host_": name} for name in names] + [{}]:
        for path in READS:
            answer = asked(f"{api}{path}", "POST", {}, **headers)
            assert answer.status in (401, 403) and not answer.readable, (path, headers, answer)
        for path in (
            f"/deployments/{deployment}",
            deployments.path_of(DATASET),
            "/csrf-token?client=x",
            "/admin/settings",
        ):
            answer = asked(f"{api}{path}", **headers)
            assert answer.status == 401 and not answer.readable, (path, headers, answer)
        for made in ({}, {"parameters": {"overrides": ["gate.enabled=false"]}}):
            answer = asked(f"{api}/deployments/{deployment}/create_flow_run", "POST", made, **headers)
            assert answer.status in (401, 403) and not answer.readable, (headers, answer)
        plain = asked(
            f"{api}/deployments/{deployment}/create_flow_run", "POST", {}, Content_Type="text/plain", **headers
        )
        assert plain.status in (401, 403) and not plain.readable, (headers, plain)
        tried += len(READS) + 7
    for origin in others:
        answer = asked(f"{api}/deployments/filter", "OPTIONS", Origin=origin, **PREFLIGHT)
        assert answer.status == 400 and not answer.readable, answer
    own = asked(f"{api}/deployments/filter", "OPTIONS", Origin=one.urls["Prefect"], **PREFLIGHT)
    assert own.status == 200 and own.headers["access-control-allow-origin"] == one.urls["Prefect"], own
    experiments, some = f"{mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 5}
    login = headers_of(secret_at(one.home.mlflow_auth))  # the browser of the owner sends it by itself
    for headers in [{"Origin": EVIL}, {"Origin": "null"}, *({"Host_": name} for name in names)]:
        answer = asked(experiments, "POST", some, **headers, **login)
        assert answer.status == 403 and not answer.readable and "experiment_id" not in answer.text, (headers, answer)
        create = asked(f"{mlflow}/api/2.0/mlflow/experiments/create", "POST", {"name": "evil"}, **headers, **login)
        assert create.status == 403, create
    reading = asked(f"{experiments}?max_results=5", Origin=EVIL, **login)
    assert not reading.readable, reading
    assert asked(experiments, "POST", some, Origin=mlflow, **login).status == 200
    assert asked(experiments, "POST", some, Origin=mlflow).status == 401
    return tried + len(others) + 12


@row(31, "a foreign page, and foreign parameters, while `up` runs", "no data, no night but the recorded one")
def foreign_page(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    words = ["--cron", "0 3 1 1 *", "--recipe", str(root / "recipe.toml"), "--data", str(ground.source)]
    words += ["--set", "threads=1"]
    scheduled(ground, *words)
    ground.night()
    live = ground.promise()
    with house(ground.home.root, *PORTS) as one:
        deployment = one.api.ask(deployments.path_of(DATASET))["id"]
        tried = closed_to_pages(one, deployment)
        everywhere = one.output + "".join(log.read_text(errors="replace") for log in logs(ground.home))
        assert one.api.auth and one.api.auth not in everywhere, "the auth string stands in a log"
        assert one.api.auth not in command_lines(), "the auth string stands in a command line"
        ended = started(one, deployment, *FOREIGN)
        for parameters, run in zip(FOREIGN, ended, strict=True):
            assert run["state_type"] in ("NOT CREATED", "FAILED", "CRASHED"), (parameters, run["state_type"])
        assert ground.promise() == live and ground.run_ids() == [live], "a foreign run began a night"
        (own,) = started(one, deployment, {"overrides": ["seed=7"]})
        assert own["state_type"] == "COMPLETED", own["state"]
        assert ground.promise() == ground.run_ids()[-1] != live
    return (
        f"{tried} requests by pages and names that are foreign: 401 or 403, none readable; {len(FOREIGN)} runs of the "
        "owner with other parameters began no night; the recorded one ran"
    )


@row(
    32, "two `up` of one home a second apart; kill -9 of one", "the second exits 3 and says why; the next one comes up"
)
def two_houses(root: Path) -> str:
    (root / "home").mkdir()
    both = [House(root / "home", *PORTS, "first.log")]
    try:
        time.sleep(1)
        both.append(House(root / "home", *PORTS, "second.log"))
        began = time.monotonic()
        assert wait_for(lambda: any(one.process.poll() is not None for one in both), PATIENCE), "both came up"
        seconds = time.monotonic() - began
        late, first = sorted(both, key=lambda one: one.process.poll() is None)
        assert late.process.returncode == 3 and "of this home is starting (process" in late.output, late.output
        first.stands()
        third = House(root / "home", *PORTS, "third.log")
        assert third.process.wait(PATIENCE) == 3 and "it is up already, as process" in third.output, third.output
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(PATIENCE)
        with house(root / "home", *PORTS) as again:
            check = nightrecs(again.home, "up", "--check")
            assert check.returncode == 0, check.stdout + check.stderr
        assert nightrecs(again.home, "up", "--check").returncode == 3
    finally:
        for one in both:
            one.fall()
    return f"the second exited 3 after {seconds:.0f} s and named the one that is starting; after kill -9 the next one came up"


def scheduled(ground: Ground, *words: str) -> None:
    """Record the night of a ground."""
    done = nightrecs(ground.home, "schedule", str(ground.root / "tiny.toml"), *words)
    assert done.returncode == 0, done.stderr


def nightrecs(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.cli", "--home", str(home.root), *words]
    return subprocess.run(command, cwd=CHECKOUT, env=clean, capture_output=True, text=True, timeout=120, check=False)


def logs(home: Home) -> list[Path]:
    """Of the servers."""
    return sorted((home.warehouse / "logs").iterdir())


def command_lines() -> str:
    """Of all processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)
