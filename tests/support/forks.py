"""A process that has imported what tests need, and forks a child for each call: killed nights without their imports.

Run as a program it is that process: it reads one JSON object per line, with code, arguments and environment.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.core.paths import CHECKOUT

LONGEST = 300.0  # seconds


class Ended(NamedTuple):
    """How a child ended."""

    returncode: int
    """Negative: the signal that ended it."""
    stderr: str


class Forks:
    """The process, as its user sees it."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path):
        self._process, self._folder = process, folder

    def run(self, code: str, *arguments: str, **environment: str) -> Ended:
        """Run code in a child, with `sys.argv[1:]` and additional environment variables."""
        log = self._folder / "stderr"
        asked = {"code": code, "arguments": arguments, "environment": {**os.environ, **environment}, "log": str(log)}
        assert self._process.stdin and self._process.stdout
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return Ended(json.loads(answer), log.read_text(errors="replace"))


@contextmanager
def forks(*modules: str) -> Iterator[Forks]:
    """Start the process for the block. It imports the modules, and uses none of them: threads do not live on in forks."""
    words = [sys.executable, "-m", "tests.support.forks", *modules]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (
        tempfile.TemporaryDirectory(prefix="forks-") as folder,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment
        ) as process,
    ):
        try:
            yield Forks(process, Path(folder))
        finally:
            assert process.stdin
            process.stdin.close()


def main() -> None:
    """Fork a child for each line of stdin, and print how it ended."""
    for module in [*sys.argv[1:], "tests.support.frozen_imports"]:
        importlib.import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _be_the_child(asked)
        print(json.dumps(_ended(child)), flush=True)


def _ended(child: int) -> int:
    """How a child ended. One that hangs ends by SIGTERM."""
    deadline = time.monotonic() + LONGEST
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGTERM)
            deadline += LONGEST
        time.sleep(0.005)


def _be_the_child(asked: dict) -> None:
    code = 1
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["-", *asked["arguments"]]
        exec(asked["code"], {"__name__": "child"})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
