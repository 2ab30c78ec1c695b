"""Each rule of the leakage auditor finds the leak that is planted for it, and nothing in a sound night."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from flows import conductor as line
from flows.prepare import prepare
from pipeline.core.errors import Refused
from pipeline.schemas import tables
from pipeline.sources import model_attributes
from pipeline.stages import leaks
from pipeline.storage import journal, lake

RECIPE = """
[split]
kind = "global_time"
[dataset.feedback]
normalize = "standardize"
[models.popularity]
[models.pmf]
epochs = 1
[gate]
enabled = false
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A night that ended after the models were measured."""
    home = tmp_path_factory.mktemp("leaks")
    (home / "leaks.toml").write_text(RECIPE)
    run = prepare(recipe=str(home / "leaks.toml"), home=str(home))
    line.conduct(run, line.plainly, "evaluate")
    return run


@pytest.fixture
def case(night, tmp_path):
    """The run, and copies of its split and models to plant leaks in."""
    lake_of = night.home.lake("sample")
    (parts,) = lake_of.glob("4_split/*")
    fits = sorted(lake_of.glob("5_models/*-train-*"))
    own = shutil.copytree(parts, tmp_path / parts.name)
    copies = [shutil.copytree(fit, tmp_path / fit.name) for fit in fits]
    for copy in copies:
        rewrite(copy, lambda manifest: manifest.update(parents=[str(own)]))
    return night, own, copies


def rewrite(folder: Path, change) -> None:
    manifest = lake.read_manifest(folder)
    change(manifest)
    (folder / lake.MANIFEST).write_text(json.dumps(manifest))


def refused(run, parts, fits) -> str:
    with pytest.raises(Refused) as error:
        leaks.audit_leaks(run, parts, fits)
    return str(error.value)


def of_family(fits: list[Path], label: str) -> Path:
    return next(fit for fit in fits if lake.info(fit)["label"] == label)


def test_a_sound_night_passes_every_rule_and_says_so(case):
    run, parts, fits = case
    assert len(fits) == 2
    leaks.audit_leaks(run, parts, fits)
    checks = journal.read(run.home, run.dataset, tables.CHECKS, run.run_id)
    own = checks.filter(pl.col("check_name").is_in(list(leaks.RULES)))
    assert own.height == len(leaks.RULES) == 5 and own["passed"].all()


def test_a_pair_of_the_holdout_in_train_is_found(case):
    run, parts, fits = case
    train, test = (pl.read_parquet(parts / f"{name}.parquet") for name in ("train", "test"))
    early = test.head(1).with_columns(timestamp=train["timestamp"].min())
    pl.concat([train[1:], early]).write_parquet(parts / "train.parquet")
    assert "leak_split: split: a pair of user and item is in two splits" in refused(run, parts, fits)


def test_a_row_of_train_after_the_cut_is_found(case):
    run, parts, fits = case
    train, test = (pl.read_parquet(parts / f"{name}.parquet") for name in ("train", "test"))
    late = train.with_columns(
        timestamp=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit(test["timestamp"].max())).otherwise("timestamp")
    )
    late.write_parquet(parts / "train.parquet")
    assert "are not later than the splits before" in refused(run, parts, fits)


def test_a_model_of_another_split_is_found(case):
    run, parts, fits = case
    rewrite(fits[0], lambda manifest: manifest.update(parents=["/elsewhere/4_split/split-0"]))
    assert "not on this split" in refused(run, parts, fits)


def test_a_model_fitted_on_more_rows_is_found(case):
    run, parts, fits = case
    rewrite(fits[0], lambda manifest: manifest.update(rows_in=manifest["rows_in"] + 1))
    assert "not those of train" in refused(run, parts, fits)
    rewrite(fits[0], lambda manifest: manifest["info"].update(fit="all"))
    assert "fitted on 'all'" in refused(run, parts, fits)


def test_a_normaliser_that_saw_the_holdout_is_found(case):
    run, parts, fits = case
    path = of_family(fits, "pmf") / "normalizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": 3.21}))
    assert "leak_normalizer: pmf" in refused(run, parts, fits)


def test_a_fit_that_normalises_in_its_own_way_is_no_leak(case):
    """The published configuration keeps its way when `feedback.normalize` changes."""
    run, parts, fits = case
    own = of_family(fits, "popularity")
    rewrite(own, lambda manifest: manifest["settings"].update(normalize="none"))
    (own / "normalizer.json").unlink()
    leaks.audit_leaks(run, parts, fits)
    rewrite(own, lambda manifest: manifest["settings"].update(normalize="min_max"))
    assert "leak_normalizer: popularity" in refused(run, parts, fits)


def test_popularity_that_counted_the_holdout_is_found(case):
    from safetensors.torch import load_file, save_file

    run, parts, fits = case
    path = of_family(fits, "popularity") / "model.safetensors"
    state = load_file(path)
    state["counts"][0] += 1
    save_file(state, path)
    assert "leak_popularity: popularity" in refused(run, parts, fits)


def with_numbers(parts: Path, number: pl.Expr) -> None:
    """Give items a number of the catalog: `number`, from their rows in train, in all splits, and their first time."""
    splits = {name: pl.read_parquet(parts / f"{name}.parquet") for name in ("train", "valid", "test")}
    counts = pl.concat(splits.values()).group_by("item_idx").agg(total=pl.len(), first=pl.col("timestamp").min())
    of_train = splits["train"].group_by("item_idx").agg(train=pl.len())
    known = counts.join(of_train, on="item_idx", how="left").fill_null(0).sort("item_idx")
    shuffled = known["total"].shuffle(seed=1)
    numbers = known.with_columns(shuffled=shuffled).select(
        "item_idx", pl.lit("sold").alias("attribute"), number.cast(pl.Float64).alias("number")
    )
    numbers.write_parquet(parts / model_attributes.NUMBERS)


@pytest.mark.parametrize("number", [pl.col("total"), -pl.col("total").log(), (pl.col("total") / 3).floor()], ids=str)
def test_a_number_of_sales_in_the_catalog_is_named(case, number):
    run, parts, fits = case
    with_numbers(parts, number)
    told = refused(run, parts, fits)
    assert "leak_attributes: the catalog's 'sold' knows what was held out" in told and "attributes.items" in told


@pytest.mark.parametrize("name", ["train", "first", "shuffled", "item_idx"])
def test_a_number_that_does_not_know_the_holdout_passes(case, name):
    run, parts, fits = case
    with_numbers(parts, pl.col(name).to_physical())
    leaks.audit_leaks(run, parts, fits)
