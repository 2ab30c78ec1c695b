"""Identity of a home. A copied or moved home is detected and made independent of its former location.

Each home has a marker, `warehouse/home.json`: an id, its own path, and the format in which it is written. MLflow,
the journal and the lake store absolute paths. `settle` compares the marker with where the home is now, and changes
every stored path that lies below the old place, before anything else is written.
"""

import fcntl
import json
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core import targets
from pipeline.core.code_version import code_version
from pipeline.core.console import log
from pipeline.core.errors import Locked, SettingsError, UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.run_ids import utcnow
from pipeline.core.targets import Target
from pipeline.storage import home_paths
from pipeline.storage.home_paths import Relocation

FORMAT = 1
"""Format of a home. 0 is a home without a marker. Raise it, and add a migration, when an older version of the code
can't use what this version writes."""
KEPT_EVENTS = 20


@dataclass(frozen=True)
class Identity:
    """The marker's content."""

    id: str
    path: str
    """Location of the home when its stored paths were last updated."""
    format: int = FORMAT
    written_by: str = ""
    made_at: str = ""
    former: tuple[str, ...] = ()
    """Former locations that stored paths may still have: a repair that has begun and not ended."""
    events: tuple[dict[str, Any], ...] = field(default=())
    """Copies, moves and migrations, oldest first."""
    target: str = ""
    """The target whose home it is, if that is not production."""


def read(home: Home) -> Identity | None:
    """The marker of a home; None if it is missing or can't be read."""
    try:
        record = json.loads(home.marker.read_text())
        known = {name: record[name] for name in Identity.__dataclass_fields__ if name in record}
        known |= {name: tuple(known[name]) for name in ("former", "events") if name in known}
        is_sound = isinstance(known.get("format", FORMAT), int) and isinstance(known.get("path"), str)
        is_sound = is_sound and isinstance(known.get("target", ""), str)
        return Identity(**known) if is_sound else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def check(home: Home) -> None:
    """Raise UnreadableInput if the home was written by a newer version of nightrecs, and SettingsError if it is the
    home of another target than the one that is chosen."""
    found = read(home)
    _check_target(home, found)
    if found is not None and found.format > FORMAT:
        raise UnreadableInput(
            f"the home {home.root} was written by nightrecs {found.written_by} in format {found.format}; this version "
            f"reads formats up to {FORMAT}. Nothing was changed. Install nightrecs {found.written_by} or newer, or "
            "choose another home with --home"
        )


def target_of(home: Home) -> Target | None:
    """The target whose home it is: the chosen one, else the one that its marker names, without settings of its own.

    None for a home without targets, which is production.
    """
    target = _chosen(home)
    if target is None and (found := read(home)) and found.target:
        return Target(found.target, home.root, False, {}, None)
    return target


def name_in_services(home: Home, dataset: str) -> str:
    """What a data set is called where homes share a server: with the target at its end, if that is not production."""
    target = target_of(home)
    return dataset if target is None or target.production else f"{dataset}.{target.name}"


def _chosen(home: Home) -> Target | None:
    """The chosen target, if this is its home."""
    target = targets.chosen()
    return target if target and target.home == home.root else None


def _check_target(home: Home, found: Identity | None) -> None:
    target = _chosen(home)
    if target is None:
        return
    marked, wanted = found.target if found else "", "" if target.production else target.name
    if marked != wanted and (found is not None or home_paths.has_content(home)):
        owner = f"target {marked}" if marked else "production"
        raise SettingsError(
            f"{target.file}: targets.{target.name}.home: {home.root} is the home of {owner}. Nothing was changed. "
            "A target has a home of its own: name another folder"
        )


def settle(home: Home) -> None:
    """Give a new home its marker; make a copied or moved one independent; migrate an old one. Logs what it did.

    Raises UnreadableInput if the home was written by a newer version or can't be made independent, and Locked if a run
    or a command is active in it.
    """
    check(home)
    if _is_settled(home, read(home)):
        return
    with refusing_read_only(home):
        home.warehouse.mkdir(parents=True, exist_ok=True)
        with _alone(home):
            found = read(home)
            if not _is_settled(home, found):  # another process may have done it meanwhile
                _settle(home, found)


def location_state(home: Home) -> tuple[str, str | None]:
    """`new`, `settled`, `copied`, `moved`, or `unmarked` (of an older version), and its former location."""
    found = read(home)
    if found is None:
        former = [place for place in home_paths.roots_named_in(home) if not _is_here(home, place)]
        if not former:
            return ("unmarked" if home_paths.has_content(home) else "new"), None
        return ("copied" if any(home_paths.shares_nights(home, place) for place in former) else "moved"), former[0]
    if found.path == str(home.root) or _is_mounted_twice(home, found.path):
        return "settled", None
    return ("copied" if _has_id(found.path, found.id) else "moved"), found.path


