"""When `up` starts, only nights that the schedule planned can have been missed; runs that were asked for all run."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from flows.orchestration import deployments
from pipeline.core.paths import Home


class Planned(deployments.Api):
    """An API with one deployment, `shop`, and its scheduled runs, the earliest first."""

    def __init__(self, home: Path, runs: list[tuple[float, bool]]) -> None:
        super().__init__("http://127.0.0.1:1/api")
        now = dt.datetime.now(dt.UTC)
        due = [
            {"id": n, "expected_start_time": (now + dt.timedelta(hours=hours)).isoformat(), "auto_scheduled": planned}
            for n, (hours, planned) in enumerate(runs)
        ]
        night = {"id": "d", "name": "shop", "parameters": {"home": str(home), "schedule": "x"}}
        self.__dict__.update(answers={"/deployments/filter": [night], "/flow_runs/filter": due}, cancelled=[])

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        if path.endswith("/set_state"):
            assert body and body["state"]["type"] == "CANCELLED"
            return self.__dict__["cancelled"].append(int(path.split("/")[2]))
        return self.__dict__["answers"][path]


PLANNED, ASKED = True, False


@pytest.mark.parametrize(
    ("runs", "cancelled", "printed"),
    [
        ([(-50, PLANNED), (-26, PLANNED), (-2, PLANNED), (22, PLANNED)], [0, 1],
         ["3 nights of shop were missed; one of them runs now"]),
        ([(-3, ASKED), (-2, ASKED), (-1, ASKED), (22, PLANNED)], [],
         ["3 runs that were asked for in addition to the schedule of shop waited; they start now"]),
        ([(-5, PLANNED), (-3, ASKED), (-1, PLANNED)], [0],
         ["2 nights of shop were missed; one of them runs now",
          "1 run that was asked for in addition to the schedule of shop waited; it starts now"]),
        ([(-1, PLANNED), (1, ASKED)], [], []),
    ],
)  # fmt: skip
def test_late_runs_are_missed_nights_only_if_the_schedule_planned_them(
    tmp_path: Path, runs: list[tuple[float, bool]], cancelled: list[int], printed: list[str]
):
    api = Planned(tmp_path, runs)
    assert deployments.tidy(Home(tmp_path), api, {"shop"}) == printed
    assert api.__dict__["cancelled"] == cancelled
