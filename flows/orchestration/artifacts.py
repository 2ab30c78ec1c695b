"""Artifacts of a night in Prefect: its page, the leaderboard, the gate's metrics and the row ledger."""

import os
from contextlib import suppress
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.core.redaction import without_user
from pipeline.storage import journal
from pipeline.storage.running_servers import running_up


def show(run: Run) -> str | None:
    """Create the artifacts; returns the night in one sentence, None if it has no journal."""
    if run.run_id not in journal.run_ids(run.home, run.dataset):
        return None
    from pipeline.reporting import markdown
    from pipeline.reporting.html import page
    from pipeline.reporting.night import Night

    facts, key = page.content(Night(run.home, run.dataset, run.run_id)), run.dataset.lower().replace("_", "-")
    headline = markdown.headline(facts)
    tables = {
        "leaderboard": (markdown.leaderboard(facts), "Chosen on valid, reported once on test; ★ made the lists"),
        "gate": (markdown.gate(facts), f"Gate: {(facts['record'].get('gate') or {}).get('text')}"),
        "ledger": (markdown.rows_of(facts), "Where every row went"),
    }
    for name, (rows, description) in tables.items():
        if rows:
            create_table_artifact(rows, key=f"{key}-{name}", description=description)
    create_markdown_artifact(page_of(run, facts), key=f"{key}-night", description=headline)
    log = get_run_logger()
    if facts["to_do"]:
        log.error(f"{headline}\nWhat to do: {facts['to_do']} The artifact {key}-night has the whole story.")
    else:
        log.info(f"{headline}\nThe artifact {key}-night has the whole story.")
    return headline


def page_of(run: Run, facts: dict[str, Any]) -> str:
    """A night in Markdown: outcome, leaderboard, gate, rows, checks, and paths."""
    from pipeline.reporting import markdown

    parts = [f"# {run.dataset}: {facts['record']['outcome']}", markdown.markdown(facts, links(run), picture=True)]
    live, report = run.home.live(run.dataset), run.home.report(run.dataset, run.run_id)
    where = [f"- night `{run.run_id}`"]
    where += [f"- tables `{live}`: `select * from recommendations_titled where user_id = '…' order by rank`"]
    where += [f"- report, with users: `nightrecs report {run.dataset} --run {run.run_id} --open`, which is `{report}`"]
    where += [f"- journal `{journal.folder(run)}`"]
    return "\n\n".join([*parts, "## Where", "\n".join(where)])


def links(run: Run) -> dict[str, str]:
    """Pages of the night in MLflow, if a server shows it. The report there has no users."""
    record, ui = journal.read_run(run.home, run.dataset, run.run_id), mlflow_ui(run.home)
    if ui is None or not record.get("mlflow_run_id"):
        return {}
    experiment = f"{ui}/#/experiments/{record.get('mlflow_experiment_id')}/runs"
    own = f"{experiment}/{record['mlflow_run_id']}"
    addresses = {
        "MLflow run": own,
        "report": f"{own}/artifacts/report.html",
        "all nights in MLflow": experiment,
        "champion": f"{ui}/#/models/{run.dataset}",
    }
    return {name: f"{address}?workflowType=machine_learning" for name, address in addresses.items()}


def mlflow_ui(home: Home) -> str | None:
    """Address of MLflow's UI: the server that the user configured, else that of a running `up`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        return without_user(uri).rstrip("/")
    with suppress(OSError, KeyError):
        return (running_up(home) or {})["urls"]["MLflow"]
    return None
