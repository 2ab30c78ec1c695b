"""Ends flow runs that a kill or a reboot left running in Prefect although the journal has their night as ended."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Crashed, Failed

from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.storage import journal

LOOKED_AT = 100
"""Only flow runs of this many newest nights are checked."""
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def end_flow_runs(run: Run) -> list[str]:
    """End them with the outcome of their nights; returns those nights. If Prefect fails, the next night tries again."""
    try:
        return _end_flow_runs(run.home, run.dataset, run.flow_run_id)
    except Exception as error:
        journal.note(run, f"Prefect did not take the end of earlier nights: {type(error).__name__}: {error}")
        return []


def _end_flow_runs(home: Home, dataset: str, own: str | None) -> list[str]:
    nights = [journal.read_run(home, dataset, i) for i in journal.run_ids(home, dataset)[-LOOKED_AT:]]
    over = {UUID(n["flow_run_id"]): n for n in nights if n.get("flow_run_id") and n["outcome"] != "running"}
    over = {flow_run: night for flow_run, night in over.items() if str(flow_run) != own}
    if not over:
        return []
    with get_client(sync_client=True) as client:
        unfinished = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=list(over)),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
            )
        )
        for flow_run in unfinished:
            client.set_flow_run_state(flow_run.id, _state(over[flow_run.id]), force=True)
    return [over[flow_run.id]["run_id"] for flow_run in unfinished]


def _state(night: dict):
    message = f"night {night['run_id']}: {night['outcome']}"
    if night["outcome"] in ("published", "stopped"):
        return Completed(message=message)
    return Failed(message=message) if night["outcome"] == "refused" else Crashed(message=message)
