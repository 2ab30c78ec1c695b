"""`forget`, `rollback`, `gc` and the withdrawal of an item reach every table that the schemas know, and every file.

The tables come from `tables.PUBLISHED`, and each of them must have rows in these nights. So the feature of a new table is
turned on here, and the table is then held to all of this.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from flows import conductor
from pipeline.maintenance import gc, home_search
from pipeline.publishing.database import FILLED_LATER
from pipeline.schemas import tables
from pipeline.storage import checksums, forgotten_users, journal, lake, warehouse
from pipeline.storage.generations import kept_generations
from tests.support.nights import without_report
from tests.support.published_nights import DAY, SECRET, START, Dataset, copied, without_mlflow
from tests.support.small_home import everything_in

SHORT = "17"
"""A user with the id of an item, of which bytes say nothing."""
WITHDRAWN = "item-to-withdraw"
SECTIONS = """[feedback]
kind = "explicit"
positive_if = "rating >= 3"
[items]
files = ["catalog/items.csv"]
id = "item"
title = "name"
[users]
files = ["catalog/users.csv"]
id = "user"
[impressions]
files = ["catalog/shown.csv"]
user = "who"
timestamp = "at"
timestamp_unit = "iso"
item = "what"
"""
RECIPE = """[split]
kind = "leave_one_out"
[models.ials]
embedding_dim = 8
epochs = 2
[models.ials.search]
l2 = [0.001, 0.01]
[models.pmf]
embedding_dim = 2
epochs = 1
[search]
trials = 2
[gate]
enabled = false
[export]
top_n = 5
active_days = 30
reasons = 2
exclude_where = "stock = 0"
explore = { share = 0.2, new_days = 9, available_from = "launch" }
holdback = { share = 0.2 }
by = { attribute = "category", top_n = 3 }
trending = { windows = [3], past = 2, by = "category", top_n = 9 }
fallback_by = "country"
audiences = { top_n = 50, attributes = ["category"] }
[lists.home]
top_n = 9
promote = [{ where = "price = 3", place = 2 }]
"""
FACTS = {
    "items": "what the source and the catalog have",
    "item_attributes": "what the catalog has",
    "item_vectors": "what the model learnt of it",
    "biases": "what the model learnt of it",
    "predictions": "how well the model knows it",
    "suppressed": "how many lists it is kept out of",
    "reasons": "it is why another item is listed",
    "similar_items": "what may be shown in its place",
}
"""Tables that have an item which rules exclude, as a fact and not as a recommendation."""
LISTED = {"similar_items": ["similar_item_id"]}
"""Columns of these tables with recommended items."""
OF_EARLIER_NIGHTS = {table.name for table in FILLED_LATER} | {
    "comparisons", "drift", "metrics", "realised", "realised_clicks", "row_ledger", "runs", "stages",
}  # fmt: skip
"""Tables with rows of each night in the journal."""


class Shop(Dataset):
    """Two tastes; SECRET and SHORT like the one of the even items, and so does WITHDRAWN belong to it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        toml = folder / "tiny.toml"
        if "[items]" not in toml.read_text():
            toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + SECTIONS)
        (folder / "cheap.toml").write_text(RECIPE)
        (folder / "catalog").mkdir(exist_ok=True)

    def fill(self, days: int, of_withdrawn: str = "1") -> None:
        """The source of so many days. `of_withdrawn`: stock of WITHDRAWN; empty: it is in no file any more."""
        draw, lines = random.Random(3), [f"{SECRET},01,not a number,{START}", f"old,02,5,{START - 99 * DAY}"]
        names = [f"u{n:02d}" for n in range(26)] + [SECRET, SHORT, "u26", "u27"]
        odd, even = [f"{n:02d}" for n in range(1, 30, 2)], [f"{n:02d}" for n in range(0, 30, 2)]
        even += [WITHDRAWN] * 3
        odd.remove(SHORT)
        odd += [SHORT] * 2
        for day in range(days):
            for n, name in enumerate(names):
                item = draw.choice(odd if n % 2 and name != SHORT else even)
                item = WITHDRAWN if day == days - 1 and n % 5 == 0 and of_withdrawn else item  # so it is trending
                if item != WITHDRAWN or of_withdrawn:
                    lines.append(f"{name},{item},{draw.choice([2, 3, 4, 5])},{START + day * DAY + n}")
        (self.folder / "a.csv").write_text("\n".join(["user,item,rating,t", *lines, ""]))
        items = [f"{n:02d},Thing {n},{'xyz'[n % 3]},{n},{int(n != 4)}," for n in range(30)]
        items += [f"new{days},Just in,x,9,1,{_date(days)}"]
        items += [f"{WITHDRAWN},Going,x,5,{of_withdrawn}," for _ in range(bool(of_withdrawn))]
        self._in_catalog("items.csv", ["item,name,category,price,stock,launch", *items])
        users = [f"{name},{'de' if n % 2 else 'fr'},{days}" for n, name in enumerate(names)]
        self._in_catalog("users.csv", ["user,country,age", *users])
        shown = [f"{name},2099-01-01 00:00:00,{n:02d},{n % 2}" for name in names for n in range(30)]
        self._in_catalog("shown.csv", ["who,at,what,clicked", *shown])

    def _in_catalog(self, name: str, lines: list[str]) -> None:
        (self.folder / "catalog" / name).write_text("\n".join([*lines, ""]))

    def publish(self) -> str:
        """A night. Its report is a stand-in."""
        run = self.prepare()
        assert conductor.conduct(run, without_report) == "published"
        run.home.report("tiny", run.run_id).parent.mkdir(parents=True, exist_ok=True)
        run.home.report("tiny", run.run_id).write_text(f"<p>{SECRET}")
        return run.run_id

    def tables(self, path: Path | None = None) -> dict[str, pl.DataFrame]:
        """Every table of the live file, or of another one, ordered, ids first."""
        with warehouse.connect(path or self.home.live("tiny"), read_only=True) as con:
            names = [name for (name,) in con.sql("select table_name from duckdb_tables() order by 1").fetchall()]
            assert set(names) == {table.name for table in tables.PUBLISHED}
            return {name: con.sql(f"from {name} order by all").pl() for name in names}

    def texts(self) -> Iterator[tuple[Path, list[str]]]:
        """Every file of the home, with all that can be read in it."""
        for path in sorted(self.home_root.rglob("*")):
            if path.is_file():
                yield path, [path.name, *everything_in(path)]


