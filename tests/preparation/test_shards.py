"""Data stages shard by shard: the same rows, ledgers and infos, or the same refusal, as for all rows at once."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.settings import Settings
from pipeline.core import spread
from pipeline.core.errors import Refused, SettingsError
from pipeline.preparation import shards, splitters
from pipeline.preparation.filters import k_core, k_core_of_parts
from pipeline.preparation.split_shards import RowDraw, as_unsigned, order_statistics
from pipeline.schemas import tables
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.stages import clean, encode, split
from pipeline.storage import journal, lake
from tests.support.engines import Elsewhere
from tests.support.stage_runs import DAY, make_run, store

USERS = [
    "10",
    "9",
    "a",
    "B",
    "é",
    "z z",
    "",
    "日本",
    "aa",
    "a\t",
    "u1",
    "u2",
    "u3",
    "u10",
    "Ω",
    "🙂",
    "A",
    "b",
    "ab",
    "~",
]
ITEMS = ["i1", "i10", "i2", "I", "ö", "x y", "i3", "k", "q"]
EVENTS: dict[str, Any] = {
    "column": "kind", "weights": {"view": 0.1, "cart": 0.4, "purchase": 1.0}, "withdraws": {"remove": ["cart"]},
    "target": ["purchase"],
}  # fmt: skip
SPLITS: dict[str, dict[str, Any]] = {
    "auto": {},
    "in time": {"kind": "global_time", "valid": 0.2, "test": 0.3},
    "in time, without valid": {"kind": "global_time", "valid": 0, "test": 0.3},
    "leave one out": {"kind": "leave_one_out"},
    "random": {"kind": "random", "valid": 0.2, "test": 0.3},
    "random by row": {"kind": "random", "by": "row", "valid": 0.2, "test": 0.3},
    "random by row, without valid": {"kind": "random", "by": "row", "valid": 0, "test": 0.3},
    "published": {"kind": "published", "valid": 0.2},
    "published, by row": {"kind": "published", "by": "row", "valid": 0.3},
}
DATA: dict[str, dict[str, Any]] = {
    "plain": {},
    "ratings": {"feedback": {"kind": "explicit", "keep_if": "rating >= 2", "positive_if": "rating >= 3"}},
    "dense": {"filter": {"min_user_interactions": 3, "min_item_interactions": 4, "user_fraction": 0.8}},
    "text": {"feedback": {"keep_if": "size <> '7'", "positive_if": "kind <> 'view'"}},
    "events": {"events": EVENTS, "filter": {"min_item_interactions": 3}},
    "capped": {"events": {**EVENTS, "caps": {"per_user_per_day": 2}}, "feedback": {"repeats": "sum"}},
    "counts": {"feedback": {"kind": "implicit", "repeats": "count"}, "filter": {"min_user_interactions": 2}},
    "separate": {"feedback": {"kind": "implicit", "repeats": "separate"}},
}
EXAMPLES = 3
"""Of each kind of split."""
SEEN: dict[str, dict[str, Any]] = {"hide": {}, "allow": {"seen": "allow"}, "days": {"seen": "allow", "hide_days": 2}}


def log(seed: int, untimed: bool) -> pl.DataFrame:
    """Raw rows with repeats, ties in time, rows without a rating, users of very different size."""
    draw = np.random.default_rng(seed)
    n, n_users = int(draw.integers(30, 160)), int(draw.integers(1, len(USERS)))
    days = draw.integers(0, 12, n).astype(float)
    if untimed:
        days[draw.random(n) < 0.1] = np.nan
    day = pl.Series(days).fill_nan(None)
    return pl.DataFrame(
        {
            "user_id": draw.choice(USERS[:n_users], n, p=draw.dirichlet(np.ones(n_users))),
            "item_id": draw.choice(ITEMS, n),
            "rating": pl.Series(draw.integers(-1, 5, n).astype(float)).replace(-1.0, None),
            "day": day,
            "source_kind": draw.choice([*EVENTS["weights"], "remove", "share", " cart "], n, p=[0.3, 0.1, 0.4, 0.1, 0.05, 0.05]),
            "source_size": draw.choice(["1", "7", "x"], n, p=[0.6, 0.3, 0.1] if draw.random() < 0.5 else [0.7, 0.3, 0]),
        }
    ).select(
        "user_id", "item_id", "rating",
        (pl.lit(DAY) + pl.duration(microseconds=(pl.col("day") * 86_400e6).cast(pl.Int64))).cast(pl.Datetime("us")).alias("timestamp"),
        "source_kind", "source_size",
    )  # fmt: skip


def until_split(
    rows: pl.DataFrame, tree: dict[str, Any], n: int, engine: spread.Engine | None = None
) -> dict[str, Any]:
    """Frames, ledgers, infos and notes of the data stages in `n` shards; or the error that ended them."""
    with tempfile.TemporaryDirectory() as folder, spread.using(engine or spread.Engine()):
        home = Path(folder)
        if tree.get("split", {}).get("kind") == "published":
            draw = np.random.default_rng(rows.height)
            pairs = rows.select("user_id", "item_id").filter(pl.col("user_id").str.strip_chars() != "").unique()
            pairs = pairs.sort("user_id", "item_id").filter(draw.random(pairs.height) < 0.2)
            pairs.rename({"user_id": "user", "item_id": "item"}).write_csv(home / "test.csv")
        run = make_run(home / "home", home, **tree, scale={"shards": n})
        found: dict[str, Any] = {}
        try:
            at = store(run, rows)
            for name, stage in {"clean": clean.clean_interactions, "encode": encode.encode_ids, "split": split.split_interactions}.items():  # fmt: skip
                at = stage(run, at)
                manifest = lake.read_manifest(at)
                cut = manifest["info"].pop("shards", None)
                assert (cut is None) == (n == 1 or name == "split")
                if cut and name == "encode":
                    if isinstance(engine, Elsewhere):
                        engine.n_shards = len(cut["rows"])
                    users = pl.read_parquet(at / "users.parquet").height
                    assert sum(cut["rows"]) == manifest["rows_out"] and sum(cut["users"]) == users
                found[name] = {key: manifest[key] for key in ("ledger", "info", "rows_in", "rows_out", "key")}
                found |= {f"{name}/{path.name}": pl.read_parquet(path) for path in sorted(at.glob("*.parquet"))}
                assert {p.suffix for p in at.iterdir()} == {".parquet", ".json"}
        except (Refused, SettingsError) as error:
            found["error"] = f"{type(error).__name__}: {error}"
        found["notes"] = journal.notes(run.home, run.dataset, run.run_id)
        found["ledger"] = journal.read(run.home, run.dataset, tables.ROW_LEDGER, run.run_id)
        assert not list(home.rglob(".scratch-*"))
        return found


def assert_same(whole: dict[str, Any], cut: dict[str, Any]) -> None:
    assert list(whole) == list(cut), (whole.get("error"), cut.get("error"))
    for name, value in whole.items():
        if not isinstance(value, pl.DataFrame):
            assert value == cut[name], name
            continue
        theirs = cut[name]
        assert value.schema == theirs.schema, name
        if name == f"clean/{INTERACTIONS}":  # in source order within a user
            value, theirs = (
                rows.with_columns(pl.col("user_id").cast(pl.String)).sort("user_id", maintain_order=True)
                for rows in (value, theirs)
            )
        assert value.equals(theirs), name


@pytest.mark.long
@pytest.mark.parametrize("splitting", SPLITS)
@settings(max_examples=EXAMPLES)
@given(
    st.integers(0, 2**32), st.sampled_from(list(DATA)), st.sampled_from(list(SEEN)), st.booleans(),
    st.sampled_from([3, 7]),
)  # fmt: skip
def test_shards_change_nothing(splitting: str, seed: int, data: str, seen: str, untimed: bool, n: int):
    dataset = {"columns": {"timestamp": "at"}, **DATA[data]}
    if splitting.startswith("published"):
        dataset |= {"source": {"files": ["r.csv"]}, "published": {"train": "test.csv", "test": "test.csv"}}
        seen = "hide"
    if seen != "hide":
        dataset["feedback"] = {**dataset.get("feedback", {}), "repeats": "separate"}
    tree = {"dataset": dataset, "split": SPLITS[splitting], **SEEN[seen]}
    rows, engine = log(seed, untimed), Elsewhere(seed)
    whole = until_split(rows, tree, 1)
    assert_same(whole, until_split(rows, tree, n))
    assert_same(whole, until_split(rows, tree, n, engine))
    assert set(engine.parts) <= {"store"} and (engine.parts or engine.n_shards <= 1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60), st.integers(1, 4), st.data())
def test_order_statistics_are_those_of_all_numbers(numbers: list[int], parts: int, data):
    values = np.array(numbers + numbers[: len(numbers) // 3], dtype=np.int64)
    places = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
    chunks = np.array_split(as_unsigned(values), parts)
    found = [value - 2**63 for value in order_statistics(lambda: iter(chunks), places)]
    assert found == np.sort(values)[places].tolist()


@given(
    st.lists(st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]), min_size=1, max_size=40), st.integers(1, 4),
    st.sampled_from([(0.0, 0.3), (0.3, 0.0), (0.2, 0.2), (0.45, 0.5)]),
)  # fmt: skip
def test_rows_are_drawn_in_parts_as_all_at_once_even_with_equal_hashes(hashes, parts, fractions):
    whole = np.array(hashes, dtype=np.uint64)
    chunks = np.array_split(whole, parts)
    draw = RowDraw(lambda: iter(chunks), *fractions)
    labels = np.concatenate([draw.of(number)(chunk, *fractions) for number, chunk in enumerate(chunks)])
    assert labels.tolist() == splitters.random_by_row(whole, *fractions).tolist()


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_the_dense_rows_of_parts_are_those_of_all(seed: int, least_user: int, least_item: int, parts: int):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 80))
    user, item = np.sort(draw.integers(0, 12, n)), draw.integers(0, 9, n)
    ids = {"user_id": [f"{u:02}" for u in user], "item_id": [f"{i}" for i in item]}
    rows = pl.DataFrame({**ids, "row": range(n)}).cast({"user_id": pl.Categorical, "item_id": pl.Categorical})
    cuts = np.array_split(np.arange(12), parts)
    own = [np.isin(user, users) for users in cuts]
    stays = np.concatenate(k_core_of_parts([(user[mine], item[mine]) for mine in own], least_user, least_item))
    assert np.flatnonzero(stays).tolist() == k_core(rows, least_user, least_item)["row"].to_list()


def numbered(sizes: dict[str, int]) -> pl.DataFrame:
    """Raw rows: so many of each user, in turn."""
    users = [user for user, n in sizes.items() for _ in range(n)]
    rows = pl.DataFrame({"user_id": users, "item_id": [f"i{n}" for n in range(len(users))], "n": range(len(users))})
    return rows.sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.long
@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(USERS), st.integers(1, 40), min_size=1), st.integers(1, 9))
def test_users_are_cut_by_rows_and_scattered_in_order(sizes: dict[str, int], n: int):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = numbered(sizes)
        rows.cast({"user_id": pl.Categorical}).write_parquet(folder / "raw.parquet", row_group_size=37)
        borders = shards.cut(folder / "raw.parquet", n, SETTINGS, folder)
        assert borders == sorted(borders, key=str.encode) and len(borders) < n
        parts = [pl.read_parquet(path) for path in shards.scatter(folder / "raw.parquet", borders, folder)]
        whole = rows.with_columns(shard=pl.Series(borders, dtype=pl.String).search_sorted(rows["user_id"], "right"))
        for number, part in enumerate(parts):
            assert part.height and part["n"].to_list() == whole.filter(shard=number)["n"].to_list()
        most = max(sizes.values())  # no shard is larger than its share and the user who is cut off last
        assert max(part.height for part in parts) <= rows.height / n + most


def test_the_number_of_shards_follows_from_the_rows_and_the_memory_limit():
    def number(rows: int, **tree: Any) -> int:
        return shards.number_of_shards(SETTINGS.model_validate({**SETTINGS.model_dump(), **tree}), rows)

    assert number(100_000_000, memory_limit="2GB") == 10
    assert number(1_000, memory_limit="5KB") == 1, "a small set is never cut by itself"
    assert number(1_000, memory_limit="5KB", scale={"shards": 3}) == 3
    assert number(10**12, memory_limit="2GB") == shards.MOST_SHARDS
    assert number(10**12, memory_limit="2GB", scale={"shards": 1}) == 1


SETTINGS = Settings.model_validate({"dataset": {"name": "d"}, "models": {"popularity": {}}})
