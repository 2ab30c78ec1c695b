"""The night as a Prefect flow: each stage is a task, and artifacts show the result."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed
from prefect.task_engine import TaskRunTimeoutError

from flows.conductor import conduct
from flows.orchestration.artifacts import show
from flows.orchestration.engines import engine_of
from flows.orchestration.fallback import Reporting
from flows.orchestration.prefect_logs import leave_out_completed
from flows.orchestration.stale_flow_runs import end_flow_runs
from flows.prepare import prepare
from pipeline.config.run import Run, utcnow
from pipeline.core.errors import OURS
from pipeline.core.redaction import masked
from pipeline.core.stage_call import OF_MODELS, StageCall, StageName
from pipeline.storage import journal
from pipeline.training.device import resolve_device

TIMEOUTS = {StageName.TRAIN: 6 * 3600, StageName.SEARCH: 12 * 3600, StageName.INGEST: 2 * 3600}
TIMEOUTS[StageName.PUBLISH] = 12 * 3600  # copies elsewhere have limits of their own
"""Seconds; an hour for the others."""
TRANSIENT = (ConnectionError, TimeoutError, BlockingIOError)
GPU = "gpu"  # tasks with this tag run one at a time, over all nights of a server


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Retry only errors that may disappear by themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TRANSIENT) and not isinstance(error, TaskRunTimeoutError)  # a hung stage would hang again


def as_task(call: StageCall, stage: Callable[..., Any], run: Run, *inputs: Any) -> Any:
    """Run a stage as a task. Its inputs are paths and one small object; Prefect does not hash them."""
    as_prefect_task = task(
        name=str(call.place),
        task_run_name=call.title,
        tags=tags_of(call.place, run),
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=5,
        retry_condition_fn=is_transient,
        timeout_seconds=time_limit(call.place, run),
    )
    return as_prefect_task(stage)(run, *inputs)


def time_limit(name: StageName, run: Run) -> int:
    """Seconds that a stage may take. On a cluster an evaluation in parts may wait until fits of other models end."""
    waits = name is StageName.EVALUATE and run.settings.scale.engine != "none"
    return TIMEOUTS.get(StageName.TRAIN if waits else name, 3600)


def tags_of(name: StageName, run: Run) -> list[str]:
    """Tags to filter by in the UI. Stages that run models on an accelerator also have the tag `gpu`."""
    on_gpu = name in (*OF_MODELS, StageName.EXPORT) and resolve_device(run.settings.device).type != "cpu"
    return [run.dataset, "model" if name in OF_MODELS else "data", *([GPU] if on_gpu else [])]


def name_of_run() -> str:
    """`ml-100k 2026-11-22 03:00`: the night's start, UTC, as MLflow names it too."""
    about = flow_run.parameters
    return f"{Path(about.get('schedule') or about['dataset']).stem} {utcnow():%Y-%m-%d %H:%M}"


@flow(name="nightly", flow_run_name=name_of_run, persist_result=False, log_prints=False)
def nightly(
    dataset: str = "sample",
    recipe: str = "nightly",
    data: str | None = None,
    home: str | None = None,
    overrides: list[str] | None = None,
    until: str | None = None,
    run_id: str | None = None,
) -> Any:
    """A file of interactions becomes audited top-N tables; the artifacts show the result."""
    try:
        run = prepare(dataset, recipe, data, home, overrides, run_id, until)
        by_hand = None if deployment.id else overrides  # those of a deployment are the same every night
        return conduct_as_flow(run.model_copy(update={"flow_run_id": flow_run.id}), until, by_hand)
    except OURS as error:  # the message is for users; a traceback would hide it
        return Failed(message=masked(str(error)), data=error)


def conduct_as_flow(run: Run, until: str | None = None, overrides: list[str] | None = None) -> Any:
    """Run the night with tasks, logs, artifacts and tags. Returns the state it ends in; its result is the outcome."""
    with get_client(sync_client=True) as client:
        client.create_concurrency_limit(tag=GPU, concurrency_limit=1)
    step, headline = Reporting(run, as_task), None
    leave_out_completed()
    try:
        with engine_of(run):
            outcome = conduct(run, step, until, at_start=lambda: end_flow_runs(run), overrides=overrides)
    finally:
        with suppress(Exception):  # for display only: an error here must not replace the outcome
            if not step.lost:
                headline = show(run)
                mark(run)
    return Completed(message=headline, data=outcome)


def mark(run: Run) -> None:
    """Tag the flow run with the data set and the outcome, so that the UI can filter by them."""
    outcome = journal.read_run(run.home, run.dataset, run.run_id)["outcome"]
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags=sorted({*flow_run.tags, run.dataset, outcome}))
