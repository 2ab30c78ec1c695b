"""Garbage collection stops while packages are imported, and goes on as before."""

import gc
import sys
from types import ModuleType

import pytest

from pipeline.core import collector


@pytest.fixture
def imported(monkeypatch):
    """Adds modules to those that are imported; afterwards everything is frozen, as tests/conftest.py has done."""

    def add(n: int) -> None:
        for number in range(n):
            monkeypatch.setitem(sys.modules, f"made_up_{number}", ModuleType("made_up"))

    yield add
    gc.freeze()


def test_only_a_big_import_is_set_aside(imported):
    gc.unfreeze()
    with collector.paused():
        assert not gc.isenabled()
        imported(collector.BIG - 1)
    assert gc.isenabled() and gc.get_freeze_count() == 0
    with collector.paused():
        imported(2 * collector.BIG)
    assert gc.isenabled() and gc.get_freeze_count() > 0


def test_it_goes_on_after_an_error_and_stays_off_where_it_was_off():
    with pytest.raises(ImportError), collector.paused():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
