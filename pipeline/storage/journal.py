"""The journal: what each run did. JSON lines, appended and synced; published files contain a copy.

Only the process that conducts a night, the driver, writes its journal: it holds the lock, and appending from several
hosts is not atomic on a network file system. Code that runs a stage in another process does so within
`journal_entries.aside` and returns the entries; the driver passes them to `take`.
"""

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.core import progress
from pipeline.core.code_version import code_version
from pipeline.core.console import log
from pipeline.core.errors import Ids
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.redaction import masked, without_users
from pipeline.core.run_ids import moment_of, utcnow
from pipeline.schemas import table as contracts
from pipeline.schemas import tables
from pipeline.storage import home_identity, journal_records, state_files
from pipeline.storage.journal_entries import ARTIFACT, NOTE, RUN, Entry, kept_aside

if TYPE_CHECKING:
    from pipeline.config.run import Run  # imported where one is made: commands that only read need no settings

WARNING = "warning: "
"""Prefix of the text of a note that is a warning."""
ENDED_EARLY = "the process ended before the night did"
"""The reason of a night that never ended."""


def take(run: "Run", entries: list[Entry]) -> None:
    """Write the entries of a task, in its order. The caller is the driver of the run."""
    for kind, content in entries:
        if kind == ARTIFACT:
            record_artifact(run, Path(content))
        elif kind == NOTE:
            note(run, **content)
        elif kind == RUN:
            update_run(run, **content)
        else:
            _append(run, kind, content)


def folder(run: "Run") -> Path:
    """Folder of this run's journal."""
    return run.home.journal(run.dataset) / run.run_id


def run_ids(home: Home, dataset: str) -> list[str]:
    """Ids of all runs of a data set, oldest first. Other folders, and runs with a damaged run.json, are left out."""
    root = home.journal(dataset)
    folders = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(name for name in folders if _row(home, dataset, name) is not None)


def _row(home: Home, dataset: str, name: str) -> dict[str, object] | None:
    """A run's values for the table `runs`; None where `find_run` finds none. Read once, until run.json changes."""
    found = journal_records.signature(home.journal(dataset) / name / "run.json")
    return _row_at(home, dataset, name, found) if found else _row_at.__wrapped__(home, dataset, name, found)


@lru_cache(maxsize=10_000)
def _row_at(home: Home, dataset: str, name: str, _: object) -> dict[str, object] | None:
    record = find_run(home, dataset, name)
    return record and state_files.fits(tables.RUNS, record)


def open_run(run: "Run", until: str | None = None, overrides: Sequence[str] | None = None) -> None:
    """Begin the journal of a run. `until` and `overrides` are those of a run that a user started, if it has any."""
    at = folder(run)
    at.mkdir(parents=True)
    (at / "settings.json").write_text(_settings_text(run))
    record: dict[str, object] = {
        "run_id": run.run_id, "dataset": run.dataset, "recipe": run.settings.recipe, "outcome": "running",
        "started_at": run.started_at, "code_version": code_version(), "pid": os.getpid(), "data": run.origin,
        "flow_run_id": run.flow_run_id,
    }  # fmt: skip
    if target := home_identity.target_of(run.home):
        record["target"] = target.name
    if run.toml:
        record["toml"] = str(run.toml)
    if until:
        record["until"] = until
    if overrides:
        record["overrides"] = [masked(each) for each in overrides]
    write_atomically(at / "run.json", json.dumps(record, indent=2, default=str))


def _settings_text(run: "Run") -> str:
    """The settings as JSON. Reports and MLflow show them, so their URLs have no users."""
    text = run.settings.model_dump_json(indent=2)
    tree = json.loads(text)
    cleared = without_users(tree)
    return text if cleared == tree else json.dumps(cleared, indent=2, ensure_ascii=False)


@contextmanager
def stage(run: "Run", name: str) -> Generator[dict[str, Any]]:
    """Time a stage. The block may set rows_in, rows_out, skipped and stage (the name) in the dict that it gets."""
    record: dict[str, Any] = {"stage": name, "rows_in": None, "rows_out": None, "skipped": False}
    started = time.perf_counter()
    progress.listener().begin(name)
    try:
        yield record
    finally:
        progress.listener().end()
    seconds = round(time.perf_counter() - started, 3)
    append(run, tables.STAGES, [{**record, "seconds": seconds}])
    rows = f"{record['rows_out']:>12,} rows" if record["rows_out"] is not None else " " * 17
    log.info(f"  {record['stage']:<28} {rows} {'there already' if record['skipped'] else f'{seconds:.1f} s':>14}")


