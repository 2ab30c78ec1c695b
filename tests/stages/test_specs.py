"""Stages say their keys without running: before every stage of a night, its spec names the folder it then returns."""

from pathlib import Path
from typing import Any

import pytest

from flows.plan import SPECS
from flows.step import plainly
from pipeline.config.run import Run
from pipeline.core import fault_injection
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import blend_members
from pipeline.experiments.families import family_of, rows_of
from pipeline.models import MODELS
from pipeline.schemas import tables
from pipeline.stages import clean, export, train
from pipeline.storage import journal, lake
from tests.support.tastes import one_night, write_log

RECIPE = """[models.ease]
[models.ease.search]
l2 = [2.0, 20.0]
[models.mf]
embedding_dim = 4
epochs = 1
[models.both]
family = "blend"
[models.top]
family = "blend"
most = 2
[search]
trials = 2
[evaluation]
fit_for_test = "train+valid"
"""
ALL = {**SPECS, export.export_tables: export.spec}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[tuple[StageCall, Path, Any]]]:
    """A night; of each stage that is kept in the lake its call, where its spec put it, and where it is."""
    folder, found = tmp_path_factory.mktemp("specs"), []

    def asks_first(call: StageCall, stage: Any, *inputs: Any) -> Any:
        output = lake.folder_of(inputs[0], ALL[stage](*inputs)) if stage in ALL else None
        before = output and output.exists()
        result = plainly(call, stage, *inputs)
        if output:
            assert not before or lake.is_complete(output), call
            found.append((call, output, result))
        return result

    write_log(folder / "data", n_users=90)
    return one_night(folder, RECIPE, step=asks_first), found


def test_every_stage_is_where_its_spec_put_it(asked):
    _, found = asked
    assert {call.stage for call, _, _ in found} == set(map(StageName, fault_injection.BUILT))
    assert {call.title for call, output, result in found if output != result} == set()
    assert {"train ease tuned", "train top on train+valid", "train popularity_floor"} <= {c.title for c, _, _ in found}


def test_the_journal_has_the_calls_of_the_line(asked):
    run, found = asked
    journaled = [StageCall.parse(title) for title in journal.read(run.home, run.dataset, tables.STAGES)["stage"]]
    assert {call for call, _, _ in found} <= set(journaled)
    manifests = {lake.read_manifest(result)["stage"] for _, _, result in found}
    assert manifests == {call.title for call, _, _ in found}


def test_what_depends_on_what_is_not_there_says_so(asked):
    run, found = asked
    where = {call.title: result for call, _, result in found}
    missing = run.home.lake(run.dataset) / "5_models" / "ease-train-0"
    assert lake.folder_of(run, clean.spec(run, missing)).parent.name == "2_clean", "a key needs no content"
    with pytest.raises(lake.NotYetKnown) as refit:
        train.refit_spec(run, where["split"], "ease", "all", missing)
    assert refit.value.place == missing
    tomorrow = run.model_copy(update={"run_id": "29990101T000000.000Z-0000"})
    fits = {label: missing for label in ("ease", "mf")}
    _, config = family_of(run.settings, "top")
    with pytest.raises(lake.NotYetKnown) as blend:
        blend_members.members_of(tomorrow, config, fits)
    assert blend.value.place == journal.folder(tomorrow), "its metrics decide"
    assert train.request_fit(tomorrow, where["split"], "both", fits=fits).members == fits


def test_only_large_fits_have_a_later_version_in_their_keys(asked, monkeypatch):
    run, found = asked
    where = {call.title: result for call, _, result in found}
    rows, rows_of_all = rows_of(where["split"]), rows_of(where["encode"], "all")
    assert rows and rows < (rows_of(where["split"], "train+valid") or 0) < (rows_of_all or 0)
    for first, version in ((rows + 1, 1), (rows, 2)):
        monkeypatch.setattr(MODELS["mf"], "later_versions", {first: 2})
        fit = train.fit_spec(run, where["split"], "mf")
        refit = train.refit_spec(run, where["encode"], "mf", "all", where["train mf"])
        assert (lake.folder_of(run, fit) == where["train mf"]) is (version == 1)
        assert (fit.settings["version"], refit.settings["version"]) == (version, 2)
    missing = where["split"].with_name("split-0")
    assert rows_of(missing) is None and train.fit_spec(run, missing, "mf").settings["version"] == 1, "not known yet"
