"""What others build on is as it was: names, keys, types, defaults, lake keys, titles; and texts, until they are rewritten.

See goldens/__init__.py for what may change, and how. Codes 130 and 143 are in test_cli. Lake keys and hashes of what is
counted hold on every machine; the logical hash only where this CPU and these libraries are on record, for scores have
digits that depend on both.
"""

import sys

import pytest

from tests.goldens import store
from tests.goldens.__main__ import BEHAVIOUR, TEXTS, add, broken, text_differs
from tests.goldens.nights import Nights, machine, shape
from tests.goldens.static import CHECKOUT

HELP_IS_OF = (3, 13)
"""From this Python on argparse writes options in another way; the golden text is of one before it."""


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, draws_plots: None):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield Nights(tmp_path_factory.mktemp("goldens"))


@pytest.mark.parametrize("name", [name for name in BEHAVIOUR if name != "logical_hash"])
def test_behaviour_is_as_it_was(nights: Nights, name: str):
    assert broken(name, nights) == [], "others build on it; see tests/goldens/__init__.py"


def test_logical_hash_is_as_it_was(nights: Nights):
    if machine() not in store.read("logical_hash"):
        pytest.skip(
            f"no hash is on record for {machine()}; `python -m tests.goldens --write --only logical_hash` adds it"
        )
    assert broken("logical_hash", nights) == []


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_those_on_record(nights: Nights, name: str):
    if name == "help" and sys.version_info >= HELP_IS_OF:
        pytest.skip("argparse of this Python writes help in another way")
    assert text_differs(name, nights) == [], "`python -m tests.goldens --write` writes them down; then review the diff"


def test_everything_of_a_night_is_in_the_goldens(nights: Nights):
    titles = BEHAVIOUR["stages"](nights)
    for start in ("search ease", "train ease tuned", "train blend on train+valid", "train ease on all", "register"):
        assert start in titles["sample"]
    assert {"train slow, cut short", "search ease, turn 1"} <= set(titles["budget"])
    assert {path.stem for path in store.BEHAVIOUR.glob("*")} == BEHAVIOUR.keys()
    assert {path.stem for path in store.TEXTS.glob("*")} == TEXTS.keys()
    assert str(CHECKOUT) not in "".join(path.read_text("utf-8") for path in store.BEHAVIOUR.glob("*"))


@pytest.mark.parametrize(
    ("golden", "present", "at"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, None),
        ({"a": 1}, {"b": 1}, "/a: is gone"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "/a/b: was 1, is 2"),
        ({"a": 1}, {"a": 1.0}, "/a: was 1"),
        ({"a": True}, {"a": 1}, "/a: was True"),
        (["a", "b"], ["a", "new", "b"], None),
        (["a", "b"], ["b", "a"], "'b' is gone, changed or elsewhere"),
        (["a", "a"], ["a"], "'a' is gone"),
        ({"default": [5, 10]}, {"default": [5, 7, 10]}, "/default: was"),
        ({"sampler": {"type": "string"}}, {"sampler": {"type": "string", "pattern": "x"}}, "/sampler/pattern: narrows"),
        ([{"a": 1}], {"a": 1}, "was"),
        (None, "text", "was None"),
    ],
)
def test_additions_pass_and_all_else_is_reported(golden, present, at):
    found = list(store.broken(golden, present))
    assert len(found) == (at is not None) and (at is None or at in found[0])


def test_writing_adds_and_never_changes(nights: Nights, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BEHAVIOUR", tmp_path)
    monkeypatch.setitem(BEHAVIOUR, "flow", lambda _: {"name": "nightly", "parameters": {}})
    assert add("flow", nights) == [] and store.read("flow") == {"name": "nightly", "parameters": {}}
    monkeypatch.setitem(BEHAVIOUR, "flow", lambda _: {"name": "nightly", "parameters": {"until": None}})
    assert broken("flow", nights) == [] and add("flow", nights) == []
    assert store.read("flow")["parameters"] == {"until": None}
    monkeypatch.setitem(BEHAVIOUR, "flow", lambda _: {"name": "weekly", "parameters": {"until": None}})
    assert add("flow", nights) == ["/name: was 'nightly', is 'weekly'"]
    assert store.read("flow")["name"] == "nightly"


def test_hashes_of_other_machines_stay(nights: Nights, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BEHAVIOUR", tmp_path)
    for here, digest, printed in (("one", "a", 0), ("other", "b", 0), ("one", "c", 1)):
        monkeypatch.setitem(BEHAVIOUR, "logical_hash", lambda _, h=here, d=digest: {h: d})
        assert len(add("logical_hash", nights)) == printed
    assert store.read("logical_hash") == {"one": "a", "other": "b"}


def test_shapes_of_json():
    records = [{"a": 1, "b": None, "c": [{"x": 1}]}, {"a": "1", "b": 2.5, "c": [], "d": True}]
    assert shape(records) == [{"a": "number or text", "b": "null or number", "c": [{"x": "number"}], "d": "bool"}]
    assert (
        shape([]) == [] and shape({}) == {} and shape(None) == "null" and shape([[1], [None]]) == [["null or number"]]
    )
