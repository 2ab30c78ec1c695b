"""Removes one user from everything at rest, and proves it. (tracking.cleanup removes MLflow's models.)

The user is recorded first (`forgotten_users.Pending`), then added to the list that every later night leaves out, so a
killed call is finished by the next command that takes the lock. Published files are rebuilt next to the old ones and
swapped by a rename, because deleting rows would leave their bytes in DuckDB's free blocks. Sums over many users (items,
popular_items, interactions_summary, metrics, row_ledger) stay as that night counted them. At the end the whole home is
searched (home_search); the call is done only where nothing is found.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline.core.console import log
from pipeline.core.errors import Held, Refused
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, sha256, sync
from pipeline.core.paths import Home
from pipeline.maintenance import home_search, trace_decoders
from pipeline.maintenance.gc import LAYERS, SOURCE_FILES
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.sources import incremental
from pipeline.sources.exclusions import redact, rewrite
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED
from pipeline.sources.user_traces import LONG, Dialect, Person
from pipeline.storage import checksums, forgotten_users, journal, lake, operation_log, reader, warehouse
from pipeline.storage.forgotten_users import Forgotten, Pending
from pipeline.storage.generations import OLDEST_READABLE, go_live, live_run_id

GENERATED = "0_source"
"""Layer of the lake with the files of a data set that has a generator."""


@dataclass
class Outcome:
    """What a `forget` did; `left`: what it could not clear, by file; empty where nothing names the user."""

    tables: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    mlflow: str = ""
    left: list[str] = field(default_factory=list)


def forget(home: Home, dataset: str, user_id: str) -> Outcome:
    """Take every step, and search the home; the caller holds the lock."""
    forgotten_users.drop_remains(home, dataset)
    pending = forgotten_users.begin(home, dataset, user_id)
    fault("forget:after_record")
    return _carry_out(home, dataset, pending)


def finish(home: Home, dataset: str, prove: bool = True, but: str | None = None) -> list[str]:
    """Finish calls that are not done; the caller holds the lock. Returns what is left, by file.

    `prove` false, as for a night: calls of which only the search is left wait for another command.
    `but`: a user whom the caller has just handled.
    """
    if not home.forgotten(dataset).parent.is_dir():
        return []
    forgotten_users.drop_remains(home, dataset)
    left = []
    for pending in forgotten_users.pending(home, dataset):
        if pending.user == but:
            continue
        if prove or set(pending.done) < set(STEPS):
            log.info("finishing to forget a user, which was begun earlier")
            left += _carry_out(home, dataset, pending).left
        else:
            left += pending.left
    return left


def is_published_in(home: Home, dataset: str, path: Path) -> bool:
    """Whether a published file names a user whom a `forget` that is not done should have taken out of it."""
    listed = forgotten_users.read(home, dataset)
    return any(
        home_search.look_into(path, _person(home, dataset, pending.user, listed))
        for pending in forgotten_users.pending(home, dataset)
    )


def _carry_out(home: Home, dataset: str, pending: Pending) -> Outcome:
    """Take the steps that are not done, prove it, and close the record where nothing is left."""
    outcome = Outcome()
    again = pending.user in forgotten_users.read(home, dataset)
    listed = forgotten_users.add(home, dataset, pending.user)
    fault("forget:after_list")
    person = _person(home, dataset, pending.user, listed)
    for name, step in STEPS.items():
        if name in pending.done:
            continue
        try:
            step(home, dataset, person, outcome)
        except Exception as error:
            why = person.redacted_message((str(error) or type(error).__name__).splitlines()[0])
            outcome.left.append(f"{name}: {type(error).__name__}: {why}")
            continue
        pending.done.append(name)
        pending.save()
        fault("forget:after_step")
    found = home_search.search(home, dataset, person)
    outcome.left += [f"{finding.path.relative_to(home.root)}: {finding.what}" for finding in found]
    fault("forget:before_done")
    if outcome.left:
        pending.left = outcome.left
        pending.save()
    else:
        pending.end()
    mine = listed.hash_of(pending.user)[:12]
    counts = {"tables": outcome.tables, **outcome.counts, "left": len(outcome.left)}
    operation_log.record(home, dataset, "forget", user=mine, again=again, **counts)
    return outcome


def _person(home: Home, dataset: str, user_id: str, listed: Forgotten) -> Person:
    """The user, with the dialects of all sources that nights have read, and whether the id is ambiguous."""
    dialects = tuple(dialects_of(home, dataset))
    is_item, is_part = _likeness(home, dataset, user_id) if len(user_id) >= LONG else (True, True)
    return Person(user_id, listed, dialects, is_item, is_part)


def dialects_of(home: Home, dataset: str) -> list[Dialect]:
    """Dialects of the sources of all nights, from their settings."""
    found = {Dialect(): None}
    for run_id in journal.run_ids(home, dataset):
        with suppress(OSError, ValueError, KeyError, TypeError):
            settings = json.loads((home.journal(dataset) / run_id / "settings.json").read_text())
            source = settings["dataset"]["source"]
            found[Dialect(source.get("delimiter"), source.get("quote", '"'))] = None
    return list(found)


def _likeness(home: Home, dataset: str, user_id: str) -> tuple[bool, bool]:
    """Whether an item has this id, and whether another id contains it, in any published file or kept source."""
    files = incremental.folder(home.lake(dataset) / "1_raw").glob(f"*/{INTERACTIONS}")
    places = [(path, "users", "items") for path in databases(home, dataset)]
    kept = [f"read_parquet({warehouse.literal(path)})" for path in files]
    is_item = is_part = False
    for path, users, items in [*places, *((None, source, source) for source in kept)]:
        both = f"SELECT user_id::VARCHAR AS id, false AS item FROM {users} UNION ALL "
        both += f"SELECT item_id::VARCHAR, true FROM {items}"
        query = f"SELECT bool_or(item AND id = $id), bool_or(id <> $id OR item) FROM ({both}) WHERE contains(id, $id)"
        opened = suppress(warehouse.DatabaseError, Held)  # the steps that follow name such a file
        with opened, reader.open_file(path) if path else warehouse.connect() as con:
            ((same, wider),) = con.sql(query, params={"id": user_id}).fetchall()
            is_item, is_part = is_item or bool(same), is_part or bool(wider)
    return is_item, is_part


def databases(home: Home, dataset: str) -> list[Path]:
    """Published files, the live one first: kept generations, a live file that is a copy of none of them, replays."""
    generations = sorted(home.generations(dataset).glob("[!.]*.duckdb"), reverse=True)
    if home.live(dataset).exists():
        run_id = live_run_id(home, dataset)
        generations.sort(key=lambda path: path.stem != run_id)
        if not generations or generations[0].stem != run_id:
            generations.insert(0, home.live(dataset))
    return [*generations, *sorted(home.replays(dataset).glob("[!.]*.duckdb"))]


def is_known(home: Home, dataset: str, user_id: str) -> bool:
    """Whether any published file or anything read from the source names the user."""
    for path in databases(home, dataset):
        with suppress(warehouse.DatabaseError), reader.open_file(path) as con:  # a damaged one says nothing
            if con.sql("SELECT 1 FROM users WHERE user_id = $user", params={"user": user_id}).fetchall():
                return True
    rows = [*home.lake(dataset).glob(f"1_raw/*/{INTERACTIONS}"), *home.lake(dataset).glob(f"1_raw/*/*/{INTERACTIONS}")]
    return any(
        not pl.scan_parquet(path).filter(pl.col("user_id").cast(pl.String) == user_id).head(1).collect().is_empty()
        for path in rows
    )


def from_tables(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Rebuild every published file that names the user, and delete what was set aside next to the live one.

    Readers that have an old file open go on reading it; the live name never points to half a file. A file that can't
    be read is left as it is: the search names it. A generation that was changed after it was published is not made
    valid by being rebuilt: it is made from the live file where that is a sound copy of it, else its checksum stays.
    """
    live_id = live_run_id(home, dataset)
    refused: list[str] = []
    for path in databases(home, dataset):
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
            continue
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
        if target.parent == home.generations(dataset) and not is_changed:
            _settle(home, dataset, target, live_id)
        elif live and is_changed:
            refused.append(f"{target.name} was changed after it was published, so the live file can't be made from it")
        fault("forget:after_swap")
        outcome.tables[str(path.relative_to(home.warehouse))] = rows
    for path in _debris(home, dataset):
        delete(path)
    if refused:
        raise Refused("; ".join(refused))


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
    with warehouse.connect() as con:
        reader.open_file(source).close()  # says who holds it
        con.execute(f"ATTACH {warehouse.literal(source)} AS old (READ_ONLY)")
        con.execute(f"ATTACH {warehouse.literal(target)} AS new (STORAGE_VERSION '{OLDEST_READABLE}')")
        con.execute("COPY FROM DATABASE old TO new (SCHEMA)")
        columns = "SELECT table_name, map(list(column_name), list(data_type)) FROM duckdb_columns() WHERE "
        columns += "database_name = 'old' AND table_name IN "
        columns += "(SELECT table_name FROM duckdb_tables() WHERE database_name = 'old') GROUP BY ALL"
        for table, types in sorted(con.sql(columns).fetchall()):
            changed += _copy(con, table, types, person)
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
        con.register("_clean", clean.to_arrow())
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


