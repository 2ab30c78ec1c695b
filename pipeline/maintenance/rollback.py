"""Makes a kept generation the live one again, by the same atomic swap that publishes."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from pipeline.core.console import log
from pipeline.core.errors import Refused, UnreadableInput
from pipeline.core.filesystem import unless_full
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.storage import forgotten_users, journal, operation_log, reader, warehouse
from pipeline.storage.generations import go_live, kept_generations, live_run_id, restore_live
from pipeline.storage.lock import lock


@contextmanager
def between_nights(home: Home, dataset: str, command: str) -> Generator[None]:
    """Hold the data set's lock for a command. Raises Locked.

    First restores a live file that was changed and closes nights that never ended. Then finishes a `forget` that was
    killed, and warns of what is left of it. On a full disk `gc` goes on without what these steps would write.
    """

    def step(otherwise: str) -> AbstractContextManager[None]:
        return unless_full(f"{otherwise} by the next command") if command == "gc" else nullcontext()

    with lock(home, dataset, command, "command"):
        with step("the live tables are checked and restored"):
            for line in restore_live(home, dataset):
                log.warning(line)
        with step("nights that never ended are closed"):
            journal.close_stale(home, dataset, live_run_id(home, dataset))
        if command != "forget":  # it does so itself
            with step("the `forget` of a user that was begun is finished"):
                for line in finish_forgetting(home, dataset):
                    log.warning(f"a user who is to be forgotten is still there: {line}")
        yield


def finish_forgetting(home: Home, dataset: str, prove: bool = True) -> list[str]:
    """`forget.finish`, imported only where there is something to finish."""
    if not list(home.forgotten(dataset).parent.glob("forgetting-*")):
        return []
    from pipeline.maintenance import forget

    return forget.finish(home, dataset, prove)


def next_target(home: Home, dataset: str) -> str | None:
    """The newest generation before the live one that was not rolled back from; None where there is none."""
    live = live_run_id(home, dataset)
    withdrawn = _withdrawn(home, dataset)
    earlier = [i for i in kept_generations(home, dataset) if live and i < live and i not in withdrawn]
    return max(earlier, default=None)


def current_rollback(home: Home, dataset: str) -> dict[str, Any] | None:
    """The record of the rollback that made the live tables live; None where a night did."""
    live = live_run_id(home, dataset)
    newer = [i for i in kept_generations(home, dataset) if live and i > live]
    if not newer:
        return None
    records = [r for r in operation_log.read(home, dataset, "rollback") if r.get("to") == live]
    return records[-1] if records else {"operation": "rollback", "from": max(newer), "to": live, "at": None, "by": None}


def roll_back(home: Home, dataset: str, to: str | None = None) -> dict[str, Any]:
    """Make generation `to`, by default `next_target`, live; returns the record. The caller holds the lock.

    Raises Refused where there is nothing to go back to, or the generation can't be read or was changed after it was
    published, UnreadableInput where `to` is no kept generation.
    """
    live, kept = live_run_id(home, dataset), kept_generations(home, dataset)
    if to and to not in kept:
        there = f"kept are: {', '.join(kept) or 'none'}"
        raise UnreadableInput(f"there is no generation {to!r} of {dataset}{nearest(to, kept)}; {there}")
    target = to or next_target(home, dataset)
    if target is None:
        raise Refused(f"no generation of {dataset} older than the live one is kept; the tables are as they were")
    if target == live:
        raise Refused(f"generation {target} of {dataset} is live already")
    _check_readable(home, dataset, target)
    _check_forgotten(home, dataset, target)
    for line in go_live(home, dataset, target):
        log.warning(line)
    return operation_log.record(home, dataset, "rollback", **{"from": live, "to": target})


def _check_readable(home: Home, dataset: str, run_id: str) -> None:
    generation = home.generation(dataset, run_id)
    try:
        with reader.open_file(generation) as con:
            con.sql("select count(*) from recommendations").fetchall()
    except warehouse.DatabaseError as error:
        why = str(error).splitlines()[0]
        raise Refused(f"{generation} can't be read ({why}); the live tables are as they were") from None


def _check_forgotten(home: Home, dataset: str, run_id: str) -> None:
    """While a user is being forgotten, no generation that names them goes live."""
    if not forgotten_users.pending(home, dataset):
        return
    from pipeline.maintenance import forget

    if forget.is_published_in(home, dataset, home.generation(dataset, run_id)):
        raise Refused(
            f"generation {run_id} of {dataset} still names a user who is to be forgotten; call `nightrecs forget` "
            "again. The live tables are as they were"
        )


def _withdrawn(home: Home, dataset: str) -> set[str]:
    """Generations that were rolled back from, and later not back to."""
    withdrawn: set[str] = set()
    for entry in operation_log.read(home, dataset, "rollback"):
        source, target = entry.get("from") or "", entry.get("to") or ""
        if source > target:
            withdrawn.add(source)
        withdrawn.discard(target)
    return withdrawn
