"""The settings tree: order of the layers, and errors that name file, key and the nearest known key."""

from contextlib import suppress
from pathlib import Path

import pytest

from flows.prepare import check_choices, is_as_shipped
from pipeline.config import loader
from pipeline.config.loader import load_settings
from pipeline.config.settings import Settings
from pipeline.config.toml_files import read_toml
from pipeline.core import paths
from pipeline.core.console import log_once
from pipeline.core.errors import SettingsError
from pipeline.experiments.recipe_checks import check_label


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


DATASET = 'name = "mine"\n[source]\nfiles = ["a.csv"]\n'
RECIPE = "[models.popularity]\n[split]\ntest = 0.2\n"


def test_later_layers_win(toml):
    dataset, recipe = toml(DATASET), toml(RECIPE + "[dataset.filter]\nmin_item_interactions = 5\n", "r.toml")
    plain, file = load_settings(dataset, recipe, [], {})
    assert (plain.split.test, plain.dataset.filter.min_item_interactions, str(file)) == (0.2, 5, dataset)
    environ = {"NIGHTRECS_SPLIT__TEST": "0.3", "NIGHTRECS_HOME": "/nowhere", "OTHER": "x"}
    assert load_settings(dataset, recipe, [], environ)[0].split.test == 0.3
    assert load_settings(dataset, recipe, ["split.test=0.4"], environ)[0].split.test == 0.4


def test_set_takes_bare_text_lists_and_numbers(toml):
    overrides = [
        "device=cpu",
        "evaluation.cutoffs=[1, 3]",
        "models.mf.embedding_dim=8",
        "dataset.columns.rating=stars",
    ]
    settings, _ = load_settings(toml(DATASET), toml(RECIPE, "r.toml"), overrides, {})
    assert (settings.device, settings.evaluation.cutoffs, settings.dataset.columns.rating) == (
        "cpu",
        [1, 3],
        "stars",
    )
    assert settings.models["mf"].model_extra == {"embedding_dim": 8}


@pytest.mark.parametrize(
    ("dataset", "overrides", "environ", "says"),
    [
        (
            DATASET + "delimitr = ','\n",
            [],
            {},
            ["mine.toml", "dataset.source.delimitr", "did you mean 'delimiter'?"],
        ),
        (DATASET, ["split.tets=0.1"], {}, ["--set split.tets=0.1", "did you mean 'test'?"]),
        (DATASET, [], {"NIGHTRECS_SPLIT__KIND": "rndom"}, ["NIGHTRECS_SPLIT__KIND", "'random'"]),
        (DATASET, ["split.test=2"], {}, ["split.test", "less than 1"]),
        (DATASET, ["split.kind=temporal"], {}, ["split.kind", "global_time"]),
        (DATASET, ["sed=1"], {}, ["sed", "did you mean 'seed'?"]),
        (DATASET, ["nonsense"], {}, ["key.path=value"]),
        ('name = "no/slashes"\n', [], {}, ["mine.toml", "dataset.name"]),
        ("name = \n", [], {}, ["mine.toml", "line 1"]),
    ],
)
def test_errors_name_file_key_and_nearest_known_key(toml, dataset, overrides, environ, says):
    with pytest.raises(SettingsError) as error:
        load_settings(toml(dataset), toml(RECIPE, "r.toml"), overrides, environ)
    for words in says:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("NIGHTRECS_SPLIT__KINDD", "NIGHTRECS_SPLIT__KIND"),
        ("NIGHTRECS_SEDD", "NIGHTRECS_SEED"),
        ("NIGHTRECS_HOMEE", "NIGHTRECS_HOME"),
        ("NIGHTRECS_DATASET__SOURCE__MODEE", "NIGHTRECS_DATASET__SOURCE__MODE"),
        ("NIGHTRECS_SEED__X", "NIGHTRECS_SEED"),
        ("NIGHTRECS_", None),
    ],
)
def test_an_unknown_variable_is_a_warning_once(toml, capsys, variable, meant):
    log_once.cache_clear()
    for _ in range(2):
        load_settings(toml(DATASET), toml(RECIPE, "r.toml"), [], {variable: "7"})
    said = capsys.readouterr().err
    assert said.count(f"{variable} is not known and is ignored") == 1
    assert meant is None or f"did you mean {meant!r}" in said


