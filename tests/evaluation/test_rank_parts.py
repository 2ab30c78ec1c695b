"""Evaluations that an engine carries out in ranges of users are those of one process, bit for bit."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.seeding import generator
from pipeline.evaluation import rank_parts
from pipeline.models import ease
from pipeline.ranking import joint_ranks, ranks
from pipeline.stages import clean, encode, evaluate, split, train
from pipeline.storage import journal, lake
from tests.support.engines import Elsewhere
from tests.support.stage_runs import make_run, raw, store

IALS = {"embedding_dim": 4, "epochs": 2}
N_USERS = 40
KINDS: dict[str, dict[str, Any]] = {
    "one history": {
        "models": {"ease": {}, "ials": IALS, "popularity": {}},
        "split": {"kind": "leave_one_out"}, "evaluation": {"fit_for_test": "train"},
    },
    "two fits": {
        "models": {"ease": {}, "sasrec": {"epochs": 1}},
        "split": {"kind": "global_time"}, "evaluation": {"fit_for_test": "train+valid"},
    },
    "ages, repeats, errors": {
        "models": {"ials": {**IALS, "half_life_days": 3.0}, "repeats": {}},
        "split": {"kind": "leave_one_out"}, "seen": "allow", "hide_days": 3,
        "dataset": {"columns": {"timestamp": "t"}, "feedback": {"kind": "explicit", "repeats": "separate", "positive_if": "rating >= 2"}},
        "evaluation": {"protocols": ["full", "sampled_99"]},
    },
}  # fmt: skip


def rows() -> pl.DataFrame:
    """Users with 2 to 14 of 30 items, some again; many scores of few users tie."""
    rng = generator(0, "rank parts")
    found = []
    for user in range(N_USERS):
        items = rng.integers(0, 30, rng.integers(2, 15))
        found += [(f"u{user:02}", f"i{item:02}", float(rng.integers(1, 6)), int(day)) for day, item in enumerate(items)]
    return raw(*found)


def fitted(home: Path, **tree: Any) -> tuple[Run, Path, dict[str, tuple[Path, Path]]]:
    """A night up to the fits, its split, and the fits for valid and test by label."""
    run = make_run(home, threads=1, **tree)
    encoded = encode.encode_ids(run, clean.clean_interactions(run, store(run, rows())))
    parts = split.split_interactions(run, encoded)
    fits: dict[str, tuple[Path, Path]] = {}
    for label in run.settings.models:
        on_train = train.fit_model(run, parts, label)
        fit = run.settings.evaluation.fit_for_test
        fits[label] = on_train, on_train if fit == "train" else train.refit_model(run, parts, label, fit, on_train)
    return run, parts, fits


def measured(run: Run, parts: Path, label: str, fits: tuple[Path, Path]) -> dict[str, Any]:
    """All that an evaluation leaves; it is not in the lake afterwards."""
    folder = evaluate.evaluate_model(run, parts, label, *fits)
    found: dict[str, Any] = {
        path.name: pl.read_parquet(path).to_dict(as_series=False) for path in folder.glob("*.parquet")
    }
    manifest = lake.read_manifest(folder)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}, "nothing unfinished is left"
    shutil.rmtree(folder)
    return found | {name: manifest[name] for name in ("key", "rows_out", "info", "files")}


@pytest.mark.parametrize("kind", KINDS)
def test_in_parts_of_any_size_an_evaluation_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(ease, "DENSE_ITEMS", 0)  # so that valid and test are ranked from the same scores
    run, parts, fits = fitted(tmp_path, **KINDS[kind])
    whole = {label: measured(run, parts, label, fits[label]) for label in fits}
    assert all(len(found["metrics.parquet"]["value"]) > 20 for found in whole.values())
    notes = journal.notes(run.home, run.dataset, run.run_id)
    monkeypatch.setattr(rank_parts, "PAIRS", 1)
    for size in (5, 7, 12):
        monkeypatch.setattr(ranks, "USERS", size)
        monkeypatch.setattr(joint_ranks, "USERS", size)
        for label in fits if size == 7 else [next(iter(fits))]:
            engine = Elsewhere(seed=size)
            with spread.using(engine):
                assert measured(run, parts, label, fits[label]) == whole[label], (label, size)
            assert Counter(engine.parts).keys() == {"rank_part"} and len(engine.parts) > 1
    assert journal.notes(run.home, run.dataset, run.run_id) == notes


def test_a_small_evaluation_is_not_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, parts, fits = fitted(tmp_path, models={"popularity": {}})
    engine = Elsewhere()
    with spread.using(engine):
        measured(run, parts, "popularity", fits["popularity"])
        assert not engine.parts and not evaluate.is_spread(run, parts)
        monkeypatch.setattr(rank_parts, "PAIRS", 1)
        measured(run, parts, "popularity", fits["popularity"])
    assert not engine.parts and not evaluate.is_spread(run, parts), "one part is no help"
    monkeypatch.setattr(ranks, "USERS", 7)
    assert evaluate.is_spread(run, parts)
    run.settings.evaluation.protocols[:] = ["sampled_99"]
    assert not evaluate.is_spread(run, parts), "those ranks are not made in parts"


def test_scores_that_are_no_numbers_end_an_evaluation_as_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, parts, fits = fitted(tmp_path, models={"ials": IALS})
    load = rank_parts.load

    def spoilt(*call: Any) -> Any:
        model = load(*call)
        next(iter(model.state_dict().values())).fill_(float("nan"))
        return model

    monkeypatch.setattr(rank_parts, "load", spoilt)
    monkeypatch.setattr(rank_parts, "PAIRS", 1)
    monkeypatch.setattr(ranks, "USERS", 7)
    with spread.using(Elsewhere()), pytest.raises(ranks.ScoreError, match="scores that are NaN or infinite"):
        evaluate.evaluate_model(run, parts, "ials", *fits["ials"])
