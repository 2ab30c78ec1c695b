"""The shipped data sets: valid, found where their TOML says, and read with the rows, users and items they have."""

import gzip
import re
import uuid
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core import paths
from pipeline.core.errors import UnreadableInput
from pipeline.datasets.loader import resolve_data
from pipeline.datasets.ncf_timed import write_ncf_timed
from pipeline.stages import ingest
from pipeline.storage import journal, lake
from tests.support.data_sets import DATA, data_set

SHIPPED = sorted(paths.DATASETS.glob("*.toml"))


def load(name: str) -> tuple[Dataset, Path]:
    path = paths.DATASETS / f"{name}.toml"
    return Dataset.model_validate(loader.read_toml(path)), path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_data_set_is_valid_and_described(path):
    dataset = Dataset.model_validate(loader.read_toml(path))
    assert dataset.name == path.stem and len(dataset.description) > 40 and dataset.source.files
    if dataset.source.column_names:
        wanted = {
            dataset.columns.user,
            dataset.columns.item,
            dataset.columns.rating,
            dataset.columns.timestamp,
        } - {None}
        assert wanted <= set(dataset.source.column_names)
    if "MovieLens" in dataset.description:
        assert dataset.feedback.kind == "explicit" and dataset.feedback.positive_if is None


@pytest.mark.parametrize(
    ("name", "rows", "users", "items", "catalog"),
    [
        ("ml-100k", 100_000, 943, 1682, 1682), ("ml-latest-small", 100_836, 610, 9724, 9742),
        ("lastfm-hetrec", 92_834, 1892, 17_632, 17_632), ("ml-1m-untimed", 1_000_209, 6040, 3706, 3883),
        ("ml-1m-timed", 693_098, 6040, 3601, 3883), ("ml-1m-ncf", 1_000_209, 6040, 3706, None),
        ("amazon-sports", 296_337, 35_598, 18_357, None), ("amazon-sports-order", 296_337, 35_598, 18_357, None),
    ],
)  # fmt: skip
def test_real_files_are_read_whole_and_fast(tmp_path, name, rows, users, items, catalog):
    dataset, toml = load(name)
    data_set(dataset.source.folder or name)
    data = resolve_data(dataset, toml, None, {"NIGHTRECS_DATA": str(DATA)})
    settings = Settings.model_validate({"dataset": dataset.model_dump(), "models": {"popularity": {}}, "threads": 2})
    run = Run(run_id=uuid.uuid4().hex, home_root=tmp_path, data=data, settings=settings, started_at=utcnow())
    journal.open_run(run)
    folder = ingest.read_source(run)
    frame = pl.read_parquet(folder / "interactions.parquet")
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (rows, users, items)
    assert lake.info(folder)["rescanned"] == {} and lake.info(folder)["reject_rate"] == 0
    if catalog:
        titles = pl.read_parquet(folder / "catalog.parquet")
        assert titles.height == catalog and set(frame["item_id"]) <= set(titles["item_id"])
        assert titles["title"].null_count() == 0 and not titles["title"].str.contains("\ufffd").any()


def toy(tmp_path: Path, lines: str, dataset: str, file: str, **changes) -> pl.DataFrame:
    """A made-up file in a data set's form, read as its TOML says."""
    data = tmp_path / "data"
    data.mkdir()
    (data / file).write_text(lines)
    tree = load(dataset)[0].model_dump() | {"items": None}
    tree["source"] |= changes
    settings = Settings.model_validate({"dataset": tree, "models": {"popularity": {}}})
    run = Run(run_id="night", home_root=tmp_path, data=data, settings=settings, started_at=utcnow())
    journal.open_run(run)
    folder = ingest.read_source(run)
    return pl.read_parquet(folder / "interactions.parquet")


