"""`init` of a query or a URL writes a data set that runs as it is."""

import re
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from flows.cli import main
from pipeline.config.dataset import Dataset
from pipeline.core.paths import CHECKOUT
from pipeline.sources.connectors import fetching
from pipeline.sources.connectors.proposals import propose_fetched
from tests.support.fetched_source import MODELS, read
from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import S3Server

ROWS = [(f"u{n % 9}", f"sku{n % 7}", 1_700_000_000 + n) for n in range(40)]
PLAYS = "customer,sku,ordered_at\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)
ROLES = {"user": "customer", "item": "sku", "timestamp": "ordered_at", "timestamp_unit": "s"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "plays.csv").write_text(PLAYS)
    monkeypatch.chdir(folder)
    return folder


def initialised(*words: str, output: str = "new.toml") -> dict:
    assert main(["init", *words, "--output", output]) == 0
    toml = Path(output).resolve()
    (toml.parent / "one.toml").write_text(MODELS)
    found = tomllib.loads(toml.read_text())
    assert found["columns"] == ROLES
    assert read(toml, toml.parent / "home").ledger == {"kept": 40}
    return found


def test_of_a_query_on_files(shop: Path):
    query = "select *\nfrom 'plays.csv' -- all\n"
    found = initialised(".", "--query", query)
    assert found["source"] == {"query": query}
    assert found["name"] == "new", "the file and what is published have one name"
    assert propose_fetched(".", query, None, shop / "new.toml").toml.count('name = "shop"') == 1


def test_of_a_duckdb_and_an_sqlite_file(shop: Path):
    with duckdb.connect("db.duckdb") as con:
        con.execute("create table plays as from 'plays.csv'")
    found = initialised("db.duckdb", "--query", "from plays")
    assert (found["source"], found["name"]) == ({"query": "from plays", "database": "db.duckdb"}, "new")
    (shop / "sub").mkdir()
    elsewhere = initialised("db.duckdb", "--query", "from plays", output="sub/new.toml")
    assert elsewhere["source"]["database"] == str(shop / "db.duckdb")
    with closing(sqlite3.connect("lite.db")) as con:
        con.execute("create table plays (customer, sku, ordered_at)")
        con.executemany("insert into plays values (?, ?, ?)", ROWS)
        con.commit()
    found = initialised("sqlite:///lite.db", "--query", "select * from plays;", output="lite.toml")
    assert found["source"] == {"query": "select * from plays;", "url": "sqlite:///lite.db"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["postgresql://ann:hunter2@db/shop", "--query", "select 1"], "has a password"),
        (["postgresql://ann@db/shop"], "add --query"),
        (["nowhere", "--query", "select 1"], "no such file or folder"),
        (["plays.csv", "--password-env", "X"], "--password-env goes with"),
        ([".", "--query", "drop table x"], "source.query: it was refused"),
        (["ftp://host/a.csv"], "add --query"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    shop: Path, capsys: pytest.CaptureFixture, words: list[str], why: str
):
    assert main(["init", *words]) == 2
    told = capsys.readouterr().err
    assert why in told
    assert "hunter2" not in told
    assert list(shop.glob("*.toml")) == []


def test_of_a_server_and_a_bucket(postgres: PostgresServer, s3: S3Server, shop: Path, monkeypatch: pytest.MonkeyPatch):
    database, bucket = postgres.new_database(), s3.new_bucket()
    postgres.execute("CREATE TABLE plays (customer text, sku text, ordered_at bigint)", database=database)
    for row in ROWS:
        postgres.execute(f"INSERT INTO plays VALUES {row}", database=database)
    monkeypatch.setenv("SHOP_DB", postgres.password)
    found = initialised(postgres.url(database), "--password-env", "SHOP_DB", "--query", "select * from plays")
    assert found["source"] == {
        "query": "select * from plays", "url": postgres.url(database), "password_env": "SHOP_DB",
    }  # fmt: skip
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.client().put_object(Bucket=bucket, Key="logs/plays.csv", Body=PLAYS)
    found = initialised(f"s3://{bucket}/logs/*.csv", output="bucket.toml")
    assert found["source"]["files"] == [f"s3://{bucket}/logs/*.csv"]


def test_the_examples_of_the_readme_are_data_sets():
    text = (CHECKOUT / "pipeline" / "datasets" / "README.md").read_text()
    section = text.partition("## Queries, databases, buckets\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 5
    for example in examples:
        dataset = Dataset.model_validate({"name": "shop", **tomllib.loads(example)})
        assert fetching.is_needed(dataset)
        fetching.check(dataset, Path("shop.toml"))


def test_what_the_night_refuses_or_rejects_init_says(shop: Path, capsys: pytest.CaptureFixture[str]):
    with closing(sqlite3.connect("lite.db")) as con, con:
        con.execute("create table plays (customer, sku)")
        con.executemany("insert into plays values (?, ?)", [(f"u{n % 9}", f"s{n % 7}") for n in range(40)])
        con.execute("insert into plays values (x'ff00', 's1'), (null, 's1'), (x'c3a9', 's1')")
    for source, query in ((".", "select a.*, b.* from 'plays.csv' a join 'plays.csv' b using (sku)"),
                          ("sqlite:///lite.db", "select customer, sku, sku as Customer from plays")):  # fmt: skip
        assert main(["init", source, "--query", query, "--output", "twice.toml"]) == 2
        assert "two columns 'customer'" in capsys.readouterr().err and not Path("twice.toml").exists()
    assert main(["init", "sqlite:///lite.db", "--query", "select * from plays", "--output", "lite.toml"]) == 0
    said = capsys.readouterr().err
    assert "1 of 43 values of 'customer' are bytes that are no UTF-8" in said and "1 of 43 rows have no value" in said
    Path("one.toml").write_text(MODELS)
    found = read(shop / "lite.toml", shop / "home", "dataset.source.max_reject_rate=0.5")
    assert found.ledger == {"kept": 41, "bad_encoding": 1, "empty_user": 1}
