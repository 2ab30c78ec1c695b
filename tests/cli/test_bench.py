"""`nightrecs bench`: what it measures, that it goes on where it was, and the table it prints."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from flows.cli import bench
from pipeline.config.settings import ERRORS
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.evaluation.ranking_metrics import HIGHER_IS_BETTER
from pipeline.storage import lake

pytestmark = pytest.mark.usefixtures("lean_nights")
PROTOCOLS = """
[S1]
title = "the built-in sample"
dataset = "sample"
protocol = "full"
metrics = ["hit_rate@10", "ndcg@10"]
seeds = [1, 2]
published = [{ model = "somebody's", values = [0.5, nan], source = "a paper" }]

[S2]
title = "nobody has it"
dataset = "ml-20m"
protocol = "full"
metrics = ["ndcg@10"]
seeds = [1]
published = []
"""
RECIPE = """
threads = 1
[dataset.filter]
user_fraction = 0.3
[split]
kind = "leave_one_out"
[models.popularity]
[models.ease]
[models.item_knn]
[models.blend]
of = ["ease", "item_knn"]
[evaluation]
cutoffs = [10]
fit_for_test = "train+valid"
[gate]
enabled = false
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Options of a bench of two small protocols, in a home of its own."""
    (tmp_path / "protocols.toml").write_text(PROTOCOLS)
    for name in ("S1", "S2"):
        (tmp_path / f"{name}.toml").write_text(RECIPE)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Namespace(only=None, seeds=None, json=True, markdown=False, home=str(tmp_path / "home"))


@pytest.mark.night
def test_an_interrupted_bench_goes_on_where_it_was(small, monkeypatch, capsys):
    conduct = bench.conduct

    def interrupted(run, step, until):
        if run.settings.seed == 2:
            raise KeyboardInterrupt
        return conduct(run, step, until)

    monkeypatch.setattr(bench, "conduct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.bench(small)
    home = Home(Path(small.home))
    first = bench.read(home, "S1")
    assert {row["seed"] for row in first} == {1}, "a seed that is done is kept"
    capsys.readouterr()

    monkeypatch.setattr(bench, "conduct", conduct)
    bench.bench(small)
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert "S2 is left out" in printed.err and list(results) == ["S1"]
    rows = results["S1"]
    assert [row for row in rows if row["seed"] == 1] == first, "seconds too: nothing is fitted again"
    assert {(row["seed"], row["model"]) for row in rows} == {
        (seed, model) for seed in (1, 2) for model in ("popularity", "ease", "item_knn", "blend")
    }
    assert [sum(row["champion"] for row in rows if row["seed"] == seed) for seed in (1, 2)] == [1, 1]
    assert all(0 <= value <= 1 for row in rows for value in row["values"])
    assert max(row["values"][1] for row in rows) > 1.2 * max(
        row["values"][1] for row in rows if row["model"] == "popularity"
    )

    before = fits(home)
    bench.bench(small)
    assert json.loads(capsys.readouterr().out) == results and fits(home) == before, "a third one only reads"
    assert not list(home.warehouse.glob("*.duckdb")), "nothing is published"


def fits(home: Home) -> dict[Path, int]:
    """When each fit was made."""
    return {path: path.stat().st_mtime_ns for path in home.lake("sample").glob("5_models/*/manifest.json")}


@pytest.mark.night
def test_seconds_are_of_the_fit_for_test_and_of_all_members(small, capsys):
    small.seeds = 1
    bench.bench(small)
    rows = {row["model"]: row["seconds"] for row in json.loads(capsys.readouterr().out)["S1"]}
    infos = {path.parent.name: lake.info(path.parent) for path in fits(Home(Path(small.home)))}
    of_test = {info["label"]: info for info in infos.values() if info["fit"] == "train+valid"}
    assert rows["ease"] == of_test["ease"]["seconds"]
    members = of_test["blend"]["members"]
    total = of_test["blend"]["seconds"] + sum(infos[name]["seconds"] for name in members.values())
    assert rows["blend"] == pytest.approx(total)
    assert {infos[name]["fit"] for name in members.values()} == {"train+valid"}
    assert {info["fit"] for info in infos.values()} == {"train", "train+valid"}, "the champion isn't fitted on all rows"


def test_a_row_is_asked_for_by_its_name(small):
    small.only = "S1,P9"
    with pytest.raises(SettingsError, match="P9: there are S1, S2"):
        bench.bench(small)


def rows_of(values: dict[str, list[list[float]]], champions: list[str]) -> list[dict]:
    return [
        {"seed": seed, "model": model, "values": found, "champion": champions[seed] == model, "seconds": 2.4}
        for model, by_seed in values.items()
        for seed, found in enumerate(by_seed)
    ]


def test_the_table_has_means_deviations_and_the_champion():
    protocol = {
        "title": "T", "metrics": ["hit_rate@10", "ndcg@10"],
        "published": [{"model": "theirs", "values": [0.5, float("nan")], "source": "a paper"}],
    }  # fmt: skip
    rows = rows_of({"ease": [[0.1, 0.2], [0.3, 0.2]], "ials": [[0.5, 0.1], [0.5, 0.3]]}, ["ials", "ease"])
    assert bench.table("X", protocol, rows).splitlines() == [
        "**X** T",
        "",
        "| model | hit_rate@10 | ndcg@10 | seconds | seeds | source |",
        "| --- | --- | --- | --- | --- | --- |",
        "| ials (best on valid in 1 of 2) | 0.5000 ± 0.0000 | 0.2000 ± 0.1414 | 2 | 2 | Nightrecs |",
        "| ease (best on valid in 1 of 2) | 0.2000 ± 0.1414 | 0.2000 ± 0.0000 | 2 | 2 | Nightrecs |",
        "| theirs | 0.5000 | – |  |  | a paper |",
    ]


def test_of_errors_the_lowest_is_on_top():
    protocol = {"title": "T", "metrics": ["rmse"], "published": []}
    shown = bench.table("X", protocol, rows_of({"a": [[0.9]], "b": [[0.8]]}, ["b"])).splitlines()
    assert shown[4:] == ["| b (best on valid) | 0.8000 | 2 | 1 | Nightrecs |", "| a | 0.9000 | 2 | 1 | Nightrecs |"]


def test_values_of_one_seed_have_their_interval():
    protocol = {"title": "T", "metrics": ["ndcg@10"], "published": []}
    rows = [{**row, "intervals": [[0.85, 0.95]]} for row in rows_of({"a": [[0.9]]}, ["b"])]
    assert bench.table("X", protocol, rows).splitlines()[4] == "| a | 0.9000 [0.8500, 0.9500] | 2 | 1 | Nightrecs |"
    without = [{**row, "intervals": [[None, None]]} for row in rows]
    assert "[" not in bench.table("X", protocol, without) and "[" not in bench.table("X", protocol, rows + rows)


@pytest.mark.parametrize("name", bench.protocols())
def test_every_protocol_has_a_recipe_that_measures_it(name):
    from pipeline.config.loader import load_settings
    from pipeline.experiments.families import family_of

    protocol = bench.protocols()[name]
    settings, _ = load_settings(protocol["dataset"], str(bench.FOLDER / f"{name}.toml"), [])
    for label in settings.models:
        family_of(settings, label)
    for metric in protocol["metrics"]:
        kind, _, cutoff = metric.partition("@")
        assert kind in HIGHER_IS_BETTER and (kind in ERRORS or int(cutoff) in settings.evaluation.cutoffs)
    assert protocol["protocol"] == "error" or protocol["protocol"] in settings.evaluation.protocols
    assert settings.select.protocol == protocol["protocol"], "the champion is chosen by what is reported"
    assert all(len(there["values"]) == len(protocol["metrics"]) for there in protocol["published"])
    assert len(set(protocol["seeds"])) == len(protocol["seeds"])
