"""A shop with every kind of list and table turned on, for tests that want rows in all of them."""

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from flows import conductor
from pipeline.schemas import tables
from pipeline.storage import warehouse
from tests.support.nights import without_report
from tests.support.published_nights import DAY, SECRET, START, Dataset
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


class FullShop(Dataset):
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
