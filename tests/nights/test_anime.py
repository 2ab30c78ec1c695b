"""The generated anime files: exact numbers, a planted structure with known noise; and what a night makes of them."""

import json

import numpy as np
import polars as pl
import pytest

from flows.prepare import prepare
from pipeline.config import loader
from pipeline.datasets import anime_like
from pipeline.datasets.anime_like import RATINGS, TASTES, UNRATED, write_anime
from pipeline.storage import journal, lake
from tests.support.nights import ask, one_night, without_report
from tests.support.published_nights import without_mlflow

SCALE = 0.01
QUICK = [
    "threads=1", "models.as_written.epochs=60", "models.as_written.validate_every=20", "models.pmf.batch_size=1024",
    "models.as_written_faster.epochs=60", "models.bpmf.epochs=50", "evaluation.cutoffs=[10]", "dataset.filter.min_user_interactions=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anime")
    return folder, write_anime(folder, scale=SCALE)


@pytest.fixture(scope="module")
def rows(files):
    return pl.read_csv(files[0] / "rating.csv")


def test_numbers_are_the_published_ones():
    assert sum(RATINGS.values()) == 6_337_241 and sum(RATINGS.values()) + UNRATED == 7_813_737
    assert (anime_like.USERS, anime_like.ANIME) == (69_600, 9_927)


def test_form_and_exact_distribution(files, rows):
    folder, planted = files
    assert (folder / "rating.csv").read_text().startswith("user_id,anime_id,rating\n")
    assert (folder / "anime.csv").read_text().startswith("anime_id,name,genre,type,episodes,rating,members\n")
    counts = dict(rows["rating"].value_counts().iter_rows())
    assert counts.pop(-1) == round(UNRATED * SCALE) == planted["unrated"]
    assert counts == {rating: round(n * SCALE) for rating, n in RATINGS.items()}
    assert not rows.select("user_id", "anime_id").is_duplicated().any()


