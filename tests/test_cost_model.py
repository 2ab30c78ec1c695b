"""The cost model for many rows: its table in flows/README.md is the one that it computes."""

from dataclasses import replace

import pytest

from pipeline.core.paths import CHECKOUT
from tests.benchmarks.cost_model import Rates, Size, core_hours, table


def test_the_table_of_the_documentation_is_computed():
    assert "\n".join(table(Size(), Rates())) in (CHECKOUT / "flows" / "README.md").read_text()


def test_a_part_grows_with_what_it_depends_on():
    size = Size()
    before = core_hours(size, Rates())
    rows = core_hours(replace(size, rows=2 * size.rows), Rates())
    users = core_hours(replace(size, users=2 * size.users), Rates())
    assert [part for part in before if rows[part] == pytest.approx(2 * before[part])] == [
        "until split", "ials, fitted twice",
    ]  # fmt: skip
    assert [part for part in before if users[part] == pytest.approx(2 * before[part])] == ["export", "audit"]
