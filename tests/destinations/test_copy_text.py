"""The text format of COPY: what is read back is what the table has."""

import re
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.destinations import copy_text
from pipeline.destinations.published_file import PublishedColumn, PublishedTable
from pipeline.storage import warehouse

TEXTS = st.text(st.one_of(st.sampled_from("\\\t\n\r\0\"'N,{} ."), st.characters(codec="utf-8")), max_size=8)
ROWS = st.lists(st.tuples(st.none() | TEXTS, st.none() | st.lists(st.none() | TEXTS, max_size=3)), max_size=12)
BACK = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def read_back(data: bytes) -> list[list[str | None]]:
    """Rows of a COPY text, as its documentation has it."""
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    fields = [line.split("\t") for line in lines]
    return [[None if f == "\\N" else re.sub(r"\\.", lambda m: BACK[m[0]], f) for f in row] for row in fields]


def array(text: str | None) -> list[str | None] | None:
    """The elements of an array's text, all quoted."""
    if text is None:
        return None
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(NULL)', text[1:-1], re.DOTALL)
    return [None if null else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, null in found]


@settings(max_examples=12)
@given(ROWS)
def test_texts_and_lists_of_texts_are_read_back(rows):
    columns = tuple(
        PublishedColumn(name, dtype, "", True) for name, dtype in (('a "b"', "VARCHAR"), ("l", "VARCHAR[]"))
    )
    table = PublishedTable("t", "", columns, ())
    with warehouse.connect(threads=1) as con:
        con.execute('CREATE TABLE t ("a ""b""" VARCHAR, l VARCHAR[])')
        if rows:
            con.executemany("INSERT INTO t VALUES (?, ?)", [list(row) for row in rows])
        data = b"".join(map(bytes, copy_text.blocks(con, table)))
        assert copy_text.replaced(con, table) == sum("\0" in (text or "") for text, _ in rows)

    def stored(text: str | None) -> str | None:
        return text and text.replace("\0", copy_text.NUL)

    wanted = [(stored(text), each if each is None else [stored(e) for e in each]) for text, each in rows]
    assert [(text, array(each)) for text, each in read_back(data)] == wanted


def test_numbers_times_and_bytes():
    query = """CREATE TABLE t AS SELECT 0.1::DOUBLE AS d, 'inf'::DOUBLE AS i, true AS b, DATE '0044-03-15 (BC)' AS bc,
        TIMESTAMP '2026-01-02 03:04:05.000006' AS t, [1.5, NULL]::FLOAT[] AS f, '\\xFF\\x00'::BLOB AS x,
        {'a': [1]} AS s, 1.250::DECIMAL(9, 3) AS n"""
    with warehouse.connect(threads=1) as con:
        con.execute(query)
        rows = con.sql("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 't'").fetchall()
        table = PublishedTable("t", "", tuple(PublishedColumn(name, dtype, "", True) for name, dtype in rows), ())
        [row] = read_back(b"".join(map(bytes, copy_text.blocks(con, table))))
    assert row[:5] == ["0.1", "inf", "true", "0044-03-15 BC", "2026-01-02 03:04:05.000006"]
    assert row[5:8] == ['{"1.5",NULL}', "\\xff00", '{"a":[1]}'] and Decimal(row[8] or "") == Decimal("1.25")