def record_artifact(run: "Run", result: Path) -> None:
    """Record that a run built or reused a result of the lake, in folders.txt, so that `gc` keeps it."""
    if kept_aside(ARTIFACT, result):
        return
    with (folder(run) / "folders.txt").open("a") as file:
        file.write(f"{result.parent.name}/{result.name}\n")


def artifacts(run: "Run", run_id: str, layer: str) -> list[Path]:
    """Results of a layer of the lake that the run `run_id` of the same data set built or reused, in order."""
    names = state_files.read_lines(run.home.journal(run.dataset) / run_id / "folders.txt")
    return [run.home.lake(run.dataset) / name for name in dict.fromkeys(names) if name.startswith(f"{layer}/")]


def note(run: "Run", text: str, ids: Ids | None = None, once: bool = False) -> None:
    """Log a message and keep it in notes.jsonl. A text that begins with `warning: ` is a warning.

    The text must not contain ids; pass them as `ids`, so that a user can be forgotten. `once`: not if the run has a
    note with this text.
    """
    if kept_aside(NOTE, {"text": text, "ids": ids, "once": once}):
        return
    if once and text in notes(run.home, run.dataset, run.run_id):
        return
    kept = _kept(run.home, run.dataset, ids)
    state_files.append_records(folder(run) / "notes.jsonl", [{"text": masked(text), "ids": kept}], sync=False)
    level = logging.WARNING if text.startswith(WARNING) else logging.INFO
    log.log(level, text.removeprefix(WARNING), extra={"ids": ids})


def notes(home: Home, dataset: str, run_id: str) -> list[str]:
    """The notes of a run. Older versions wrote plain lines to notes.txt."""
    at = home.journal(dataset) / run_id
    records = state_files.read_records(at / "notes.jsonl")
    lines = [line for record in records for line in str(record.get("text", "")).splitlines()]
    return state_files.read_lines(at / "notes.txt") + lines


def _kept(home: Home, dataset: str, ids: Ids | None) -> list[dict[str, str]]:
    """Ids as stored in the journal: a list of column and value. Values that name a forgotten user are redacted."""
    if not ids:
        return []
    from pipeline.storage import forgotten_users  # it writes its list as journals are written

    listed = forgotten_users.read(home, dataset)
    return [
        {"column": column, "value": forgotten_users.REDACTED if listed.named_in(value) else masked(value)}
        for column, values in ids.items()
        for value in values
    ]


def ids_of(record: dict[str, Any]) -> dict[str, list[str]]:
    """The ids that belong to the reason in `run.json`, by column."""
    found: dict[str, list[str]] = {}
    entries: list[dict[str, str]] = record.get("reason_ids") or []
    for entry in entries:
        found.setdefault(entry["column"], []).append(entry["value"])
    return found


def update_run(run: "Run", **fields: object) -> None:
    """Set fields of run.json, atomically."""
    if not kept_aside(RUN, fields):
        _update(folder(run), fields)


def close_run(run: "Run", outcome: str, reason: str | None = None, ids: Ids | None = None) -> None:
    """Set the outcome of a run: published, refused, stopped or crashed. An outcome that is set stays.

    `ids` are stored separately from the reason, as `reason_ids`.
    """
    if read_run(run.home, run.dataset, run.run_id)["outcome"] != "running":
        return
    fields = {"reason_ids": _kept(run.home, run.dataset, ids)} if ids else {}
    update_run(run, outcome=outcome, reason=reason and masked(reason), finished_at=utcnow().isoformat(), **fields)


def close_stale(home: Home, dataset: str, live: str | None = None) -> dict[str, str]:
    """Close the runs that never ended. Returns the outcome by run id. The caller holds the lock.

    The run that is `live` was killed after its tables went live, so it is published; the others crashed.
    """
    mend(home, dataset)
    stale = [i for i in run_ids(home, dataset) if read_run(home, dataset, i).get("outcome") == "running"]
    ended = {run_id: end_of_stale(run_id, live) for run_id in stale}
    for run_id, end in ended.items():
        _update(home.journal(dataset) / run_id, {**end, "finished_at": utcnow().isoformat()})
    return {run_id: str(end["outcome"]) for run_id, end in ended.items()}


