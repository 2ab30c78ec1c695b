"""What an engine carries out in parts is what a stage makes at once: all lists on, in parts of a few users."""

from collections import Counter
from pathlib import Path

import pytest

from flows import conductor, single_model
from flows.cli.plan import warnings_of
from flows.engine_step import after_engine
from flows.notebook import Published
from flows.step import plainly
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation import rank_parts
from pipeline.publishing import listed_users
from pipeline.ranking import ranks
from pipeline.schemas import tables
from pipeline.storage import journal
from tests.support.engines import Elsewhere
from tests.support.full_shop import FullShop
from tests.support.nights import without_views
from tests.support.stage_runs import make_run

STAGE = {"stage": "train ease", "rows_in": None, "rows_out": None, "skipped": False}


def in_shards(run: Run) -> Run:
    """The night in three shards."""
    scale = run.settings.scale.model_copy(update={"shards": 3})
    return run.model_copy(update={"settings": run.settings.model_copy(update={"scale": scale})})


def test_in_parts_elsewhere_a_night_publishes_and_records_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = {}
    monkeypatch.setattr(listed_users, "USERS_PER_PART", 7)
    monkeypatch.setattr(rank_parts, "PAIRS", 1)
    for name, engine in (("here", spread.Engine()), ("there", Elsewhere())):
        shop = FullShop(tmp_path / name)
        shop.fill(10)
        run = in_shards(shop.prepare()) if engine.is_elsewhere else shop.prepare()
        monkeypatch.setattr(ranks, "USERS", 9 if engine.is_elsewhere else ranks.USERS)
        with spread.using(engine):
            assert conductor.conduct(run, without_views) == "published"
        record = journal.read_run(run.home, run.dataset, run.run_id)
        stages = journal.read(run.home, run.dataset, tables.STAGES, run.run_id).drop("run_id", "seconds")
        metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id).drop("run_id")
        published = shop.tables()
        rows = {table: frame.height for table, frame in published.items()}
        places = published["recommendations"].select("user_id", "rank")
        assert places.equals(places.sort("user_id", "rank"))  # parts are inserted one after the other
        notes = sorted(journal.notes(run.home, run.dataset, run.run_id))
        found[name] = record["logical_hash"], stages.to_dicts(), metrics.to_dicts(), rows, notes
    assert found["here"] == found["there"]
    of_shards = 3 * len(("clean", "items", "encode", "split"))
    of_ranks = len(("ials", "pmf")) * len(("valid", "test")) * 3  # each of up to 27 users with a holdout
    assert Counter(engine.parts) == {"store": of_shards, "write_range": 5, "rank_part": of_ranks}
    assert engine.records.keys() == {"ials", "ials trial 0", "ials trial 1", "pmf"}
    with pytest.warns(UserWarning, match=r"1 known users of tiny got no list at night .* such as 'old'"):
        lists = Published("tiny", shop.home_root).recommend(["u00", "old"])
    assert set(lists["user_id"]) == {"u00"}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stage_that_fails_after_the_engine_built_it_leaves_its_own_entries(tmp_path: Path, damaged: bool):
    run, engine = make_run(tmp_path), Elsewhere()
    engine.records["ease"] = {"train ease": [(tables.STAGES.name, [{**STAGE, "seconds": 5.0}])]}

    def stage() -> None:
        with journal.stage(run, "train ease") as record:
            record["skipped"] = not damaged
        journal.note(run, "warning: own")
        raise ValueError("planted")

    with spread.using(engine), pytest.raises(ValueError, match="planted"):
        after_engine(plainly, run)(StageCall(StageName.TRAIN, "ease"), stage)
    stages = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)
    assert stages["stage"].to_list() == ["train ease"] and stages["skipped"].to_list() == [not damaged]
    assert journal.notes(run.home, run.dataset, run.run_id) == ["warning: own"]


def test_with_a_budget_the_engine_gets_no_model_and_a_note_says_so(tmp_path: Path):
    run, engine = make_run(tmp_path, budget={"minutes": 5}, scale={"engine": "ray"}), Elsewhere()
    with spread.using(engine):
        single_model.begin(run, tmp_path, ["popularity"])
    assert not engine.records
    (note,) = journal.notes(run.home, run.dataset, run.run_id)
    assert note.startswith("budget.minutes = 5: models are searched and fitted one after another on the night's own")
    assert note == single_model.stays_here(run) and warnings_of(run) == [note]
    on_cluster = make_run(tmp_path / "a", scale={"engine": "ray"})
    alone = make_run(tmp_path / "b", budget={"minutes": 5})
    assert single_model.stays_here(on_cluster) is None and single_model.stays_here(alone) is None
