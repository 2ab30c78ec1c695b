"""Families are found: the modules of the package, entry points, dotted paths."""

import json
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.config.settings import ModelEntry
from pipeline.core.errors import SettingsError
from pipeline.experiments.families import family_of
from pipeline.models import MODELS, Recommender, conformance, registry
from pipeline.models.serialization import load, save
from pipeline.storage import lake
from pipeline.training.negative_sampling import FILTER_FROM
from tests.support import tastes
from tests.support.tiny_family import Tiny, name_here

TINY = "tests.support.tiny_family:Tiny"


def test_the_families_are_the_modules_that_declare_one():
    folder = Path(registry.__file__).parent
    declared = {path.stem for path in folder.glob("*.py") if '\n    family = "' in path.read_text()} - {
        "describe"
    }  # an example
    assert list(MODELS) == sorted(declared) and len(MODELS) == len(declared) >= 15
    assert all(registry.name_of(family) == name == family.family for name, family in MODELS.items())


def test_built_in_keys_are_class_name_and_version():
    for family in MODELS.values():
        assert registry.key_of(family) == {"family": family.__name__, "version": family.version}


def test_hyperparameters_that_came_later_are_in_no_key_where_they_are_not_set():
    known = json.loads(Path(__file__).with_name("written_by_default.json").read_text())
    for name, family in MODELS.items():
        assert sorted(family.Config().model_dump()) == known[name], "lake keys of all fits of this family would move"


def test_large_fits_of_some_families_have_a_later_version():
    for name, first in (("mf", FILTER_FROM), ("ncf", FILTER_FROM), ("lightgcn", FILTER_FROM), ("ease", 1 << 62)):
        family = MODELS[name]
        small = [registry.key_of(family, rows)["version"] for rows in (None, 0, first - 1)]
        assert small == [family.version] * 3, "smaller fits keep their results"
        later = registry.key_of(family, first)["version"]
        assert later > family.version if family.later_versions else later == family.version


def test_keys_of_an_outside_family_name_its_path_version_and_source():
    key = registry.key_of(Tiny)
    assert (key["family"], key["version"]) == (TINY, 2) and len(key["source"]) == 16


def test_keys_of_an_installed_family_name_the_version_of_its_package(monkeypatch):
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"tests": ["torch"]})
    registry._package_version.cache_clear()
    try:
        assert registry.key_of(Tiny)["package"] == metadata.version("torch")
    finally:
        registry._package_version.cache_clear()


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_an_outside_family_can_be_checked(check: Callable[[str], None]):
    check(TINY)


def test_an_outside_family_is_saved_and_loaded_by_its_path(tmp_path):
    model = conformance.fit(TINY, conformance.checkerboard())
    save(model, tmp_path)
    assert f'"family": "{TINY}"' in (tmp_path / "config.json").read_text()
    assert type(load(tmp_path)) is Tiny
    text = (tmp_path / "config.json").read_text().replace("tiny_family", "no_module")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"no module 'tests\.support\.no_module'"):
        load(tmp_path)


def test_child_processes_find_it():
    assert pickle.loads(pickle.dumps(Tiny)) is Tiny
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(name_here, TINY).result() == "Tiny"


WRONG = {
    "nowhere:Tiny": "there is no module 'nowhere'; install its package, or add its folder to PYTHONPATH",
    "tests.support.broken_module:Tiny": "importing tests.support.broken_module failed: RuntimeError: planted",
    "tests.support.tiny_family:Tini": "has no 'Tini' (did you mean 'Tiny'?)",
    "tests.support.tiny_family:TinyConfig": "is not a family: it is no subclass of pipeline.models.Recommender",
    "tests.support.tiny_family:TINY.x": "has no 'TINY.x'",
    "tests.support.tiny_family:Unfinished": "is not a family: it does not define score",
    "tests.support.tiny_family:WithoutConfig": "its Config is no subclass of pipeline.models.ModelConfig",
    "tests.support.tiny_family:Reserved": "its Config has the field 'search', which recipes use for something else",
    "tests.support.tiny_family:OfOthers": "blends = True is for the built-in blend",
    "tests/support/tiny_family.py:Tiny": 'write it as "module:Class"',
    ":Tiny": 'write it as "module:Class"',
    "eas": "no family is called 'eas' (did you mean 'ease'?)",
}


