"""What each night did: the truth about it. Plain JSON lines, appended and synced; published files embed it."""

import fcntl
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from pipeline import contracts, progress, tables
from pipeline.faults import fault
from pipeline.masking import masked
from pipeline.paths import Home
from pipeline.run import Run, utcnow


class Locked(RuntimeError):
    """Another night of the same data set runs in this home."""


def folder(run: Run) -> Path:
    """This night's journal."""
    return run.home.journal(run.dataset) / run.run_id


def run_ids(home: Home, dataset: str) -> list[str]:
    """All nights of a data set, oldest first."""
    root = home.journal(dataset)
    return sorted(path.name for path in root.iterdir() if (path / "run.json").is_file()) if root.is_dir() else []


def open_run(run: Run) -> None:
    """Begin a night's journal."""
    at = folder(run)
    at.mkdir(parents=True)
    (at / "settings.json").write_text(run.settings.model_dump_json(indent=2))
    record = {
        "run_id": run.run_id, "dataset": run.dataset, "recipe": run.settings.recipe, "outcome": "running",
        "started_at": run.started_at, "code_version": code_version(), "pid": os.getpid(), "data": run.data,
        "flow_run_id": run.flow_run_id,
    }  # fmt: skip
    write_atomically(at / "run.json", json.dumps(record, indent=2, default=str))


