"""Planted faults: named points of the line where a night can be killed, crashed or told that the disk is full.

`NIGHTRECS_FAULT=publish:before_replace:kill` kills the process (SIGKILL) when it first comes to that point,
`…:kill@3` when it comes there for the third time; `error` raises Planted, `full` raises OSError(ENOSPC). Unset,
as it is but for tests, a point costs one look into the environment.
"""

import errno
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest

VARIABLE = "NIGHTRECS_FAULT"
ACTIONS = ("kill", "error", "full")
BUILT = ("ingest", "clean", "encode", "split", "profile", "search", "train", "evaluate", "export")
"""Stages that make a folder of the lake."""
POINTS = (
    *(f"{stage}:{place}" for stage in BUILT for place in ("before_write", "before_manifest", "before_rename")),
    *(f"{stage}:after_rename" for stage in BUILT),
    "train:after_epoch", "train:before_checkpoint", "train:after_checkpoint",
    "select:before_verdict",
    "track:before_log", "register:before_log",
    "audit:before_fill", "audit:after_fill", "audit:after_checks",
    "publish:before_rename", "publish:before_link", "publish:before_replace", "publish:after_replace",
    "publish:before_close", "publish:before_drop",
    "journal:append",
)  # fmt: skip
"""In the order of a night, nearly."""
OF_FORGET = tuple(f"forget:{place}" for place in (
    "after_record", "after_list", "before_swap", "after_swap", "after_step", "before_done"
))  # fmt: skip
"""Of `nightrecs forget`, which no night comes to."""

_passings: Counter[str] = Counter()


class Planted(RuntimeError):
    """The error that a fault of kind `error` raises."""


def fault(point: str) -> None:
    """Do here what NIGHTRECS_FAULT asks for; nothing where it is unset or names another point."""
    if wanted := os.environ.get(VARIABLE):
        _meet(point, wanted)


def check() -> None:
    """Raise SettingsError where NIGHTRECS_FAULT is set and can't be read."""
    if wanted := os.environ.get(VARIABLE):
        _parse(wanted)


@contextmanager
def planted(wanted: str) -> Iterator[None]:
    """Plant a fault for a block of this process, passings counted from the start."""
    before = os.environ.get(VARIABLE)
    _parse(wanted)
    _passings.clear()
    os.environ[VARIABLE] = wanted
    try:
        yield
    finally:
        _passings.clear()
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _parse(wanted: str) -> tuple[str, str, int]:
    """Point, action and which passing."""
    match = re.fullmatch(r"(\w+:\w+):(\w+)(?:@([1-9][0-9]{0,8}))?", wanted, re.ASCII)
    if not match:
        raise SettingsError(f"{VARIABLE}={wanted!r}: write it as point:action, e.g. publish:before_rename:kill")
    point, action, passing = match[1], match[2], int(match[3] or 1)
    if point not in (known_points := POINTS + OF_FORGET):
        known = f"{nearest(point, known_points)}; there are: {', '.join(known_points)}"
        raise SettingsError(f"{VARIABLE}={wanted!r}: no fault point is called {point!r}{known}")
    if action not in ACTIONS:
        raise SettingsError(f"{VARIABLE}={wanted!r}: the actions are {', '.join(ACTIONS)}")
    return point, action, passing


def _meet(point: str, wanted: str) -> None:
    where, action, passing = _parse(wanted)
    if where != point:
        return
    _passings[point] += 1
    if _passings[point] != passing:
        return
    print(f"planted fault: {wanted}", file=sys.stderr, flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"planted at {point}")
    raise Planted(f"planted at {point}")
