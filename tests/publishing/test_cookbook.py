"""Every query of sql/README.md and README.md runs on a published night of the built-in sample."""

import re

import pytest

from pipeline.core import paths
from pipeline.storage import warehouse
from tests.support.cookbook import COOKBOOK, EMPTY, README, publish


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with warehouse.connect(publish(tmp_path_factory.mktemp("cookbook")), read_only=True) as con:
        yield con


def test_there_are_twenty_questions():
    assert len(COOKBOOK) >= 20


@pytest.mark.parametrize("query", [*COOKBOOK, *README], ids=lambda q: " ".join(q.split())[:60])
def test_a_query_answers(live, query):
    for statement in filter(str.strip, query.split(";")):
        rows = live.sql(statement).fetchall()
        assert rows or any(part in statement for part in EMPTY), statement


def test_the_printed_night_has_the_rows_of_a_night(live):
    printed = re.findall(
        r"^  (\w+)(?: \w+)? +([0-9,]+) rows ", (paths.CHECKOUT / "README.md").read_text(), re.MULTILINE
    )
    rows = set(live.sql("select regexp_extract(stage, '[a-z]+'), rows_out from stages").fetchall())
    assert len(printed) == 3, "split, train, evaluate"
    assert {(stage, int(n.replace(",", ""))) for stage, n in printed} <= rows


def test_every_view_has_a_comment_and_a_row(live):
    views = {path.stem for path in (paths.SQL / "views").glob("*.sql")}
    found = dict(live.sql("select view_name, comment from duckdb_views() where not internal").fetchall())
    assert views <= found.keys() and all(found[name] for name in views)
    for name in views:
        live.sql(f"from {name}").fetchall()


def test_every_table_and_column_says_what_it_is(live):
    tables = live.sql("select table_name, comment from duckdb_tables()").fetchall()
    columns = live.sql(
        "select table_name, column_name, comment from duckdb_columns() "
        "where table_name in (select table_name from duckdb_tables())"
    ).fetchall()
    assert tables and columns
    assert [row for row in [*tables, *columns] if not row[-1]] == []