@pytest.mark.parametrize("path", WRONG)
def test_wrong_paths_are_refused_before_the_night(path: str, tmp_path: Path):
    with pytest.raises(SettingsError) as caught:
        tastes.one_night(tmp_path, f"[models.tiny]\nfamily = '{path}'\n")
    assert f"{caught.value}".startswith("models.tiny: ") and WRONG[path] in f"{caught.value}"
    assert path not in MODELS and not (tmp_path / "home" / "lake").exists()


def test_reserved_names_are_the_keys_of_a_model_entry():
    assert set(registry.RESERVED) == set(ModelEntry.model_fields)


@pytest.fixture
def entry_points(monkeypatch) -> Iterator[Callable[..., None]]:
    """Plants entry points; the families found meanwhile are forgotten after."""
    caches = (registry._entry_points, registry._installed)

    def plant(**values: str) -> None:
        entries = [metadata.EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
        for each in caches:
            each.cache_clear()

    yield plant
    for each in caches:
        each.cache_clear()


def test_entry_points_are_families(entry_points, tmp_path):
    entry_points(tiny=TINY)
    assert MODELS["tiny"] is Tiny and list(MODELS) == sorted([*MODELS]) and "tiny" in list(MODELS)
    assert registry.name_of(Tiny) == "tiny" and registry.key_of(Tiny)["family"] == TINY
    save(conformance.fit("tiny", conformance.checkerboard()), tmp_path)
    assert type(load(tmp_path)) is Tiny


def test_entry_points_that_are_broken_or_taken_are_ignored_with_a_warning(entry_points, caplog):
    entry_points(ease=TINY, tiny="nowhere:Tiny")
    assert MODELS["ease"].__name__ == "Ease" and "tiny" not in list(MODELS) and "tiny" not in MODELS
    assert "installed family ease = tests.support.tiny_family:Tiny is ignored: its name is taken" in caplog.text
    with pytest.raises(SettingsError, match="no module 'nowhere'"):
        registry.find("tiny")


def test_nights_with_an_outside_family(tmp_path):
    tastes.write_log(tmp_path / "data")
    recipe = f"[models.tiny]\nfamily = '{TINY}'\npower = 0.4\n[models.ease]\n[models.both]\nfamily = 'blend'\n"
    run = tastes.one_night(tmp_path, recipe)
    assert tastes.record(run)["outcome"] == "published" and not tastes.record(run).get("left_out")
    fits = run.home.lake(run.dataset).glob("5_models/tiny-train-*")
    (folder,) = [each for each in fits if lake.is_complete(each)]
    settings = lake.read_manifest(folder)["settings"]
    assert settings["family"] == TINY and settings["version"] == 2 and settings["source"]
    assert lake.info(folder)["family"] == TINY and lake.info(folder)["config"] == {"power": 0.4}
    again = tastes.one_night(tmp_path, recipe)  # with last night's champion, from the lake
    assert tastes.record(again)["outcome"] == "published"
    with pytest.raises(SettingsError, match=r"models\.tiny\.pover: unknown key \(did you mean 'power'\?\)"):
        tastes.one_night(tmp_path, recipe.replace("power", "pover"))


def test_the_class_is_resolved_for_a_label(tmp_path):
    (tmp_path / "recipe.toml").write_text(f"[models.tiny]\nfamily = '{TINY}'\n")
    from pipeline.config.loader import load_settings

    settings, _ = load_settings("sample", str(tmp_path / "recipe.toml"))
    family: type[Recommender] = family_of(settings, "tiny")[0]
    assert family is Tiny
