"""A night in a process of its own, forked from one that has imported everything: it may be killed, starved, limited."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.paths import CHECKOUT

from . import plants

NOWHERE = "http://127.0.0.1:9"
"""A tracking server that is not there: nights without MLflow take a second, not ten."""
STAGES = "audit clean compare deliver encode evaluate export ingest leaks profile publish report search select split track train"
PRELOADED = [
    "flows.cli", "flows.cli.run", "flows.candidate_models", "flows.conductor", "pipeline.destinations.delivery",
    "pipeline.experiments.recipe_checks", "pipeline.experiments.study", "pipeline.experiments.trial",
    "pipeline.models.conformance", "pipeline.reporting.html.page", "pipeline.reporting.plots.night",
    "pipeline.tracking.nights", "tests.faults.plants", "optuna.samplers", "torch._dynamo", *(f"pipeline.stages.{stage}" for stage in STAGES.split()),
    "tests.support.frozen_imports",
]  # fmt: skip
"""What a night imports, which takes two seconds more than the night itself."""
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Ended:
    """How a night ended: its exit code (-9 for kill -9), its output, and how long it took, in seconds."""

    code: int
    output: str
    seconds: float
    unmet: tuple[str, ...] = ()
    """What was planted in it, and what it never came to."""

    def met(self) -> "Ended":
        """The same; AssertionError where something was planted in vain."""
        assert not self.unmet, f"planted in vain, the night never came to it: {', '.join(self.unmet)}"
        return self


class Night:
    """A `nightrecs` command that runs on its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        fault: str = "",
        mlflow: bool = False,
        max_file: int | None = None,
        before: Callable[[], Any] | None = None,
    ):
        """`fault`: NIGHTRECS_FAULT; `max_file`: bytes of the largest file it may write; `before`: called first."""
        environ = {"NIGHTRECS_FAULT": fault} if fault else {}
        self.log, self.fault, self.started = log, fault, time.monotonic()
        self.record = log.with_suffix(".plants")
        self.process = _forks.Process(target=_run, args=(list(arguments), log, environ, mlflow, max_file, before))
        self.process.start()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid
        os.kill(self.process.pid, number)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait for a text in its output."""
        end = time.monotonic() + seconds
        while not self.log.exists() or text not in self.log.read_text(errors="replace"):
            assert time.monotonic() < end and self.process.is_alive(), f"no {text!r}: {self._output()}"
            time.sleep(0.02)

    def end(self, seconds: float = 240, met: bool = True) -> Ended:
        """Wait for the end; AssertionError where it hangs, or, with `met`, where something was planted in vain."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"hung for {seconds} s: {self._output()[-500:]}")
        assert self.process.exitcode is not None
        unmet, output = plants.unmet(self.record), self._output()
        if self.fault and f"planted fault: {self.fault}" not in output:
            unmet.append(self.fault)
        ended = Ended(self.process.exitcode, output, time.monotonic() - self.started, tuple(unmet))
        return ended.met() if met else ended

    def _output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _run(
    arguments: list[str],
    log: Path,
    environ: dict[str, str],
    mlflow: bool,
    max_file: int | None,
    before: Callable[[], Any] | None,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environ)
    os.chdir(CHECKOUT)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if not mlflow:
        from pipeline.tracking import server

        plants.set_constant(server, "USERS_URI", NOWHERE)
    if max_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
    if before:
        plants.begin(log.with_suffix(".plants"))
        before()
    from flows.cli import main

    code = main(arguments)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
