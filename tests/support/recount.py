"""A second count of a published night: plain Python, Polars and NumPy on the raw file, nothing of `pipeline`.

It reads the files of a data set as its TOML describes them, repeats filters and split rules from their definitions, and
compares them with the published file and the lake of the night. Models and metrics are in recount_models.py.
"""

import gzip
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

ORDER = ["user", "item"]


@dataclass(frozen=True)
class Filters:
    """What a recipe leaves out, as far as the second count repeats it."""

    least_rating: float | None = None
    """`keep_if = "rating >= …"`."""
    least_positive: float | None = None
    """`positive_if = "rating >= …"`."""
    min_user: int = 1
    min_item: int = 1


def read_rows(toml: Path, folder: Path) -> pl.DataFrame:
    """Columns user, item, rating and time (s) of every line of the source, null where the data set has none."""
    described = tomllib.loads(toml.read_text(encoding="utf-8"))
    source, columns = described["source"], described["columns"]
    records = []
    for name in source["files"]:
        lines = _lines(folder / name)
        delimiter = source.get("delimiter", ",")
        names = source.get("column_names") or next(lines).split(delimiter)
        places = [
            names.index(columns[key]) if key in columns else None for key in ("user", "item", "rating", "timestamp")
        ]
        for line in lines:
            fields = line.split(delimiter)
            records.append([None if place is None else fields[place] for place in places])
    frame = pl.DataFrame(records, schema=["user", "item", "rating", "time"], orient="row", infer_schema_length=None)
    return frame.with_columns(pl.col("rating").cast(pl.Float64), pl.col("time").cast(pl.Int64))


def _lines(path: Path) -> Iterator[str]:
    with (
        gzip.open(path, "rt", encoding="latin-1", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="latin-1", newline="") as file
    ):
        for line in file:
            yield line.rstrip("\r\n")


def kept(rows: pl.DataFrame, filters: Filters) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows that a night learns from, and how many were dropped by reason. Files here have each pair once."""
    left = rows
    if filters.least_rating is not None:
        left = left.filter(pl.col("rating") >= filters.least_rating)
    dropped = {"keep_if": rows.height - left.height}
    before = -1
    n_kept = left.height
    least = -math.inf if filters.least_positive is None else filters.least_positive
    left = left.with_columns(positive=pl.col("rating").fill_null(math.inf) >= least)
    while left.height != before:
        before = left.height
        left = left.filter(pl.len().over("user") >= filters.min_user)
        left = left.filter(pl.len().over("item") >= filters.min_item)
    return left, dropped | {"below_min_interactions": n_kept - left.height}


class Published:
    """The live file of a data set, and the lake of its night."""

    def __init__(self, home: Path, dataset: str):
        warehouse = home / "warehouse"
        self.con = duckdb.connect(str(warehouse / f"{dataset}.duckdb"), read_only=True)
        newest = "select run_id, split_kind, champion from runs order by started_at desc limit 1"
        ((self.run_id, self.split_kind, self.champion),) = self.con.sql(newest).fetchall()
        self.split_kind = self.split_kind.split(" ")[0]  # the reason follows
        folders = (warehouse / "journal" / dataset / self.run_id / "folders.txt").read_text().split()
        self.folders = [warehouse / "lake" / dataset / folder for folder in folders]

    def __enter__(self) -> "Published":
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def ask(self, query: str) -> pl.DataFrame:
        """Rows of the published tables."""
        return self.con.sql(query).pl()

    def folder(self, head: str) -> Path:
        """A folder of the night, by the start of its path in the lake."""
        (found,) = (folder for folder in self.folders if f"{folder.parent.name}/{folder.name}".startswith(head))
        return found

    def split(self) -> dict[str, pl.DataFrame]:
        """Train, valid and test with the source's ids: user, item, rating, time (s), positive."""
        encoded, split = self.folder("3_encoded/"), self.folder("4_split/")
        users, items = (pl.read_parquet(encoded / f"{name}.parquet") for name in ("users", "items"))
        parts = {}
        for name in ("train", "valid", "test"):
            rows = pl.read_parquet(split / f"{name}.parquet").join(users, on="user_idx").join(items, on="item_idx")
            time = pl.col("timestamp").dt.epoch("us") // 1_000_000
            parts[name] = rows.select(user="user_id", item="item_id", rating="rating", time=time, positive="positive")
        return parts


def check_ledger(night: Published, rows: pl.DataFrame, dropped: dict[str, int]) -> None:
    """Rows in are rows out and rows dropped by reason, stage by stage, and the reasons are those of the second count."""
    table = night.ask(f"select stage, reason, rows from row_ledger where run_id = '{night.run_id}'")
    ledger = {(stage, reason): n for stage, reason, n in table.iter_rows()}
    rows_in = rows.height
    for stage in ("ingest", "clean", "encode", "split"):
        of_stage = {reason: n for (name, reason), n in ledger.items() if name == stage}
        assert sum(of_stage.values()) == rows_in, (stage, of_stage, rows_in)
        rows_in = of_stage["kept"]
    found = {reason: n for (_, reason), n in ledger.items() if n and reason != "kept"}
    assert found == {reason: n for reason, n in dropped.items() if n}, (found, dropped)
    assert rows_in == rows.height - sum(dropped.values())


