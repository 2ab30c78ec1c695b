"""The section of what a recipe asks for beyond one list per user: what is in each of these tables, without user ids.

Each part has the query that its example rows come from, so that readers can go on from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.reporting.formatting import interval, number, percent, plural, rounded
from pipeline.reporting.night import Night
from pipeline.storage import reader, warehouse

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, or the title of an item with its id."""

    text: str
    item_id: str | None = None
    is_number: bool = False


@dataclass(frozen=True)
class Part:
    """What the page shows of some tables."""

    id: str
    title: str
    tables: tuple[str, ...]
    text: str
    columns: list[tuple[str, bool]]
    """Headings, and whether the column has numbers."""
    rows: list[list[Cell]]
    query: str
    """The SQL that `rows` come from."""


@dataclass(frozen=True)
class Kind:
    """One kind of table that a recipe can ask for."""

    title: str
    tables: tuple[str, ...]
    is_on: Callable[[Settings], object]
    """Whether the settings ask for it."""
    about: Callable[[warehouse.Connection, Settings], str]
    """A sentence with counts; empty where the tables have no such rows."""
    columns: dict[str, Callable[..., str] | None]
    """Headings to the shape of numbers; None: a text. `Item` is a title. They are those of the query, in order."""
    query: str
    """Example rows; the id of an item comes before its title."""


def parts(night: Night) -> list[Part]:
    """One for each kind that the night's recipe asks for, where its published file is kept."""
    export: Settings = night.settings.get("export") or {}
    settings = {**export, "lists": night.settings.get("lists")}
    wanted = {name: kind for name, kind in KINDS.items() if kind.is_on(settings)}
    if night.file is None or not wanted:
        return []
    with reader.open_file(night.file) as con:
        there = {name for (name,) in con.sql("select table_name from duckdb_tables()").fetchall()}
        return [_part(con, name, kind, settings) for name, kind in wanted.items() if there.issuperset(kind.tables)]


def _part(con: warehouse.Connection, name: str, kind: Kind, settings: Settings) -> Part:
    about = kind.about(con, settings)
    found = con.sql(kind.query).pl() if about else pl.DataFrame()
    columns = [(heading, shape is not None) for heading, shape in kind.columns.items()]
    rows = [_cells(row, kind) for row in found.iter_rows()]
    text = about or f"There are no such rows in {kind.tables[0]} of this night; its notes may say why."
    return Part(f"lists-{name}", kind.title, kind.tables, text, columns, rows, kind.query)


def _cells(row: tuple[Any, ...], kind: Kind) -> list[Cell]:
    values, cells = list(row), list[Cell]()
    for heading, shape in kind.columns.items():
        if heading == "Item":
            item_id, title = values.pop(0), values.pop(0)
            cells.append(Cell(str(title or item_id or ""), item_id))
        elif shape is interval:
            cells.append(Cell(interval(values.pop(0), values.pop(0)), is_number=True))
        else:
            value = values.pop(0)
            cells.append(Cell(str(value if value is not None else "") if shape is None else shape(value),
                              is_number=shape is not None))  # fmt: skip
    return cells


def _one(con: warehouse.Connection, query: str) -> dict[str, Any]:
    return con.sql(query).pl().row(0, named=True)


def _further(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(distinct list) as lists, count(distinct user_id) as users, count(*) as n "
                   "from recommendations_in")  # fmt: skip
    if not of["n"]:
        return ""
    return f"{plural(of['lists'], 'further list')} of {plural(of['users'], 'user')}: {number(of['n'])} rows."


def _by(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(distinct user_id) as users, count(distinct value) as n_values, count(*) as n, "
                   "any_value(attribute) as attribute, count(distinct (user_id, value)) as lists "
                   "from recommendations_by")  # fmt: skip
    if not of["n"]:
        return ""
    return (
        f"{plural(of['lists'], 'list')} of {plural(of['users'], 'user')} by {of['attribute']}, of "
        f"{plural(of['n_values'], 'value')}; a user gets those of at most {settings['by']['values']}, which have the "
        "user's best items."
    )


def _trending(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(*) as n, count(*) filter (attribute is null) as items, count(distinct value) as v, "
                   "count(*) filter (attribute is null and ci_low > 1) as sure from trending_items")  # fmt: skip
    windows = ", ".join(map(str, settings["trending"]["windows"]))
    within = f", and within {plural(of['v'], 'value')} of {settings['trending']['by']}" if of["v"] else ""
    if not of["n"]:
        return ""
    return (
        f"Growth over the last {windows} days against the item's own past: {plural(of['items'], 'row')} among all "
        f"items{within}. {number(of['sure'])} of these {'grows' if of['sure'] == 1 else 'grow'} with certainty: the "
        "whole interval is above 1."
    )


def _audiences(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(*) as n, count(distinct item_id) as items, count(distinct user_id) as users, "
                   "(select count(distinct (attribute, value)) from attribute_audiences) as n_values "
                   "from audiences")  # fmt: skip
    text = f"Up to {settings['audiences']['top_n']} users for each of {plural(of['items'], 'item')}"
    text += f" and {plural(of['n_values'], 'value')} of attributes" if of["n_values"] else ""
    if not of["n"]:
        return ""
    return f"{text}; {plural(of['users'], 'user')} in at least one audience of an item."


