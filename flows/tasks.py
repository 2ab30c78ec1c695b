"""Prefect's view of the line: each stage as a task, the night as a flow, artifacts for people."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.task_engine import TaskRunTimeoutError

from flows import nightly as line
from flows.lost import Reporting
from flows.stale import end_flow_runs
from flows.start import prepare
from pipeline import journal, tables
from pipeline.device import resolve_device
from pipeline.run import Run

TIMEOUTS = {"train": 6 * 3600, "search": 12 * 3600, "ingest": 2 * 3600}  # seconds
TRANSIENT = (ConnectionError, TimeoutError, BlockingIOError)
GPU = "gpu"  # tasks with this tag run one at a time, over all nights of a server


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Only faults that can pass by themselves are worth another try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TRANSIENT) and not isinstance(error, TaskRunTimeoutError)  # a hung stage would hang again


def as_task(stage: Callable, *args: Any) -> Any:
    """Run a stage as a task. Arguments are paths and one small object, and are never hashed."""
    name = line.name_of(stage)
    as_prefect_task = task(
        name=name,
        task_run_name=line.title_of(stage, args),
        tags=tags_of(name, args[0]),
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=5,
        retry_condition_fn=is_transient,
        timeout_seconds=TIMEOUTS.get(name, 3600),
    )
    return as_prefect_task(stage)(*args)


def tags_of(name: str, run: Run) -> list[str]:
    """What the UI filters by; models on an accelerator are also marked as such."""
    on_gpu = name in ("search", "train", "evaluate", "export") and resolve_device(run.settings.device).type != "cpu"
    return [run.dataset, "model" if name in ("search", "train", "evaluate") else "data", *([GPU] if on_gpu else [])]


@flow(name="nightly", flow_run_name="nightly {dataset}", persist_result=False, log_prints=False)
def nightly(
    dataset: str = "sample",
    recipe: str = "nightly",
    data: str | None = None,
    home: str | None = None,
    overrides: list[str] | None = None,
    until: str | None = None,
    run_id: str | None = None,
) -> str:
    """A file of interactions becomes audited top-N tables; see the artifacts for what came of it."""
    run = prepare(dataset, recipe, data, home, overrides, run_id, until)
    run = run.model_copy(update={"flow_run_id": flow_run.id})
    with get_client(sync_client=True) as client:
        client.create_concurrency_limit(tag=GPU, concurrency_limit=1)
    step = Reporting(run, as_task)
    try:
        return line.conduct(run, step, until, at_start=lambda: end_flow_runs(run))
    finally:
        with suppress(Exception):  # artifacts are for looking; they must not replace what came of the night
            if not step.lost:
                show(run)


def show(run: Run) -> None:
    """Leaderboard, row ledger, and where the tables are, or why there are none."""
    if run.run_id not in journal.run_ids(run.home, run.dataset):
        return
    key = run.dataset.lower().replace("_", "-")
    record = journal.read_run(run.home, run.dataset, run.run_id)
    figures = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    create_table_artifact(
        figures.filter(segment="all").select("model", "split", "protocol", "metric", "cutoff", "value", "n").to_dicts(),
        key=f"{key}-leaderboard",
        description="Chosen on valid, reported once on test",
    )
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER, run.run_id)
    create_table_artifact(ledger.drop("run_id").to_dicts(), key=f"{key}-ledger", description="Where every row went")
    if gate := record.get("gate"):
        create_table_artifact(gate_figures(gate), key=f"{key}-gate", description=f"Gate: {gate['text']}")
    create_markdown_artifact(verdict(run, record), key=f"{key}-night", description="What came of this night")


def gate_figures(gate: dict[str, Any]) -> list[dict[str, Any]]:
    """The gate's comparisons as rows: better is positive."""
    who = f"{gate.get('challenger')} - {gate.get('incumbent')}"
    rows = [{"compared": who, "segment": "all", **gate["against_incumbent"]}] if gate.get("against_incumbent") else []
    rows += [{"compared": who, **segment} for segment in gate.get("segments", [])]
    if floor := gate.get("against_floor"):
        of = f"{floor['of']} - {gate['floor']}"
        rows.append({"compared": of, "segment": "all", **{k: v for k, v in floor.items() if k != "of"}})
    return rows or [{"decision": gate["decision"], "published": gate["published"]}]


def verdict(run: Run, record: dict[str, Any]) -> str:
    """A paragraph of Markdown about a night."""
    live: Path = run.home.live(run.dataset)
    lines = [f"# {run.dataset}: {record['outcome']}", ""]
    if record["outcome"] == "published":
        lines += [f"`{record.get('champion')}` made tonight's lists.", "", f"Tables: `{live}`", "", "```sql"]
        lines += ["select * from recommendations_titled where user_id = '…' order by rank;", "```"]
    else:
        lines += [f"{record.get('reason')}", "", "The published tables are as they were."]
    if (report := run.home.report(run.dataset, run.run_id)).is_file():
        lines += ["", f"Report: `{report}`"]
    lines += ["", *(f"- {note}" for note in journal.notes(run.home, run.dataset, run.run_id))]
    return "\n".join(lines)
