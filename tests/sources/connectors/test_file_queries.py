"""A query over files and over a DuckDB file is a source: exact, read-only, the same for the same rows."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.sources.connectors import file_queries, query_results
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.problems import Where
from pipeline.sources.files import fingerprint
from tests.support.fetched_source import read, write_toml

BIG = 9_007_199_254_740_993
"""An integer that no float holds."""


def ask(query: str, folder: Path, database: str | None = None) -> pl.DataFrame:
    """The result as it is written."""
    into = folder / "out.parquet"
    file_queries.write(query, folder, database, into, Where(folder / "shop.toml", "source"), Limits(folder / ".spill"))
    return pl.read_parquet(into)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "a.csv").write_text(f"u,i,r\n{BIG},1,3\n{BIG + 1},2,4\n")
    (folder / "logs" / "b.csv").write_text(f"u,i,r\n{BIG},2,5\n")
    (folder / "kinds.csv").write_text("i,kind\n1,book\n2,toy\n")
    return folder


def test_files_are_joined_and_ids_are_exact(shop: Path, tmp_path: Path):
    query = "select u, i, r from 'logs/*.csv' join 'kinds.csv' using (i) where kind = 'toy' -- as text"
    toml = write_toml(shop, {"query": query}, 'rating = "r"\n')
    found = read(toml, tmp_path / "home")
    assert found.rows == [(str(BIG), "2", 5.0), (str(BIG + 1), "2", 4.0)]
    assert found.ledger == {"kept": 2}


def test_paths_in_functions_lists_and_ctes_are_relative_to_the_folder(shop: Path):
    query = "with l as (from read_csv(['logs/a.csv', 'logs/b.csv'], header = true)) select l.u from l order by 1"
    assert ask(query, shop)["u"].to_list() == [BIG, BIG, BIG + 1]


def test_types_stay_and_what_parquet_lacks_is_its_exact_text(shop: Path):
    found = ask(
        "select 170141183460469231731687303715884105727::hugeint h, 12345678901234567.10::decimal(20,2) d, "
        "'0f8fad5b-d9cb-469f-a165-70867728950e'::uuid u, '03:04'::time t, timestamptz '2024-01-02 03:04:05+02' z, "
        "[1, 2] l, null n, 0.1::double f, true b",
        shop,
    )
    assert found.select("h", "u", "t").row(0) == (
        "170141183460469231731687303715884105727", "0f8fad5b-d9cb-469f-a165-70867728950e", "03:04:00",
    )  # fmt: skip
    assert str(found["d"][0]) == "12345678901234567.10"
    assert found["l"].to_list() == [[1, 2]]
    assert found["f"][0] == 0.1
    assert str(found["z"].dt.convert_time_zone("UTC")[0]) == "2024-01-02 01:04:05+00:00"
    assert found["n"].null_count() == 1


TIMES = "timestamp = 'at'\n[feedback]\nkeep_if = \"until is null or until > timestamp '2024-01-01'\"\n"


def test_a_time_that_no_clock_has_rejects_its_row_and_no_other(shop: Path, tmp_path: Path):
    ends = ["null::date", "date 'infinity'", "date '-infinity'", "date '294000-01-01'", "date '2024-02-03'"]
    good = [f"select 'u{n}' u, 'i' i, date '2024-01-01' \"at\", {end} until" for n, end in enumerate(ends)]
    bad = [f"select 'x' u, 'i' i, date '{at}' \"at\", null until"
           for at in ("infinity", "-infinity", "5877612-06-21 (BC)", "294000-01-01")]  # fmt: skip
    for rows, rejected in ((good, 0), (good + bad, 4)):  # by one statement, and line by line
        source = {"query": " union all ".join(rows), "max_reject_rate": 1}
        found = read(write_toml(shop, source, TIMES), tmp_path / "home")
        ledger = found.ledger
        assert ledger.pop("kept") == 5 and sum(ledger.values()) == rejected
        assert set(ledger) <= {"timestamp_unreadable", "timestamp_out_of_range"}
        until = pl.read_parquet(found.folder / "interactions.parquet").sort("user_id")["source_until"]
        assert until.to_list() == [None, dt.date(9999, 12, 31), dt.date(1, 1, 1), None, dt.date(2024, 2, 3)]


def test_bytes_that_are_no_text_are_no_ids(shop: Path, tmp_path: Path):
    query = "select unhex(u) u, 'i' i from (values {}) t(u)"
    found = read(
        write_toml(shop, {"query": query.format("('61'), ('62'), ('ff')"), "max_reject_rate": 1}), tmp_path / "home"
    )
    assert found.ledger == {"kept": 2, "bad_encoding": 1}
    with pytest.raises(UnreadableInput, match=r"column 'u' \(columns.user\) has bytes that are no text.*cast it.*hex"):
        read(write_toml(shop, {"query": query.format("('ff'), ('fe'), (null)")}), tmp_path / "home")


def test_nulls_are_rejected_by_reason(shop: Path, tmp_path: Path):
    query = "select * from (values ('a', 'x', 1), (null, 'x', 1), ('b', null, 2), ('c', '', 3), ('d', 'y', null)) t(u, i, r)"
    found = read(write_toml(shop, {"query": query, "max_reject_rate": 1}, 'rating = "r"\n'), tmp_path / "home")
    assert found.rows == [("a", "x", 1.0)]
    assert found.ledger == {"kept": 1, "empty_user": 1, "empty_item": 2, "rating_not_a_number": 1}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.text("ab", max_size=2))), max_size=12),
    data=st.data(),
)
def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path, rows: list[tuple], data: st.DataObject):
    files = []
    for name, order in (("one", rows), ("two", data.draw(st.permutations(rows)))):
        pl.DataFrame(order, schema={"u": pl.Int64, "i": pl.String}, orient="row").write_parquet(
            tmp_path / f"{name}.parquet"
        )
        where, into = Where(tmp_path / "t.toml", "source"), tmp_path / f"{name}.out"
        n = file_queries.write(f"from '{name}.parquet'", tmp_path, None, into, where, Limits(tmp_path / ".spill"))
        assert n == len(rows)
        files.append(fingerprint(into))
    assert files[0] == files[1]


def test_the_key_follows_the_rows_not_the_text_of_the_query_or_the_place(shop: Path, tmp_path: Path):
    one = read(write_toml(shop, {"query": "select u, i from 'logs/*.csv'"}), tmp_path / "one")
    con = duckdb.connect(str(shop / "copy.duckdb"))
    con.execute(f"create table plays as select u, i from '{shop}/logs/*.csv' order by i desc")
    con.close()
    two = read(write_toml(shop, {"query": "select u, i from plays", "database": "copy.duckdb"}), tmp_path / "two")
    assert (one.key, one.digest) == (two.key, two.digest)
    (shop / "logs" / "b.csv").write_text(f"u,i,r\n{BIG},3,5\n")
    three = read(write_toml(shop, {"query": "select u, i from 'logs/*.csv'"}), tmp_path / "one")
    assert three.key != one.key


REFUSED = [
    ("copy (select 1) to 'out.csv'", "COPY"),
    ("select 1; select 2", "2 statements"),
    ("", "no statement"),
    ("attach 'other.duckdb' as o", "ATTACH"),
    ("insert into plays values (1, 2)", "INSERT"),
    ("drop table plays", "DROP"),
    ("set memory_limit = '1GB'", "SET"),
    ("load httpfs", "LOAD"),
    ("install httpfs", "LOAD"),
    ("pragma database_list", "PRAGMA"),
    ("call pragma_version()", "CALL"),
    ("explain analyze select 1", "EXPLAIN"),
    ("select getenv('PGPASSWORD') u, 1 i", "getenv"),
    ("select * from read_text('kinds.csv')", "read_text"),
    ("select * from read_blob('/etc/passwd')", "read_blob"),
    ("select * from glob('*')", "glob"),
    ("select * from sniff_csv('kinds.csv')", "sniff_csv"),
    ("select * from query('select 1')", "query"),
    ("select * from '/etc/hosts.csv'", "only files below the data set's folder"),
    ("select * from read_csv('/etc/passwd')", "only files below the data set's folder"),
    ("select * from '../outside.csv'", "only files below the data set's folder"),
    ("select * from 'link/outside.csv'", "only files below the data set's folder"),
    ("select * from 's3://bucket/x.csv'", "name that under files"),
    ("select * from read_parquet(['https://example.com/x.parquet'])", "name that under files"),
    ("select 1 as u, 2 as U, 3 i", "two columns"),
    ("select nope from 'kinds.csv'", 'Candidate bindings: "i"'),
    ("from 'missing*.csv'", "missing"),
    ("select 'a'::int u, 1 i", "Could not convert"),
    ("selec 1", "syntax error"),
]  # fmt: skip


def test_what_follows_a_query_is_cut_off_and_nothing_else(shop: Path):
    for end in (";", " ;; ", "; -- the end", " -- the end", ";\n-- one\n-- two\n"):
        assert ask(f"select '; -- kept' u{end}", shop)["u"].to_list() == ["; -- kept"]
    assert query_results.trimmed("select 'a; -- b'") == "select 'a; -- b'\n"


@pytest.mark.parametrize(("query", "why"), REFUSED, ids=[query[:40] for query, _ in REFUSED])
def test_everything_but_one_select_on_files_of_the_folder_is_refused(shop: Path, query: str, why: str):
    (shop.parent / "outside.csv").write_text("u,i\n1,2\n")
    (shop.parent / "elsewhere").mkdir()
    (shop.parent / "elsewhere" / "outside.csv").write_text("u,i\n1,2\n")
    (shop / "link").symlink_to(shop.parent / "elsewhere")
    con = duckdb.connect(str(shop / "db.duckdb"))
    con.execute("create table plays as select 1 u, 2 i")
    con.close()
    before = sorted(path.name for path in shop.iterdir())
    with pytest.raises(UnreadableInput) as refused:
        ask(query, shop, "db.duckdb")
    assert why.lower() in str(refused.value).lower()
    assert f"{shop / 'shop.toml'}: source.query" in str(refused.value)
    assert [name for name in sorted(path.name for path in shop.iterdir()) if name in before] == before
    assert not (shop / "out.csv").exists()


def test_a_duckdb_file_is_not_changed_and_joins_with_files(shop: Path, tmp_path: Path):
    con = duckdb.connect(str(shop / "db.duckdb"))
    con.execute("create schema s; create table s.plays as select 1 i, 'ann' u union all select 2, 'bob'")
    con.close()
    before = fingerprint(shop / "db.duckdb")
    query = "select u, kind as i from s.plays join 'kinds.csv' using (i)"
    found = read(write_toml(shop, {"query": query, "database": "db.duckdb"}), tmp_path / "home")
    assert found.rows == [("ann", "book", None), ("bob", "toy", None)]
    assert fingerprint(shop / "db.duckdb") == before


def test_a_duckdb_file_that_is_written_to_is_named_with_its_holder(shop: Path):
    code = f"import duckdb, time; con = duckdb.connect({str(shop / 'db.duckdb')!r}); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout and writer.stdout.readline() == b"up\n"
            with pytest.raises(UnreadableInput, match=rf"source.database: .* is held by process {writer.pid}"):
                ask("select 1 u", shop, "db.duckdb")
        finally:
            writer.kill()


def test_what_is_no_database_is_said(shop: Path):
    with pytest.raises(UnreadableInput, match=r"source\.database: there is no file"):
        ask("select 1", shop, "none.duckdb")
    with pytest.raises(UnreadableInput, match="can't be opened as a DuckDB database"):
        ask("select 1", shop, "kinds.csv")


def test_a_wrong_column_name_lists_those_of_the_result(shop: Path, tmp_path: Path):
    toml = write_toml(shop, {"query": "select u as customer, i from 'logs/*.csv'"})
    with pytest.raises(UnreadableInput, match=r"'u'.*(customer.*i|i.*customer)"):
        read(toml, tmp_path / "home")


CONFLICTS = [
    ({"query": "select 1", "files": ["a.csv"]}, "source.query: files and query"),
    ({"query": "select 1", "mode": "incremental"}, "incremental"),
    ({"database": "a.duckdb"}, "database needs a query"),
    ({"query": "select 1", "database": "a", "url_env": "B"}, "database and url_env"),
    ({"query": "select 1", "password_env": "SHOP_PASSWORD"}, "password_env goes with"),
    ({"query": "select 1", "url": "mysql://h/db"}, "no URL of a database"),
    ({"query": "select 1", "url_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
]


@pytest.mark.parametrize(("source", "why"), CONFLICTS, ids=[why for _, why in CONFLICTS])
def test_keys_that_contradict_each_other_are_refused(shop: Path, tmp_path: Path, source: dict, why: str):
    toml = write_toml(shop, source)
    with pytest.raises(SettingsError, match=why) as refused:
        read(toml, tmp_path / "home")
    assert "shop.toml" in str(refused.value)
