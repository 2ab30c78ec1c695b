"""Published nights against a second count of the raw file (tests/support/recount.py, recount_models.py), on real data where it is at hand."""

import tomllib
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from pipeline.core.paths import CHECKOUT
from tests.support import recount, recount_models
from tests.support.data_sets import data_set
from tests.support.recount import Filters, Published

SHIPPED = CHECKOUT / "pipeline" / "datasets"
CHEAP = "[models.popularity]\n[models.ease]\n"
LARGE = "[models.popularity]\n[models.ials]\nepochs = 3\n"
"""For min(users, items) of 18,357, of which ease would take minutes."""
FILTERED = """
[dataset.feedback]
keep_if = "rating >= 2"
positive_if = "rating >= 4"
[dataset.filter]
min_user_interactions = 25
min_item_interactions = 5
"""


def check(home: Path, dataset: str, toml: Path, folder: Path, filters: Filters, unlisted: set[str], l2: float) -> None:
    """Everything that the second count knows, of the newest night."""
    rows = recount.read_rows(toml, folder)
    left, dropped = recount.kept(rows, filters)
    with Published(home, dataset) as night:
        recount.check_ledger(night, rows, dropped)
        recount.check_counts(night, rows)
        readable = rows.filter(
            pl.col("rating").fill_null(9.0) >= max(filters.least_rating or 0, filters.least_positive or 0)
        )
        recount.check_popular(night, readable, unlisted)
        lists = recount.check_lists(night, rows, left, unlisted)
        parts = recount.check_split(night, left)
        recount_models.check_similar(night, left, unlisted)
        models = set(night.ask("select distinct model from metrics")["model"])
        assert models & {"popularity", "ease"}
        if "popularity" in models:
            recount_models.check_metrics(night, parts, "popularity", 1e-9)
        if "ease" in models:
            recount_models.check_metrics(night, parts, "ease", 2e-3, l2)
        if night.champion == "ease":
            recount_models.check_ease_lists(lists, rows, readable, left, unlisted, l2)


def test_a_small_night_with_filters(published_home: Path):
    folder = published_home.parent
    filters = Filters(least_rating=2, min_user=4, min_item=2)
    check(published_home, "tiny", folder / "tiny.toml", folder, filters, set(), l2=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("filtered", [False, True], ids=["as shipped", "filtered"])
@pytest.mark.parametrize(
    "dataset", ["ml-100k", "ml-latest-small", "ml-1m-untimed", "ml-1m-timed", "lastfm-hetrec", "amazon-sports"]
)
def test_a_night_on_real_data(tmp_path: Path, dataset: str, filtered: bool):
    toml = SHIPPED / f"{dataset}.toml"
    described = tomllib.loads(toml.read_text())
    folder = data_set(described["source"].get("folder", dataset))
    recipe, filters, unlisted = (LARGE if dataset == "amazon-sports" else CHEAP), Filters(), set()
    if filtered and described["feedback"]["kind"] == "implicit":
        recipe += "[dataset.filter]\nmin_user_interactions = 7\nmin_item_interactions = 4\n"
        filters = Filters(min_user=7, min_item=4)
    elif filtered:
        recipe, filters = recipe + FILTERED, Filters(2, 4, 25, 5)
    if filtered:
        unlisted = set(recount.read_rows(toml, folder)["item"].unique().sort()[::7])
        (tmp_path / "not-listed.csv").write_text("\n".join(["item_id", *sorted(unlisted), ""]))
        recipe += f'[export]\nexclude_items = "{tmp_path / "not-listed.csv"}"\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    words = ["run", dataset, "--data", str(folder), "--recipe", str(tmp_path / "recipe.toml"), "--no-prefect"]
    assert main(["--home", str(tmp_path / "home"), *words]) == 0
    check(tmp_path / "home", dataset, toml, folder, filters, unlisted, l2=250.0)