def _date(day: int) -> str:
    return str(pl.select(pl.from_epoch(pl.lit(START + day * DAY), "s").dt.date()).item())


def naming(frame: pl.DataFrame, text: str, columns: list[str] | None = None) -> pl.DataFrame:
    """Rows with the text in any column, whatever its name and type."""
    found = [_as_text(frame[name]).str.contains(text, literal=True) for name in columns or frame.columns]
    return frame.filter(pl.any_horizontal(found).fill_null(False))


def _as_text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List | pl.Struct | pl.Array):
        return pl.Series(column.name, [str(value) for value in column.to_list()], dtype=pl.String)
    return column.cast(pl.String)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A shop after two nights: `first` and `second` are their ids, `before` and `after` their tables."""
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = Shop(tmp_path_factory.mktemp("shop"))
        shop.fill(10)
        first, before = shop.publish(), shop.tables()
        shop.fill(12)
        second = shop.publish()
        yield SimpleNamespace(shop=shop, first=first, second=second, before=before, after=shop.tables())


@pytest.fixture
def shop(nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of it for one test."""
    without_mlflow(monkeypatch)
    copied(nights.shop, tmp_path / "copy")
    return Shop(tmp_path / "copy")


def test_these_nights_fill_every_table_and_every_kind_of_file_is_known(nights):
    """A table without rows would pass all that follows. Columns of users are named so that `forget` knows them."""
    for table in tables.PUBLISHED:
        frame = nights.after[table.name]
        assert frame.height, f"turn on, in RECIPE or SECTIONS, what fills {table.name}"
        has_user = naming(frame, SECRET).height > 0
        assert has_user == bool(of_users(table.name, frame) or table is tables.REJECTED_ROWS), table.name
    for path, _ in nights.shop.texts():
        assert home_search.kind_of(path), f"home_search.KINDS has no decoder for {path.name}"


