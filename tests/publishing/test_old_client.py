"""A published file is read by DuckDB 1.5, in a virtual environment of its own, exactly as by the version that wrote it."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pipeline.storage import warehouse
from tests.support.cookbook import COOKBOOK, EMPTY, README, publish

pytestmark = pytest.mark.slow
OLD = "duckdb==1.5.*"
CLIENT = """
import json, sys
import duckdb

path, statements = json.load(sys.stdin)
told = {"version": duckdb.__version__, "answers": {}, "failed": {}}
with duckdb.connect(path, read_only=True) as con:
    for statement in statements:
        try:
            asked = con.execute(statement)
            told["answers"][statement] = [[column[0] for column in asked.description], asked.fetchall()]
        except duckdb.Error as error:
            told["failed"][statement] = str(error)
    try:
        con.execute("create table mine (x int)")
        told["wrote"] = True
    except duckdb.Error:
        told["wrote"] = False
json.dump(told, sys.stdout, default=str)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", OLD]
    installed = subprocess.run(words, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{OLD} can't be had: {installed.stderr.strip()[-300:]}")
    return python


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published"))


def ask(python: Path | str, live: Path, statements: list[str]) -> dict:
    words = [str(python), "-I", "-c", CLIENT]
    asked = subprocess.run(
        words, input=json.dumps([str(live), statements]), capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def test_duckdb_1_5_answers_every_query_and_reads_every_row(old_python, live):
    with warehouse.connect(live, read_only=True) as con:
        names = con.sql("select table_name, comment from duckdb_tables() order by 1").fetchall()
        views = [name for (name,) in con.sql("select view_name from duckdb_views() where not internal").fetchall()]
    queries = [s.strip() for query in [*COOKBOOK, *README] for s in query.split(";") if s.strip()]
    rows = [f'from "{name}" order by all' for name, _ in names]
    described = [f'describe "{name}"' for name in [*(name for name, _ in names), *views]]
    comments = "select table_name, comment from duckdb_tables() order by 1"
    of_columns = (
        "select table_name, column_name, comment from duckdb_columns() "
        "where table_name in (select table_name from duckdb_tables()) order by all"
    )
    told = ask(old_python, live, [*queries, *rows, *described, comments, of_columns])
    assert told["version"].startswith("1.5.")
    assert told["failed"] == {} and told["wrote"] is False
    answers = told["answers"]
    for query in queries:
        assert answers[query][1] or any(part in query for part in EMPTY), query
    assert answers[comments][1] == [list(row) for row in names] and all(comment for _, comment in names)
    assert answers[of_columns][1] and all(comment for *_, comment in answers[of_columns][1])
    here = ask(sys.executable, live, [*rows, *described])["answers"]
    assert len(here) == len(rows) + len(described)
    assert {statement: answers[statement] for statement in here} == here
