"""`[publish.postgres]` against a server: equal tables and views, whole nights for readers, kills, grants, owners."""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipeline.config.destinations import Publish
from pipeline.destinations import copy_text, delivery, health, record
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.destinations.postgres import Postgres
from pipeline.destinations.published_file import live_night, opened, tables_of, views_of
from pipeline.schemas import tables
from pipeline.schemas.table import Column
from pipeline.storage import journal
from tests.support.delivered_home import TOP, USERS, DeliveredHome, build
from tests.support.forks import Forks, forks
from tests.support.postgres_server import PostgresServer

psycopg = pytest.importorskip("psycopg")
HOSTILE = ["", "\\N", "\\.", "a\tb", "a\nb\\n", "\r", '"', "'", "\\", "NULL", "ü€😀", "{a,b}", " lead", "x" * 300]


class Database:
    """An empty database of the server, and a home that publishes to its schema `shop`."""

    def __init__(self, server: PostgresServer, folder: Path):
        self.server, self.name = server, server.new_database()
        self.shop = DeliveredHome(folder / "home", {"postgres": {"url_env": "SHOP_DB_URL", "minutes": 0.5}})

    def ask(self, *statements: str) -> list[tuple]:
        """Rows of the last statement."""
        return self.server.execute(*statements, database=self.name)

    def deliver(self) -> list[delivery.Delivery]:
        """Bring the schema up to date, without waiting for a server that does not answer."""
        run = self.shop.home
        return delivery.deliver(run, "shop", self.settings, patient=False)

    @property
    def settings(self) -> Publish:
        """`[publish]`."""
        return Publish.model_validate(self.shop.publish)

    @property
    def destination(self) -> Postgres:
        """The schema."""
        assert self.settings.postgres
        return Postgres(self.settings.postgres, "shop")

    def schemas(self) -> list[str]:
        """Schemas that are not PostgreSQL's own."""
        rows = self.ask("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)'")
        return sorted(name for (name,) in rows)


