"""Takes one user out of all that is at rest: published files, lake, journals. (MLflow's part is in tracking_care.)

The list of forgotten users comes first, so that whatever is killed on the way can be called again. Published files
are rebuilt beside and swapped by a rename, for deleting rows would leave their bytes in DuckDB's free blocks. Sums
over many users (items, popular_items, interactions_summary, metrics, row_ledger) stay as that night counted them.
"""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import checksums, forgotten, journal, lake, reader, tables, warehouse
from pipeline.contracts import Reason
from pipeline.forgotten import REDACTED, Forgotten
from pipeline.leftovers import delete
from pipeline.parts import INTERACTIONS, REJECTED
from pipeline.paths import Home
from pipeline.stages import ingest_seen
from pipeline.stages.audit import OLDEST_READABLE
from pipeline.stages.gc import LAYERS, SOURCE_FILES
from pipeline.stages.leave_out import redact, redact_file, rewrite
from pipeline.stages.publish import go_live, live_run_id

IDS = {tables.BIASES.name: "kind = 'user' AND id", tables.USER_VECTORS.name: "id"}
"""What holds the user's id in tables without a column user_id."""
TEXTS = {tables.REJECTED_ROWS.name: "raw", tables.RUNS.name: "reason"}
"""Tables with messages or source lines that may name the user."""
QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")


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
        with reader.open_file(path) as con:
            if con.sql("SELECT 1 FROM users WHERE user_id = $user", params={"user": user_id}).fetchall():
                return True
    rows = [*home.lake(dataset).glob(f"1_raw/*/{INTERACTIONS}"), *home.lake(dataset).glob(f"1_raw/*/*/{INTERACTIONS}")]
    return any(
        not pl.scan_parquet(path).filter(pl.col("user_id").cast(pl.String) == user_id).head(1).collect().is_empty()
        for path in rows
    )


def from_tables(home: Home, dataset: str, user_id: str, listed: Forgotten) -> dict[str, int]:
    """Rebuild every published file that names the user; rows removed, by file.

    Whoever has an old file open goes on reading it; the live name never points to half a file.
    """
    removed, live_id = {}, live_run_id(home, dataset)
    for path in databases(home, dataset):
        live = path == home.live(dataset) or path.stem == live_id
        is_generation = path.parent == home.generations(dataset)
        beside = path.with_name(f".{path.stem}.building")
        beside.unlink(missing_ok=True)
        if not (rows := rebuild(path, beside, user_id, listed)):
            beside.unlink()
            if is_generation:  # a call that was killed may have come this far
                _settle(home, dataset, path, live_id)
            continue
        journal.sync(beside)
        beside.chmod(0o440)
        target = home.generation(dataset, live_id) if live and live_id else path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = lake.sha256(beside)
        if target.parent == home.generations(dataset):  # both count until the swap is done
            before = checksums.read(home, dataset).generations.get(target.stem, [])
            checksums.record_generation(home, dataset, target.stem, *before, digest)
        os.replace(beside, target)
        journal.sync(target.parent)
        if target.parent == home.generations(dataset):
            _settle(home, dataset, target, live_id)
        removed[str(path.relative_to(home.warehouse))] = rows
    return removed


def _settle(home: Home, dataset: str, generation: Path, live_id: str | None) -> None:
    """A generation is as it stays: record that, and bring the live file up to it."""
    if len(checksums.read(home, dataset).generations.get(generation.stem, [])) != 1:
        checksums.record_generation(home, dataset, generation.stem, lake.sha256(generation))
    if generation.stem == live_id:
        go_live(home, dataset, generation.stem)


def rebuild(source: Path, target: Path, user_id: str, listed: Forgotten) -> int:
    """Copy a published file without the user; returns how many rows were left out or redacted."""
    changed = 0
    with warehouse.connect() as con:
        reader.open_file(source).close()  # says who holds it
        con.execute(f"ATTACH {warehouse.literal(source)} AS old (READ_ONLY)")
        con.execute(f"ATTACH {warehouse.literal(target)} AS new (STORAGE_VERSION '{OLDEST_READABLE}')")
        con.execute("COPY FROM DATABASE old TO new (SCHEMA)")
        columns = "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = 'old' AND "
        columns += "table_name IN (SELECT table_name FROM duckdb_tables() WHERE database_name = 'old') GROUP BY ALL"
        for table, names in sorted(con.sql(columns).fetchall()):
            if table in TEXTS:  # never inserted and then mended: the bytes would stay in free blocks
                changed += _copy_redacted(con, table, listed)
                continue
            name, of_user = warehouse.identifier(table), IDS.get(table) or ("user_id" if "user_id" in names else None)
            where = f"WHERE NOT ({of_user} = $user)" if of_user else ""
            params = {"user": user_id} if of_user else None
            con.execute(f"INSERT INTO new.{name} SELECT * FROM old.{name} {where}", params)
            counts = f"SELECT (SELECT count(*) FROM old.{name}) - (SELECT count(*) FROM new.{name})"
            changed += con.sql(counts).fetchall()[0][0]
        con.execute("DETACH new")
    return changed


