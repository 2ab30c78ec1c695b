"""Rebuilds published files without one user.

A rebuilt file is written next to the old one and takes its place by a rename, because deleting rows would leave their
bytes in DuckDB's free blocks.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import polars as pl

from pipeline.core.errors import Refused, UnreadableInput
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, is_full, sha256, sync
from pipeline.core.paths import Home
from pipeline.maintenance import trace_decoders
from pipeline.schemas import tables
from pipeline.sources.exclusions import redact
from pipeline.sources.user_traces import Person
from pipeline.storage import checksums, reader, warehouse
from pipeline.storage.generations import OLDEST_READABLE, go_live, live_run_id


def databases(home: Home, dataset: str) -> list[Path]:
    """Published files, the live one first: kept generations, a live file that is a copy of none of them, replays."""
    generations = sorted(home.generations(dataset).glob("[!.]*.duckdb"), reverse=True)
    if home.live(dataset).exists():
        run_id = live_run_id(home, dataset)
        generations.sort(key=lambda path: path.stem != run_id)
        if not generations or generations[0].stem != run_id:
            generations.insert(0, home.live(dataset))
    return [*generations, *sorted(home.replays(dataset).glob("[!.]*.duckdb"))]


def rebuild_all(home: Home, dataset: str, person: Person, changed: dict[str, int]) -> None:
    """Rebuild every published file that names the user, and delete what was set aside next to the live one.

    `changed` gets the number of rows left out or redacted for each file that was rebuilt, at once after its swap.
    Readers that have an old file open go on reading it; the live name never points to half a file. A file that can't
    be read is left as it is: the search names it. A generation that was changed after it was published is not made
    valid by being rebuilt: it is made from the live file where that is a sound copy of it, else its checksum stays.
    """
    live_id = live_run_id(home, dataset)
    left: list[str] = []
    failed: list[Exception] = []
    for path in databases(home, dataset):
        try:
            left += _rebuild_one(home, dataset, path, person, live_id, changed)
        except (OSError, warehouse.DatabaseError, UnreadableInput) as error:  # the others still lose the user
            if is_full(error):
                raise
            failed.append(error)
            left.append(f"{path.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    for path in _debris(home, dataset):
        delete(path)
    if len(left) == len(failed) == 1:
        raise failed[0]
    if left:
        raise Refused("; ".join(left))


def _rebuild_one(
    home: Home, dataset: str, path: Path, person: Person, live_id: str | None, changed: dict[str, int]
) -> list[str]:
    """Rebuild one published file; returns why it can't be made valid by that."""
    live = path == home.live(dataset) or path.stem == live_id
    is_generation = path.parent == home.generations(dataset)
    is_changed = is_generation and checksums.generation_trouble(home, dataset, path.stem) is not None
    source = home.live(dataset) if is_changed and live and _live_is_sound(home, dataset) else path
    is_changed = is_changed and source == path
    rebuilt = path.with_name(f".{path.stem}.building")
    rebuilt.unlink(missing_ok=True)
    rows = rebuild(source, rebuilt, person) if _can_be_read(source) else 0
    if not rows and source == path:
        rebuilt.unlink(missing_ok=True)
        if is_generation and path.exists() and not is_changed:  # a call that was killed may have come this far
            _settle(home, dataset, path, live_id)
        return []
    fault("forget:before_swap")
    sync(rebuilt)
    rebuilt.chmod(0o440)
    target = home.generation(dataset, live_id) if live and live_id else path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = sha256(rebuilt)
    if target.parent == home.generations(dataset) and not is_changed:  # both count until the swap is done
        before = checksums.read(home, dataset).generations.get(target.stem, [])
        checksums.record_generation(home, dataset, target.stem, *before, digest)
    os.replace(rebuilt, target)
    sync(target.parent)
    left: list[str] = []
    if target.parent == home.generations(dataset) and not is_changed:
        _settle(home, dataset, target, live_id)
    elif live and is_changed:
        left.append(f"{target.name} was changed after it was published, so the live file can't be made from it")
    fault("forget:after_swap")
    changed[str(path.relative_to(home.warehouse))] = rows
    return left


