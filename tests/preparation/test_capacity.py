"""Rows against memory: what fits, what is refused, and that the advice works."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.dataset import Dataset
from pipeline.config.settings import ModelEntry, Settings
from pipeline.core.errors import SettingsError
from pipeline.core.memory import GIB, parse_bytes
from pipeline.preparation.capacity import MOST_ROWS, Capacity, in_gib


@given(st.integers(1, 10**11), st.sampled_from([1.0, 0.3]), st.integers(1, 2000))
def test_every_way_that_is_named_helps(rows: int, share: float, gib: int):
    here = Capacity(rows, share, None, gib * GIB)
    assert here.fits == (rows <= here.rows_that_fit)
    if here.fits:
        here.require("some")
        return
    with pytest.raises(SettingsError, match=re.escape(in_gib(here.needed))):
        here.require("some")
    helps = here.what_helps
    assert helps
    if here.machine:
        assert Capacity(rows, share, None, here.machine).fits
    if found := re.search(r'memory_limit = "(.+?)"', helps):
        assert Capacity(rows, share, parse_bytes(found[1]), gib * GIB).fits
    if found := re.search(r"user_fraction = ([0-9.]+)", helps):
        assert Capacity(rows, float(found[1]), None, gib * GIB).fits
    if rows > MOST_ROWS:
        assert "single machine" in helps


def test_a_small_memory_limit_refuses_nothing_for_which_the_machine_has_room():
    settings = Settings(dataset=Dataset(name="d"), models={"ease": ModelEntry()}, memory_limit="5KB")
    assert Capacity.of(settings, 1000).fits


def test_sizes_are_readable():
    assert [in_gib(n * GIB) for n in (11.72, 48, 384, 186.3)] == ["11.7 GiB", "48 GiB", "384 GiB", "186 GiB"]
