"""`nightrecs run`: a night as a Prefect flow, or in this process if Prefect is not available; and its plan."""

import atexit
import json
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flows.cli.output import this_command
from flows.conductor import conduct
from flows.failed_start import recording
from flows.orchestration import prefect_logs, subprocesses
from flows.orchestration.api_access import protect_server
from flows.orchestration.engines import engine_of
from flows.prepare import discard, prepare, say_where
from flows.step import plainly
from pipeline.config.run import Run, new_run_id, utcnow
from pipeline.core.console import log
from pipeline.core.errors import OURS, Held, Refused, SettingsError, UnreadableInput
from pipeline.core.memory import keep_freed_memory
from pipeline.core.redaction import without_user
from pipeline.storage import journal, reader, warehouse

STARTUP_SECONDS = 60
RETRIES, REQUEST_SECONDS = 2, 20
"""Limits of a request to Prefect. Its default retries for a minute, too long when Prefect is gone."""


def run_night(options: Namespace) -> int:
    """Run a night and print how to read its result; with `--plan`, only print what it would do."""
    if options.plan:
        from flows.cli.plan import show_plan

        return show_plan(options)
    if options.rows:
        raise SettingsError("--rows is for --plan: it says what a source of so many rows needs")
    keep_freed_memory()
    say_where(options.home)
    asked = (options.dataset, options.recipe, options.data, options.home, options.overrides)
    with recording(*asked, until=options.until):
        run = prepare(*asked, until=options.until)
    log.info(f"night {run.run_id} of {run.dataset}, recipe {run.settings.recipe}, in {run.home.root}")
    arguments = {
        "dataset": options.dataset, "recipe": options.recipe, "data": options.data, "home": str(run.home.root),
        "overrides": options.overrides, "until": options.until, "run_id": run.run_id,
    }  # fmt: skip
    try:
        with live_line(options.json):
            if options.no_prefect:
                outcome = _conduct(run, options.until, options.overrides)
            else:
                run, outcome = with_prefect(run, arguments)
    finally:
        with suppress(OSError):  # another process may hold a file; the next night removes the folder
            discard(run)
    show_result(run, outcome, options.json)
    return 0


@contextmanager
def live_line(as_json: bool) -> Iterator[None]:
    """Show the progress of each stage in a terminal; rich is imported only then."""
    if as_json or not sys.stderr.isatty():
        yield
        return
    from flows.cli.live import shown_live

    with shown_live():
        yield


def with_prefect(run: Run, arguments: dict[str, Any]) -> tuple[Run, str]:
    """Run as a Prefect flow; if Prefect is not available, say so and run the same line without it.

    Returns the night that ended, and its outcome. If Prefect is lost during the night, a second night finishes it.
    """
    configure(run)
    atexit.register(end_quietly)  # before Prefect registers its own, so that it runs after them
    try:
        api = os.environ.get("PREFECT_API_URL")
        if api and not answers(api):
            raise ConnectionError(f"PREFECT_API_URL {api} does not answer")
        if not api:
            log.info("Prefect starts a server for this night, which takes seconds; --no-prefect does without it")
        protect_server(run.home)
        from flows.tasks import nightly

        outcome = str(nightly(**arguments))
        if not api:
            atexit.register(log.info, "Prefect's server stops")  # before what Prefect registered
        return run, outcome
    except OURS:
        raise
    except Exception as error:
        begun = run.run_id in journal.run_ids(run.home, run.dataset)
        if not begun:
            log.info(f"Prefect can't be had ({type(error).__name__}: {error}); running without it")
            return run, _conduct(run, arguments["until"], arguments["overrides"])
        outcome = journal.read_run(run.home, run.dataset, run.run_id)["outcome"]
        from flows.orchestration.fallback import let_go, of_prefect

        ended = outcome in ("published", "stopped")
        if not ended and not of_prefect(error):
            raise
        let_go()
        if outcome == "refused":  # which Prefect did not record
            record = journal.read_run(run.home, run.dataset, run.run_id)
            raise Refused(str(record["reason"]), journal.ids_of(record)) from None
        log.info(f"the night is {outcome}; Prefect was lost on the way ({type(error).__name__}: {error})")
        return (run, outcome) if ended else go_on_without(run, arguments)


