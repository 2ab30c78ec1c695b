"""The project file: its targets, and what is wrong in it, with file and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import targets
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home

GOOD = """
[targets.prod]
home = "prod"
production = true
[targets.dev]
home = "sub/dev"
[targets.dev.set]
"split.test" = 0.2
"split.kind" = "random"
seed = 3
[targets.dev.set.models.ease]
l2 = 5.0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    file = tmp_path / targets.FILE
    file.write_text(GOOD)
    return file


def test_the_file_is_found_above_and_homes_are_relative_to_it(project: Path, monkeypatch: pytest.MonkeyPatch):
    assert targets.chosen() is None
    monkeypatch.setenv(targets.TARGET, "dev")
    dev = targets.chosen()
    assert dev == targets.Target(
        "dev", project.parent / "sub" / "dev", False,
        {"split": {"test": 0.2, "kind": "random"}, "seed": 3, "models": {"ease": {"l2": 5.0}}}, project,
    )  # fmt: skip
    assert Home.resolve() == Home(project.parent / "sub" / "dev")
    assert Home.resolve(project.parent / "other") == Home(project.parent / "other")
    monkeypatch.setenv(targets.TARGET, "prod")
    assert Home.resolve().root == project.parent / "prod"


def test_the_file_may_be_named(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv(targets.TARGET, "dev")
    with pytest.raises(SettingsError, match=r"there is no nightrecs.toml in .*elsewhere(.|\n)*\[targets.dev\]"):
        Home.resolve()
    monkeypatch.setenv(targets.PROJECT, str(project))
    assert Home.resolve().root == project.parent / "sub" / "dev"
    monkeypatch.setenv(targets.PROJECT, str(project.parent / "none.toml"))
    with pytest.raises(SettingsError, match=r"NIGHTRECS_PROJECT: there is no file .*none.toml"):
        Home.resolve()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[targets.dev", "not valid TOML"),
        ("[target.dev]\nhome = 'x'", r"target: unknown key \(did you mean 'targets'\?\)"),
        ("targets = 3", "write a table for each"),
        ("targets.dev = 3", r"write a table, \[targets.dev\]"),
        ("[targets.dev]", "targets.dev.home: name the folder"),
        ("[targets.dev]\nhome = ''", "targets.dev.home: name the folder"),
        ("[targets.dev]\nhome = 'x'\nhme = 'y'", "targets.dev.hme: unknown key .*'home'"),
        ("[targets.dev]\nhome = 'x'\nproduction = 'yes'", "targets.dev.production is true or false"),
        ("[targets.dev]\nhome = 'x'\nset = 3", "targets.dev.set: write a table"),
        ("[targets.'a/b']\nhome = 'x'", "a name has"),
        ("[targets.dev]\nhome = 'x'\n[targets.prod]\nhome = './y/../x'", "targets.prod.home is that of targets.dev"),
        ("[targets.prod]\nhome = 'x'", r"has no target 'dev'; there are: prod"),
        ("[targets.deb]\nhome = 'x'\n[targets.prod]\nhome = 'y'", r"\(did you mean 'deb'\?\); there are: deb, prod"),
        ("", "there are: none"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(project: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str):
    project.write_text(text)
    monkeypatch.setenv(targets.TARGET, "dev")
    with pytest.raises(SettingsError, match=why) as error:
        targets.chosen()
    assert str(project) in str(error.value)


KEYS = st.sampled_from("abc")
TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8)


@given(tree=st.dictionaries(KEYS, TREES, max_size=3))
def test_dotted_keys_are_the_same_as_nested_tables(tree: dict):
    assert targets._nested(dict(flat(tree))) == tree


def flat(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
