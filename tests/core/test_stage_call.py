"""Titles of stages: made and read back in one place; and the order of a night, which everything else follows."""

import string
from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from flows.cli.options import STAGES
from pipeline.config.base import Name
from pipeline.core import fault_injection
from pipeline.core.stage_call import OF_MODELS, PLACES, StageCall, StageName
from pipeline.stages import DATA_STAGES, LINE

LABELS = ("ease", "on", "tuned", "all", "cut", "a-b_c")
LETTERS = string.ascii_letters + string.digits + "_-"
NAMES = TypeAdapter(Name)
FITS = ("train", "train+valid", "all")


@st.composite
def calls(draw: st.DrawFn) -> StageCall:
    stage = draw(st.sampled_from(StageName))
    if stage not in OF_MODELS:
        return StageCall(stage)
    label = draw(
        st.text(LETTERS, min_size=1, max_size=64).filter(is_label) | st.sampled_from([*LABELS, "the champion"])
    )
    if stage is StageName.TRAIN:
        fit, tuned, cut_short, warm = draw(st.tuples(st.sampled_from(FITS), *[st.booleans()] * 3))
        return StageCall(stage, label, fit, tuned, cut_short, warm=warm)  # type: ignore[arg-type]
    turn = draw(st.none() | st.integers(0, 10**6)) if stage is StageName.SEARCH else None
    return StageCall(stage, label, turn=turn)


def is_label(text: str) -> bool:
    """Whether settings take it as the label of a model."""
    try:
        return NAMES.validate_python(text) == text
    except ValidationError:
        return False


@given(calls())
def test_a_title_is_read_back_as_the_call_it_was_made_of(call: StageCall):
    assert StageCall.parse(call.title) == call


def test_every_combination_has_a_title_of_its_own():
    all_of_them = []
    for each in product(StageName, (None, *LABELS), FITS, (True, False), (True, False), (None, 1), (True, False)):
        with suppress(ValueError):  # what doesn't go together
            all_of_them.append(StageCall(*each))
    assert len(all_of_them) == 16 + len(LABELS) * (2 + 24 + 1)
    assert len({call.title for call in all_of_them}) == len(all_of_them)
    assert [StageCall.parse(call.title) for call in all_of_them] == all_of_them


def test_titles_are_those_of_the_nights_before():
    train = StageName.TRAIN
    for call, title in {
        StageCall(StageName.CLEAN): "clean",
        StageCall(StageName.REGISTER): "register",
        StageCall(train, "ease"): "train ease",
        StageCall(train, "ease", tuned=True): "train ease tuned",
        StageCall(train, "ease", fit="train+valid"): "train ease on train+valid",
        StageCall(train, "ease", fit="all"): "train ease on all",
        StageCall(train, "ease", cut_short=True): "train ease, cut short",
        StageCall(train, "ease", tuned=True, cut_short=True): "train ease tuned, cut short",
        StageCall(StageName.SEARCH, "ease"): "search ease",
        StageCall(StageName.SEARCH, "ease", turn=2): "search ease, turn 2",
        StageCall(StageName.EVALUATE, "popularity_floor"): "evaluate popularity_floor",
    }.items():
        assert call.title == title and StageCall.parse(title) == call


@pytest.mark.parametrize("title", ["", "traim ease", "train ease, cut", "train  ", "clean\n", "train ease, turn two"])
def test_what_is_no_title_is_refused(title: str):
    with pytest.raises(ValueError, match="not the title of a stage"):
        StageCall.parse(title)


@pytest.mark.parametrize(
    "title", ["train", "clean ease", "evaluate ease on all", "search ease tuned", "train e, turn 2"]
)
def test_what_does_not_go_together_is_refused(title: str):
    with pytest.raises(ValueError, match="fit the stage"):
        StageCall.parse(title)


def test_the_line_is_what_until_offers_and_faults_are_planted_in():
    assert STAGES.split() == list(LINE) and len(set(LINE)) == len(LINE)
    assert {*LINE, *PLACES} == set(StageName), "register is a part of track, deliver of publish"
    assert StageCall(StageName.REGISTER).place is StageName.TRACK
    assert all(StageCall(name, "ease" if name in OF_MODELS else None).place is name for name in LINE)
    assert LINE[: len(DATA_STAGES)] == DATA_STAGES
    assert {point.partition(":")[0] for point in fault_injection.POINTS} - {"journal"} <= set(StageName)
    assert [name for name in LINE if name in fault_injection.BUILT] == list(fault_injection.BUILT)