DELIVER = """
import sys
from pathlib import Path
from pipeline.core.paths import Home
from pipeline.destinations import delivery
from pipeline.destinations.places import settings_now
home = Home(Path(sys.argv[1]))
print(delivery.deliver(home, "shop", settings_now(home, "shop"), patient=False))
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with forks("pipeline.destinations.delivery", "pipeline.destinations.postgres") as found:
        yield found


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = Database(postgres, tmp_path)
    monkeypatch.setenv("SHOP_DB_URL", postgres.url(made.name, password=True))
    yield made


def in_postgres(database: Database, name: str) -> pl.DataFrame:
    with psycopg.connect(database.server.url(database.name, password=True)) as con:
        cursor = con.execute(f'SELECT * FROM shop."{name}"'.encode())
        names = [column.name for column in cursor.description or []]
        return pl.DataFrame([list(map(str, row)) for row in cursor.fetchall()] or None, schema=names, orient="row")


def test_tables_views_keys_and_comments_are_the_published_ones(database: Database):
    night = database.shop.night(1)
    done = database.deliver()
    assert [each.trouble for each in done] == [None] and done[0].copied
    with opened(database.shop.home.live("shop")) as con:
        everything = [*tables_of(con), *views_of(con)]
        assert len(everything) == len(tables.PUBLISHED) + 15
        for each in everything:
            wanted = [sorted(map(values, row.items())) for row in con.sql(f'FROM "{each.name}"').pl().to_dicts()]
            with psycopg.connect(database.server.url(database.name, password=True)) as there:
                cursor = there.execute(f'SELECT * FROM shop."{each.name}"'.encode())
                names = [column.name for column in cursor.description or []]
                rows = [sorted(map(values, zip(names, row, strict=True))) for row in cursor.fetchall()]
            if each.name == "freshness":  # its age goes on
                wanted, rows = ([[v for v in row if v[0] != "age_hours"] for row in of] for of in (wanted, rows))
            assert sorted(rows) == sorted(wanted), each.name
        docs = {each.name: each.doc for each in everything}
    query = "SELECT relname, obj_description(oid) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'v')"
    assert {name: doc for name, doc in database.ask(query) if name in docs} == docs
    keys = database.ask(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
    )
    assert ("shop.recommendations", "PRIMARY KEY (user_id, rank)") in keys and len(keys) > 20
    columns = database.ask(
        "SELECT col_description('shop.users'::regclass, 1), col_description('shop.freshness'::regclass, 6)"
    )
    assert columns == [(tables.USERS.columns["user_id"].doc, "Hours since the night finished")]
    found = database.ask("SELECT run_id, dataset, night, sha256, notes FROM shop.nightrecs_publication")
    entry = record.read(database.shop.home, "shop")["postgres SHOP_DB_URL shop"]
    assert found == [(night.run_id, "shop", night.started_at, entry.sha256, [])]
    assert health.troubles(database.shop.home, "shop") == []
    assert not database.deliver()[0].copied


def values(item: tuple[str, object]) -> tuple[str, str]:
    """A value as text, the same for equal numbers of different types."""
    name, value = item
    if isinstance(value, list):
        return name, str([values(("", each))[1] for each in value])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return name, f"{float(value):.6g}" if number or type(value).__name__ == "Decimal" else str(value)  # type: ignore[arg-type]


def test_any_text_and_type_arrives_as_it_was(database: Database, tmp_path: Path):
    columns = {"Long " + "n" * 70: Column(pl.String, "one", True), "Long " + "n" * 71: Column(pl.String, "two", True),
               'quo"ted': Column(pl.Boolean, "it's", True), "day": Column(pl.Date, "d", True),
               "small": Column(pl.Float32, "f", True)}  # fmt: skip
    wide = replace(tables.ITEMS, columns={**tables.ITEMS.columns, **columns})
    rows = [
        {"item_id": text, "title": None if number % 3 else text, "n_interactions": number - 5, **dict.fromkeys(columns),
         'quo"ted': bool(number % 2), "small": 0.1 * number}
        for number, text in enumerate(HOSTILE)
    ]  # fmt: skip
    rows[0]["small"], rows[1]["small"], rows[2]["Long " + "n" * 71] = float("nan"), float("-inf"), "nul\0nul"
    long = {"item_id": "i1", "attribute": "plot", "value": "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))}
    run = database.shop.night(1, live=False)
    generation = database.shop.home.generation("shop", run.run_id)
    generation.unlink()
    build(generation, {"items": rows, "item_attributes": [long]}, {"items": wide})
    go(database, run)
    notes: list[str] = []
    [done] = delivery.deliver(database.shop.home, "shop", database.settings, notes.append, patient=False)
    assert done.trouble is None and [each.partition(": ")[2][:15] for each in notes] == [
        "item_attributes", "items: 1 texts ", "items: the colu", "items: the colu"]  # fmt: skip
    found = database.ask('SELECT item_id, title, n_interactions, "quo""ted", small FROM shop.items')
    assert sorted((r["item_id"], r["title"], r["n_interactions"], r['quo"ted']) for r in rows) == sorted(
        row[:4] for row in found
    )
    assert {str(row[4]) for row in found} >= {"nan", "-inf", "0.2", "1.3"}
    names = [
        name
        for (name,) in database.ask(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'shop.items'::regclass AND attnum > 5"
        )
    ]
    assert len(set(names)) == 5 and max(len(name.encode()) for name in names) == 63
    assert database.ask(f'SELECT "{names[1]}" FROM shop.items WHERE "{names[1]}" IS NOT NULL') == [("nul␀nul",)]
    assert database.ask("SELECT value FROM shop.item_attributes") == [(long["value"],)]


def go(database: Database, run) -> None:
    from pipeline.core.filesystem import sha256
    from pipeline.storage import checksums
    from pipeline.storage.generations import go_live

    home = database.shop.home
    checksums.record_generation(home, "shop", run.run_id, sha256(home.generation("shop", run.run_id)))
    go_live(home, "shop", run.run_id)
    journal.close_run(run, "published")


def test_types_without_an_equal_are_text():
    known = {"FLOAT[]": "real[]", "VARCHAR[]": "text[]", "DECIMAL(18,3)": "numeric(18,3)", "UBIGINT": "numeric"}
    assert {dtype: copy_text.postgres_type(dtype) for dtype in known} == known
    assert {
        copy_text.postgres_type(d) for d in ("STRUCT(a INTEGER)", "MAP(VARCHAR, INTEGER)", "INTEGER[][]", "BLOB[]")
    } == {"text"}


READS = (
    "SELECT count(*), count(DISTINCT score), min(score), min(run_id) FROM shop.recommendations",
    "SELECT count(*), count(DISTINCT right(title, 1)), min(r.score), min(r.run_id) FROM shop.recommendations AS r "
    "JOIN shop.items AS i USING (item_id) WHERE split_part(i.title, ' ', 4)::int = r.score",
    "SELECT count(*), count(DISTINCT run_id), min(score), min(run_id) FROM shop.recommendations_titled",
)


def test_20_readers_see_whole_nights_through_10_swaps(database: Database):
    database.shop.night(1)
    database.deliver()
    url, stop = database.server.url(database.name, password=True), threading.Event()
    wrong: list[object] = []
    seen: set[str] = set()

    def read(number: int) -> None:
        try:
            with psycopg.connect(url, autocommit=True) as con:
                while not stop.is_set():
                    for query in READS:
                        rows, nights, score, run_id = con.execute(query.encode()).fetchall()[0]
                        if (rows, nights) != (USERS * TOP, 1) or int(score) != int(run_id[6:8]):
                            wrong.append((query, rows, nights, score, run_id))
                        seen.add(run_id)
                    if number % 4 == 0:  # several statements of one transaction, after the publication was read
                        with con.transaction():
                            (night,) = con.execute(b"SELECT run_id FROM shop.nightrecs_publication").fetchall()[0]
                            time.sleep(0.05)
                            found = con.execute(b"SELECT DISTINCT run_id FROM shop.recommendations").fetchall()
                            if found != [(night,)]:
                                wrong.append(("transaction", night, found))
                    time.sleep(0.01)
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(20)]
    for each in readers:
        each.start()
    try:
        for number in range(2, 12):
            database.shop.night(number)
            [done] = delivery.deliver(database.shop.home, "shop", database.settings)
            assert done.trouble is None and done.copied
    finally:
        stop.set()
        for each in readers:
            each.join(30)
    assert wrong == [] and len(seen) >= 8
    assert database.schemas() == ["shop"]


POINTS = ("after_schema:kill", "mid_copy:kill", "mid_copy:kill@5", "after_table:kill@30", "before_swap:kill")
AFTER = ("after_swap:kill", "before_record:kill")


@pytest.mark.parametrize("point", [*POINTS, *AFTER])
def test_a_publisher_killed_at_any_point_leaves_a_whole_night(database: Database, processes: Forks, point: str):
    first = database.shop.night(1)
    database.deliver()
    second = database.shop.night(2)
    done = processes.run(DELIVER, str(database.shop.root), NIGHTRECS_FAULT=f"deliver:{point}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    wanted = second if point in AFTER else first
    query = "SELECT DISTINCT run_id, count(*) FROM shop.recommendations GROUP BY run_id"
    assert database.ask(query) == [(wanted.run_id, USERS * TOP)]
    assert health.troubles(database.shop.home, "shop") != []
    third = database.shop.night(3)
    [done] = delivery.deliver(database.shop.home, "shop", database.settings)
    assert done.trouble is None and database.ask(query) == [(third.run_id, USERS * TOP)]
    assert database.schemas() == ["shop"] and health.troubles(database.shop.home, "shop") == []


def test_grants_and_the_comment_stay(database: Database):
    role, other = f"reader_{database.name}", f"analyst_{database.name}"
    database.shop.night(1)
    database.ask(f'CREATE ROLE "{role}"', f'CREATE ROLE "{other}"', "CREATE SCHEMA shop", f'GRANT USAGE ON SCHEMA shop TO "{role}"',
                 f'ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO "{role}"')  # fmt: skip
    database.deliver()
    database.ask("COMMENT ON SCHEMA shop IS 'ask the data team'", f'GRANT SELECT (item_id) ON shop.items TO "{other}"',
                 f'GRANT SELECT ON shop.freshness TO PUBLIC, "{other}" WITH GRANT OPTION'.replace("PUBLIC, ", ""))  # fmt: skip
    query = f"""SELECT has_schema_privilege('{role}', 'shop', 'USAGE'), has_table_privilege('{role}', 'shop.users', 'SELECT'),
        has_table_privilege('{role}', 'shop.user_overview', 'SELECT'), has_table_privilege('{role}', 'shop.users', 'DELETE'),
        has_column_privilege('{other}', 'shop.items', 'item_id', 'SELECT'), has_column_privilege('{other}', 'shop.items', 'title', 'SELECT'),
        has_table_privilege('{other}', 'shop.freshness', 'SELECT WITH GRANT OPTION'), has_schema_privilege('{other}', 'shop', 'USAGE'),
        obj_description('shop'::regnamespace)"""
    before = database.ask(query)
    assert before == [(True, True, True, False, True, False, True, False, "ask the data team")]
    for number in (2, 3):
        database.shop.night(number)
        assert database.deliver()[0].trouble is None
        assert database.ask(query) == before
    database.ask(f'DROP OWNED BY "{role}", "{other}"', f'DROP ROLE "{role}", "{other}"')


def test_what_others_made_is_never_dropped(database: Database, tmp_path: Path):
    database.ask("CREATE SCHEMA shop", "CREATE TABLE shop.mine (n int)")
    database.shop.night(1)
    assert "did not make" in (database.deliver()[0].trouble or "") and database.ask(
        "SELECT count(*) FROM shop.mine"
    ) == [(0,)]
    database.ask("DROP TABLE shop.mine")
    assert database.deliver()[0].trouble is None
    database.ask("CREATE VIEW public.best AS SELECT * FROM shop.recommendations WHERE rank = 1")
    run = database.shop.night(2)
    trouble = database.deliver()[0].trouble or ""
    assert "view public.best depends on table shop.recommendations" in trouble
    assert database.ask("SELECT count(*), min(run_id) FROM public.best")[0][1] != run.run_id
    database.ask("DROP VIEW public.best", "CREATE TABLE shop.mine (n int)")
    assert "mine" in (database.deliver()[0].trouble or "") and database.schemas() == ["shop"]
    database.ask("DROP TABLE shop.mine")
    assert database.deliver()[0].trouble is None


def test_damaged_tables_are_seen_and_copied_again(database: Database):
    database.shop.night(1)
    assert database.deliver()[0].trouble is None
    rows = USERS * TOP
    damages = {
        "table recommendations is missing, view": ["DROP TABLE shop.recommendations CASCADE"],
        f"table recommendations has {USERS} of {rows} rows": ["DELETE FROM shop.recommendations WHERE rank > 1"],
        "it has night 20251231": ["UPDATE shop.nightrecs_publication SET run_id = '20251231'"],
        "table nightrecs_publication is missing": ["DROP SCHEMA shop CASCADE"],
    }
    for message, statements in damages.items():
        database.ask(*statements)
        [line] = health.damaged(database.shop.home, "shop")
        assert line.startswith("postgres SHOP_DB_URL shop is damaged: ") and message in line
        notes: list[str] = []
        [done] = delivery.deliver(database.shop.home, "shop", database.settings, notes.append, patient=False)
        assert done.trouble is None and done.copied, message
        assert health.damaged(database.shop.home, "shop") == []
        assert database.ask("SELECT count(*) FROM shop.recommendations_titled") == [(rows,)]
    assert not database.deliver()[0].copied and database.schemas() == ["shop"]
    database.ask("DROP TABLE shop.items CASCADE")
    database.shop.night(2)
    assert database.deliver()[0].copied and health.damaged(database.shop.home, "shop") == []
    database.ask("DROP TABLE shop.nightrecs_publication")
    assert "or lost its nightrecs_publication" in (database.deliver()[0].trouble or "")


def test_a_server_that_does_not_answer_is_not_called_damaged(database: Database, monkeypatch: pytest.MonkeyPatch):
    database.shop.night(1)
    database.deliver()
    monkeypatch.delenv("SHOP_DB_URL")
    assert health.damaged(database.shop.home, "shop") == []
    [look] = health.looks(database.shop.home, "shop").values()
    assert look.damage == [] and "SHOP_DB_URL is not set" in str(look)


def test_a_schema_belongs_to_one_data_set_of_one_home(database: Database, tmp_path: Path):
    run = database.shop.night(1)
    database.deliver()
    other = DeliveredHome(tmp_path / "other", database.shop.publish)
    other.night(2)
    [done] = delivery.deliver(other.home, "shop", database.settings, patient=False)
    assert "belongs to the data set shop of the home" in (done.trouble or "")
    assert database.ask("SELECT DISTINCT run_id FROM shop.recommendations") == [(run.run_id,)]
    night = live_night(database.shop.home, "shop")
    assert night
    with pytest.raises(NotDelivered, match="belongs to the data set shop"):
        Postgres(database.destination.settings.model_copy(update={"schema_name": "shop"}), "books").publish(
            night, 0, print
        )
    assert delivery.remove(database.shop.home, "shop", "postgres SHOP_DB_URL shop") and database.schemas() == []
    assert delivery.deliver(other.home, "shop", database.settings, patient=False)[0].trouble is None


def test_a_reader_who_holds_a_table_is_waited_for_and_never_ended(database: Database):
    first = database.shop.night(1)
    database.deliver()
    database.shop.night(2)
    night = live_night(database.shop.home, "shop")
    assert night
    with psycopg.connect(database.server.url(database.name, password=True)) as reader:
        reader.execute(b"SELECT count(*) FROM shop.items")
        with pytest.raises(NotNow, match="readers hold tables of the schema 'shop'"):
            database.destination.publish(night, 1.0, print)
        assert reader.execute(b"SELECT DISTINCT run_id FROM shop.recommendations").fetchall() == [(first.run_id,)]
        assert database.schemas() == ["shop"]
    assert database.deliver()[0].trouble is None


def test_no_password_reaches_a_message_or_a_file(database: Database, monkeypatch: pytest.MonkeyPatch):
    database.shop.night(1)
    secret = "p@ss/w:rd'%41 x"
    for url in (f"postgresql://tester:{secret}@127.0.0.1:{database.server.port}/x", f"host=127.0.0.1 password='{secret}",
                f"postgresql://tester:wrong-secret@127.0.0.1:{database.server.port}/postgres",
                f"postgresql://127.0.0.1:{database.server.port}/postgres?user=tester&password=wrong-secret",
                "postgresql://tester:wrong-secret@127.0.0.1:1/postgres"):  # fmt: skip
        monkeypatch.setenv("SHOP_DB_URL", url)
        [done] = database.deliver()
        looked = health.check(database.shop.home, "shop", database.settings)
        texts = [str(done), str(looked), *(p.read_text() for p in database.shop.root.rglob("*.json*"))]
        assert done.trouble and not [
            text for text in texts if "wrong-secret" in text or "w:rd" in text or "p@ss" in text or '"tester"' in text
        ]
    monkeypatch.delenv("SHOP_DB_URL")
    assert "SHOP_DB_URL is not set" in (database.deliver()[0].trouble or "")
