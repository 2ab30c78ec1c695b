"""What a Prefect server knows of a home's scheduled nights. Plain HTTP: importing Prefect takes seconds."""

import datetime as dt
import json
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pipeline.paths import Home

OURS = {"deployments": {"tags": {"all_": ["nightrecs"]}}}
MISSED = "due while nothing was up; of the nights that were missed only the newest runs"


def address(api: str, name: str) -> str:
    """Where the API says what it knows of a night; 404 until it is served."""
    return f"{api}/deployments/name/nightly/{quote(name)}"


def tidy(home: Home, api: str, names: Iterable[str]) -> list[str]:
    """Forget nights of this home that are no longer scheduled, and of those missed keep the newest; what was done."""
    told, now = [], dt.datetime.now(dt.UTC)
    for night in ask(f"{api}/deployments/filter", OURS):
        if night["parameters"].get("home") != str(home.root):
            continue
        if night["name"] not in names:
            ask(f"{api}/deployments/{night['id']}", method="DELETE")
            told.append(f"{night['name']} is no longer scheduled")
            continue
        missed = [run for run in due(api, night["id"]) if dt.datetime.fromisoformat(run["expected_start_time"]) < now]
        for run in missed[:-1]:
            state = {"type": "CANCELLED", "name": "Missed", "message": MISSED}
            ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        if len(missed) > 1:
            told.append(f"{len(missed)} nights of {night['name']} were missed; one of them runs now")
    return told


def plan(api: str, name: str) -> str:
    """Have the server list a night's next runs now, which it else does within a minute; returns when it is due.

    RuntimeError where the server can't: then no night would ever run, without a word.
    """
    try:
        ask(f"{api}/deployments/{ask(address(api, name))['id']}/schedule", {})
        if at := next_night(api, name):
            return at
        why = "it lists none"
    except OSError as error:
        why = str(error)
    raise RuntimeError(f"Prefect's server can't plan the nights of {name} ({why}): none would run; see prefect.log")


def next_night(api: str, name: str) -> str | None:
    """When a night is due by the server's own list, ISO 8601 UTC; None where it has none."""
    found = due(api, ask(address(api, name))["id"])
    return found[0]["expected_start_time"] if found else None


def due(api: str, deployment_id: str) -> list[dict[str, Any]]:
    """Scheduled runs of a night, the earliest first."""
    wanted = {
        "deployments": {"id": {"any_": [deployment_id]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    return ask(f"{api}/flow_runs/filter", wanted)


def ask(address: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """The answer as JSON; OSError where there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read()
    return json.loads(text) if text else None