def test_forms_of_files_that_are_not_at_hand(tmp_path):
    (tmp_path / "kaggle").mkdir()
    kaggle = '"userId","movieId","rating","timestamp"\n1,2,3.5,"2005-04-02 23:53:47"\n'
    assert str(toy(tmp_path / "kaggle", kaggle, "ml-20m", "rating.csv").row(0)[3]) == "2005-04-02 23:53:47"
    (tmp_path / "anime").mkdir()
    anime = toy(tmp_path / "anime", "user_id,anime_id,rating\n1,20,-1\n1,24,10\n", "anime", "rating.csv")
    assert anime["rating"].to_list() == [None, 10.0]
    (tmp_path / "lastfm").mkdir()
    plays = 'u1\tm1\t"Weird Al" Yankovic\t12\nu1\t\tNobody\t3\n'
    file = "usersha1-artmbid-artname-plays.tsv"
    lastfm = toy(tmp_path / "lastfm", plays, "lastfm-360k", file, max_reject_rate=0.5)
    assert lastfm.rows() == [("u1", "m1", 12.0, None)]


def test_the_first_place_with_the_files_wins(tmp_path):
    dataset = Dataset.model_validate({"name": "toy", "source": {"files": ["x.csv", "y*.csv"]}})
    toml, root, named = tmp_path / "here/toy.toml", tmp_path / "root", tmp_path / "named"
    environ = {"NIGHTRECS_DATA": str(root)}
    with pytest.raises(
        UnreadableInput, match=re.escape(f"in {root / 'toy'}, {toml.parent}; name the folder with --data")
    ):
        resolve_data(dataset, toml, None, environ)
    with pytest.raises(UnreadableInput, match="or set NIGHTRECS_DATA"):
        resolve_data(dataset, toml, None, {})
    for folder, file in [(toml.parent, "x.csv"), (root / "toy", "y1.csv"), (named, "x.csv")]:
        folder.mkdir(parents=True)
        (folder / file).touch()
    assert resolve_data(dataset, toml, None, {}) == toml.parent
    assert resolve_data(dataset, toml, None, environ) == root / "toy"
    assert resolve_data(dataset, toml, str(named), environ) == named
    with pytest.raises(UnreadableInput, match=r"in .*nowhere; name"):
        resolve_data(dataset, toml, str(tmp_path / "nowhere"), environ)


@given(st.text("abc*/.", min_size=1, max_size=5).filter(lambda name: not name.startswith("/")))
def test_odd_globs_never_crash(name):
    dataset = Dataset.model_validate({"name": "toy", "source": {"files": [name]}})
    try:
        assert resolve_data(dataset, Path("/nonexistent/toy.toml"), "/nonexistent") is None
    except UnreadableInput as error:
        assert name in str(error)


def test_the_ncf_split_with_times_is_a_part_of_the_published_one(tmp_path):
    data_set("ml-1m")
    write_ncf_timed(tmp_path, {"NIGHTRECS_DATA": str(DATA)})
    columns = ["user", "item", "rating", "timestamp"]
    read = partial(pl.read_csv, separator="\t", has_header=False)
    train = read(tmp_path / "ml-1m.train.rating", new_columns=columns)
    published = read(DATA / "ml-1m/ncf/ml-1m.train-no-timestamp.rating.gz", new_columns=columns[:3])
    assert train.height == 687_058 == train.join(published, on=columns[:3], how="semi").height
    test = read(tmp_path / "ml-1m.test.rating", new_columns=columns)
    assert not train.join(test, on=["user", "item"], how="semi").height
    assert train.join(test, on="user").select(pl.col("timestamp") <= pl.col("timestamp_right")).to_series().all()


def test_the_ncf_split_with_times_needs_files_that_have_them(tmp_path):
    with pytest.raises(UnreadableInput, match=r"no .*ml-1m/ratings-no-timestamp.dat.gz.*--data"):
        write_ncf_timed(tmp_path, {"NIGHTRECS_DATA": str(tmp_path)})
    source = tmp_path / "ml-1m"
    (source / "ncf").mkdir(parents=True)
    for name, text in {
        "ratings-no-timestamp": "1::7::5\n1::9::4\n",
        "ratings-timestamp-subset": "1::7::5::20\n",
    }.items():
        (source / f"{name}.dat.gz").write_bytes(gzip.compress(text.encode()))
    (source / "ncf/ml-1m.test.negative").write_text("(0,1)\t0\n")
    (source / "ncf/ml-1m.test.rating").write_text("0\t1\t4\t10\n")
    with pytest.raises(UnreadableInput, match=r"holds out ratings that 1 of ratings-timestamp-subset"):
        write_ncf_timed(tmp_path, {"NIGHTRECS_DATA": str(tmp_path)})
