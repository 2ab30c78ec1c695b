"""What is explained is what was published; contributions and terms sum to the score."""

import argparse
import json
import math
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from flows.cli import explain, main
from pipeline.config.settings import Settings
from pipeline.core.paths import Home
from pipeline.core.seeding import generator
from pipeline.models import MODELS, FitContext, Recommender
from pipeline.publishing.explanation import Night, explanation, published_night
from pipeline.storage import warehouse
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import Normalizer
from tests.support.published_home import FILTERED_OUT, NEVER_POSITIVE, RARE, RECIPE
from tests.support.published_nights import without_mlflow, without_report_file

ADDITIVE = {"ease", "graph_filter", "slim", "ials", "item_knn", "rp3beta"}
WITH_TERMS = {"mf", "pmf"}
USERS, ITEMS = 40, 30


@torch.enable_grad()
def fitted(family: str, n_users: int = USERS, **config) -> tuple[Recommender, Interactions]:
    draw = generator(0, "explain")
    pairs = torch.from_numpy(draw.random((n_users, ITEMS)) < 0.3).nonzero()
    ratings = torch.from_numpy(draw.integers(1, 6, len(pairs))).float()
    times = torch.arange(len(pairs)) * 1_000_000
    train = Interactions(pairs[:, 0], pairs[:, 1], n_users, ITEMS, ratings, times)
    kind = MODELS[family]
    if "epochs" in kind.Config.model_fields:
        config = {"epochs": 2, **config}
    model = kind(kind.Config.model_validate(config), n_users, ITEMS)
    model.fit(train, FitContext())
    return model.eval(), train


def test_a_normalised_rating_is_shown_in_the_unit_of_the_source(tmp_path, capsys):
    model, train = fitted("pmf")
    assert train.ratings is not None
    items = pl.DataFrame({"item_idx": range(ITEMS), "item_id": [f"i{i}" for i in range(ITEMS)]})
    users = pl.DataFrame({"user_idx": range(USERS), "user_id": [f"u{u}" for u in range(USERS)]})
    rows = pl.DataFrame({"user_idx": train.users.numpy(), "item_idx": train.items.numpy()}).with_columns(positive=True)
    raw = rows.select(
        (pl.lit("u") + pl.col("user_idx").cast(pl.String)).alias("user_id"),
        (pl.lit("i") + pl.col("item_idx").cast(pl.String)).alias("item_id"),
        rating=pl.Series(train.ratings.numpy()).cast(pl.Float64).exp() - 1,
        timestamp=pl.lit(None, pl.Datetime("us")),
    )
    items.write_parquet(tmp_path / "items.parquet")
    users.write_parquet(tmp_path / "users.parquet")
    rows.write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "raw").mkdir()
    raw.write_parquet(tmp_path / "raw" / "interactions.parquet")
    settings = Settings.model_validate({"dataset": {"name": "x"}, "models": {"pmf": {}}})
    scale = Normalizer.fit("log1p", raw["rating"].to_torch())
    night = Night("r", "pmf", model, settings, tmp_path / "raw", tmp_path, tmp_path / "rows.parquet", normalizer=scale)
    item = raw.filter(user_id="u0")["item_id"][0]
    answer = explanation(night, "u0", item)
    with torch.no_grad():
        learnt = model.predict(torch.tensor([0]), torch.tensor([int(item[1:])])).item()
    assert answer["predicted_rating"] == pytest.approx(math.expm1(learnt), rel=1e-5) and answer["scale"] == "log1p"
    answer |= {"title": None, "published_rank": None}
    explain.describe(answer, argparse.Namespace(n=5, json=False, csv=False))
    output = capsys.readouterr().out
    own = f"{answer['seen'][0]['rating']:,.6g}"
    assert f"the user's own: {own}; score and terms: on the scale of the fit, log1p" in output


CASES = [(family, {}, USERS) for family in sorted(MODELS)] + [
    ("ease", {"l2": 2.0}, 12),  # fewer users than items: the dual form
    ("ials", {"solver": "exact"}, USERS),
    ("ials", {"frequency_exponent": 0.5, "unobserved_weight": 0.05}, USERS),
    ("item_knn", {"neighbors": 5, "weighting": "bm25"}, USERS),
    ("mf", {"item_bias": False}, USERS),
    ("pmf", {"user_bias": False, "global_bias": False}, USERS),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "config", "n_users"), CASES, ids=str)