def _live_is_sound(home: Home, dataset: str) -> bool:
    """Whether the live file is, byte for byte, what was published."""
    is_recorded = checksums.live_entry(home, dataset) is not None
    return is_recorded and checksums.live_trouble(home, dataset, deep=True) is None


def _settle(home: Home, dataset: str, generation: Path, live_id: str | None) -> None:
    """Record the checksum of a generation that is complete, and make the live file a copy of it where it is live."""
    if len(checksums.read(home, dataset).generations.get(generation.stem, [])) != 1:
        checksums.record_generation(home, dataset, generation.stem, sha256(generation))
    if generation.stem == live_id:
        go_live(home, dataset, generation.stem)


def _can_be_read(path: Path) -> bool:
    try:
        reader.open_file(path).close()
    except warehouse.DatabaseError:
        return False
    return True


def _debris(home: Home, dataset: str) -> list[Path]:
    """Unfinished files, and logs of DuckDB next to the live file: no reader uses them, and they can't be searched."""
    live = home.live(dataset).name
    found = [*home.generations(dataset).glob(".*"), *home.generations(dataset).glob("*.wal*")]
    found += [path for path in home.warehouse.iterdir() if path.name.startswith(f"{live}.wal")]
    return [*found, home.warehouse / f".{live}.next", *home.replays(dataset).glob("*.duckdb.wal*")]


def rebuild(source: Path, target: Path, person: Person) -> int:
    """Copy a published file without the user; returns how many rows were left out or redacted."""
    changed = 0
    reader.open_file(source).close()  # says who holds it
    with warehouse.scratch() as con, warehouse.attached(con, source, "old"):
        con.execute(f"ATTACH {warehouse.literal(target)} AS new (STORAGE_VERSION '{OLDEST_READABLE}')")
        try:
            con.execute("COPY FROM DATABASE old TO new (SCHEMA)")
            columns = "SELECT table_name, map(list(column_name), list(data_type)) FROM duckdb_columns() WHERE "
            columns += "database_name = 'old' AND table_name IN "
            columns += "(SELECT table_name FROM duckdb_tables() WHERE database_name = 'old') GROUP BY ALL"
            for table, types in sorted(con.sql(columns).fetchall()):
                changed += _copy(con, table, types, person)
        finally:
            con.execute("DETACH new")
    return changed


def _copy(con: warehouse.Connection, table: str, types: dict[str, str], person: Person) -> int:
    """Copy a table without the user's rows and with its texts redacted; returns how many rows that changed."""
    name, of_user = warehouse.quoted(table), trace_decoders.of_user(table, list(types))
    old = f"SELECT * FROM old.{name}" + (f" WHERE NOT coalesce({of_user}, false)" if of_user else "")
    params = {"user": person.user_id} if of_user else None
    columns = [column for column in trace_decoders.text_columns(table, types) if types[column] == "VARCHAR"]
    texts = trace_decoders.may_name(con, f"old.{name}", columns, person)
    texts += [column for column in columns if column == trace_decoders.RAW and column not in texts]
    redacted = 0
    if texts:  # never inserted and then mended: the bytes would stay in free blocks
        frame = con.sql(old, params=params).pl()
        clean = _clean(table, frame, texts, person)
        redacted = int(pl.select(pl.any_horizontal([frame[c].ne_missing(clean[c]) for c in texts]).sum()).item())
        con.register("_clean", cast("object", clean.to_arrow()))
        con.execute(f"INSERT INTO new.{name} SELECT * FROM _clean")
        con.unregister("_clean")
    else:
        con.execute(f"INSERT INTO new.{name} {old}", params)
    counts = f"SELECT (SELECT count(*) FROM old.{name}) - (SELECT count(*) FROM new.{name})"
    return con.sql(counts).fetchall()[0][0] + redacted


def _clean(table: str, frame: pl.DataFrame, texts: Iterable[str], person: Person) -> pl.DataFrame:
    for column in texts:
        if column == trace_decoders.RAW and table == tables.REJECTED_ROWS.name:
            frame = redact(frame, person.listed, person.dialects, person)
            continue
        clean = [text and trace_decoders.cleaned(column, text, person) for text in frame[column]]
        frame = frame.with_columns(pl.Series(column, clean, dtype=pl.String))
    return frame
