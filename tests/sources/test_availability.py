"""`init` proposes a rule where a catalog says what can be had: one that is allowed and leaves out what can't be had."""

import tomllib
from pathlib import Path

import polars as pl
import pytest

from pipeline.sources import column_types
from pipeline.sources.sniffing import availability
from pipeline.sources.sniffing.interactions import sniff
from pipeline.storage import expressions


@pytest.mark.parametrize(
    ("name", "cells", "rule", "gone"),
    [
        ("in_stock", ["true", "false", ""], "in_stock", [False, True, True]),
        ("inStock", ["1", "0", "1"], '"inStock"', [False, True, False]),
        ("is_active", ["Y", "n", "Y"], "is_active", [False, True, False]),
        ("Sold Out", ["no", "yes", ""], 'not "Sold Out"', [False, True, True]),
        ("discontinued", ["0", "0", "1"], "not discontinued", [False, False, True]),
        ("stock", ["3", "0", "12"], "stock > 0", [False, True, False]),
        ("stock_level", ["3", "-1", ""], "stock_level > 0", [False, True, True]),
        ("availability", ["In Stock", "out of stock", "preorder"], "lower(availability) not in ('out of stock')",
         [False, True, False]),
        ("status", ["active", "Inactive", "discontinued"], "lower(status) not in ('inactive', 'discontinued')",
         [False, True, True]),
    ],
)  # fmt: skip
def test_a_flag_an_amount_or_words_make_a_rule(name, cells, rule, gone):
    assert availability.only_where(["id", name], lambda at: cells if at else ["1", "2", "3"]) == rule
    column = pl.Series(name, cells)
    typed = column_types.cast(column, column_types.infer_column(column)).to_frame()
    assert (~expressions.passing(expressions.parse(rule, "only_where"), typed)).to_list() == gone


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("in_stock", ["Berlin", "Paris"]), ("active", ["1", "2"]), ("status", ["active", "married"]),
        ("stock", ["Kanban", "Fifo"]), ("interactive", ["yes", "no"]), ("price", ["0", "1"]), ("stocking", ["1", "0"]),
        ("available_from", ["2024-01-01", ""]), ("visible", ["", ""]),
    ],
)  # fmt: skip
def test_a_name_alone_is_no_flag(name, cells):
    assert availability.only_where([name], lambda at: cells) is None


@pytest.mark.parametrize(("flag", "there"), [("in_stock", True), ("colour", False)])
def test_the_rule_is_a_comment_that_can_be_used(tmp_path: Path, flag: str, there: bool):
    rows = [f"u{n % 5},i{n % 7},{1_700_000_000 + n}" for n in range(70)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows, ""]))
    items = [f"i{n},Thing {n},{'yes' if n else 'no'}" for n in range(7)]
    (tmp_path / "items.csv").write_text("\n".join([f"item,title,{flag}", *items, ""]))
    text = sniff(tmp_path / "log.csv")
    assert "items" in tomllib.loads(text)
    proposed = [
        line.removeprefix("# ") for line in text.splitlines() if line in ("# [export]",) or "only_where" in line
    ]
    assert bool(proposed) is there
    if there:
        assert tomllib.loads("\n".join(proposed)) == {"export": {"only_where": "in_stock"}}