def _copy_redacted(con: warehouse.Connection, table: str, listed: Forgotten) -> int:
    """Copy a table whose texts may name a forgotten user; returns how many rows do."""
    frame, column = con.sql(f"SELECT * FROM old.{table}").pl(), TEXTS[table]
    if table == tables.REJECTED_ROWS.name:
        clean = redact(frame, listed)
    else:
        texts = [text and redact_text(text, listed) for text in frame[column]]
        clean = frame.with_columns(pl.Series(column, texts, dtype=pl.String))
    con.register("_clean", clean.to_arrow())
    con.execute(f"INSERT INTO new.{table} SELECT * FROM _clean")
    con.unregister("_clean")
    return int((frame[column] != clean[column]).sum())


def from_lake(home: Home, dataset: str, listed: Forgotten) -> dict[str, int]:
    """Delete all results of the stages (the next night makes them anew), and rewrite what incremental sources read.

    Those files can't be read again, so their parts lose the user's rows, which their ledgers then count as forgotten.
    """
    root = home.lake(dataset)
    deleted = [path for path in root.glob(f"{LAYERS}/*") if path.name != SOURCE_FILES]
    for path in deleted:
        delete(path)
    rewritten = 0
    files = ingest_seen.folder(root / "1_raw")
    for aside in files.glob(".[!.]*"):  # of a call that was killed
        if lake.is_complete(aside) and not (part := aside.with_name(aside.name[1:])).exists():
            aside.rename(part)
    for manifest in sorted(files.glob(f"[!.]*/{lake.MANIFEST}")):
        rewritten += _rewrite_part(manifest.parent, listed)
    return {"lake_folders": len(deleted), "source_files": rewritten}


def _rewrite_part(part: Path, listed: Forgotten) -> bool:
    """Whether a part named a forgotten user; then it is replaced, through a folder beside it."""
    aside, old = part.with_name(f".{part.name}"), part.with_name(f".{part.name}.old")
    delete(aside)
    delete(old)
    aside.mkdir()
    before = ingest_seen.result_of(part)
    for name in (INTERACTIONS, REJECTED):
        (aside / name).write_bytes((part / name).read_bytes())
    result = rewrite(aside, before, listed)
    changed = result.ledger.get(Reason.FORGOTTEN) != before.ledger.get(Reason.FORGOTTEN) or any(
        lake.sha256(aside / name) != lake.sha256(part / name) for name in (INTERACTIONS, REJECTED)
    )
    if changed:
        ingest_seen.complete(aside, result)
        journal.sync(aside)
        part.rename(old)
        aside.rename(part)
    delete(aside)
    delete(old)
    return changed


def from_journals(home: Home, dataset: str, listed: Forgotten) -> int:
    """Redact rejected lines, reasons, notes and errors of all nights; returns how many texts named the user."""
    redacted = 0
    for run_id in journal.run_ids(home, dataset):
        at = home.journal(dataset) / run_id
        if (at / REJECTED).is_file():
            redacted += redact_file(at / REJECTED, listed)
        for path in (at / "notes.txt", at / "errors.txt"):
            text = path.read_text() if path.is_file() else ""
            if (clean := redact_text(text, listed)) != text:
                journal.write_atomically(path, clean)
                redacted += 1
        record: dict[str, Any] = journal.read_run(home, dataset, run_id)
        clean = {key: redact_text(v, listed) if key == "reason" and v else v for key, v in record.items()}
        if clean != record:
            journal.write_atomically(at / "run.json", json.dumps(clean, indent=2))
            redacted += 1
    return redacted


def redact_text(text: str, listed: Forgotten) -> str:
    """A message in which the quoted pieces that name a forgotten user, examples of bad rows, are blanked."""
    return QUOTED.sub(lambda piece: repr(REDACTED) if listed.named_in(_unquoted(piece[0])) else piece[0], text)


def _unquoted(piece: str) -> str:
    try:
        return str(ast.literal_eval(piece))
    except (ValueError, SyntaxError):
        return piece[1:-1]


def from_reports(home: Home, dataset: str) -> int:
    """Delete the reports, which show users; `nightrecs report` makes them anew from what is left. How many."""
    reports = list((home.reports / dataset).glob("*.html"))
    for path in reports:
        delete(path)
    return len(reports)


def remember(home: Home, dataset: str, user_id: str) -> Forgotten:
    """Put the user on the list that every later night leaves out."""
    return forgotten.add(home, dataset, user_id)
