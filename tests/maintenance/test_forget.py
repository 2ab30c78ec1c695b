"""One user leaves: published files, lake, journals, and every night that follows."""

import json
import os

import polars as pl
import pytest

from pipeline.maintenance import forget
from pipeline.schemas import tables
from pipeline.sources.user_traces import Person
from pipeline.storage import forgotten_users, journal, operation_log, warehouse
from pipeline.storage.generations import kept_generations, live_run_id
from pipeline.storage.lock import lock
from tests.support.published_nights import SECRET, Dataset, without_mlflow

BAD = f"{SECRET},i01,not a number,1700000000"


def files_naming(data: Dataset, name: str = SECRET) -> list[str]:
    """Files below the home that have the bytes of the id; Parquet and DuckDB keep short texts as they are."""
    found = [path for path in data.home_root.rglob("*") if path.is_file() and name.encode() in path.read_bytes()]
    return sorted(str(path.relative_to(data.home_root)) for path in found)


def rows_naming(data: Dataset, path) -> int:
    total = 0
    with warehouse.connect(path, read_only=True) as con:
        for table in tables.PUBLISHED:
            texts = [name for name, column in table.columns.items() if column.dtype == pl.String]
            if texts:
                where = " or ".join(f"contains(\"{name}\", '{SECRET}')" for name in texts)
                total += con.sql(f"select count(*) from {table.name} where {where}").fetchall()[0][0]
    return total


def test_no_file_of_the_home_names_the_user_and_no_later_night_does(four_nights, capsys):
    data, nights = four_nights
    data.write(extra=(BAD, "someone,else,bad,1"))
    last = data.night()
    live = data.home.live("tiny")
    users = data.ask("select count(*) as n from users")["n"].item()
    opened = data.folder / "opened.duckdb"  # by another name: DuckDB has one configuration for a path in a process
    os.link(data.home.generation("tiny", last), opened)
    reader = warehouse.connect(opened, read_only=True)  # before it is replaced
    assert rows_naming(data, live) > 4 and files_naming(data)
    others = {table: data.ask(f"select * from {table}") for table in ("items", "metrics")}

    output = data.printed(capsys, "forget", "tiny", SECRET)
    assert len(output["tables"]) == 5 and all(rows > 0 for rows in output["tables"].values())
    assert files_naming(data) == [], "not in the lake, the journals, nor in free blocks of the databases"
    assert reader.sql("select count(*) from users").fetchall() == [(users,)], "who has the old file open keeps it"
    reader.close()
    assert live_run_id(data.home, "tiny") == last
    assert live.read_bytes() == data.home.generation("tiny", last).read_bytes()
    assert kept_generations(data.home, "tiny") == [*nights, last]
    for run_id in kept_generations(data.home, "tiny"):
        assert rows_naming(data, data.home.generation("tiny", run_id)) == 0
    assert data.ask("select count(*) as n from users")["n"].item() == users - 1
    for table, before in others.items():
        assert data.ask(f"select * from {table}").equals(before), f"{table} stays, row by row"
    assert set(data.ask("select raw from rejected_rows")["raw"]) == {forgotten_users.REDACTED, "someone,else,bad,1"}
    assert data.ask("select comment from duckdb_tables() where table_name = 'users'")["comment"].item()
    assert data.ask("select * from recommendations_titled").height, "views are there too"
    assert rows_naming(data, live) == 0
    (entry,) = operation_log.read(data.home, "tiny", "forget")
    assert entry["user"] and SECRET not in json.dumps(entry)

    later = data.night()
    assert files_naming(data) == [] and data.live_night() == later
    ledger = data.ask(f"select reason, rows from row_ledger where run_id = '{later}' and stage = 'ingest'")
    assert dict(ledger.rows()) == {"kept": 200, "forgotten": 10, "rating_not_a_number": 2}
    assert data.ask("select rows, users from interactions_summary").rows() == [(200, 20)]


def test_unknown_users(four_nights, capsys):
    data, _ = four_nights
    before = data.home.live("tiny").stat().st_ino
    assert data.command("forget", "tiny", "nobody") == 2 and "--force" in capsys.readouterr().err
    assert not forgotten_users.read(data.home, "tiny") and data.home.live("tiny").stat().st_ino == before
    output = data.printed(capsys, "forget", "tiny", "nobody", "--force")
    assert output["tables"] == {} and data.home.live("tiny").stat().st_ino == before, "nothing to rebuild"
    assert "nobody" in forgotten_users.read(data.home, "tiny") and SECRET not in forgotten_users.read(data.home, "tiny")
    assert data.printed(capsys, "forget", "tiny", "nobody")["again"], "calling it again is fine"
    with lock(data.home, "tiny", "a night"):
        assert data.command("forget", "tiny", SECRET) == 4


