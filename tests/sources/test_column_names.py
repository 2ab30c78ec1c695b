"""Columns that conditions name are checked against the files' headers before anything runs."""

from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from flows.prepare import prepare
from pipeline.config.dataset import Dataset
from pipeline.core.errors import SettingsError
from pipeline.sources.column_names import check_conditions
from pipeline.sources.extra_columns import extra_columns

LINES = "visitor,sku,event type,Price,when\n" + "v1,s1,view,3,1700000000\n" * 3


def dataset(folder: Path, name: str, condition: str, **source) -> Dataset:
    frame = pl.read_csv(LINES.encode())
    (folder / "log.csv").write_text(LINES)
    frame.write_parquet(folder / "log.parquet")
    columns = {"user": "visitor", "item": "sku", "timestamp": "when"}
    return Dataset.model_validate(
        {"name": "shop", "source": {"files": [name], **source}, "columns": columns, "feedback": {"keep_if": condition}}
    )


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_names_are_those_of_the_file(tmp_path, name):
    for condition in ("\"event type\" = 'view'", 'Price > 3 and "when" is not null', "visitor = user", "rated or true"):
        check_conditions(dataset(tmp_path, name, condition), tmp_path)
    with pytest.raises(SettingsError, match=rf"keep_if.*{name} has no column 'Prize' .did you mean 'Price'"):
        check_conditions(dataset(tmp_path, name, "Prize > 3"), tmp_path)
    with pytest.raises(SettingsError, match="no column 'event'"):
        check_conditions(dataset(tmp_path, name, "event = 'view'"), tmp_path)


def test_names_of_a_file_without_a_header_are_those_of_the_settings(tmp_path):
    there = {"header": False, "column_names": ["visitor", "sku", "kind", "price", "when"], "delimiter": ","}
    check_conditions(dataset(tmp_path, "log.csv", "price > 3", **there), tmp_path)
    with pytest.raises(SettingsError, match="did you mean 'price'"):
        check_conditions(dataset(tmp_path, "log.csv", "prize > 3", **there), tmp_path)


def test_without_a_new_file_an_incremental_night_is_not_stopped(tmp_path):
    check_conditions(dataset(tmp_path, "later-*.csv", "Prize > 3", mode="incremental"), tmp_path)


@pytest.mark.parametrize(
    ("condition", "problem"), [("Prize > 3", "did you mean 'Price'"), ("sum(Price) > 3", "sum() is not allowed")]
)
def test_a_plan_says_what_is_wrong(tmp_path, capsys, condition, problem):
    dataset(tmp_path, "log.csv", condition)
    toml = tmp_path / "shop.toml"
    toml.write_text(
        'name = "shop"\n[source]\nfiles = ["log.csv"]\n[columns]\nuser = "visitor"\nitem = "sku"\ntimestamp = "when"\n'
    )
    words = ["--home", str(tmp_path / "home"), "run", str(toml), "--plan", "--until", "ingest"]
    assert main([*words, "--set", f'dataset.feedback.keep_if="{condition}"']) == 2
    assert problem in capsys.readouterr().err
    assert main([*words, "--set", 'dataset.feedback.keep_if="Price > 3"']) == 0


def test_the_raw_layer_keeps_the_columns_that_conditions_name(tmp_path):
    dataset(tmp_path, "log.csv", "")
    toml = tmp_path / "shop.toml"
    toml.write_text(
        'name = "shop"\n[source]\nfiles = ["log.csv"]\n[columns]\nuser = "visitor"\nitem = "sku"\ntimestamp = "when"\n'
    )
    run = prepare(str(toml), home=str(tmp_path / "home"), overrides=['dataset.feedback.positive_if="Price > 3"'])
    assert extra_columns(run.settings.dataset) == ["Price"]
