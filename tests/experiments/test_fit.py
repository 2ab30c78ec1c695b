"""A fit in three steps: what is asked for and its key, the fit, and what is kept of it."""

import time
from pathlib import Path

import pytest

from pipeline.config.run import Run
from pipeline.core.errors import Skipped
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.schemas import tables
from pipeline.stages import clean, encode, evaluate, split, train
from pipeline.storage import journal, lake
from tests.support.stage_runs import make_run, raw, store

MODELS = {
    "mf": {"embedding_dim": 2, "epochs": 40},
    "ease": {},
    "both": {"family": "blend", "weights": {"mf": 1.0, "ease": 2.0}},
}


def night(home: Path) -> tuple[Run, Path, Path]:
    """A run up to its split, and its encoded rows."""
    rows = [(f"u{n % 12:02}", f"i{(n * n) % 17:02}", 1.0 + n % 5, n) for n in range(150)]
    run = make_run(home, models=MODELS, threads=1, split={"kind": "leave_one_out"})
    encoded = encode.encode_ids(run, clean.clean_interactions(run, store(run, raw(*rows))))
    return run, split.split_interactions(run, encoded), encoded


def stages(run: Run) -> list[str]:
    return journal.read(run.home, run.dataset, tables.STAGES, run.run_id)["stage"].to_list()


def models_of(run: Run) -> set[str]:
    return {path.name for path in (run.home.lake(run.dataset) / "5_models").iterdir()}


def test_a_fit_that_the_deadline_ends_is_kept_for_its_night_alone(tmp_path, monkeypatch):
    run, parts, _ = night(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(budget, "deadline", lambda run, call: time.monotonic() - 1)
        cut = train.fit_model(run, parts, "mf")
    manifest, title = lake.read_manifest(cut), "train mf, cut short"
    assert lake.is_complete(cut) and manifest["stage"] == title
    assert manifest["settings"]["cut short in"] == run.run_id
    assert len(manifest["info"]["history"]) == 1
    assert stages(run)[-1] == title and "train mf" not in stages(run)
    assert journal.notes(run.home, run.dataset, run.run_id) == ["train mf: the budget ended the fit after epoch 1"]
    whole = train.fit_model(run, parts, "mf")
    assert whole != cut and lake.read_manifest(whole)["stage"] == "train mf" == stages(run)[-1]
    assert len(lake.info(whole)["history"]) > 1
    assert models_of(run) == {cut.name, whole.name}, "nothing else is left"


def test_what_is_resolved_is_where_the_fit_will_be_and_nothing_is_written(tmp_path):
    run, parts, encoded = night(tmp_path)
    fitted: dict[str, Path] = {}
    for label in MODELS:
        before = models_of(run) if fitted else set()
        request = train.request_fit(run, parts, label, fits=fitted)
        assert (models_of(run) if fitted else set()) == before
        fitted[label] = train.fit_model(run, parts, label, fits=fitted)
        assert lake.folder_of(run, request.spec) == fitted[label]
        evaluate.evaluate_model(run, parts, label, fitted[label], fitted[label])
    before, n = models_of(run), len(stages(run))
    request = train.request_refit(run, encoded, "both", "all", fitted["both"])
    assert request.spec.call == StageCall(StageName.TRAIN, "both", fit="all") and request.refit
    assert set(request.members) == {"mf", "ease"} and models_of(run) == before
    refit = train.refit_model(run, encoded, "both", "all", fitted["both"])
    assert lake.folder_of(run, request.spec) == refit
    assert stages(run)[n:] == ["train mf on all", "train ease on all", "train both on all"]
    members = {label: folder.name for label, folder in request.members.items()}
    assert lake.info(refit)["members"] == members and set(members.values()) <= models_of(run) - before


def test_a_fit_that_can_not_be_used_keeps_nothing(tmp_path, monkeypatch):
    def never(run: Run, call: StageCall) -> float:
        raise train.NotServable("no time")

    run, parts, _ = night(tmp_path)
    monkeypatch.setattr(budget, "deadline", never)
    with pytest.raises(Skipped, match="no time"):
        train.fit_model(run, parts, "mf")
    assert models_of(run) == set() and "train mf" not in stages(run)
