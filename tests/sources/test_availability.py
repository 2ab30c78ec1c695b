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
        ("available", ["no", "", ""], "title is not null and not coalesce(not available, false)", [True, False, False]),
        ("in_stock", ["true", "false", ""], "in_stock", [False, True, True]),
        ("inStock", ["1", "0", "1"], '"inStock"', [False, True, False]),
        ("is_active", ["Y", "n", "Y"], "is_active", [False, True, False]),
        ("Sold Out", ["no", "yes", ""], 'title is not null and not coalesce("Sold Out", false)', [False, True, False]),
        ("discontinued", ["0", "0", "1"], "title is not null and not coalesce(discontinued, false)",
         [False, False, True]),
        ("discontinued", ["", "", "true"], "title is not null and not coalesce(discontinued, false)",
         [False, False, True]),
        ("stock", ["3", "0", "12"], "stock > 0", [False, True, False]),
        ("stock_level", ["3", "-1", ""], "stock_level > 0", [False, True, True]),
        ("availability", ["In Stock", "out of stock", "preorder"], 
         "title is not null and not coalesce(lower(availability) in ('out of stock'), false)",
         [False, True, False]),
        ("status", ["active", "Inactive", "discontinued"],
         "title is not null and not coalesce(lower(status) in ('inactive', 'discontinued'), false)",
         [False, True, True]),
        ("status", ["", "", "discontinued"],
         "title is not null and not coalesce(lower(status) in ('discontinued'), false)", [False, False, True]),
    ],
)  # fmt: skip
def test_a_flag_an_amount_or_words_make_a_rule(name, cells, rule, gone):
    found = availability.rule_of(["id", name], lambda at: cells if at else ["1", "2", "3"])
    assert found == availability.Rule("only_where", rule)
    column = pl.Series(name, [*cells, None])
    typed = column_types.cast(column, column_types.infer_column(column)).to_frame()
    frame = typed.with_columns(title=pl.Series(["a", "b", "c", None]))
    kept = expressions.passing(expressions.parse(rule, "only_where"), frame).to_list()
    assert [not each for each in kept] == [*gone, True], "an item without a line in the catalog is left out"


def test_where_no_column_is_always_filled_items_that_can_not_be_had_are_excluded():
    found = availability.rule_of(["discontinued"], lambda at: ["true", "", ""], always="")
    assert found == availability.Rule("exclude_where", "discontinued")
    assert found and "# exclude_where = 'discontinued'" in availability.comment(found)


@pytest.mark.parametrize(
    ("titles", "brands", "rule"),
    [
        (["A", "B", "C"], ["x", "", "y"], "only_where = 'title is not null and not coalesce(sold_out, false)'"),
        (["A", "", "C"], ["x", "y", "y"], "only_where = 'brand is not null and not coalesce(sold_out, false)'"),
        (["A", "", "C"], ["x", "", "y"], "exclude_where = 'sold_out'"),
    ],
)
def test_the_rule_tells_items_of_the_catalog_by_a_column_that_is_always_filled(tmp_path, titles, brands, rule):
    rows = [f"u{n % 5},i{n % 3},{1_700_000_000 + n}" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows, ""]))
    items = [f"i{n},{titles[n]},{brands[n]},{'yes' if n == 2 else ''}" for n in range(3)]
    (tmp_path / "items.csv").write_text("\n".join(["item,title,brand,sold_out", *items, ""]))
    assert f"# {rule}" in sniff(tmp_path / "log.csv").splitlines()


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("in_stock", ["Berlin", "Paris"]), ("active", ["1", "2"]), ("status", ["active", "married"]),
        ("stock", ["Kanban", "Fifo"]), ("interactive", ["yes", "no"]), ("price", ["0", "1"]), ("stocking", ["1", "0"]),
        ("available_from", ["2024-01-01", ""]), ("visible", ["", ""]),
    ],
)  # fmt: skip
def test_a_name_alone_is_no_flag(name, cells):
    assert availability.rule_of([name], lambda at: cells) is None


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
