"""Deployments of scheduled nights on a Prefect server. Plain HTTP, since importing Prefect takes seconds."""

import base64
import datetime as dt
import json
import secrets
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from pipeline.core.paths import Home

OURS = {"deployments": {"tags": {"all_": ["nightrecs"]}}}
MISSED = "due while nothing was up; of the nights that were missed only the newest runs"
SECONDS = 10
NO_CSRF = 422
"""Status with which a server without CSRF protection answers a request for a token."""
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener without proxies: the server is on this machine, and a proxy would see the auth string."""


@dataclass(frozen=True)
class Api:
    """A Prefect API and its auth string."""

    url: str
    auth: str | None = field(default=None, repr=False)

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """The JSON answer to a request; OSError if there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers_of(self.auth), method=method)
        request.add_header("Content-Type", "application/json")
        if request.get_method() != "GET":
            for name, value in self._csrf().items():
                request.add_header(name, value)
        with _DIRECTLY.open(request, timeout=SECONDS) as response:
            text = response.read()
        return json.loads(text) if text else None

    def _csrf(self) -> dict[str, str]:
        """Headers that a server with CSRF protection requires for requests that change something."""
        client = secrets.token_hex(16)
        try:
            token = self.ask(f"/csrf-token?client={client}")["token"]
        except HTTPError as error:
            if error.code == NO_CSRF:
                return {}
            raise
        return {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}


def headers_of(auth: str | None) -> dict[str, str]:
    """HTTP Basic, as Prefect takes it."""
    return {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}


def path_of(name: str) -> str:
    """API path of a night's deployment; 404 until it is served."""
    return f"/deployments/name/nightly/{quote(name)}"


def tidy(home: Home, api: Api, names: Iterable[str]) -> list[str]:
    """Delete deployments of this home without a schedule; of missed runs keep the newest. Returns what was done.

    Only runs that the schedule planned are missed nights. Those that somebody asked for have settings of their own: all
    of them run.
    """
    done, now = [], dt.datetime.now(dt.UTC)
    for night in api.ask("/deployments/filter", OURS):
        if night["parameters"].get("home") != str(home.root):
            continue
        gone = night["name"] not in names
        if gone or "schedule" not in night["parameters"]:
            api.ask(f"/deployments/{night['id']}", method="DELETE")
            why = "no longer scheduled" if gone else "registered again: an earlier version had done it"
            done.append(f"{night['name']} is {why}")
            continue
        late = [run for run in due(api, night["id"]) if dt.datetime.fromisoformat(run["expected_start_time"]) < now]
        missed = [run for run in late if run["auto_scheduled"]]
        for run in missed[:-1]:
            state = {"type": "CANCELLED", "name": "Missed", "message": MISSED}
            api.ask(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        if len(missed) > 1:
            done.append(f"{len(missed)} nights of {night['name']} were missed; one of them runs now")
        if waiting := len(late) - len(missed):
            runs, start = ("run that was", "it starts") if waiting == 1 else ("runs that were", "they start")
            asked = f"{runs} asked for in addition to the schedule of {night['name']}"
            done.append(f"{waiting} {asked} waited; {start} now")
    return done


def plan(api: Api, name: str) -> str:
    """Make the server plan a night's next runs now instead of within a minute; returns when the first one is due.

    RuntimeError if the server can't: otherwise no night would run, and there would be no message.
    """
    try:
        api.ask(f"/deployments/{api.ask(path_of(name))['id']}/schedule", {})
        if at := next_night(api, name):
            return at
        why = "it lists none"
    except OSError as error:
        why = str(error)
    raise RuntimeError(f"Prefect's server can't plan the nights of {name} ({why}): none would run; see prefect.log")


def next_night(api: Api, name: str) -> str | None:
    """When a night is due according to the server, ISO 8601 UTC; None if no run is planned."""
    found = due(api, api.ask(path_of(name))["id"])
    return found[0]["expected_start_time"] if found else None


def due(api: Api, deployment_id: str) -> list[dict[str, Any]]:
    """Scheduled runs of a night, the earliest first."""
    wanted = {
        "deployments": {"id": {"any_": [deployment_id]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    return api.ask("/flow_runs/filter", wanted)