def check_counts(night: Published, rows: pl.DataFrame) -> None:
    """Users, items and the summary have the counts and times of all rows of the source."""
    for name in ("user", "item"):
        times = (pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
        counted = rows.group_by(pl.col(name).alias("id")).agg(pl.len().cast(pl.Int64).alias("n"), *times)
        first, last = (f"cast(epoch_us({of}) // 1000000 as bigint)" for of in ("first_seen", "last_seen"))
        table = night.ask(
            f"select {name}_id as id, n_interactions as n, {first} as first, {last} as last from {name}s where n > 0"
        )
        assert counted.sort("id").select(table.columns).equals(table.sort("id")), f"{name}s differ"
    ((n, users, items, density),) = night.ask("select rows, users, items, density from interactions_summary").rows()
    n_users, n_items = rows["user"].n_unique(), rows["item"].n_unique()
    assert (n, users, items) == (rows.height, n_users, n_items)
    assert math.isclose(density, rows.select("user", "item").n_unique() / (n_users * n_items))


def check_popular(night: Published, rows: pl.DataFrame, unlisted: set[str]) -> None:
    """`popular_items` has the items with the most of these rows, ties by id, of all time and of each window of days."""
    table = night.ask("select window_days, rank, item_id, score from popular_items order by all")
    assert table.height
    for (days,), found in table.group_by("window_days"):
        assert isinstance(days, int)
        recent = rows.filter(~pl.col("item").is_in(list(unlisted)))
        if days:
            recent = recent.filter(pl.col("time") > pl.col("time").max() - days * 86_400)
        counted = recent.group_by("item").agg(n=pl.len().cast(pl.Float64))
        best = counted.sort(["n", "item"], descending=[True, False]).head(found.height)
        assert found.sort("rank")["item_id"].to_list() == best["item"].to_list(), days
        assert found.sort("rank")["score"].to_list() == best["n"].to_list(), days
        assert found["rank"].sort().to_list() == list(range(1, found.height + 1))


def check_split(night: Published, left: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The splits are the kept rows, by the definition of their kind; returns them. Shares are 0.1 each."""
    parts = night.split()
    every = pl.concat(parts.values())
    assert every.select("user", "item").sort(ORDER).equals(left.select("user", "item").sort(ORDER)), "rows differ"
    joined = every.join(left, on=ORDER, suffix="_of_source")
    assert joined.filter(~pl.col("rating").eq_missing(pl.col("rating_of_source").cast(pl.Float32))).is_empty()
    assert joined.filter(~pl.col("time").eq_missing(pl.col("time_of_source"))).is_empty()
    train, valid, test = parts.values()
    if night.split_kind == "global_time":
        times, share = left["time"].sort(), round(0.1 * left.height)
        at_test, at_valid = times[left.height - share], times[left.height - 2 * share]
        assert valid["time"].min() == at_valid and test["time"].min() == at_test
        assert _below(train, at_valid) == train.height and _below(valid, at_test) == valid.height
        assert _below(test, at_test) == 0 and _below(valid, at_valid) == 0
    elif night.split_kind == "leave_one_out":
        n = every.group_by("user").len("n")
        assert set(test["user"]) == set(n.filter(pl.col("n") >= 2)["user"]) and test["user"].is_unique().all()
        assert set(valid["user"]) == set(n.filter(pl.col("n") >= 3)["user"]) and valid["user"].is_unique().all()
        last, held = (
            train.group_by("user").agg(latest=pl.col("time").max()),
            valid.join(test, on="user", suffix="_test"),
        )
        assert held.filter(pl.col("time") > pl.col("time_test")).is_empty()
        assert valid.join(last, on="user").filter(pl.col("latest") > pl.col("time")).is_empty()
    else:
        assert night.split_kind == "random"
        n = every.group_by("user").len("n")
        for part in (valid, test):
            of_user = n.join(part.group_by("user").len("held"), on="user", how="left").fill_null(0)
            assert of_user.filter((pl.col("held") - 0.1 * pl.col("n")).abs() >= 1).is_empty(), (
                "not a tenth of each user"
            )
            assert abs(part.height - 0.1 * every.height) < 0.01 * every.height
    return parts


def _below(rows: pl.DataFrame, time: int) -> int:
    return rows.filter(pl.col("time") < time).height


def check_lists(
    night: Published, rows: pl.DataFrame, left: pl.DataFrame, unlisted: set[str], top_n: int = 20
) -> pl.DataFrame:
    """Every user has distinct items of the kept rows, unseen and allowed, in ranks 1 … n, best first; returns the lists."""
    lists = night.ask("select user_id as user, rank, item_id as item, score, source from recommendations order by all")
    assert set(lists["user"]) == set(rows["user"])
    listable = set(left["item"]) - unlisted
    assert set(lists["item"]) <= listable
    assert lists.select(ORDER).is_unique().all()
    assert lists.join(rows, on=ORDER, how="semi").is_empty(), "known items are listed"
    of_user = lists.group_by("user").agg(n=pl.len(), first=pl.col("rank").min(), last=pl.col("rank").max())
    seen = rows.filter(pl.col("item").is_in(list(listable))).group_by("user").len("seen")
    unseen = len(listable) - pl.col("seen").cast(pl.Int64)
    expected = of_user.join(seen, on="user", how="left").fill_null(0)
    expected = expected.with_columns(wanted=pl.min_horizontal(pl.lit(top_n), unseen))
    wrong = expected.filter(
        (pl.col("n") != pl.col("wanted")) | (pl.col("first") != 1) | (pl.col("last") != pl.col("n"))
    )
    assert wrong.is_empty(), wrong
    above = lists.sort("user", "rank").with_columns(pl.col("user", "score").shift().name.suffix("_above"))
    falls = above.filter((pl.col("user") == pl.col("user_above")) & (pl.col("score") > pl.col("score_above")))
    assert falls.is_empty(), falls
    return lists