@contextmanager
def lock(home: Home, dataset: str, holder: str, kind: str = "run") -> Iterator[None]:
    """Hold the data set's kernel lock; it vanishes with the process. Raises Locked, naming who holds it.

    `holder` is a run id, or the name of a command where `kind` is "command".
    """
    path = home.lock(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _told(file) or str(path)
            what = "command" if other.startswith("command") else "night"
            raise Locked(f"another {what} of {dataset} is running: {other}") from None
        file.truncate(0)
        file.write(f"{kind} {holder}, process {os.getpid()}, since {utcnow():%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield
        file.truncate(0)


def _told(file: TextIO) -> str:
    """What the holder of a lock wrote of itself; it may be about to."""
    for _ in range(20):
        file.seek(0)
        if told := file.read().strip():
            return told
        time.sleep(0.01)
    return ""


@contextmanager
def stage(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Time a stage; the block may set rows_in, rows_out and skipped in the dict it gets."""
    record: dict[str, Any] = {"rows_in": None, "rows_out": None, "skipped": False}
    started = time.perf_counter()
    progress.watcher.begin(name)
    try:
        yield record
    finally:
        progress.watcher.end()
    seconds = round(time.perf_counter() - started, 3)
    append(run, tables.STAGES, [{"stage": name, "seconds": seconds, **record}])
    rows = f"{record['rows_out']:>12,} rows" if record["rows_out"] is not None else " " * 17
    say(f"  {name:<28} {rows} {'there already' if record['skipped'] else f'{seconds:.1f} s':>14}")


def used(run: Run, result: Path) -> None:
    """A night made or took a result of the lake: folders.txt, by which `gc` knows what may go."""
    with (folder(run) / "folders.txt").open("a") as file:
        file.write(f"{result.parent.name}/{result.name}\n")


def note(run: Run, text: str, ids: contracts.Ids | None = None) -> None:
    """Something a person should know of this night: in the journal, notes.jsonl, and said. The text has no ids."""
    kept = _kept(run.home, run.dataset, ids)
    with (folder(run) / "notes.jsonl").open("a") as file:
        if file.tell():
            file.write("\n")  # a torn last line must not take the next one with it
        file.write(json.dumps({"text": masked(text), "ids": kept}) + "\n")
    say(text, ids)


def notes(home: Home, dataset: str, run_id: str) -> list[str]:
    """The notes of a night. Those of older versions are plain lines, in notes.txt."""
    at, old = home.journal(dataset) / run_id / "notes.jsonl", home.journal(dataset) / run_id / "notes.txt"
    plain = old.read_text().splitlines() if old.exists() else []
    lines = at.read_text().splitlines() if at.exists() else []
    return plain + [line for record in map(_parsed, lines) if record for line in record["text"].splitlines()]


def _kept(home: Home, dataset: str, ids: contracts.Ids | None) -> list[dict[str, str]]:
    """Ids as the journal keeps them: a list of column and value. What names a forgotten user is blanked."""
    if not ids:
        return []
    from pipeline import forgotten  # it writes its list as journals are written

    listed = forgotten.read(home, dataset)
    return [
        {"column": column, "value": forgotten.REDACTED if listed.named_in(value) else masked(value)}
        for column, values in ids.items()
        for value in values
    ]


def ids_of(record: dict[str, Any]) -> dict[str, list[str]]:
    """The ids that belong to the reason of a night, by column, as `run.json` keeps them."""
    found: dict[str, list[str]] = {}
    for entry in record.get("reason_ids") or []:
        found.setdefault(entry["column"], []).append(entry["value"])
    return found


def say(text: str, ids: contracts.Ids | None = None) -> None:
    """Talk goes to stderr; stdout is for data. Ids go to the terminal only, not into Prefect's logs."""
    progress.watcher.say(masked(text), masked(contracts.with_ids("", ids)))


def update_run(run: Run, **fields: Any) -> None:
    """Set fields of run.json, atomically."""
    _update(folder(run), fields)


def close_run(run: Run, outcome: str, reason: str | None = None, ids: contracts.Ids | None = None) -> None:
    """End a night: published, refused, stopped or crashed. What follows publishing can't unpublish.

    `ids`: what the reason is about, kept apart from it as `reason_ids`.
    """
    if read_run(run.home, run.dataset, run.run_id)["outcome"] != "running":
        return
    fields = {"reason_ids": _kept(run.home, run.dataset, ids)} if ids else {}
    update_run(run, outcome=outcome, reason=reason and masked(reason), finished_at=utcnow().isoformat(), **fields)


def close_stale(home: Home, dataset: str, live: str | None = None) -> dict[str, str]:
    """End the nights that never ended, as the holder of the lock finds them: id to outcome.

    The one that is `live` was killed after its tables went live, so it did publish; the others crashed.
    """
    stale = [i for i in run_ids(home, dataset) if read_run(home, dataset, i).get("outcome") == "running"]
    outcomes = {run_id: "published" if run_id == live else "crashed" for run_id in stale}
    for run_id, outcome in outcomes.items():
        reason = None if run_id == live else "the process ended before the night did"
        ended = {"outcome": outcome, "reason": reason, "finished_at": utcnow().isoformat()}
        _update(home.journal(dataset) / run_id, ended)
    return outcomes


def read_run(home: Home, dataset: str, run_id: str) -> dict[str, Any]:
    """run.json of a night."""
    return json.loads((home.journal(dataset) / run_id / "run.json").read_text())


def load_run(home: Home, dataset: str, run_id: str) -> Run:
    """A night of the past, as its stages saw it."""
    record = read_run(home, dataset, run_id)
    settings = (home.journal(dataset) / run_id / "settings.json").read_text()
    return Run.model_validate(
        {
            "run_id": run_id,
            "home_root": home.root,
            "data": record["data"],
            "settings": json.loads(settings),
            "started_at": record["started_at"],
        }
    )


def keep_traceback(run: Run) -> None:
    """Where the error of the moment came from, for whoever looks in the morning: errors.txt."""
    with (folder(run) / "errors.txt").open("a") as file:
        file.write(masked(traceback.format_exc()) + "\n")


def append(run: Run, table: contracts.Table, records: list[dict[str, Any]]) -> None:
    """Add rows to one of the journal's tables; `run_id` is filled in."""
    fault("journal:append")
    with (folder(run) / f"{table.name}.jsonl").open("a") as file:
        if file.tell():
            file.write("\n")  # a torn last line must not take the next one with it
        for record in records:
            file.write(json.dumps({"run_id": run.run_id, **record}, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(home: Home, dataset: str, table: contracts.Table, run_id: str | None = None) -> pl.DataFrame:
    """Rows of one journal table, of one night or of all; of rows with the same key the last one counts."""
    if table is tables.RUNS:
        records = [read_run(home, dataset, i) for i in run_ids(home, dataset)]
        return _frame(table, [r for r in records if run_id in (None, r.get("run_id"))])
    ids = [run_id] if run_id else run_ids(home, dataset)
    files = [home.journal(dataset) / i / f"{table.name}.jsonl" for i in ids]
    lines = [line for file in files if file.is_file() for line in file.read_text().splitlines()]
    return _frame(table, [record for record in map(_parsed, lines) if record])


def _parsed(line: str) -> dict[str, Any] | None:
    """A record; None for an empty line, or one that a full disk or a kill tore."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _frame(table: contracts.Table, records: list[dict]) -> pl.DataFrame:
    times = [name for name, column in table.columns.items() if column.dtype == tables.TIME]
    schema = {name: (pl.String if name in times else column.dtype) for name, column in table.columns.items()}
    frame = pl.DataFrame([{name: r.get(name) for name in schema} for r in records], schema=schema, orient="row")
    frame = frame.with_columns(pl.col(times).str.to_datetime(time_unit="us"))
    return table.check(frame.unique(table.key, keep="last", maintain_order=True))


def _update(at: Path, fields: dict[str, Any]) -> None:
    path = at / "run.json"
    write_atomically(path, json.dumps({**json.loads(path.read_text()), **fields}, indent=2, default=str))


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file whole: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def code_version() -> str:
    """Version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nightrecs")
    except PackageNotFoundError:
        return "unknown"
