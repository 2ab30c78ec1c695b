"""Decoders: how each kind of file in a home is searched for one user and, where possible, cleared of the user in place.

Each `find_…` yields what it found, in words without the id; each `clear_…` returns how many places it changed.
`home_search.KINDS` says which decoder reads which file.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast
from urllib.parse import quote

import polars as pl
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

from pipeline.core.filesystem import delete, sync
from pipeline.schemas import tables
from pipeline.sources.user_traces import Person, redact_json, texts_in
from pipeline.storage import forgotten_users, warehouse

IDS = {tables.BIASES.name: "kind = 'user' AND id", tables.USER_VECTORS.name: "id"}
"""What holds the user's id in tables without a column user_id."""
RAW = "raw"
"""Column of rejected source lines."""
TEXTS = (pl.String, pl.Categorical, pl.Enum)
KEPT_KEYS = ("run_id", "dataset", "recipe", "data", "toml", "made", "profile", "code_version", "flow_run_id", "params")
"""Keys of the journal that are no prose: redacting them would break what reads them. The search looks there, too."""
CONFIGURATION = ("settings.json",)
"""Files of the operator's own words, which are searched and never rewritten."""
LOCK_SECONDS = 10.0


# ── tables ──
def find_in_duckdb(path: Path, person: Person) -> Iterator[str]:
    """Columns of user ids exactly, all other texts as prose, nested ones too."""
    # attached, since a file that this process has open would be read as it was
    with warehouse.scratch() as con, warehouse.attached(con, path, "searched"):
        names = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'searched' ORDER BY 1"
        for (table,) in con.sql(names).fetchall():
            yield from _find_in_table(con, f"searched.{warehouse.quoted(table)}", table, person)
    yield from find_bytes(path, person)


def find_in_parquet(path: Path, person: Person) -> Iterator[str]:
    """The same of a Parquet file; its name stands for the table's."""
    with warehouse.scratch() as con:
        yield from _find_in_table(con, f"read_parquet({warehouse.literal(path)})", path.stem, person)
    yield from find_bytes(path, person)  # a dictionary may keep what no row has


def _find_in_table(con: warehouse.Connection, source: str, table: str, person: Person) -> Iterator[str]:
    described = con.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    if where := of_user(table, list(types)):
        rows = con.sql(f"SELECT count(*) FROM {source} WHERE {where}", params={"user": person.user_id}).fetchall()[0][0]
        if rows:
            yield f"{table}: {rows:,} rows of the user"
    for column in may_name(con, source, text_columns(table, types), person):
        found = sum(1 for text in _candidates(con, source, column, person) if cleaned(column, text, person) != text)
        if found:
            yield f"{table}.{column}: {found:,} texts name the user"


def may_name(con: warehouse.Connection, source: str, columns: list[str], person: Person) -> list[str]:
    """The columns in which the id may be somewhere, found in one pass."""
    if not columns:
        return []
    places = [f"coalesce(bool_or({_has_core(column, person)}), false)" for column in columns]
    (found,) = con.sql(f"SELECT {', '.join(places)} FROM {source}", params=_cores(person)).fetchall()
    return [column for column, there in zip(columns, found, strict=True) if there]


def _has_core(column: str, person: Person) -> str:
    name = f"{warehouse.quoted(column)}::VARCHAR"
    return " OR ".join(f"contains({name}, $c{n})" for n in range(len(person.cores)))


def _cores(person: Person) -> dict[str, str]:
    return {f"c{n}": core for n, core in enumerate(person.cores)}


def of_user(table: str, columns: list[str]) -> str | None:
    """The condition that a row is of user $user, or None where the table has no such rows."""
    if where := IDS.get(table):
        return f"{where} = $user" if "id" in columns else None
    named = [column for column in columns if column.lower() == "user_id" or column.lower().endswith("_user_id")]
    return " OR ".join(f"{warehouse.quoted(column)}::VARCHAR = $user" for column in named) or None


