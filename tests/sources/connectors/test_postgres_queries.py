"""A query on a PostgreSQL server is a source: exact, read-only, and its password is nowhere to be read."""

import datetime as dt
import json
import re
import socket
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from pipeline.config.dataset import Source
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.sources.connectors import postgres_queries
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.postgres_queries import server_of
from pipeline.sources.connectors.problems import Where
from pipeline.storage import journal, warehouse
from tests.support.fetched_source import Read, read, write_toml
from tests.support.postgres_server import PostgresServer

VARIABLE = "SHOP_DB_ACCESS"
"""Its name does not look like that of a secret."""


@pytest.fixture
def shop(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a database with a table `plays`; the password is in VARIABLE."""
    name = postgres.new_database()
    postgres.execute(
        "CREATE TABLE plays (u int8, i text, r numeric(4,1), at timestamptz)",
        "INSERT INTO plays SELECT 9007199254740993 + n % 20, 'i' || (n * 7 + n / 20) % 13, n % 5 + 0.5, "
        "timestamptz '2024-01-01 00:00+00' + n * interval '1 hour' FROM generate_series(0, 199) n",
        database=name,
    )
    monkeypatch.setenv(VARIABLE, postgres.password)
    return name


def source(postgres: PostgresServer, database: str, query: str) -> dict[str, object]:
    return {"query": query, "url": postgres.url(database), "password_env": VARIABLE}


def ask(postgres: PostgresServer, database: str, query: str, into: Path) -> pl.DataFrame:
    where = Where(into / "shop.toml", "source")
    section = Source(query=query, url=postgres.url(database), password_env=VARIABLE)
    server = server_of(section, str(section.url), where)
    postgres_queries.write(query, server, into / "out.parquet", where, Limits(into / ".spill"))
    return pl.read_parquet(into / "out.parquet")


TIMED = 'rating = "r"\ntimestamp = "at"\n'


def from_plays(postgres: PostgresServer, shop: str, folder: Path, query: str = "select * from plays") -> Read:
    return read(write_toml(folder, source(postgres, shop, query), TIMED), folder / "home")


def test_a_night_reads_it_exactly(postgres: PostgresServer, shop: str, tmp_path: Path):
    found = from_plays(postgres, shop, tmp_path)
    assert found.ledger == {"kept": 200}
    assert found.rows[0][0] == "9007199254740993"
    assert {row[2] for row in found.rows} == {0.5, 1.5, 2.5, 3.5, 4.5}
    times = pl.read_parquet(found.folder / "interactions.parquet")["timestamp"]
    assert str(times.min()) == "2024-01-01 00:00:00"


def test_the_order_in_which_the_server_sends_rows_does_not_matter(postgres: PostgresServer, shop: str, tmp_path: Path):
    one = from_plays(postgres, shop, tmp_path)
    postgres.execute("UPDATE plays SET r = r WHERE u % 3 = 0", "VACUUM FULL plays", database=shop)
    two = from_plays(postgres, shop, tmp_path, "select * from plays order by at desc;  -- newest first")
    assert (one.key, one.digest) == (two.key, two.digest)
    postgres.execute("DELETE FROM plays WHERE i = 'i1'", database=shop)
    assert from_plays(postgres, shop, tmp_path).key != one.key


def test_types_are_exact(postgres: PostgresServer, shop: str, tmp_path: Path):
    found = ask(
        postgres, shop,
        "select 123456789012345678901234567890.10::numeric n, '0F8FAD5B-d9cb-469f-a165-70867728950e'::uuid u, "
        "timestamptz '2024-01-02 03:04:05+02' z, timestamp '2024-01-02 03:04' t, date '2024-01-02' d, "
        "array['a','b'] l, '{\"a\": 1}'::jsonb j, true b, 'x'::char(3) c, null e, 'ü'::varchar v, "
        "(timestamptz '2024-01-01 23:30+00')::date::text as day, 32767::int2 s",
        tmp_path,
    )  # fmt: skip
    assert found.select("n", "u", "j", "day", "v", "c").row(0) == (
        "123456789012345678901234567890.10", "0f8fad5b-d9cb-469f-a165-70867728950e", '{"a": 1}', "2024-01-01", "ü", "x",
    )  # fmt: skip
    assert found["l"].to_list() == [["a", "b"]]
    assert found["s"].to_list() == [32767]
    assert str(found["z"].dt.convert_time_zone("UTC")[0]) == "2024-01-02 01:04:05+00:00"
    assert found["e"].null_count() == 1


def test_infinite_times_large_oids_and_texts_of_extensions_are_what_they_are(
    postgres: PostgresServer, shop: str, tmp_path: Path
):
    postgres.execute("CREATE EXTENSION citext", database=shop)
    ends = ("infinity", "-infinity", "2024-01-02")
    rows = " union all ".join(
        f"select {n} n, '{at}'::date d, '{at}'::timestamp t, '{at}'::timestamptz z, 4000000000::oid o, 'Ü'::citext c"
        for n, at in enumerate(ends)
    )
    found = ask(postgres, shop, f"select *, '<a>ü</a>'::xml x from ({rows}) r", tmp_path).sort("n")
    assert set(found.select("o", "c", "x").rows()) == {(4000000000, "Ü", "<a>ü</a>")}
    with warehouse.connect() as con:
        texts = con.sql(f"SELECT d::VARCHAR, t::VARCHAR, z::VARCHAR FROM '{tmp_path / 'out.parquet'}' ORDER BY n")
        assert texts.fetchall()[:2] == [(ends[0],) * 3, (ends[1],) * 3]
    assert found["d"][2] == dt.date(2024, 1, 2) and found["t"][2] == dt.datetime(2024, 1, 2)


def test_arrays_and_bytes_of_a_catalog_and_infinite_days_of_orders_end_no_night(
    postgres: PostgresServer, shop: str, tmp_path: Path
):
    orders = "select u, i, case when (u - 3) % 20 = 0 then 'infinity' else at::date end as at from plays"
    items = "select distinct i, '{a,b}'::text[] cats, '\\xff'::bytea blob, '-infinity'::date gone from plays"
    keys = {**source(postgres, shop, items), "id": "i"}
    section = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    given = {**source(postgres, shop, orders), "max_reject_rate": 1}
    found = read(write_toml(tmp_path, given, f"timestamp = 'at'\n[items]\n{section}"), tmp_path / "home")
    assert found.ledger == {"kept": 190, "timestamp_unreadable": 10}
    raw = pl.read_parquet(found.folder / "rejected_rows.parquet")["raw"].to_list()
    assert len(raw) == 10 and all("infinity" in line for line in raw)
    notes = "\n".join(journal.notes(found.run.home, "shop", found.run.run_id))
    assert "column 'cats' is left out" in notes and "column 'blob' is left out" in notes
    assert "13 values of column 'gone': outside the years" in notes


def test_nulls_and_odd_values_are_rejected_by_reason(postgres: PostgresServer, shop: str, tmp_path: Path):
    postgres.execute(
        "INSERT INTO plays VALUES (NULL, 'a', 1, now()), (1, NULL, 1, now()), (1, '', 1, now()), (1, 'a', NULL, now()), "
        "(1, 'a', 'NaN', now()), (1, 'a', 1, NULL), (1, 'a', 1, 'infinity')",
        database=shop,
    )
    toml = write_toml(tmp_path, source(postgres, shop, "select * from plays"), TIMED)
    found = read(toml, tmp_path / "home", "dataset.source.max_reject_rate=1")
    assert found.ledger == {
        "kept": 200, "empty_user": 1, "empty_item": 2, "rating_not_a_number": 1, "rating_not_finite": 1,
        "timestamp_unreadable": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("insert into plays(i) values ('x') returning i", "read-only transaction"),
        ("with x as (delete from plays returning i) select * from x", "read-only transaction"),
        ("drop table plays", "read-only transaction"),
        ("update plays set i = 'x'", "read-only transaction"),
        ("select 1 u; drop table plays", "multiple commands"),
        ("copy plays to program 'touch /tmp/pwned'", "."),
        ("select set_config('transaction_read_only', 'off', true)", "before any query"),
        ("select nope from plays", 'column "nope" does not exist'),
        ("select * from nowhere", 'relation "nowhere" does not exist'),
        ("select 1 as a, 2 as a", "two columns 'a'"),
        ("select 1.5::money m", "m::numeric"),
        ("select '1.2.3.4'::inet a", "a::text"),
        ("select array['1.2.3.4'::inet] a", r"type _inet, which is not read: cast it: a::text\[\]"),
        ("select array['1.50'::money] a", r"a::numeric\[\]"),
        ("select int4range(1, 2) a", "type int4range, which is not read: cast it: a::text"),
        ("select nummultirange() a", "type nummultirange, which is not read: cast it: a::text"),
        ("select row(1, 'x') a", "type record, which is not read: cast it: a::text"),
        ("select p a from plays p", "type plays, which is not read: cast it: a::text"),
        ("select array[p] a from plays p", r"type _plays, which is not read: cast it: a::text\[\]"),
        ("select to_tsvector('x') a", "type tsvector, which is not read: cast it: a::text"),
        ("select timetz '10:00+02' a", "type timetz, which is not read: cast it: a::text"),
        ("selec", "syntax error"),
    ],
)
def test_everything_but_one_select_is_refused(
    postgres: PostgresServer, shop: str, tmp_path: Path, query: str, why: str
):
    with pytest.raises(UnreadableInput, match=why) as refused:
        ask(postgres, shop, query, tmp_path)
    assert "shop.toml: source.query" in str(refused.value)
    assert postgres.password not in str(refused.value)
    assert postgres.execute("SELECT count(*), min(i) FROM plays", database=shop) == [(200, "i0")]


def test_wrong_credentials_are_said_and_not_shown(
    postgres: PostgresServer, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toml = write_toml(tmp_path, source(postgres, shop, "select * from plays"), TIMED)
    monkeypatch.setenv(VARIABLE, "wr/ong:s3@cret")
    with pytest.raises(UnreadableInput, match=r"password authentication failed.*password_env") as refused:
        read(toml, tmp_path / "home")
    assert "wr/ong" not in str(refused.value) and postgres.user not in str(refused.value)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SettingsError, match=f"password_env: the environment variable {VARIABLE} is not set"):
        read(toml, tmp_path / "home")
    plain = write_toml(tmp_path, {"query": "select * from plays", "url": postgres.url(shop)}, TIMED)
    with pytest.raises(UnreadableInput, match="set PGPASSWORD"):
        read(plain, tmp_path / "home")
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    assert read(plain, tmp_path / "home").ledger == {"kept": 200}


def test_a_whole_url_may_come_from_the_environment(
    postgres: PostgresServer, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SHOP_URL", postgres.url(shop, password=True))
    toml = write_toml(tmp_path, {"query": "select * from plays", "url_env": "SHOP_URL"}, TIMED)
    assert read(toml, tmp_path / "home").ledger == {"kept": 200}
    monkeypatch.setenv("SHOP_URL", "mysql://a:hunter2hunter2@h/d")
    with pytest.raises(SettingsError, match=r"url_env.*SHOP_URL is no URL") as refused:
        read(toml, tmp_path / "home")
    assert "hunter2" not in str(refused.value)


def test_a_server_that_is_not_there_or_never_answers_is_an_error_soon(tmp_path: Path):
    pytest.importorskip("adbc_driver_postgresql")
    where = Where(tmp_path / "shop.toml", "source")
    assert "connect_timeout=8" in server_of(Source(query="select 1"), "postgresql://127.0.0.1/shop", where).uri
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepted: list[socket.socket] = []
        threading.Thread(target=lambda: accepted.append(silent.accept()[0]), daemon=True).start()
        for port in (1, silent.getsockname()[1]):
            url = f"postgresql://ann@127.0.0.1:{port}/shop?connect_timeout=2"
            toml = write_toml(tmp_path, {"query": "select 1 u", "url": url})
            started = time.monotonic()
            with pytest.raises(
                UnreadableInput, match=rf"source\.url: no connection to postgresql://127.0.0.1:{port}/shop"
            ):
                read(toml, tmp_path / "home")
            assert time.monotonic() - started < 10


def test_the_password_is_in_no_text_but_the_one_for_the_driver(tmp_path: Path):
    secret, where = "p@ss:w/rd'%", Where(tmp_path / "shop.toml", "source")
    section = Source(query="select 1", url="postgresql://ann@db/shop?sslmode=require", password_env=VARIABLE)
    server = server_of(section, str(section.url), where, {VARIABLE: secret})
    assert server.uri.startswith("postgresql://ann:p%40ss%3Aw%2Frd%27%25@db/shop?sslmode=require&")
    assert "read_only" in server.uri
    assert server.shown == "postgresql://db/shop"
    text = str(where.unreadable("url", f"no {secret} or {server.uri}", server.secrets))
    assert secret not in text
    assert "p%40ss" not in text


def test_without_the_extra_the_command_to_install_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "adbc_driver_postgresql.dbapi", None)
    toml = write_toml(tmp_path, {"query": "select 1 u", "url": "postgresql://127.0.0.1:1/shop"})
    with pytest.raises(SettingsError, match=re.escape("pip install 'nightrecs[connectors]'")):
        read(toml, tmp_path / "home")


def test_a_night_of_a_server_and_a_bucket_leaves_the_password_nowhere(
    postgres: PostgresServer,
    shop: str,
    s3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket, home = s3.new_bucket(), tmp_path / "home"
    s3.client().put_object(
        Bucket=bucket, Key="titles.csv", Body="i,title\n" + "".join(f"i{n},T{n}\n" for n in range(13))
    )
    more = f'{TIMED}[items]\nfiles = ["s3://{bucket}/titles.csv"]\nid = "i"\ntitle = "title"\n'
    monkeypatch.setenv("SHOP_URL", postgres.url(shop, password=True))
    toml = write_toml(tmp_path, {"query": "select * from plays", "url_env": "SHOP_URL", "static": True}, more)
    toml.write_text(toml.read_text().replace("'''True'''", "true"))
    command = ["--home", str(home), "run", str(toml), "--recipe", str(tmp_path / "one.toml"), "--no-prefect"]
    assert main([*command, "--set", "export.top_n=3"]) == 0
    assert (
        main(
            ["--home", str(home), "sql", "shop", "select count(*) from recommendations_titled where title is not null"]
        )
        == 0
    )
    monkeypatch.setenv("SHOP_URL", postgres.url("nowhere", password=True))
    assert main([*command, "--debug"]) == 2
    out = capfd.readouterr()
    secret = postgres.password.encode()
    assert secret not in (out.out + out.err).encode()
    everything = [path for path in home.rglob("*") if path.is_file()]
    assert len(everything) > 30
    assert [str(path) for path in everything if secret in path.read_bytes()] == []
    assert [
        str(path) for path in everything if s3.environment["AWS_SECRET_ACCESS_KEY"].encode() in path.read_bytes()
    ] == []
