"""Whole nights on real data: published metrics are reached, and every user gets lists without known items."""

from pathlib import Path
from statistics import mean

import polars as pl
import pytest

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse
from tests.support.data_sets import data_set

pytestmark = pytest.mark.slow

LEAVE_ONE_OUT = """
[split]
kind = "leave_one_out"
[evaluation]
cutoffs = [10]
protocols = ["full", "sampled_99"]
fit_for_test = "train+valid"
"""
PUBLISHED = """
[split]
kind = "published"
valid = 0
[evaluation]
cutoffs = [10]
protocols = ["sampled_99"]
"""


def night(home: Path, dataset: str, folder: str, recipe: str, *overrides: str) -> Run:
    """A published night; `recipe`: a name, or the text of a TOML."""
    data = data_set(folder)
    if "\n" in recipe:
        home.mkdir(parents=True, exist_ok=True)
        path = home.parent / f"{home.name}.toml"
        path.write_text(recipe)
        recipe = str(path)
    run = prepare(dataset, recipe, str(data), str(home), list(overrides))
    assert line.conduct(run, line.plainly) == "published"
    return run


def on_test(run: Run, protocol: str) -> dict[tuple[str, str], float]:
    """(model, metric) to the value at cutoff 10, of users with history."""
    metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    metrics = metrics.filter(split="test", segment="all", protocol=protocol, cutoff=10)
    return {(model, metric): value for model, metric, value in metrics.select("model", "metric", "value").iter_rows()}


def test_leave_one_out_of_movielens_100k_by_full_ranking(tmp_path: Path):
    recipe = LEAVE_ONE_OUT + "[models.popularity]\n[models.ease]\nl2 = 200.0\n"
    values = on_test(night(tmp_path / "home", "ml-100k", "ml-100k", recipe), "full")
    print(values)
    assert values["popularity", "hit_rate"] == pytest.approx(0.078, abs=0.012)
    assert values["ease", "hit_rate"] >= 0.135
    assert values["ease", "ndcg"] >= 0.069


def test_leave_one_out_of_movielens_100k_among_sampled_negatives(tmp_path: Path):
    recipe = LEAVE_ONE_OUT + "[models.popularity]\n[models.ease]\n[models.ncf]\n"
    recipe += "[models.ials]\nembedding_dim = 32\nunobserved_weight = 0.6\n"  # as chosen on valid
    nights = [night(tmp_path / "home", "ml-100k", "ml-100k", recipe, f"seed={seed}") for seed in (1, 2, 3)]
    of_nights = [on_test(run, "sampled_99") for run in nights]
    rate = {
        model: mean(values[model, "hit_rate"] for values in of_nights)
        for model in ("popularity", "ease", "ials", "ncf")
    }
    print(rate)
    assert rate["popularity"] == pytest.approx(0.415, abs=0.025)
    assert rate["ease"] >= 0.63
    assert rate["ials"] >= 0.645
    assert rate["ncf"] > rate["popularity"]


@pytest.mark.parametrize(
    ("model", "hit_rate", "ndcg"),
    [
        (
            "[models.ials]\nembedding_dim = 192\nl2 = 0.007\nunobserved_weight = 0.3\nepochs = 12\n",
            0.722,
            0.447,
        ),
        ("[models.ease]\nl2 = 1320.0\n", 0.714, 0.442),
    ],
    ids=["ials", "ease"],
)
def test_the_published_candidates_of_movielens_1m(tmp_path: Path, model: str, hit_rate: float, ndcg: float):
    """Rendle et al., "Neural Collaborative Filtering vs. Matrix Factorization Revisited" (RecSys 2020), same files."""
    values = on_test(night(tmp_path / "home", "ml-1m-ncf", "ml-1m", PUBLISHED + model), "sampled_99")
    print(values)
    label = model.partition("]")[0].removeprefix("[models.")
    assert values[label, "hit_rate"] >= hit_rate
    assert values[label, "ndcg"] >= ndcg


def source_rows(run: Run) -> pl.DataFrame:
    """user_id and item_id of every line of the source, read without the line that is under test."""
    (file,) = run.settings.dataset.source.files
    header, *lines = (run.data / file).read_text(encoding="utf-8").splitlines()
    separator = "," if "," in header else "\t"
    if run.settings.dataset.source.header is False:
        lines = [header, *lines]
    return pl.DataFrame([line.split(separator)[:2] for line in lines], schema=["user_id", "item_id"], orient="row")


@pytest.mark.parametrize(("dataset", "n_users"), [("ml-latest-small", 610), ("ml-100k", 943), ("lastfm-hetrec", 1892)])
def test_every_user_gets_twenty_items_that_they_never_had(tmp_path: Path, dataset: str, n_users: int):
    run = night(tmp_path / "home", dataset, dataset, "nightly")
    rows = source_rows(run)
    with warehouse.connect(run.home.live(run.dataset), read_only=True) as con:
        lists = con.sql("select user_id, item_id, rank from recommendations order by user_id, rank").pl()
    assert lists.height == 20 * n_users
    for of_user in lists.partition_by("user_id"):
        assert of_user["rank"].to_list() == list(range(1, 21)) and of_user["item_id"].n_unique() == 20
    assert set(lists["user_id"]) == set(rows["user_id"])
    assert set(lists["item_id"]) <= set(rows["item_id"])
    assert lists.join(rows, on=["user_id", "item_id"], how="semi").is_empty()
    assert lists["item_id"].n_unique() > 100, "lists are personal"
