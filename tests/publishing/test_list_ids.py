"""Ids of lists: the same in SQL and Python, one for each list, and in no hash."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.publishing import list_ids
from pipeline.schemas import tables
from pipeline.storage import warehouse

texts = st.text(st.characters(exclude_characters="\0\x1f", codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(users=st.lists(texts, min_size=1, max_size=6, unique=True), dataset=texts, night=texts, name=texts | st.just(""))
def test_sql_and_python_agree_and_lists_differ(users: list[str], dataset: str, night: str, name: str):
    with warehouse.connect(threads=1) as con:
        con.register("lists", pl.DataFrame({"user_id": users}).to_arrow())
        found = con.sql(
            f"SELECT user_id, {list_ids.expression(dataset, night, warehouse.literal(name))} FROM lists"
        ).fetchall()
    assert dict(found) == {user: list_ids.list_id(dataset, night, user, name) for user in users}
    assert len({of for _, of in found}) == len(users)


def test_what_an_id_depends_on():
    one = list_ids.list_id("shop", "night", "u")
    others = {list_ids.list_id("shop", "night", "v"), list_ids.list_id("shop", "next", "u"),
              list_ids.list_id("other", "night", "u"), list_ids.list_id("shop", "night", "u", "new")}  # fmt: skip
    assert len(one) == list_ids.DIGITS and one not in others and len(others) == 4
    assert list_ids.COLUMN in tables.RECOMMENDATIONS.volatile, "equal nights have equal hashes"


def test_published_lists_have_them(four_nights):
    data, nights = four_nights
    rows = data.ask("select distinct user_id, list_id from recommendations")
    assert rows.height == data.ask("from users").height
    assert all(of == list_ids.list_id("tiny", nights[-1], user) for user, of in rows.iter_rows())
    assert data.ask("select count(*) as n from recommendations_titled where list_id is null")["n"].item() == 0