def test_parts_sum_to_the_score(family: str, config: dict, n_users: int):
    model, train = fitted(family, n_users, **config)
    history = train.history()
    for user in (0, 7, n_users - 1):
        one = history[torch.tensor([user])]
        indices = [user, -1] if model.reads_history else [user]
        for index in indices:
            scores = model.score(torch.tensor([index]), one)[0]  # (I,)
            for item in (int(one.items[0]), 3, ITEMS - 1):
                parts, terms = model.contributions(index, one, item), None
                if index >= 0:
                    terms = model.terms(index, item)
                assert (parts is not None) == (family in ADDITIVE)
                assert (terms is not None) == (family in WITH_TERMS and index >= 0)
                if parts is not None:
                    assert parts.shape == one.items.shape
                    assert float(parts.sum()) == pytest.approx(float(scores[item]), abs=2e-4, rel=1e-3)
                if terms is not None:
                    assert sum(terms.values()) == pytest.approx(float(scores[item]), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["ease", "graph_filter", "item_knn", "rp3beta", "slim"])
def test_a_contribution_is_what_the_item_alone_would_score(family: str):
    """Linear models: no matter what else is in the history."""
    model, train = fitted(family)
    history = train.history()[torch.tensor([5])]
    parts = model.contributions(5, history, 2)
    assert parts is not None
    alone = type(history)(torch.arange(len(history.items) + 1), history.items, ITEMS)  # (E,) histories of one
    scores = model.score(torch.full_like(history.items, -1), alone)[:, 2]  # (E,)
    torch.testing.assert_close(parts, scores, atol=1e-5, rtol=1e-4)


def test_ials_with_weights_explains_only_whom_it_folds_in():
    model, train = fitted("ials", use_weights=True)
    history = train.history()[torch.tensor([5])]
    assert model.contributions(5, history, 2) is None
    parts = model.contributions(-1, history, 2)
    assert parts is not None
    score = model.score(torch.tensor([-1]), history)[0, 2]
    assert float(parts.sum()) == pytest.approx(float(score), abs=2e-4)


def lists(home: Path) -> pl.DataFrame:
    with warehouse.connect(Home(home).live("tiny"), read_only=True) as con:
        return con.sql("select * from recommendations order by user_id, rank").pl()


