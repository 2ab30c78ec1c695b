"""Finds and changes the absolute paths stored in a home by MLflow, Prefect, the journal and the lake."""

import errno
import json
import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.run_ids import utcnow
from pipeline.storage import sqlite_files

OWN = ("warehouse", "mlflow", ".prefect")
"""Folders of a home. Other folders in it, such as sources, may or may not have been copied with it."""
KEPT_BACKUPS = 3
"""Backups kept of each database."""
FILE = "file://"


@dataclass(frozen=True)
class Relocation:
    """A move from former locations of a home to its current one."""

    former: tuple[str, ...]
    root: Path

    def path(self, path: str) -> str:
        """The current path. Of nested locations the innermost counts, so the result doesn't change if applied twice."""
        places = [place for place in (*self.former, str(self.root)) if path == place or path.startswith(f"{place}/")]
        place = max(places, key=len, default=str(self.root))
        if place == str(self.root):
            return path
        inside = path[len(place) :].lstrip("/")
        now = str(self.root / inside) if inside else str(self.root)
        ours = not inside or inside.partition("/")[0] in OWN
        return now if ours or os.path.lexists(now) else path

    def text(self, value: str) -> str:
        """A path, a file URI, or a JSON document with such values. Text that only mentions a path is unchanged."""
        if "/" not in value:
            return value
        if value.startswith("/"):
            return self.path(value)
        if value.startswith(f"{FILE}/"):
            old = unquote(value.removeprefix(FILE))
            new = self.path(old)
            return value if new == old else FILE + quote(new)
        if value[:1] in '[{"':
            try:
                content = json.loads(value)
            except ValueError:
                return value
            new = self.within(content)
            return value if new == content else json.dumps(new)
        return value

    def within(self, content: Any) -> Any:
        """JSON content with `text` applied to every string in it."""
        if isinstance(content, dict):
            return {key: self.within(value) for key, value in cast("dict[str, Any]", content).items()}
        if isinstance(content, list):
            return [self.within(value) for value in cast("list[Any]", content)]
        return self.text(content) if isinstance(content, str) else content


def is_read_only(error: OSError) -> bool:
    """Whether an error means that writing is not permitted."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def databases(home: Home) -> list[Path]:
    """The databases of MLflow and Prefect that are in the home."""
    return [path for path in (home.mlflow_db, home.prefect / "prefect.db") if path.is_file()]


def has_content(home: Home) -> bool:
    """Whether a run has written to this home."""
    return home.mlflow_db.is_file() or any(_journals(home))


def roots_named_in(home: Home) -> list[str]:
    """Locations of a home without a marker, as stored by MLflow and by the journals of its runs."""
    found: list[str] = []
    with suppress(sqlite3.Error), closing(sqlite_files.connect(home.mlflow_db)) as con:
        for (location,) in con.execute("SELECT artifact_location FROM experiments"):
            place = unquote(str(location).removeprefix(FILE))
            root, artifacts, _ = place.rpartition("/mlflow/artifacts/")
            if artifacts and root.startswith("/"):
                found.append(root)
    for file in _journals(home):
        made = _read_json(file).get("made")
        at = cast("dict[str, Any]", made).get("encoded") if isinstance(made, dict) else None
        root, lake, _ = str(at or "").rpartition("/warehouse/lake/")
        if lake and root.startswith("/"):
            found.append(root)
    return list(dict.fromkeys(found))


def shares_nights(home: Home, place: str) -> bool:
    """Whether a run of this home is also in the journal at `place`; assumed if the folder can't be read."""
    other = Home(Path(place))
    try:
        if other.root.resolve() != other.root:
            return False  # a link that was left at the former location
        return any((other.root / file.relative_to(home.root)).exists() for file in _journals(home))
    except PermissionError:
        return True


def refuse_hard_links(home: Home, original: Home) -> None:
    """Raise UnreadableInput if a copy shares files with the original by hard links: a write would change both."""
    pairs = [(file, original.root / file.relative_to(home.root)) for file in (home.marker, *databases(home))]
    for mine, other in pairs:
        with suppress(OSError):
            if mine.samefile(other):
                raise UnreadableInput(
                    f"{mine} and {other} are one file: {home.root} is a copy by hard links, and what is written to one "
                    "home would change the other. Copy it with `cp -a`"
                )


def back_up(home: Home, why: str) -> list[Path]:
    """Back up the databases next to them, group-readable. Only the newest backups of each are kept."""
    made: list[Path] = []
    for file in databases(home):
        target = file.with_name(f"{file.stem}.before-{why}-{utcnow():%Y%m%dT%H%M%S}{file.suffix}")
        part = target.with_name(f".{target.name}.part")
        try:
            sqlite_files.copy(file, part, 0o640)
        except sqlite3.OperationalError as error:
            raise _unrepairable(file, error) from None
        except sqlite3.DatabaseError:
            continue  # no database: there is nothing in it to be kept
        part.replace(target)
        made.append(target)
        for old in backups(file)[:-KEPT_BACKUPS]:
            old.unlink()
    return made


