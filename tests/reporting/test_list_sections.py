"""What the report shows of further lists, lists by attribute, trending, audiences, new items, reasons and the holdback."""

import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.reporting.html import page, sections_lists
from pipeline.reporting.html.sections_lists import KINDS
from pipeline.reporting.night import Night
from pipeline.schemas import tables
from pipeline.storage import warehouse
from tests.support.full_shop import FullShop
from tests.support.published_nights import SECRET, without_mlflow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVERYTHING: dict[str, Any] = {
    "lists": {"home": {}},
    "export": {
        "by": {"attribute": "category", "values": 5}, "trending": {"windows": [3], "by": "category"},
        "audiences": {"top_n": 50}, "explore": {"share": 0.2}, "reasons": 2, "holdback": {"share": 0.2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night with rows in all of these tables, and an item whose title means harm."""
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = FullShop(tmp_path_factory.mktemp("shop"))
        shop.fill(10)
        catalog = shop.folder / "catalog" / "items.csv"
        catalog.write_text(re.sub(r"Thing \d*[02468],", "<i>Thing</i>,", catalog.read_text()))
        return Night(shop.home, "tiny", shop.publish())


def test_every_kind_has_a_part_with_counts_and_examples(night):
    parts = {part.id.removeprefix("lists-"): part for part in sections_lists.parts(night)}
    assert list(parts) == list(KINDS)
    for name, part in parts.items():
        assert part.rows and all(len(row) == len(part.columns) for row in part.rows), name
        assert SECRET not in part.query and not any(re.search(r"\bu\d\d\b", cell.text) for row in part.rows for cell in row)  # fmt: skip
    with warehouse.connect(night.file, read_only=True) as con:
        users, rows = con.sql("select count(distinct user_id), count(*) from recommendations_in").fetchall()[0]
        held, served = con.sql(
            "select count(distinct user_id) filter (source = 'holdback'), count(distinct user_id) from recommendations"
        ).fetchall()[0]
        explored = con.sql("select item_id from recommendations where source = 'explore'").pl()["item_id"].to_list()
    assert parts["further"].text == f"1 further list of {users} users: {rows} rows."
    assert [cell.text for cell in parts["further"].rows[0][:3]] == ["home", str(users), str(rows)]
    assert {(row[0].text, row[2].text) for row in parts["holdback"].rows} == {
        ("holdback", str(held)), ("all others", str(served - held)),
    }  # fmt: skip
    assert parts["explore"].text.startswith(f"{len(explored)} places of ")
    most = [str(count) for _, count in Counter(explored).most_common(8)]
    assert [row[1].text for row in parts["explore"].rows] == most
    growth = [float(row[3].text) for row in parts["trending"].rows]
    assert len(growth) == 8 and all(value > 0 for value in growth)
    assert {"<i>Thing</i>"} & {row[0].text for row in parts["audiences"].rows}


def test_the_page_has_them_with_titles_escaped_and_without_users(night):
    for personal in (True, False):
        text = page.html(page.content(night), personal)
        section = text[text.index('<h2 id="lists">') : text.index("</section>", text.index('<h2 id="lists">'))]
        assert '<a href="#lists">' in text and all(f'id="lists-{name}"' in section for name in KINDS)
        assert "<i>" not in section and "&lt;i&gt;Thing" in section
        assert all(table in section for kind in KINDS.values() for table in kind.tables)
        assert SECRET not in section and not re.search(r"\bu\d\d\b", section)


def without_rows(path: Path, but: str = "") -> Night:
    """A published file whose tables are empty; `but`: without this one, as older versions wrote it."""
    with warehouse.connect(path) as con:
        for table in tables.PUBLISHED:
            if table.name != but:
                con.execute(table.ddl)
    return cast("Night", SimpleNamespace(file=path, settings=EVERYTHING))


def test_tables_without_rows_say_so(tmp_path):
    parts = sections_lists.parts(without_rows(tmp_path / "night.duckdb"))
    assert [part.id.removeprefix("lists-") for part in parts] == list(KINDS)
    assert all(not part.rows and part.text.startswith("There are no such rows in ") for part in parts)


def test_what_a_recipe_does_not_ask_for_or_an_old_file_does_not_have_is_left_out(tmp_path):
    old = without_rows(tmp_path / "old.duckdb", but="audiences")
    assert [p.id.removeprefix("lists-") for p in sections_lists.parts(old)] == [k for k in KINDS if k != "audiences"]
    for name in KINDS:
        wanted = {"lists": EVERYTHING["lists"]} if name == "further" else {"export": {name: EVERYTHING["export"][name]}}
        one = cast("Night", SimpleNamespace(file=old.file, settings=wanted))
        assert [p.id for p in sections_lists.parts(one)] == [f"lists-{name}"] * (name != "audiences")
    nothing = ({}, {"export": {"reasons": 0, "explore": None}, "lists": {}})
    assert all(not sections_lists.parts(cast("Night", SimpleNamespace(file=old.file, settings=s))) for s in nothing)
    assert not sections_lists.parts(cast("Night", SimpleNamespace(file=None, settings=EVERYTHING)))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_nothing_overflows_in_a_browser(night, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    file = page.write(night.home, "tiny", night.run_id)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            view = {"width": width, "height": 900}
            tab = browser.new_context(viewport=view, color_scheme=scheme, offline=True).new_page()
            tab.goto(file.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            inside = "[...document.querySelectorAll('section:has(#lists) .scroll')].map(it => it.clientWidth)"
            assert len(tab.evaluate(inside)) == len(KINDS) and max(tab.evaluate(inside)) <= width
            for it in tab.query_selector_all("section:has(#lists) summary"):
                it.click()
            assert tab.evaluate("document.documentElement.scrollWidth") == width, "with the queries open"
        finally:
            browser.close()
