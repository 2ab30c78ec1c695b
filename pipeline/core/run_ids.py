"""Run ids and the clock."""

import datetime as dt
import secrets

LATEST_YEAR = 3000
"""Run ids from this year on are ignored: the clock was wrong."""


def utcnow() -> dt.datetime:
    """The current time in UTC, naive, as in all tables."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def new_run_id(now: dt.datetime, earlier: list[str]) -> str:
    """`20261122T030000.123Z-4f2a`: sorts by time, and after all earlier ids even if the clock was set back."""
    stamp = now.strftime("%Y%m%dT%H%M%S.") + f"{now.microsecond // 1000:03d}Z"
    last = max((moment for run_id in earlier if (moment := moment_of(run_id))), default=None)
    if last and stamp <= last.strftime("%Y%m%dT%H%M%S.") + f"{last.microsecond // 1000:03d}Z":
        return new_run_id(last + dt.timedelta(milliseconds=1), [])
    return f"{stamp}-{secrets.token_hex(2)}"


def moment_of(run_id: str) -> dt.datetime | None:
    """Start time from a run id; None if the id has no time, or one so late that the clock was wrong."""
    try:
        moment = dt.datetime.strptime(run_id[:20], "%Y%m%dT%H%M%S.%fZ")
    except ValueError:
        return None
    return moment if moment.year < LATEST_YEAR else None
