"""A query on an SQLite file is a source: exact with types per cell, read-only."""

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from pipeline.core.errors import UnreadableInput
from pipeline.sources.connectors import sqlite_queries
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.problems import Where
from pipeline.sources.files import fingerprint
from tests.support.fetched_source import read, write_toml

BIG = 9_007_199_254_740_993


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as con:
        con.execute("create table plays (u, i, r, b)")
        con.executemany("insert into plays values (?, ?, ?, ?)", [(BIG, 1, 1.5, b"x"), (BIG + 1, 2, 2, b"\xff")])
        con.commit()
    return tmp_path


def ask(folder: Path, query: str, url: str = "sqlite:///shop.db") -> pl.DataFrame:
    into, where = folder / "out.parquet", Where(folder / "shop.toml", "source")
    sqlite_queries.write(query, url, folder, into, where, Limits(folder / ".spill"))
    return pl.read_parquet(into)


def test_columns_of_numbers_are_numbers_and_exact(shop: Path):
    found = ask(shop, "select u, r, b from plays;")
    assert found["u"].to_list() == [BIG, BIG + 1]
    assert found["r"].to_list() == [1.5, 2.0]
    assert found["b"].to_list() == [b"x", b"\xff"], "bytes that are no text are not taken for missing ones"


def test_one_other_cell_makes_a_column_text(shop: Path):
    with closing(sqlite3.connect(shop / "shop.db")) as con:
        con.executemany("insert into plays values (?, ?, ?, ?)", [(n, n, n, "") for n in range(3000)])
        con.execute("insert into plays values ('ann', NULL, ?, 'ß')", (BIG,))
        con.execute("insert into plays values (CAST(x'ff' AS TEXT), 3.0, 'x', '')")
        con.execute("insert into plays values (NULL, 3.0, 'x', '')")
        con.commit()
    assert {b"ann", b"\xff", None} <= set(ask(shop, "select * from plays")["u"]), "bytes that are no text stay bytes"
    found = ask(shop, "select * from plays where u is null or u <> CAST(x'ff' AS TEXT) and b <> x'ff'")
    assert found["u"].dtype == pl.String
    assert {str(BIG), "2999", "ann", None} <= set(found["u"])
    assert set(found["i"].drop_nulls()) >= {1.0, 3.0}
    assert str(BIG) in found["r"].to_list()  # with a float in the column, DOUBLE would not hold it
    assert "ß" in found["b"].to_list()
    assert found.height == 3003


def test_a_night_reads_it_and_the_file_stays_as_it_is(shop: Path, tmp_path: Path):
    before = fingerprint(shop / "shop.db")
    toml = write_toml(shop, {"query": "select u, i, r from plays", "url": "sqlite:///shop.db"}, 'rating = "r"\n')
    one = read(toml, tmp_path / "home")
    assert one.rows == [(str(BIG), "1", 1.5), (str(BIG + 1), "2", 2.0)]
    absolute = write_toml(
        shop, {"query": "select r, i, u from plays order by 1 desc", "url": f"sqlite:////{shop}/shop.db"}
    )
    assert read(absolute, tmp_path / "home").rows == [(str(BIG), "1", None), (str(BIG + 1), "2", None)]
    assert fingerprint(shop / "shop.db") == before


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("insert into plays values (1, 2, 3, 4) returning u", "only one SELECT"),
        ("delete from plays", "only one SELECT"),
        ("attach '/tmp/other.db' as o", "only one SELECT"),
        ("pragma table_info(plays)", "only one SELECT"),
        ("select 1; select 2", "only one SELECT"),
        ("vacuum", "only one SELECT"),
        ("select load_extension('x')", "not authorized"),
        ("select nope from plays", "no such column: nope"),
        ("select 1 as a, 2 as A", "two columns"),
        ("", "its result has no columns"),
    ],
)
def test_everything_but_one_select_is_refused(shop: Path, query: str, why: str):
    before = fingerprint(shop / "shop.db")
    with pytest.raises(UnreadableInput, match=why) as refused:
        ask(shop, query)
    assert f"{shop / 'shop.toml'}: source.query" in str(refused.value)
    assert fingerprint(shop / "shop.db") == before
    assert not list(shop.glob(".*unsorted"))


def test_a_missing_file_and_one_that_is_no_database_are_said(shop: Path):
    with pytest.raises(UnreadableInput, match=r"source.url: there is no file .*none.db"):
        ask(shop, "select 1", "sqlite:///none.db")
    (shop / "text.db").write_text("u,i\n" * 100)
    with pytest.raises(UnreadableInput, match="not a database"):
        ask(shop, "select * from plays", "sqlite:///text.db")
