"""Fault injection: named points where tests can kill a run, raise an error or simulate a full disk.

`NIGHTRECS_FAULT=publish:before_replace:kill` kills the process (SIGKILL) the first time it reaches that point,
`…:kill@3` the third time; `error` raises Planted, `full` raises OSError(ENOSPC). While the variable is unset, a point
costs one lookup in the environment.
"""

import errno
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest

VARIABLE = "NIGHTRECS_FAULT"
ACTIONS = ("kill", "error", "full")
BUILT = ("ingest", "clean", "encode", "split", "profile", "search", "train", "evaluate", "export")
"""Stages that write a folder of the lake."""
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
"""Roughly in the order of a run."""
OF_FORGET = tuple(f"forget:{place}" for place in (
    "after_record", "after_list", "before_swap", "after_swap", "after_step", "before_done"
))  # fmt: skip
"""Points of `nightrecs forget`, which no run reaches."""
OF_BACKUP = ("backup:after_file", "backup:before_rename", "restore:after_file", "restore:before_rename")
"""Points of `nightrecs backup` and `restore`."""
OF_DELIVERY = tuple(f"deliver:{place}" for place in (
    "after_schema", "mid_copy", "after_table", "before_swap", "after_swap", "before_manifest", "before_pointer",
    "after_pointer", "before_record",
))  # fmt: skip
"""Points of a copy to a destination, which a run without `[publish]` does not reach."""
OF_SHARED_LAKE = tuple(f"lake:{place}" for place in (
    "mid_fetch", "before_place", "before_upload", "mid_upload", "before_shared_manifest", "after_shared_manifest",
))  # fmt: skip
"""Points of a lake in a bucket, which a run without `[lake] url` does not reach."""
OF_FETCH = tuple(f"fetch:{place}" for place in (
    "mid_file", "after_file", "before_query", "after_query", "before_record", "after_record",
))  # fmt: skip
"""Points of what is fetched before a night, which a run on files of this machine does not reach."""

_visits: Counter[str] = Counter()


class Planted(RuntimeError):
    """Raised by a fault with the action `error`."""


def fault(point: str) -> None:
    """Apply the fault that NIGHTRECS_FAULT names, if it names this point."""
    if wanted := os.environ.get(VARIABLE):
        _reach(point, wanted)


def check() -> None:
    """Raise SettingsError if NIGHTRECS_FAULT is set to something invalid."""
    if wanted := os.environ.get(VARIABLE):
        _parse(wanted)


@contextmanager
def planted(wanted: str) -> Generator[None]:
    """Set a fault for a block in this process; visits are counted from its start."""
    before = os.environ.get(VARIABLE)
    _parse(wanted)
    _visits.clear()
    os.environ[VARIABLE] = wanted
    try:
        yield
    finally:
        _visits.clear()
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _parse(wanted: str) -> tuple[str, str, int]:
    """The point, the action, and at which visit it applies."""
    match = re.fullmatch(r"(\w+:\w+):(\w+)(?:@([1-9][0-9]{0,8}))?", wanted, re.ASCII)
    if not match:
        raise SettingsError(f"{VARIABLE}={wanted!r}: write it as point:action, e.g. publish:before_rename:kill")
    point, action, visit = match[1], match[2], int(match[3] or 1)
    if point not in (known_points := POINTS + OF_FORGET + OF_BACKUP + OF_DELIVERY + OF_SHARED_LAKE + OF_FETCH):
        known = f"{nearest(point, known_points)}; there are: {', '.join(known_points)}"
        raise SettingsError(f"{VARIABLE}={wanted!r}: no fault point is called {point!r}{known}")
    if action not in ACTIONS:
        raise SettingsError(f"{VARIABLE}={wanted!r}: the actions are {', '.join(ACTIONS)}")
    return point, action, visit


def _reach(point: str, wanted: str) -> None:
    where, action, visit = _parse(wanted)
    if where != point:
        return
    _visits[point] += 1
    if _visits[point] != visit:
        return
    print(f"planted fault: {wanted}", file=sys.stderr, flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"planted at {point}")
    raise Planted(f"planted at {point}")
