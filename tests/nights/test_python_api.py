"""`import nightrecs`: nights on frames, and one function per question."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import nightrecs
import polars as pl
import pytest

from pipeline.core.paths import CHECKOUT, Home
from pipeline.maintenance.forget import forget
from pipeline.storage import lake

pytestmark = pytest.mark.usefixtures("lean_nights")
START = dt.datetime(2024, 1, 1)
QUICK = "[models.popularity]\n[models.ease]\n[gate]\nenabled = false\n[export]\nreasons = 2\n[export.audiences]\ntop_n = 5\n"
COLUMNS = {"user": "listener", "item": "track", "timestamp": "played"}


def plays(users: int = 25) -> pl.DataFrame:
    """Ten plays a listener; `stars` looks like a rating."""
    rows = [(f"u{u:02d}", f"t{(5 * u + 3 * day) % 17:02d}", START + dt.timedelta(days=day, minutes=u), 1 + day % 5)
            for u in range(users) for day in range(10)]  # fmt: skip
    return pl.DataFrame(rows, schema=["listener", "track", "played", "stars"], orient="row")


def titles() -> pl.DataFrame:
    return pl.DataFrame({"track": [f"t{n:02d}" for n in range(17)], "title": [f"Song {n}" for n in range(17)]})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def recipe(home: Path) -> str:
    (home / "quick.toml").write_text(QUICK)
    return str(home / "quick.toml")


@pytest.fixture(scope="module")
def night(home: Path, recipe: str) -> nightrecs.Published:
    settings = {"split.kind": "leave_one_out", "threads": 1, "evaluation.cutoffs": [5, 10]}
    return nightrecs.run_frame(
        plays(), "plays", items=titles(), columns=COLUMNS, recipe=recipe, home=home, settings=settings
    )


def test_all_rows_of_a_frame_are_accounted_for(night: nightrecs.Published):
    assert night.table("users").height == 25
    ledger = night.table("row_ledger")
    assert ledger.filter(stage="clean")["rows"].sum() == 250
    assert ledger.filter(stage="clean", reason="kept")["rows"][0] == night.table("users")["n_interactions"].sum()
    assert night.run.settings.dataset.columns.rating is None, "columns names no rating, so there is none"
    assert night.run.settings.evaluation.cutoffs == [5, 10]
    assert night.table("items")["title"].null_count() == 0
    last = night.sql("select max(last_seen) as t from users")["t"][0]
    assert last.replace(tzinfo=None) == plays()["played"].max()


def test_functions_answer_as_the_methods_do(night: nightrecs.Published, home: Path):
    assert nightrecs.recommend("plays", "u01", 3, home=home).equals(night.recommend("u01", 3))
    assert nightrecs.similar("plays", "t01", 2, home=home).height == 2
    with pytest.raises(ValueError, match="no item of plays is called 'x'"):
        nightrecs.similar("plays", "x", home=home)
    fans = nightrecs.audience("plays", "t01", top_n=3, home=home)
    assert fans.height == 3 and fans["score"].is_sorted(descending=True)
    with pytest.raises(ValueError, match="either an item"):
        nightrecs.audience("plays", home=home)
    shares = nightrecs.reasons("plays", "u01", home=home).group_by("rank").agg(pl.col("share").sum())
    assert shares["share"].to_list() == pytest.approx([1.0] * shares.height)
    assert nightrecs.sql("plays", "select $n as n", n=3, home=home)["n"].to_list() == [3]
    assert nightrecs.table("plays", "leaderboard", home=home).height > 0
    assert nightrecs.compare("plays", "ease", "popularity", home=home)["n"] == 25
    lists = night.holdout().with_columns(rank=1)
    assert nightrecs.evaluate("plays", lists, home=home).filter(metric="hit_rate")["value"][0] == 1


def test_an_equal_frame_of_any_kind_finds_the_results_again(night: nightrecs.Published, home: Path, recipe: str):
    settings = {"split.kind": "leave_one_out", "threads": 1, "evaluation.cutoffs": [5, 10]}
    again = nightrecs.run_frame(
        plays().to_arrow(), "plays", items=titles().to_pandas(), columns=COLUMNS, recipe=recipe, home=home,
        settings=settings,
    )  # fmt: skip
    assert again.run_id != night.run_id
    skipped = again.sql("select skipped from stages where run_id = $r and stage = 'train ease'", r=again.run_id)
    assert skipped["skipped"].to_list() == [True]
    assert again.table("recommendations").height == night.table("recommendations").height


def test_what_is_wrong_with_a_frame_is_said_before_a_night_begins(home: Path, recipe: str):
    for wrong, message in [
        ({"interactions": plays().head(0)}, "no rows"),
        ({"interactions": 7}, "not a frame"),
        ({"columns": {"user": "who", "item": "track"}}, "no column 'who'; they have listener"),
        ({"columns": {"user": "listener"}}, "user and item"),
        ({"columns": {**COLUMNS, "song": "track"}}, "no role 'song'"),
        ({"items": pl.DataFrame({"a": ["x"], "b": ["y"]})}, "items"),
    ]:
        words = {"interactions": plays(), "columns": COLUMNS, **wrong}
        with pytest.raises(ValueError, match=message):
            nightrecs.run_frame(name="bad", recipe=recipe, home=home, **words)
    with pytest.raises(nightrecs.SettingsError):
        nightrecs.run_frame(plays(), "../up", recipe=recipe, home=home)
    assert not Home.resolve(str(home)).live("bad").exists()


def test_columns_are_recognised_where_none_are_named(home: Path, recipe: str):
    frame = plays().rename({"listener": "user_id", "track": "item_id", "stars": "rating", "played": "timestamp"})
    found = nightrecs.run_frame(frame, "guessed", recipe=recipe, home=home, settings={"threads": 1})
    columns = found.run.settings.dataset.columns
    assert (columns.user, columns.item, columns.rating, columns.timestamp) == (
        "user_id", "item_id", "rating", "timestamp",
    )  # fmt: skip


def test_the_tour_runs():
    cells = json.loads((CHECKOUT / "flows/api/tour.ipynb").read_text())["cells"]
    scope: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"], "the notebook was executed"
            exec("".join(cell["source"]), scope)
    assert scope["night"].dataset == "sample" and scope["own"].dataset == "plays"
    shutil.rmtree(scope["home"])


def test_forget_reaches_the_frame(home: Path, recipe: str):
    nightrecs.run_frame(plays(), "private", columns=COLUMNS, recipe=recipe, home=home, settings={"threads": 1})
    place = Home.resolve(str(home))
    source = place.lake("private") / lake.SOURCE
    assert source.is_dir()
    assert not forget(place, "private", "u03").left
    assert not source.exists()