def test_everybody_and_everything_has_a_rating_and_activity_is_skewed(files, rows):
    rated = rows.filter(pl.col("rating") > 0)
    assert rated["user_id"].n_unique() == rows["user_id"].max() == 696
    catalog = pl.read_csv(files[0] / "anime.csv")
    assert set(rated["anime_id"]) == set(catalog["anime_id"]) and catalog.height == 993
    assert catalog["name"].str.starts_with("Synthetic").all() and catalog["name"].is_unique().all()
    assert set(catalog["genre"].str.split(", ").explode()) == set(TASTES)
    for name in ("user_id", "anime_id"):
        n = rows[name].value_counts()["count"].sort(descending=True)
        assert n[: len(n) // 10].sum() > 0.25 * rows.height and n.min() <= 5


def test_same_seed_same_bytes_and_files_that_are_there_stay(files, tmp_path):
    folder, planted = files
    assert write_anime(tmp_path, scale=SCALE) == planted
    for name in ("rating.csv", "anime.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    before = (tmp_path / "rating.csv").stat().st_mtime_ns
    write_anime(tmp_path, scale=SCALE)
    assert (tmp_path / "rating.csv").stat().st_mtime_ns == before
    assert write_anime(tmp_path, scale=SCALE, seed=7)["rmse_best"] != planted["rmse_best"]
    assert (tmp_path / "rating.csv").read_bytes() != (folder / "rating.csv").read_bytes()
    with pytest.raises(ValueError, match="scale"):
        write_anime(tmp_path, scale=2)


def test_the_noise_is_what_planted_json_says():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.5**0.5, 200_000)
    counts = np.array([round(n * 200_000 / 6_337_241) for n in RATINGS.values()])
    counts[-1] += 200_000 - counts.sum()
    ratings, errors = anime_like._ratings(rng, truth, counts)
    assert np.bincount(ratings)[1:].tolist() == counts.tolist()
    bins = np.digitize(truth, np.quantile(truth, np.linspace(0, 1, 201)[1:-1]))
    means = np.bincount(bins, ratings) / np.bincount(bins)  # E[rating | truth], without the formula
    assert np.sqrt(np.mean((ratings - means[bins]) ** 2)) == pytest.approx(errors["rmse_best"], rel=0.002)
    assert np.std(ratings - np.polyval(np.polyfit(truth, ratings, 1), truth)) == pytest.approx(errors["rmse_linear"])
    assert errors["rmse_best"] < errors["rmse_linear"] < errors["rmse_constant"] == pytest.approx(np.std(ratings))


def test_the_file_says_what_was_returned(files):
    assert json.loads((files[0] / "planted.json").read_text()) == files[1]
    assert files[1]["rmse_constant"] == pytest.approx(1.5725, abs=0.001)  # of the published distribution


def test_it_is_made_on_the_spot_and_says_that_it_is_synthetic(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(anime_like, "write_anime", made.append)
    run = prepare("anime-synthetic", "anime-mf", None, str(tmp_path))
    assert made == [run.data] and run.settings.dataset.description.startswith("Synthetic")
    real = loader.load_settings("anime", "anime-mf")[0].dataset
    assert real.source.generator is None and real.columns == run.settings.dataset.columns
    assert real.feedback == run.settings.dataset.feedback and real.feedback.missing_ratings == [-1]


@pytest.fixture(scope="module")
def night(files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        without_mlflow(patch)
        home = tmp_path_factory.mktemp("home")
        return one_night(home, "anime-synthetic", "anime-mf", *QUICK, data=files[0], step=without_report)


def test_rows_of_minus_one_are_interactions_without_a_rating(night, rows):
    (raw,) = night.home.lake(night.dataset).glob("1_raw/*/interactions.parquet")
    frame = pl.read_parquet(raw)
    assert frame.height == rows.height and frame["rating"].null_count() == (rows["rating"] == -1).sum()
    assert frame["rating"].min() == 1
    assert ask(night, "select count(*) n from recommendations r join read_csv('" + str(night.data / "rating.csv") + "') s "
               "on r.user_id = s.user_id::varchar and r.item_id = s.anime_id::varchar")["n"][0] == 0  # fmt: skip


def test_cold_rows_are_dropped_from_the_errors_and_counted(night):
    found = ask(night, "select model, segment, n from metrics where metric = 'rmse' and split = 'test'")
    (parts,) = night.home.lake(night.dataset).glob("4_split/*/test.parquet")
    train, test = (pl.read_parquet(parts.with_name(f"{n}.parquet")).drop_nulls("rating") for n in ("train", "test"))
    known = test.filter(
        pl.col("user_idx").is_in(train["user_idx"].implode()) & pl.col("item_idx").is_in(train["item_idx"].implode())
    )
    assert 0 < known.height < test.height
    for model in ("as_written", "as_written_faster", "pmf", "bpmf"):
        n = dict(found.filter(model=model).select("segment", "n").iter_rows())
        assert n == {"all": known.height, "cold": test.height - known.height}
    notes = [note for note in journal.notes(night.home, night.dataset, night.run_id) if "`cold`" in note]
    assert len(notes) == 1 and notes[0].startswith(f"{test.height - known.height:,} of the {test.height:,} ratings")


def test_ours_nears_the_planted_noise_and_the_tutorials_does_not(night, files):
    found = ask(night, "select model, value from metrics where metric = 'rmse' and split = 'test' and segment = 'all'")
    rmse = dict(found.iter_rows())
    assert files[1]["rmse_linear"] < min(rmse["pmf"], rmse["bpmf"]) < 1.1 * files[1]["rmse_linear"]
    assert rmse["bpmf"] < files[1]["rmse_constant"] < rmse["as_written"]


def test_error_on_train_and_valid_at_intervals(night):
    (fit,) = night.home.lake(night.dataset).glob("5_models/as_written-train-*")
    shown = {row["epoch"]: row for row in lake.info(fit)["history"] if "valid" in row}
    assert list(shown) == [20, 40, 60]
    for row in shown.values():
        assert row["train_mse"] < row["loss"] + 0.5 and row["valid"] < 0


def test_held_out_ratings_are_next_to_predictions_within_the_scale(night):
    shown = ask(night, "select * from predictions_titled")
    assert set(shown["model"]) == {"as_written", "as_written_faster", "pmf", "bpmf"}
    assert shown["model"].value_counts()["count"].to_list() == [1000] * 4
    assert shown["prediction"].is_between(1, 10).all() and shown["title"].str.starts_with("Synthetic").all()
    own = shown.filter(model="pmf")
    known = {(str(u), str(i)): r for u, i, r in pl.read_csv(night.data / "rating.csv").iter_rows()}
    assert all(known[u, i] == r for u, i, r in own.select("user_id", "item_id", "rating").iter_rows())
    measured = ask(night, "select value from metrics where model = 'pmf' and metric = 'rmse' and split = 'test' "
                   "and segment = 'all'")["value"][0]  # fmt: skip
    assert (own["error"] ** 2).mean() ** 0.5 == pytest.approx(measured, rel=0.1)
    pairs = [set(part.select("user_id", "item_id").iter_rows()) for part in shown.partition_by("model")]
    assert all(part == pairs[0] for part in pairs)  # the same rows for every model


def test_users_whom_the_fit_does_not_know_get_popular_items(night):
    lists = ask(night, "select user_id, source, item_id, rank from recommendations")
    small = ask(night, "select user_id from users where n_interactions < 10")["user_id"].implode()
    unknown, others = lists.filter(pl.col("user_id").is_in(small)), lists.filter(~pl.col("user_id").is_in(small))
    assert set(unknown["source"]) == {"fallback"} and set(others["source"]) == {"model"}
    popular = ask(night, "select item_id from popular_items where window_days = 0 order by rank limit 30")["item_id"]
    assert unknown.filter(rank=1)["item_id"].is_in(popular.implode()).all()