def test_every_key_of_the_tree_is_a_variable(toml, capsys):
    """Each of them changes the tree, or is refused for its value; none is ignored."""
    log_once.cache_clear()
    names = [*loader._variables(Settings, "NIGHTRECS_"), "NIGHTRECS_MODELS__MF__EPOCHS"]
    names.append("NIGHTRECS_DATASET__ITEMS__ATTRIBUTES__GENRES")
    assert len(names) > 80
    for name in names:
        with suppress(SettingsError):
            load_settings(toml(DATASET), toml(RECIPE, "r.toml"), [], {name: "7"})
    assert "is not known" not in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["", "[models]\n", "models = 5\n", "[model.ease]\n"])
def test_a_recipe_without_models_is_told_what_to_write(toml, recipe):
    """What it is told to write is a recipe."""
    file = toml(recipe, "r.toml")
    with pytest.raises(SettingsError, match="names the models to fit") as error:
        load_settings(toml(DATASET), file, [], {})
    said = str(error.value)
    assert f"{file}: models: a recipe" in said and "`nightrecs models`" in said
    assert ("did you mean 'models'" in said) == recipe.startswith("[model.")
    example = "\n".join(line.strip() for line in said.splitlines() if line.strip().startswith("["))
    settings, _ = load_settings(toml(DATASET), toml(example, "r.toml"), [], {})
    named = said.partition("families are ")[2].partition(" and others")[0].split(", ")
    families = {path.stem for path in (paths.CHECKOUT / "pipeline" / "models").iterdir()}
    assert settings.models.keys() <= set(named) <= families


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'ml-100k'"):
        load_settings("ml-100", "nightly", [], {})
    with pytest.raises(SettingsError, match=r"does not exist"):
        load_settings("./missing.toml", "nightly", [], {})


SHIPPED = sorted(p.stem for p in paths.RECIPES.glob("*.toml"))


DATASETS = sorted(p.stem for p in paths.DATASETS.glob("*.toml"))
PAIRS = [(d, r) for d in DATASETS for r in SHIPPED if r != "lists" or d == "sample-shop"]
"""The recipe `lists` names columns of the sample shop."""


@pytest.mark.parametrize(("dataset", "recipe"), PAIRS)
def test_every_shipped_toml_is_valid(dataset, recipe):
    settings, _ = load_settings(dataset, recipe, [], {})
    assert settings.dataset.name == dataset
    assert settings.recipe == recipe


@pytest.mark.parametrize("recipe", SHIPPED)
def test_models_of_shipped_recipes_are_valid(recipe):
    """So `schedule` need not check them, which takes seconds."""
    settings, _ = load_settings("sample", recipe, [], {})
    for label in settings.models:
        check_label(settings, label)
    check_choices(settings)
    assert is_as_shipped(settings, "sample", recipe)
    changed, _ = load_settings("sample", recipe, ["seed=7"], {})
    assert not is_as_shipped(changed, "sample", recipe)


def test_a_rule_about_several_keys_names_the_one_that_was_set():
    with pytest.raises(SettingsError) as error:
        loader.load_settings("sample", "nightly", ["hide_days=7"])
    assert str(error.value).startswith('--set hide_days=7: hide_days goes with seen = "allow"')
    assert "sample" not in str(error.value), "the settings are not dumped"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.cutoffs=[5, 10, 5]", "evaluation.cutoffs: Value error, 5 is there twice"),
        ("evaluation.protocols=['full', 'full']", "'full' is there twice"),
        ("export.boost=[{ where = 'true', factor = 2, factr = 3 }]", "did you mean 'factor'"),
        ("lists.email.promote=[{ wheres = 'true' }]", "did you mean 'where'"),
    ],
)
def test_lists_name_what_is_repeated_or_near(override, says):
    with pytest.raises(SettingsError) as error:
        load_settings("sample", overrides=[override])
    assert says in str(error.value)


def test_a_value_of_several_lines_is_one_text_and_hides_no_other_key():
    with pytest.raises(SettingsError, match="--set seed=1\\nthreads=2: seed"):
        load_settings("sample", overrides=["seed=1\nthreads=2"])
    assert load_settings("sample", overrides=['dataset.description="""\na\nb"""'])[0].dataset.description == "a\nb"


def test_a_toml_may_begin_with_a_byte_order_mark(tmp_path):
    for mark in ("", "\ufeff"):
        (tmp_path / "own.toml").write_text(f'{mark}name = "own"\n', encoding="utf-8")
        assert read_toml(tmp_path / "own.toml") == {"name": "own"}
    with pytest.raises(SettingsError, match="can't be read"):
        read_toml(tmp_path)
