"""The whole house: both UIs answer, a scheduled night runs through the API and shows itself, Ctrl-C leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.server]
CHECKOUT = Path(__file__).parent.parent
NIGHTRECS = [sys.executable, "-m", "flows.cli"]
START, RUN, STOP = 240, 400, 30  # seconds


def command(home: Path, *words: str) -> list[str]:
    return [*NIGHTRECS, "--home", str(home), *words]


@pytest.fixture
def house(tmp_path):
    """A running `up` with a scheduled night of the sample, on ports of its own."""
    subprocess.run(command(tmp_path, "schedule", "sample", "--cron", "0 3 * * *"), cwd=CHECKOUT, check=True)
    ports = ["--prefect-port", "14200", "--mlflow-port", "15000"]
    process = subprocess.Popen(command(tmp_path, "up", *ports), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    state, deadline = tmp_path / "warehouse" / "up.json", time.monotonic() + START
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    try:
        assert state.exists(), process.stderr and process.stderr.read()
        yield tmp_path, process, json.loads(state.read_text())["urls"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP)


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


def test_the_house_stands_works_and_falls(house):
    home, process, urls = house
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=20) as page:
            assert page.status == 200
    assert subprocess.run(command(home, "up", "--check"), cwd=CHECKOUT, check=False).returncode == 0
    assert subprocess.run(command(home, "up"), cwd=CHECKOUT, check=False).returncode == 3  # one is enough
    script = (
        "from prefect.deployments import run_deployment\n"
        "from prefect.client.orchestration import get_client\n"
        f"run = run_deployment('nightly/sample', timeout={RUN}, poll_interval=2)\n"
        "print(run.state.type.value)\n"
        "with get_client(sync_client=True) as client:\n"
        "    print(' '.join(a.key for a in client.read_artifacts()))\n"
    )
    environment = {**os.environ, "PREFECT_API_URL": f"{urls['Prefect']}/api", "PREFECT_HOME": str(home / ".prefect")}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    state, artifacts = ran.stdout.splitlines()[-2:]
    assert state == "COMPLETED"
    assert {"sample-leaderboard", "sample-ledger", "sample-night"} <= set(artifacts.split())
    assert (home / "warehouse" / "sample.duckdb").exists()
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP) == 0
    assert of_home(home) == []
    assert not (home / "warehouse" / "up.json").exists()