@pytest.fixture
def incremental(tmp_path, monkeypatch) -> Dataset:
    without_mlflow(monkeypatch)
    data = Dataset(tmp_path / "data", "incremental")
    data.write("1.csv", extra=(BAD,))
    data.night()
    (data.folder / "1.csv").unlink()
    return data


def test_files_that_can_not_be_read_again_are_rewritten(incremental, capsys):
    data = incremental
    output = data.printed(capsys, "forget", "tiny", SECRET)
    assert output["source_files"] == 1 and files_naming(data) == []
    data.write("2.csv", first_day=10)
    data.night()
    assert files_naming(data) == [], "nor do new files bring the user back"
    assert data.ask("select rows, users from interactions_summary").rows() == [(400, 20)]
    ledger = data.ask("select reason, sum(rows) as n from row_ledger where stage = 'ingest' group by all order by 1")
    assert dict(ledger.rows())["forgotten"] == 20


def test_a_call_that_is_killed_anywhere_is_made_good_by_the_next(incremental, monkeypatch, capsys):
    data = incremental

    def killed(*_):
        raise KeyboardInterrupt

    for name in ("published files", "lake", "rejected lines", "texts"):
        with monkeypatch.context() as patch:
            patch.setitem(forget.STEPS, name, killed)
            assert data.command("forget", "tiny", SECRET) == 130
        assert SECRET in forgotten_users.read(data.home, "tiny")
    (part,) = data.home.lake("tiny").glob("1_raw/files/[!.]*/manifest.json")
    part.parent.rename(part.parent.with_name(f".{part.parent.name}"))  # between its two renames
    assert data.command("forget", "tiny", SECRET) == 0 and files_naming(data) == []
    assert data.night()


def test_what_a_night_logged_about_the_user_is_blanked(run):
    """As older versions wrote it, in prose, and as it is written now, in fields."""
    person = Person("42", forgotten_users.add(run.home, run.dataset, "43"))
    text = "nothing_seen: 1 bad rows, e.g. {'user_id': '42', 'item_id': '7'}; a.tsv line 3 (bad): '42\\t7\\tx'; 42 %"
    clean = person.redacted_message(text)
    assert clean.count(forgotten_users.REDACTED) == 2 and "'item_id': '7'" in clean and clean.endswith("42 %")
    (journal.folder(run) / "notes.txt").write_text(text + "\n")
    journal.note(run, "1 bad row", {"user_id": ["42", "420"], "item_id": ["42"], "raw": ["42^7"]})
    journal.close_run(run, "refused", text, {"user_id": ["42"], "raw": ["7::42::x", "43::9"]})
    before = journal.ids_of(journal.read_run(run.home, run.dataset, run.run_id))
    assert before == {"user_id": ["42"], "raw": ["7::42::x", forgotten_users.REDACTED]}, "43 is forgotten already"
    outcome = forget.forget(run.home, run.dataset, "42")
    assert outcome.left == [] and outcome.counts["texts"] == 3
    record = journal.read_run(run.home, run.dataset, run.run_id)
    assert record["reason"] == clean
    assert journal.ids_of(record) == {"user_id": [forgotten_users.REDACTED], "raw": [forgotten_users.REDACTED] * 2}
    assert journal.notes(run.home, run.dataset, run.run_id) == [clean, "1 bad row"]
    (line,) = (journal.folder(run) / "notes.jsonl").read_text().splitlines()
    values = [(entry["column"], entry["value"]) for entry in json.loads(line)["ids"]]
    assert values == [("user_id", "(forgotten)"), ("user_id", "420"), ("item_id", "42"), ("raw", "(forgotten)")]


@pytest.mark.parametrize(
    ("line", "named"),
    [("42,7,3", True), ("7,42,3", True), ('"42";7', True), ("7\t42\tx", True), ("7::42::1", True), ("142,7", False),
     ("4 2,7", False), ("042,7", False), ("", False)],
)  # fmt: skip
def test_lines_that_name_a_user(run, line, named):
    assert forgotten_users.add(run.home, run.dataset, "42").named_in(line) is named


def test_the_list_holds_no_ids_and_no_two_data_sets_hash_alike(run):
    one, other = forgotten_users.add(run.home, "one", "42"), forgotten_users.add(run.home, "other", "42")
    assert "42" in one and one.hashes != other.hashes
    assert (
        one.digest == forgotten_users.read(run.home, "one").digest != forgotten_users.add(run.home, "one", "43").digest
    )
    assert '"42"' not in run.home.forgotten("one").read_text()
