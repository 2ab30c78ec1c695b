"""Prefect's handler on our logger: added by its settings, removed once its API is lost."""

import logging
import subprocess
import sys

import pytest

from flows.orchestration import prefect_logs
from pipeline.core.console import log
from pipeline.core.paths import CHECKOUT


@pytest.mark.parametrize(
    ("level", "text", "kept"),
    [(logging.INFO, "Finished in state Completed()", False), (logging.ERROR, "Finished in state Failed('x')", True),
     (logging.INFO, "ingest  100 rows", True)],
)  # fmt: skip
def test_prefects_line_about_a_completed_task_is_left_out(level: int, text: str, kept: bool):
    assert prefect_logs.is_news(logging.LogRecord("prefect.task_runs", level, "", 0, text, (), None)) is kept


@pytest.mark.parametrize(
    ("before", "after"), [("", "nightrecs"), ("sqlalchemy", "sqlalchemy,nightrecs"), ("nightrecs", "nightrecs")]
)
def test_loggers_that_the_user_names_stay(before: str, after: str):
    made = prefect_logs.settings({"PREFECT_LOGGING_EXTRA_LOGGERS": before})
    assert made["PREFECT_LOGGING_EXTRA_LOGGERS"] == after


RUN = """
import json, logging, os
from flows.orchestration import prefect_logs
os.environ.update(prefect_logs.settings(os.environ))
from pipeline.core.console import log
from prefect.logging.handlers import APILogHandler, set_api_log_sink
from prefect.context import FlowRunContext
from prefect import task
from prefect.client.schemas.objects import FlowRun
from uuid import uuid4
sent = []
set_api_log_sink(sent.append)
log.warning("before any flow run")
with FlowRunContext.model_construct(flow_run=FlowRun.model_construct(id=uuid4())):
    log.warning("two\\x1b[2J bad rows", extra={"ids": {"user_id": ["u7"]}})
    log.info("  ingest  %s rows", 100)
    prefect_logs.detach()
    log.info("after Prefect is lost")
print(json.dumps([[each["level"], each["message"]] for each in sent]))
"""


def test_prefect_gets_messages_with_their_levels_and_without_ids(tmp_path):
    environ = {"PATH": "", "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT), "DO_NOT_TRACK": "1"}
    done = subprocess.run([sys.executable, "-c", RUN], cwd=CHECKOUT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[[30, "two[2J bad rows"], [20, "ingest  100 rows"]]', done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert "warning: two[2J bad rows [user_id 'u7']" in lines and "after Prefect is lost" in lines
    assert "UserWarning" not in done.stderr


def test_only_prefects_handlers_are_removed():
    before = list(log.handlers)
    prefect_logs.detach()
    assert [each for each in before if not type(each).__module__.startswith("prefect.")] == log.handlers