def printed(home: Path, capsys: pytest.CaptureFixture, *words: str) -> dict:
    capsys.readouterr()
    assert main(["--home", str(home), "explain", "tiny", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_published_score_and_rank_is_explained(published_home: Path):
    """Of fitted users, users folded in, and users who get the fallback."""
    published = lists(published_home)
    night = published_night(Home(published_home), "tiny", published["run_id"][0])
    picked = published.filter(pl.col("user_id").is_in(["u03", "u41", FILTERED_OUT, NEVER_POSITIVE]))
    assert picked["user_id"].n_unique() == 4 and set(picked["source"]) == {"model", "fallback"}
    for row in picked.iter_rows(named=True):
        answer = explanation(night, row["user_id"], row["item_id"])
        assert (answer["rank"], answer["source"], answer["masked"]) == (row["rank"], row["source"], False)
        assert answer["score"] == pytest.approx(row["score"], abs=1e-5)
        made = sum(part["contribution"] for part in answer["contributions"])
        assert made == (pytest.approx(row["score"], abs=1e-5) if row["source"] == "model" else 0)


@pytest.fixture(scope="module")
def home_of_two(published_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night with a second family, in a copy of the home."""
    home = shutil.copytree(published_home, tmp_path_factory.mktemp("two") / "home")
    recipe = home.parent / "two.toml"
    recipe.write_text(RECIPE + "[models.ials]\nepochs = 2\nembedding_dim = 8\n")
    words = ["run", str(published_home.parent / "tiny.toml"), "--recipe", str(recipe), "--no-prefect"]
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        without_report_file(patch)
        assert main(["--home", str(home), *words]) == 0
    return home


def test_another_model_is_explained_as_it_was_fitted_on_train(home_of_two, capsys):
    """By the history that it was fitted on: else the parts of iALS would not sum to its score."""
    champion = printed(home_of_two, capsys, "u20", "i05")
    other = {"ease": "ials", "ials": "ease"}[champion["model"]]
    assert printed(home_of_two, capsys, "u20", "i05", "--model", champion["model"]) == champion
    answer = printed(home_of_two, capsys, "u20", "i05", "--model", other)
    assert (champion["fit"], answer["fit"], answer["model"]) == ("all", "train", other)
    made = {part["item_id"]: part["contribution"] for part in answer["contributions"]}
    assert sum(made.values()) == pytest.approx(answer["score"], abs=1e-4)
    night = published_night(Home(home_of_two), "tiny", answer["run_id"], other)
    rows = pl.read_parquet(night.rows).filter("positive")
    for kind in ("user", "item"):
        rows = rows.join(pl.read_parquet(night.encoded / f"{kind}s.parquet"), on=f"{kind}_idx")
    assert made.keys() == set(rows.filter(user_id="u20")["item_id"]) < {p["item_id"] for p in champion["contributions"]}
    plain = printed(home_of_two, capsys, "u20", "i05", "--model", "popularity_floor")
    assert int(plain["score"]) == rows.filter(item_id="i05").height and not plain["contributions"]
    main(["--home", str(home_of_two), "explain", "tiny", "u20", "i05", "--model", other])
    assert f"by {other} as fitted on train" in capsys.readouterr().out


def test_an_unknown_model_gets_the_labels_there_are(published_home, capsys):
    assert main(["--home", str(published_home), "explain", "tiny", "u03", "i05", "--model", "eese"]) == 2
    error = capsys.readouterr().err
    assert "has no model 'eese' (did you mean 'ease'?); there are: ease, popularity_floor" in error


def test_an_item_the_user_has_is_masked_and_says_when(published_home, capsys):
    source = pl.read_csv(published_home.parent / "log.csv").filter(user="u03")
    row = source.row(0, named=True)
    answer = printed(published_home, capsys, "u03", row["item"])
    assert answer["masked"] and answer["published_rank"] is None
    assert answer["title"] == f"Title {int(row['item'][1:])}"
    assert answer["seen"][0]["rating"] == row["rating"] and answer["seen"][0]["timestamp"].startswith("2020-09-13")
    assert answer["candidates"] == 1 + 30 - source["item"].n_unique()
    kept = source.filter(pl.col("rating") >= 2)["item"]
    assert {part["item_id"] for part in answer["contributions"]} == set(kept)
    assert all(part["title"].startswith("Title") for part in answer["contributions"])


def test_an_item_the_model_does_not_know(published_home, capsys):
    for item, seen in (("i-new", False), (RARE, True)):
        answer = printed(published_home, capsys, "u00", item)
        assert answer["score"] is None and answer["rank"] is None and answer["masked"] == seen
    assert main(["--home", str(published_home), "explain", "tiny", "u00", "i-new"]) == 0
    assert "the model does not know the item" in capsys.readouterr().out


def test_people_see_the_largest_parts_and_the_rest_in_sum(published_home, capsys):
    answer = printed(published_home, capsys, "u20", "i05")
    main(["--home", str(published_home), "explain", "tiny", "u20", "i05", "-n", "2"])
    out = capsys.readouterr().out
    shown = [float(line.split()[0]) for line in out.partition("title\n")[2].splitlines()]
    assert len(shown) == 3 and f"({len(answer['contributions']) - 2} others)" in out
    assert sum(shown) == pytest.approx(answer["score"], abs=1e-4)


@pytest.mark.parametrize(("user", "item", "hint"), [("U03", "i05", "'u03'"), ("u03", "I05", "'i05'")])
def test_unknown_ids_get_the_nearest(published_home, capsys, user, item, hint):
    assert main(["--home", str(published_home), "explain", "tiny", user, item]) == 2
    assert f"did you mean {hint}" in capsys.readouterr().err


def test_without_the_lake_it_says_what_is_gone(published_home, tmp_path, capsys):
    """And a home that was moved explains as before."""
    moved = shutil.copytree(published_home, tmp_path / "moved")
    assert printed(moved, capsys, "u03", "i05") == printed(published_home, capsys, "u03", "i05")
    shutil.rmtree(Home(moved).lake("tiny") / "5_models")
    assert main(["--home", str(moved), "explain", "tiny", "u03", "i05"]) == 2
    error = capsys.readouterr().err
    assert (
        "5_models" in error
        and "gone or damaged" in error
        and f"nightrecs run {published_home.parent}/tiny.toml" in error
    )