def _conduct(run: Run, until: str | None, overrides: list[str] | None) -> str:
    """The night in this process, with the engine of `[scale]`."""
    with engine_of(run):
        return conduct(run, plainly, until, overrides=overrides)


def go_on_without(run: Run, arguments: dict[str, Any]) -> tuple[Run, str]:
    """Start a new night without Prefect. It finds the finished stages in the lake."""
    now = utcnow()
    run_id = new_run_id(now, journal.run_ids(run.home, run.dataset))
    again = run.model_copy(update={"run_id": run_id, "started_at": now})
    log.info(f"going on without it as night {run_id}")
    return again, _conduct(again, arguments["until"], arguments["overrides"])


def configure(run: Run) -> None:
    """Defaults for Prefect's settings; call before Prefect is imported. Values set by the user stay."""
    for name, value in {
        "PREFECT_HOME": str(run.home.prefect),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # tracebacks go to the UI
        "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
        "PREFECT_API_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    os.environ.update(prefect_logs.settings(os.environ))


def end_quietly() -> None:
    """Close stderr: at exit DuckDB's binding prints what Prefect's threads still hold, which helps no user."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def answers(api: str) -> bool:
    """Whether a Prefect API answers."""
    return subprocesses.answers(f"{without_user(api).rstrip('/')}/health")


def show_result(run: Run, outcome: str, as_json: bool) -> None:
    """The last lines of a night: where the tables are, and commands to try."""
    record = journal.read_run(run.home, run.dataset, run.run_id)
    live = run.home.live(run.dataset)
    if as_json:
        keys = ("run_id", "dataset", "recipe", "outcome", "champion", "logical_hash", "mlflow_run_id")
        print(json.dumps({**{key: record.get(key) for key in keys}, "tables": str(live)}))
        return
    if outcome != "published":
        log.info(f"{outcome}: {record.get('reason')}")
        return
    nightrecs = this_command()
    where = "" if str(run.home.root) == os.getcwd() else f" --home {shlex.quote(str(run.home.root))}"
    published = f"\npublished by {record.get('champion')}: {live}"
    try:
        user, rejected = _to_try(run)
    except (warehouse.DatabaseError, Held, OSError, UnreadableInput) as error:  # a client has it open for writing
        log.info(f"{published}\nit can't be opened at the moment: {error}")
        return
    log.info(f"{published}\n\nTry:")
    literal = "'" + user.replace("'", "''") + "'"
    statement = f"select rank, title, score from recommendations_titled where user_id = {literal} order by rank"
    log.info(
        f"  {nightrecs}{where} sql {run.dataset} {_double_quoted(statement)}\n"
        f"  {nightrecs}{where} leaderboard {run.dataset}\n"
        f"  {nightrecs}{where} recommend {run.dataset} {shlex.quote(user)}"
    )
    if rejected:
        log.info(
            f"{rejected:,} source lines were rejected, each with its reason:\n"
            f'  {nightrecs}{where} sql {run.dataset} "select file, line, reason, raw from rejected_rows"'
        )


def _to_try(run: Run) -> tuple[str, int]:
    """A user of the live tables whose id can be typed, and the number of rejected lines."""
    with reader.open_live(run.home, run.dataset) as con:
        user = con.sql(
            "select user_id from users order by user_id in (from (select distinct user_id from recommendations)) desc, "
            r"regexp_matches(user_id, '[^\pL\pN\pP\pS ]'), n_interactions desc, user_id limit 1"  # it is to be typed
        ).fetchall()[0][0]
        return str(user), con.sql("select count(*) from rejected_rows").fetchall()[0][0]


def _double_quoted(text: str) -> str:
    """A shell word that keeps SQL's quotes readable."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'