def backups(database: Path) -> list[Path]:
    """The backups of a database, oldest first."""
    found = database.parent.glob(f"{database.stem}.before-*{database.suffix}")
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def repair(home: Home, relocation: Relocation) -> int:
    """Change every stored path below the former locations. Returns the number of changed values. Idempotent.

    Each database is changed in one transaction, other files one by one and atomically.
    """
    changed = sum(_repair_database(file, relocation) for file in databases(home))
    changed += sum(_repair_json(file, relocation) for file in _json_files(home))
    changed += sum(_repair_lines(file, relocation) for file in home.journal("*").parent.glob("*/operations.jsonl"))
    changed += sum(_repair_manifest(file, relocation) for file in _manifests(home))
    return changed + sum(_repair_yaml(file, relocation) for file in home.mlflow_artifacts.rglob("MLmodel"))


def forget_services(home: Home) -> None:
    """Remove the state of running services and their auth strings from a copy: they belong to the original."""
    for name in ("up.json", "ray.json"):
        (home.warehouse / name).unlink(missing_ok=True)
    home.api_auth.with_name("ray-token").unlink(missing_ok=True)
    home.api_auth.unlink(missing_ok=True)
    home.mlflow_auth.unlink(missing_ok=True)


def _repair_database(file: Path, relocation: Relocation) -> int:
    try:
        with closing(sqlite_files.connect(file)) as con:
            con.create_function("relocated", 1, relocation.text, deterministic=True)
            con.execute("BEGIN IMMEDIATE")
            changed = 0
            for table, column in list(_columns(con)):
                changed += con.execute(
                    f"UPDATE {table} SET {column} = relocated({column}) WHERE typeof({column}) = 'text' "
                    f"AND instr({column}, '/') > 0 AND relocated({column}) <> {column}"
                ).rowcount
            con.execute("COMMIT")
            return changed
    except sqlite3.Error as error:
        raise _unrepairable(file, error) from None


def _columns(con: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Every table and writable column, as SQL names: other versions may store paths in other columns."""
    tables = con.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE%'").fetchall()
    for (table,) in tables:
        if table.startswith("sqlite_"):
            continue
        for _, column, *_, hidden in con.execute(f"PRAGMA table_xinfo({_name(table)})").fetchall():
            if not hidden:
                yield _name(table), _name(column)


def _name(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _unrepairable(file: Path, error: sqlite3.Error) -> UnreadableInput:
    return UnreadableInput(
        f"{file} has the former path of this home and can't be changed: {error}. Stop what uses it "
        "(`nightrecs up`) and try again; if it is damaged, move it away: the next night makes a new one"
    )


def _journals(home: Home) -> Iterator[Path]:
    yield from sorted(home.journal("*").parent.glob("*/*/run.json"))


def _json_files(home: Home) -> Iterator[Path]:
    yield from _journals(home)
    yield from home.journal("*").parent.glob("*/*/settings.json")
    yield from (home.warehouse / "schedules").glob("*.json")


def _manifests(home: Home) -> Iterator[Path]:
    lakes = home.lake("*").parent
    yield from lakes.glob("*/*/*/manifest.json")
    yield from lakes.glob("*/*/*/*/manifest.json")


def _read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none (torn by a kill or a full disk)."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _repair_json(file: Path, relocation: Relocation) -> int:
    content = _read_json(file)
    return _rewrite(file, content, relocation.within(content))


def _repair_manifest(file: Path, relocation: Relocation) -> int:
    """Settings are unchanged: they are part of the result's identity. A damaged manifest is unchanged too."""
    from pipeline.storage import lake

    content = _read_json(file)
    if not content or not lake.holds(content):
        return 0
    new = {**content, **relocation.within({key: content[key] for key in ("parents", "info") if key in content})}
    if new == content:
        return 0
    with _same_age(file):
        lake.write_manifest(file.parent, {key: value for key, value in new.items() if key != "own_hash"})
    return 1


def _repair_lines(file: Path, relocation: Relocation) -> int:
    lines = file.read_text().split("\n")
    new = [relocation.text(line) for line in lines]
    if new != lines:
        with _same_age(file):
            write_atomically(file, "\n".join(new))
    return sum(a != b for a, b in zip(lines, new, strict=True))


def _repair_yaml(file: Path, relocation: Relocation) -> int:
    """Change MLflow's file in a model's folder, which has the paths of the model and its parts."""
    import yaml

    with suppress(OSError, yaml.YAMLError):
        content = yaml.safe_load(file.read_text())
        new = relocation.within(content)
        if new != content:
            with _same_age(file):
                write_atomically(file, yaml.safe_dump(new, allow_unicode=True))
            return 1
    return 0


def _rewrite(file: Path, content: dict[str, Any], new: dict[str, Any]) -> int:
    if new == content:
        return 0
    with _same_age(file):
        write_atomically(file, json.dumps(new, indent=2))
    return 1


@contextmanager
def _same_age(file: Path) -> Generator[None]:
    """Keep a file's times and mode while it is replaced: `report` and `gc` use its age."""
    before = file.stat()
    yield
    with suppress(OSError):
        file.chmod(before.st_mode & 0o7777)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