def from_lake(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete all results of the stages (the next night makes them again), and rewrite what incremental sources read.

    Those files can't be read again, so their parts lose the user's rows, which their ledgers then count as forgotten.
    A generator's files go as well: the next night makes them again, with all their made-up users.
    """
    root = home.lake(dataset)
    deleted = [path for path in root.glob(f"{LAYERS}/*") if path.name != SOURCE_FILES]
    deleted += [path for path in [root / GENERATED] if path.is_dir()]
    for path in deleted:
        delete(path)
    rewritten = 0
    files = incremental.folder(root / "1_raw")
    for aside in files.glob(".[!.]*"):  # of a call that was killed
        if lake.is_complete(aside) and not (part := aside.with_name(aside.name[1:])).exists():
            aside.rename(part)
    for manifest in sorted(files.glob(f"[!.]*/{lake.MANIFEST}")):
        rewritten += _rewrite_part(manifest.parent, person)
    outcome.counts |= {"lake_folders": len(deleted), "source_files": rewritten}


def _rewrite_part(part: Path, person: Person) -> bool:
    """Whether a part named a forgotten user; then it is replaced, by a rename."""
    aside, old = part.with_name(f".{part.name}"), part.with_name(f".{part.name}.old")
    delete(aside)
    delete(old)
    aside.mkdir()
    before = incremental.result_of(part)
    for name in (INTERACTIONS, REJECTED):
        (aside / name).write_bytes((part / name).read_bytes())
    result = rewrite(aside, before, person.listed, dialects=person.dialects, person=person)
    changed = result.ledger.get(Reason.FORGOTTEN) != before.ledger.get(Reason.FORGOTTEN) or any(
        sha256(aside / name) != sha256(part / name) for name in (INTERACTIONS, REJECTED)
    )
    if changed:
        incremental.complete(aside, result)
        sync(aside)
        part.rename(old)
        aside.rename(part)
    delete(aside)
    delete(old)
    return changed


def from_journals(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Redact rejected lines of all nights; one that may name the user is blanked. (Texts: `from_texts`.)"""
    redacted = undecided = 0
    for run_id in journal.run_ids(home, dataset):
        path = home.journal(dataset) / run_id / REJECTED
        if path.is_file():
            before = pl.read_parquet(path)
            clean = redact(before, person.listed, person.dialects, person)
            if changed := int((before["raw"] != clean["raw"]).sum()):
                aside = path.with_name(f".{path.name}")
                clean.write_parquet(aside)
                os.replace(aside, path)
                redacted += changed
                undecided += changed - sum(person.is_in_raw(raw) for raw in before["raw"])
    outcome.counts |= {"rejected_lines": redacted, "of_them_undecided": undecided}


def from_reports(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete the reports, which show users; `nightrecs report` makes them again from what is left."""
    reports = list((home.reports / dataset).glob("*"))
    for path in reports:
        delete(path)
    outcome.counts["reports"] = len(reports)


def from_replays(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete what unfinished replays left; one that runs now finds the list changed, and refuses."""
    deleted = 0
    running = home_search.running_replays(home, dataset)
    for work in home.replays(dataset).glob(".[!.]*"):
        if work not in running:
            delete(work)
            deleted += 1
    outcome.counts["replay_homes"] = deleted


def from_mlflow(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete the models that know the user."""
    outcome.counts["mlflow_models"] = 0
    if not any(journal.read_run(home, dataset, i).get("mlflow_run_id") for i in journal.run_ids(home, dataset)):
        outcome.mlflow = "it has no night of this data set"
        return
    from pipeline.tracking import cleanup  # imports mlflow, which takes seconds

    try:
        found = cleanup.models_with(home, dataset, person.user_id)
        for leftover in found:
            leftover.remove()
    except Exception as error:
        outcome.mlflow = f"NOT removed there: {type(error).__name__}: {error}. Call forget again when it can be reached"
        raise
    named = f": {', '.join(leftover.name for leftover in found)}; the next night registers a new one" if found else ""
    outcome.counts["mlflow_models"] = len(found)
    outcome.mlflow = f"{len(found)} models that know the user deleted{named}"


def from_texts(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Blank the id in all other files of the home: reasons, notes, errors, the databases of MLflow and Prefect."""
    outcome.counts["texts"] = outcome.counts["journal_texts"] = home_search.clear(
        home, dataset, person
    )  # its old name, too


STEPS: dict[str, Callable[[Home, str, Person, Outcome], None]] = {
    "published files": from_tables,
    "lake": from_lake,
    "rejected lines": from_journals,
    "reports": from_reports,
    "replays": from_replays,
    "MLflow": from_mlflow,
    "texts": from_texts,
}
"""The steps in order, by the name used in messages."""