def text_columns(table: str, types: dict[str, str]) -> list[str]:
    """Columns that may have prose: not those of ids, of which items' may be equal to a user's."""
    texts = [name for name, kind in types.items() if "VARCHAR" in kind or "JSON" in kind or kind.startswith("ENUM")]
    return [
        name for name in texts
        if "item" not in name.lower() and not name.lower().endswith("user_id") and not (table in IDS and name == "id")
        and not (table == tables.ITEM_VECTORS.name and name == "id")
    ]  # fmt: skip


def _candidates(con: warehouse.Connection, source: str, column: str, person: Person) -> list[str]:
    """Distinct texts of a column that may have the id."""
    query = f"SELECT DISTINCT {warehouse.quoted(column)}::VARCHAR FROM {source} WHERE {_has_core(column, person)}"
    return [text for (text,) in con.sql(query, params=_cores(person)).fetchall()]


def cleaned(column: str, text: str, person: Person) -> str:
    """A text of a table without the user."""
    if column == RAW:
        return forgotten_users.REDACTED if person.is_in_raw(text) else text
    if column.lower() == "user" and text == person.user_id:
        return forgotten_users.REDACTED
    return person.redacted_message(text) if column in ("reason", "note") else person.redacted(text)


def clear_parquet(path: Path, person: Person) -> int:
    """Rewrite a Parquet file without the user's rows, and its texts without the id."""
    if not list(find_in_parquet(path, person)):
        return 0
    frame = pl.read_parquet(path)
    types = {name: "VARCHAR" for name, dtype in frame.schema.items() if isinstance(dtype, TEXTS)}
    before = frame.height
    if where := of_user(path.stem, frame.columns):
        with warehouse.scratch() as con:
            con.register("_frame", cast("object", frame.to_arrow()))
            frame = con.sql(f"SELECT * FROM _frame WHERE NOT coalesce({where}, false)", params={"user": person.user_id})
            frame = frame.pl()
    changed = before - frame.height
    for column in text_columns(path.stem, types):
        texts = frame[column].cast(pl.String).to_list()
        clean = [text and cleaned(column, text, person) for text in texts]
        changed += sum(a != b for a, b in zip(texts, clean, strict=True))
        frame = frame.with_columns(pl.Series(column, clean, dtype=pl.String))
    _replace(path, lambda aside: frame.write_parquet(aside))
    return changed


# ── SQLite: MLflow's and Prefect's databases ──
def find_in_sqlite(path: Path, person: Person) -> Iterator[str]:
    """Every text of every table as prose; for long ids the bytes too, free pages and the log included."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=LOCK_SECONDS)) as con:
        for table, column, _ in _sqlite_texts(con, person):
            yield f"{table}.{column} names the user"
    yield from find_bytes(path, person)


def clear_sqlite(path: Path, person: Person) -> int:
    """Blank the id in every text, and overwrite what the database once had there. Raises OSError while it is in use."""
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as con:
            con.execute("PRAGMA secure_delete = ON")
            con.execute("BEGIN IMMEDIATE")
            found = list(_sqlite_texts(con, person))
            for table, column, text in found:
                name = _sqlite_name(column)
                con.execute(
                    f"UPDATE {_sqlite_name(table)} SET {name} = ? WHERE {name} = ?", (person.redacted(text), text)
                )
            con.execute("COMMIT")
            con.execute("VACUUM")  # free pages keep what was deleted or moved before
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        raise OSError(f"{path.name} is in use or can't be written ({error}); end `nightrecs up` first") from None
    return len(found)


def _sqlite_texts(con: sqlite3.Connection, person: Person) -> Iterator[tuple[str, str, str]]:
    """Table, column and text of each distinct text that names the user."""
    names = con.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
    for (table,) in names.fetchall():
        for column in con.execute(f"PRAGMA table_info({_sqlite_name(table)})").fetchall():
            name = _sqlite_name(column[1])
            where = " OR ".join([f"instr({name}, ?)"] * len(person.cores))
            query = f"SELECT DISTINCT {name} FROM {_sqlite_name(table)} WHERE typeof({name}) = 'text' AND ({where})"
            for (text,) in con.execute(query, person.cores).fetchall():
                if person.redacted(text) != text:
                    yield table, column[1], text


def _sqlite_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# ── text ──
def find_in_text(path: Path, person: Person) -> Iterator[str]:
    """Prose, as it stands and with HTML's entities decoded."""
    text = path.read_text("utf-8", "surrogateescape")
    if _clean_text(path, text, person) != text:
        yield "names the user"