def end_of_stale(run_id: str, live: str | None) -> dict[str, str | None]:
    """Outcome and reason of a run that never ended, where `live` is the published one."""
    is_live = run_id == live
    return {"outcome": "published" if is_live else "crashed", "reason": None if is_live else ENDED_EARLY}


def as_ended(record: Mapping[str, Any], live: str | None) -> dict[str, Any]:
    """The record of a run that is not running now, with the outcome that `close_stale` will give it if it has none."""
    return {**record, **(end_of_stale(record["run_id"], live) if record.get("outcome") == "running" else {})}


def mend(home: Home, dataset: str) -> None:
    """Set damaged JSON files of all runs aside. The caller holds the lock."""
    root = home.journal(dataset)
    for at in sorted(root.iterdir()) if root.is_dir() else []:
        state_files.mend(at / "run.json", _trouble_of)
        state_files.mend(at / "settings.json")


def read_run(home: Home, dataset: str, run_id: str) -> dict[str, Any]:
    """run.json of a run. Raises FileNotFoundError or state_files.Damaged."""
    return state_files.load(home.journal(dataset) / run_id / "run.json", dict)


def find_run(home: Home, dataset: str, name: str) -> dict[str, Any] | None:
    """run.json in a folder of the journal; None if there is none, or if it is damaged."""
    path = home.journal(dataset) / name / "run.json"
    record = state_files.read(path, dict)
    if record is None:
        return None
    trouble = _trouble_of(record)
    if not trouble and record["run_id"] != name:  # a copy of another run's folder
        trouble = f"it is of night {record['run_id']}, and its folder is {name}"
    if not trouble and re.match("[0-9]{8}T", name) and not moment_of(name):
        trouble = "the night's id is no time at which a night can have run"
    if trouble:
        state_files.skip(path, trouble)
    return None if trouble else record


def _trouble_of(record: dict[str, Any]) -> str | None:
    """What is wrong with the content of a run.json."""
    if state_files.fits(tables.RUNS, record) is None or not isinstance(record.get("made") or {}, dict):
        return "a value is missing or of another type"
    return None


def read_settings(home: Home, dataset: str, run_id: str) -> dict[str, Any] | None:
    """settings.json of a run; None if it is absent or damaged."""
    return state_files.read(home.journal(dataset) / run_id / "settings.json", dict)


def load_run(home: Home, dataset: str, run_id: str) -> "Run":
    """The `Run` of a past run, as its stages saw it."""
    from pipeline.config.run import Run

    record = read_run(home, dataset, run_id)
    settings = state_files.load(home.journal(dataset) / run_id / "settings.json", dict)
    return Run.model_validate(
        {
            "run_id": run_id,
            "home_root": home.root,
            "data": record["data"],
            "settings": settings,
            "started_at": record["started_at"],
        }
    )


def keep_traceback(run: "Run") -> None:
    """Append the current traceback to errors.txt."""
    with (folder(run) / "errors.txt").open("a") as file:
        file.write(masked(traceback.format_exc()) + "\n")


def append(run: "Run", table: contracts.Table, records: list[dict[str, Any]]) -> None:
    """Append rows to one of the journal's tables; `run_id` is filled in."""
    if not kept_aside(table.name, records):
        _append(run, table.name, records)


def _append(run: "Run", name: str, records: list[dict[str, Any]]) -> None:
    fault("journal:append")
    rows = ({"run_id": run.run_id, **record} for record in records)
    state_files.append_records(folder(run) / f"{name}.jsonl", rows)


def read(home: Home, dataset: str, table: contracts.Table, run_id: str | None = None) -> pl.DataFrame:
    """Rows of a journal table, of one run or of all. For rows with the same key the last one counts."""
    ids = [run_id] if run_id else run_ids(home, dataset)
    if table is tables.RUNS:
        rows = [row for i in ids if (row := _row(home, dataset, i)) is not None]
        return table.check(pl.DataFrame(rows, schema=table.schema, orient="row"))
    return journal_records.frame_of(table, [home.journal(dataset) / i / f"{table.name}.jsonl" for i in ids])


def _update(at: Path, fields: Mapping[str, object]) -> None:
    path = at / "run.json"
    write_atomically(path, json.dumps({**state_files.load(path, dict), **fields}, indent=2, default=str))