def _explore(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(*) filter (source = 'explore') as n, count(*) as places, "
                   "count(distinct item_id) filter (source = 'explore') as items from recommendations")  # fmt: skip
    if not of["n"]:
        return ""
    return (
        f"{plural(of['n'], 'place')} of {number(of['places'])} ({percent(of['n'] / of['places'])}) in the default list "
        f"show one of {plural(of['items'], 'new item')}."
    )


def _reasons(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(distinct (user_id, rank)) as n, "
                   "(select count(*) from recommendations) as places from reasons")  # fmt: skip
    share = _one(con, "select avg(total) as mean from (select sum(share) filter (because_rank > 0) as total "
                      "from reasons group by user_id, rank)")["mean"]  # fmt: skip
    if not of["n"]:
        return ""
    return (
        f"{number(of['n'])} of {plural(of['places'], 'recommendation')} come with reasons: up to "
        f"{settings['reasons']} items of the user's history, which add {percent(share)} of the score on average."
    )


def _holdback(con: warehouse.Connection, settings: Settings) -> str:
    of = _one(con, "select count(distinct user_id) filter (source = 'holdback') as n, "
                   "count(distinct user_id) as users, any_value(model) filter (source = 'holdback') as other "
                   "from recommendations")  # fmt: skip
    if not of["n"]:
        return ""
    return (
        f"{number(of['n'])} of {plural(of['users'], 'user')} ({percent(of['n'] / of['users'])}) get the lists of "
        f"{of['other']} instead. The table realised compares both groups once later interactions are there."
    )


KINDS = {
    "further": Kind(
        "Further lists", ("recommendations_in",), lambda of: of.get("lists"), _further,
        {"List": None, "Users": number, "Rows": number, "Items": number, "Promoted": number, "New items": number},
        """select list, count(distinct user_id) as users, count(*) as rows, count(distinct item_id) as items,
    count(*) filter (source = 'promoted') as promoted, count(*) filter (source = 'explore') as new_items
from recommendations_in group by list order by list""",
    ),
    "by": Kind(
        "Lists by attribute", ("recommendations_by",), lambda of: of.get("by"), _by,
        {"Value": None, "Item": None, "In lists": number, "Users": number, "Items": number},
        """with counted as (
    select value, item_id, count(*) as lists from recommendations_by group by value, item_id
),
sizes as (
    select value, count(distinct user_id) as users, count(distinct item_id) as items
    from recommendations_by group by value
)
select value, max_by(item_id, (lists, item_id)) as most_listed, max_by(coalesce(title, ''), (lists, item_id)) as title,
    max(lists) as lists, any_value(users) as users, any_value(items) as items
from counted join sizes using (value) left join (select item_id, title from items) using (item_id)
group by value order by users desc, value limit 8""",
    ),
    "trending": Kind(
        "Trending items", ("trending_items",), lambda of: of.get("trending"), _trending,
        {"Item": None, "Days": number, "Rank": number, "Growth": rounded, "Interval": interval, "Recent": number,
         "Past": number},
        """select item_id, title, window_days, rank, growth, ci_low, ci_high, recent, past
from trending_items left join (select item_id, title from items) as items using (item_id)
where attribute is null order by window_days, rank limit 8""",
    ),
    "audiences": Kind(
        "Audiences", ("audiences", "attribute_audiences"), lambda of: of.get("audiences"), _audiences,
        {"Item": None, "Interactions": number, "Audience": number, "Highest score": rounded, "Lowest score": rounded},
        """select item_id, title, n_interactions, count(*) as audience, max(score) as highest, min(score) as lowest
from audiences join (select item_id, title, n_interactions from items) as items using (item_id)
group by item_id, title, n_interactions order by n_interactions desc, item_id limit 8""",
    ),
    "explore": Kind(
        "Places for new items", ("recommendations",), lambda of: of.get("explore"), _explore,
        {"Item": None, "Users": number, "Interactions": number},
        """select item_id, title, count(*) as users, any_value(n_interactions) as n_interactions
from recommendations left join (select item_id, title, n_interactions from items) as items using (item_id)
where source = 'explore' group by item_id, title order by users desc, item_id limit 8""",
    ),
    "reasons": Kind(
        "Reasons", ("reasons",), lambda of: of.get("reasons"), _reasons,
        {"Item": None, "Recommendations": number, "Mean share": percent},
        """select because_item_id, title, count(*) as recommendations, avg(share) as mean_share
from reasons left join (select item_id, title from items) as items on items.item_id = because_item_id
where because_rank > 0 group by because_item_id, title order by recommendations desc, because_item_id limit 8""",
    ),
    "holdback": Kind(
        "Holdback", ("recommendations",), lambda of: of.get("holdback"), _holdback,
        {"Users": None, "Model": None, "Number": number, "Items": number},
        """with groups as (
    select user_id, if(bool_or(source = 'holdback'), 'holdback', 'all others') as users from recommendations group by 1
)
select users, any_value(model) filter (source in ('model', 'holdback')) as model,
    count(distinct user_id) as number, count(distinct item_id) as items
from recommendations join groups using (user_id) group by users order by users""",
    ),
}  # fmt: skip
"""In the order of the page."""