def clear_text(path: Path, person: Person) -> int:
    """Blank the id."""
    text = path.read_text("utf-8", "surrogateescape")
    clean = _clean_text(path, text, person)
    if clean == text:
        return 0
    _replace(path, lambda aside: aside.write_text(clean, "utf-8", "surrogateescape"))
    return 1


def _clean_text(path: Path, text: str, person: Person) -> str:
    is_prose = path.suffix in (".txt", ".log")
    return person.redacted_message(text) if is_prose else person.redacted(text)


def find_in_json(path: Path, person: Person) -> Iterator[str]:
    """A document, or one a line: fields exactly, texts as prose."""
    text = path.read_text("utf-8", "surrogateescape")
    for number, (line, value) in enumerate(_documents(path, text), start=1):
        if path.name in CONFIGURATION:
            if any(person.redacted(one) != one for one in texts_in(value)):
                yield "a setting names the user"
        elif value is None:
            if person.may_be_in(line):
                yield f"line {number} is torn, and may name the user"
        elif redact_json(value, person) != value:
            yield f"{'line ' + str(number) if path.suffix == '.jsonl' else 'a field'} names the user"


def clear_json(path: Path, person: Person) -> int:
    """Blank fields and texts; torn lines that may name the user go."""
    text = path.read_text("utf-8", "surrogateescape")
    lines, changed = list[str](), 0
    for line, value in _documents(path, text):
        clean = None if value is None else redact_json(value, person, KEPT_KEYS)
        if value is None and person.may_be_in(line):
            changed += 1
        elif clean == value:
            lines.append(line)
        else:
            changed += 1
            lines.append(json.dumps(clean, indent=None if path.suffix == ".jsonl" else 2))
    if changed:
        _replace(path, lambda aside: aside.write_text("\n".join(lines), "utf-8", "surrogateescape"))
    return changed


def _documents(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Text and value of each document; None for one that is torn."""
    for line in text.split("\n") if path.suffix == ".jsonl" else [text]:
        if not line.strip():
            yield line, {}
            continue
        try:
            yield line, json.loads(line)
        except ValueError:
            yield line, None


# ── bytes ──
def find_bytes(path: Path, person: Person) -> Iterator[str]:
    """Bytes of a long id anywhere in a file; of a short one bytes say nothing."""
    if not person.is_long or person.is_part:
        return
    longest = max(map(len, person.bytes_of_it))
    cores = [core.encode(code, "surrogatepass") for core in person.cores for code in ("utf-8", "utf-16-le")]
    with path.open("rb") as file:
        tail = b""
        while block := file.read(1 << 22):
            both = tail + block
            if any(core in both for core in cores) and any(spelling in both for spelling in person.bytes_of_it):
                yield "has the bytes of the user's id"
                return
            tail = block[-longest:]


def find_in_log(path: Path, person: Person) -> Iterator[str]:
    """A write-ahead log: the database next to it shows its contents; one that was set aside has no database."""
    if ".duckdb" in path.name:
        yield "a log of DuckDB that belongs to no database"
    yield from find_bytes(path, person)


def find_in_damaged(path: Path, person: Person) -> Iterator[str]:
    """A state file that was set aside as damaged: the id anywhere, since nothing says where fields begin and end."""
    content = path.read_bytes()
    if any(spelling in content for spelling in person.bytes_of_it):
        yield "is damaged, and may name the user"


def remove_damaged(path: Path, person: Person) -> int:
    """Delete such a file where it may name the user; no command reads it."""
    if not list(find_in_damaged(path, person)):
        return 0
    delete(path)
    return 1


def find_packed(codec: str, path: Path, person: Person) -> Iterator[str]:
    """What is packed, as text."""
    with pa.input_stream(str(path), compression=codec) as file:  # pyright: ignore
        packed = cast("bytes", file.read())  # pyright: ignore
    text = packed.decode("utf-8", "surrogateescape")
    if person.redacted(text) != text:
        yield "names the user"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file whole, its mode kept."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(aside)
        aside.chmod(stat.S_IMODE(path.stat().st_mode))
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        delete(aside)