@contextmanager
def refusing_read_only(home: Home) -> Generator[None]:
    """Raise UnreadableInput with the home's path if the block fails because the home can't be written."""
    try:
        yield
    except OSError as error:
        if not home_paths.is_read_only(error) or not Path(error.filename or home.root).is_relative_to(home.root):
            raise
        raise UnreadableInput(
            f"can't write to the home {home.root}: {error.strerror}; choose another with --home, or make it writable"
        ) from None


def _is_settled(home: Home, found: Identity | None) -> bool:
    if found is None or found.format != FORMAT or found.former:
        return False
    return found.path == str(home.root) or _is_mounted_twice(home, found.path)


def _settle(home: Home, found: Identity | None) -> None:
    event, came_from = location_state(home)
    if found is None and home.marker.exists():
        aside = home.marker.rename(home.marker.with_name(f"home.json.unreadable-{utcnow():%Y%m%dT%H%M%S}"))
        log.info(f"{home.marker} can't be read; it is set aside as {aside.name} and written again")
    now = replace(
        found or Identity(id=str(uuid.uuid4()), path=str(home.root), made_at=f"{utcnow().isoformat()}Z"),
        written_by=code_version(),
        format=FORMAT,
    )
    if event == "new":
        target = _chosen(home)
        _write(home, replace(now, target="" if target is None or target.production else target.name))
        return
    _check_idle(home)
    if event == "copied":
        home_paths.refuse_hard_links(home, Home(Path(str(came_from))))
    former = found.former if found else ()
    former = tuple(dict.fromkeys([*former, *([found.path] if found else home_paths.roots_named_in(home))]))
    former = tuple(place for place in former if place != str(home.root) and not _is_mounted_twice(home, place))
    relocation = Relocation(former, home.root)
    new_id = str(uuid.uuid4()) if event == "copied" else now.id
    # The marker records the repair before it begins, so that a killed one is continued, wherever the home is by then
    pending = (*former, str(home.root))
    _write(home, replace(now, path=found.path if found else pending[0], former=pending))
    backups = home_paths.back_up(home, event if former else f"format-{FORMAT}")
    changed = home_paths.repair(home, relocation) if former else 0
    if event == "copied":
        home_paths.forget_services(home)
    done = {"at": f"{utcnow().isoformat()}Z", "event": event, "from": came_from, "changed": changed}
    if event == "copied":
        done["copy_of"] = now.id
    events = (*now.events, done)[-KEPT_EVENTS:]
    path = str(home.root)
    _write(home, replace(now, id=new_id, path=path, former=(), events=events))
    kept = f"; backups of the databases: {', '.join(path.name for path in backups)}" if backups else ""
    messages = {
        "copied": f"{home.root} is a copy of the home {came_from}. It is independent of it now",
        "moved": f"the home was moved from {came_from} to {home.root}",
        "unmarked": f"the home {home.root} was made by an older nightrecs. It is in format {FORMAT} now",
        "settled": f"making the home {home.root} independent was interrupted earlier; it is complete now",
    }
    log.info(f"{messages[event]}: {changed:,} stored paths were changed{kept}")


def _write(home: Home, identity: Identity) -> None:
    record = {key: value for key, value in asdict(identity).items() if key != "target" or value}
    write_atomically(home.marker, json.dumps(record, indent=1))
    home.marker.chmod(0o640)


def _is_here(home: Home, place: str) -> bool:
    return place == str(home.root)


def _is_mounted_twice(home: Home, place: str) -> bool:
    """Whether another real path leads to this folder (a bind mount). A symbolic link does not count: it resolves."""
    try:
        return Path(place).resolve() != home.root and Path(place).samefile(home.root)
    except OSError:
        return False


def _has_id(place: str, identity: str) -> bool:
    """Whether another home with this id is at `place`; assumed if the folder can't be read."""
    other = Home(Path(place))
    try:
        if other.root.resolve() != other.root:
            return False  # a link that was left at the former location
        other.marker.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    found = read(other)
    return found is not None and found.id == identity


def _check_idle(home: Home) -> None:
    """Raise Locked if a run of this home is active: it still writes to the old paths."""
    for path in sorted(home.lock("_").parent.glob("*.lock")):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = path.read_text().strip() or path.name
                raise Locked(
                    f"the home {home.root} was moved or copied while {path.stem} was active in it ({holder}); "
                    "wait until it has ended"
                ) from None


@contextmanager
def _alone(home: Home) -> Generator[None]:
    with (home.warehouse / "home.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
