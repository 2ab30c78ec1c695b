"""`nightrecs run`: through Prefect where it answers, else in this process; one line for both."""

import atexit
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows import nightly as line
from flows.orchestration import prefect_logs, subprocesses
from flows.orchestration.api_access import close_the_door
from flows.prepare import prepare, say_where
from pipeline.config.run import Run, new_run_id, utcnow
from pipeline.core.console import log
from pipeline.core.errors import OURS, Refused
from pipeline.core.redaction import without_user
from pipeline.storage import journal, reader

STARTUP_SECONDS = 60
RETRIES, REQUEST_SECONDS = 2, 20
"""Of a request to Prefect, which its default tries for a minute: a night must not wait long for one that is gone."""


def run_night(options: Any) -> int:
    """Run a night and print what to do with it; with `--plan`, only say what it would do."""
    if options.plan:
        from flows.cli.plan import show_plan

        return show_plan(options)
    say_where(options.home)
    run = prepare(options.dataset, options.recipe, options.data, options.home, options.overrides, until=options.until)
    log.info(f"night {run.run_id} of {run.dataset}, recipe {run.settings.recipe}, in {run.home.root}")
    arguments = {
        "dataset": options.dataset, "recipe": options.recipe, "data": options.data, "home": str(run.home.root),
        "overrides": options.overrides, "until": options.until, "run_id": run.run_id,
    }  # fmt: skip
    with shown(options.json):
        if options.no_prefect:
            outcome = line.conduct(run, line.plainly, options.until)
        else:
            run, outcome = with_prefect(run, arguments)
    close(run, outcome, options.json)
    return 0


@contextmanager
def shown(as_json: bool) -> Iterator[None]:
    """Show how far each stage is, where there is a terminal; rich is only imported then."""
    if as_json or not sys.stderr.isatty():
        yield
        return
    from flows.cli.live import shown_live

    with shown_live():
        yield


def with_prefect(run: Run, arguments: dict[str, Any]) -> tuple[Run, str]:
    """Run as a Prefect flow; where Prefect can't be had, say so and run the same line without it.

    Returns the night that ended, and its outcome: where Prefect is lost on the way, another one goes on.
    """
    configure(run)
    atexit.register(end_quietly)  # before Prefect registers its own, so that it runs after them
    try:
        api = os.environ.get("PREFECT_API_URL")
        if api and not answers(api):
            raise ConnectionError(f"PREFECT_API_URL {api} does not answer")
        close_the_door(run.home)
        from flows.tasks import nightly

        return run, str(nightly(**arguments))
    except OURS:
        raise
    except Exception as error:
        begun = run.run_id in journal.run_ids(run.home, run.dataset)
        if not begun:
            log.info(f"Prefect can't be had ({type(error).__name__}: {error}); running without it")
            return run, line.conduct(run, line.plainly, arguments["until"])
        outcome = journal.read_run(run.home, run.dataset, run.run_id)["outcome"]
        from flows.orchestration.fallback import let_go, of_prefect

        ended = outcome in ("published", "stopped")
        if not ended and not of_prefect(error):
            raise
        let_go()
        if outcome == "refused":  # what Prefect could not be told
            record = journal.read_run(run.home, run.dataset, run.run_id)
            raise Refused(str(record["reason"]), journal.ids_of(record)) from None
        log.info(f"the night is {outcome}; Prefect was lost on the way ({type(error).__name__}: {error})")
        return (run, outcome) if ended else go_on_without(run, arguments["until"])


def go_on_without(run: Run, until: str | None) -> tuple[Run, str]:
    """A night of its own that finds the finished stages in the lake."""
    now = utcnow()
    run_id = new_run_id(now, journal.run_ids(run.home, run.dataset))
    again = run.model_copy(update={"run_id": run_id, "started_at": now})
    log.info(f"going on without it as night {run_id}")
    return again, line.conduct(again, line.plainly, until)


def configure(run: Run) -> None:
    """Prefect's settings that the user has not set; before it is imported."""
    for name, value in {
        "PREFECT_HOME": str(run.home.prefect),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # tracebacks are for the UI
        "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
        "PREFECT_API_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    os.environ.update(prefect_logs.settings(os.environ))


def end_quietly() -> None:
    """DuckDB's binding lists on stderr what Prefect's threads still hold while Python ends; that is for nobody."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def answers(api: str) -> bool:
    """Whether a Prefect API is there."""
    return subprocesses.answers(f"{without_user(api).rstrip('/')}/health")


def close(run: Run, outcome: str, as_json: bool) -> None:
    """The closing lines: where the tables are and the SQL to try."""
    record = journal.read_run(run.home, run.dataset, run.run_id)
    live = run.home.live(run.dataset)
    if as_json:
        keys = ("run_id", "dataset", "recipe", "outcome", "champion", "logical_hash", "mlflow_run_id")
        print(json.dumps({**{key: record.get(key) for key in keys}, "tables": str(live)}))
        return
    if outcome != "published":
        log.info(f"{outcome}: {record.get('reason')}")
        return
    with reader.open_live(run.home, run.dataset) as con:
        user = con.sql("select user_id from users order by n_interactions desc, user_id limit 1").fetchall()[0][0]
        rejected = con.sql("select count(*) from rejected_rows").fetchall()[0][0]
    nightrecs = "nightrecs" if shutil.which("nightrecs") else os.path.relpath(sys.argv[0])
    where = "" if str(run.home.root) == os.getcwd() else f" --home {shlex.quote(str(run.home.root))}"
    log.info(f"\npublished by {record.get('champion')}: {live}\n\nTry:")
    quoted = str(user).replace("'", "''")
    log.info(
        f'  {nightrecs}{where} sql {run.dataset} "select rank, title, score from recommendations_titled '
        f"where user_id = '{quoted}' order by rank\"\n"
        f"  {nightrecs}{where} leaderboard {run.dataset}\n"
        f"  {nightrecs}{where} recommend {run.dataset} '{user}'"
    )
    if rejected:
        log.info(
            f"{rejected:,} source lines were rejected, each with its reason:\n"
            f'  {nightrecs}{where} sql {run.dataset} "select file, line, reason, raw from rejected_rows"'
        )