def of_users(table: str, frame: pl.DataFrame) -> list[pl.Expr]:
    """Ids of users in a table, null elsewhere."""
    if table == "biases":
        return [pl.when(kind="user").then("id")]
    return [
        pl.col(name) for name in frame.columns if name.endswith("user_id") or (table, name) == ("user_vectors", "id")
    ]


def test_after_forget_no_table_and_no_file_has_the_user_and_nothing_else_is_missing(nights, shop, capsys):
    """SECRET is nowhere; SHORT, which is an item too, is in no column of users."""
    for user in (SECRET, SHORT):
        assert any(user in text for _, texts in shop.texts() for text in texts)
        assert shop.printed(capsys, "forget", "tiny", user)["left"] == []
    assert [path for path, texts in shop.texts() if any(SECRET in text for text in texts)] == []
    for run_id, old in ((nights.first, nights.before), (nights.second, nights.after)):
        for name, frame in shop.tables(shop.home.generation("tiny", run_id)).items():
            others = old[name]
            for column in of_users(name, others):
                others = others.filter(~column.is_in([SECRET, SHORT]).fill_null(False))
            if name == tables.REJECTED_ROWS.name:
                others = others.with_columns(raw=pl.lit(forgotten_users.REDACTED))
            assert frame.equals(others), name


def test_after_rollback_every_table_is_that_of_the_older_night(nights, shop):
    assert shop.command("rollback", "tiny") == 0 and shop.live_night() == nights.first
    for name, frame in shop.tables().items():
        assert frame.equals(nights.before[name]), name
        assert not frame.equals(nights.after[name]), f"{name} is the same in both nights, which shows nothing"
        if "run_id" in frame.columns and name not in OF_EARLIER_NIGHTS:
            assert set(frame["run_id"]) == {nights.first}, name


def test_a_withdrawn_item_leaves_every_list_then_every_table_and_gc_leaves_nothing_of_it(nights, shop, capsys):
    """Nor does any of these nights bring back a forgotten user."""
    for table in tables.PUBLISHED:
        if any(name.endswith("item_id") for name in table.columns):
            assert naming(nights.after[table.name], WITHDRAWN).height or table is tables.SUPPRESSED, table.name
    shop.printed(capsys, "forget", "tiny", SECRET)
    shop.fill(12, of_withdrawn="0")
    excluding, found = shop.publish(), shop.tables()
    for name, frame in found.items():
        assert naming(frame, SECRET).is_empty(), name
        columns = LISTED.get(name) if name in FACTS else frame.columns
        assert columns is None or naming(frame, WITHDRAWN, columns).is_empty(), name
        assert name not in FACTS or naming(frame, WITHDRAWN).height, f"{name} does not have it: it needs no exception"
    shop.fill(12, of_withdrawn="")
    last = shop.publish()
    for name, frame in shop.tables().items():
        assert naming(frame, WITHDRAWN).is_empty() and naming(frame, SECRET).is_empty(), name

    for run_id in journal.run_ids(shop.home, "tiny"):
        journal._update(shop.home.journal("tiny") / run_id, {"mlflow_run_id": "gone"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "_in_mlflow", lambda *_: [])
        words = ("--keep-lake-nights", "1", "--keep-generations", "1", "--keep-mlflow-nights", "1")
        shop.printed(capsys, "gc", "tiny", *words)
    assert kept_generations(shop.home, "tiny") == [last] == list(checksums.read(shop.home, "tiny").generations)
    removed = [nights.first, nights.second, excluding]
    for path, texts in shop.texts():
        if not path.is_relative_to(shop.home.journal("tiny")):  # journals stay
            assert not any(run_id in path.name for run_id in removed), path
            assert not any(WITHDRAWN in text for text in texts), path
    used = set((shop.home.journal("tiny") / last / "folders.txt").read_text().splitlines())
    left = {str(path.relative_to(shop.home.lake("tiny"))) for path in shop.home.lake("tiny").glob("[1-9]_*/*")}
    assert left == used and all(lake.is_complete(shop.home.lake("tiny") / name) for name in left)
