"""The SQL files: headers agree with bodies, every check finds what is planted, every view runs on empty tables."""

import re

import pytest

from pipeline.core import paths
from pipeline.publishing import database
from pipeline.reporting.html import sections_lists
from pipeline.schemas import tables
from pipeline.storage import warehouse

CHECKS = sorted((paths.SQL / "checks" / "output").glob("*.sql"))
INPUT_CHECKS = sorted((paths.SQL / "checks" / "input").glob("*.sql"))
VIEWS = sorted((paths.SQL / "views").glob("*.sql"))
AUDIT_TABLES = {
    "source_rows": "(user_id varchar, item_id varchar)",
    "masking_rows": "(user_id varchar, item_id varchar)",
    "ranked_items": "(item_idx integer, item_id varchar)",
    "held_items": "(item_idx integer, item_id varchar)",
    "banned_items": "(item_id varchar)",
    "held_users": "(user_id varchar)",
    "deciding": "(metric varchar, cutoff integer)",
    "wanted": "(top_n integer, exact boolean, explored integer, by_n integer, by_values integer, by_attribute varchar)",
    "active_users": "(user_id varchar)",
    "tonight": "(run_id varchar)",
    "placed_items": "(item_id varchar)",
    "excluded_items": "(item_id varchar, rule varchar)",
    "explorable_items": "(item_id varchar)",
    "wanted_in": "(list varchar, top_n integer, exact boolean, explored integer)",
    "ranked_in": "(list varchar, item_id varchar)",
    "promotable_in": "(list varchar, place bigint, item_id varchar)",
    "explorable_in": "(list varchar, item_id varchar)",
    "promotable_items": "(place bigint, item_id varchar)",
    "bounds": "(started_at timestamp, max_shrink double, max_age_days double, warn_age_days double, max_future_days double, "
    "min_coverage double, max_new_users double, max_lost_users double, max_new_items double, max_lost_items double, "
    "warn_change double, max_change double)",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tables and views of a published file, closed and opened again, without rows."""
    path = tmp_path_factory.mktemp("published") / "published.duckdb"
    with warehouse.connect(path) as con:
        for table in tables.PUBLISHED:
            con.execute(table.ddl)
        database.create_views(con)
    with warehouse.connect(path, read_only=True) as con:
        yield con


@pytest.fixture
def good(warehouse_of_two):
    """A tiny warehouse in which every check passes: two users, four items, two recommendations each."""
    warehouse_of_two.execute("begin")
    yield warehouse_of_two
    warehouse_of_two.execute("rollback")


@pytest.fixture(scope="module")
def warehouse_of_two():
    """See `good`, which undoes what a test changes."""
    with warehouse.connect() as con:
        for table in tables.PUBLISHED:
            con.execute(table.ddl)
        for name, columns in AUDIT_TABLES.items():
            con.execute(f"create table {name} {columns}")
        for rows in ("source_rows", "masking_rows"):
            con.execute(f"insert into {rows} values ('u', 'a'), ('u', 'b'), ('v', 'c'), ('v', 'd')")
        con.execute("insert into ranked_items values (0, 'a'), (1, 'b'), (2, 'c'), (3, 'd')")
        con.execute("insert into held_items from ranked_items")
        con.execute("insert into wanted values (2, true, 1, 1, 1, 'kind')")
        con.execute("insert into active_users values ('u'), ('v')")
        con.execute("insert into tonight values ('r')")
        con.execute("insert into excluded_items values ('z', 'exclude_where')")
        con.execute("insert into promotable_items values (2, 'd'), (9, 'b')")
        con.execute(
            "insert into bounds values (timestamp '2026-01-10', 0.9, 3, 30, 1, 0.75, null, null, null, null, 0.7, 0.5)"
        )
        con.execute("insert into churn values ('r', 'all', 'before', 2, 2, 0.5, 0.6, 0, 0)")
        con.execute("insert into deciding values ('ndcg', 10)")
        con.execute(
            "insert into realised values ('old', 'published - popularity', 7, 'ndcg', 10, 'all', 0.1, 0.05, 0.2, 50, 'r'), "
            "('old', 'published - popularity', 1, 'ndcg', 10, 'all', -0.1, -0.2, -0.05, 9, 'r')"
        )
        con.execute("insert into users values ('u', 2, null, null), ('v', 2, null, null)")
        for user, items in {"u": "cd", "v": "ab"}.items():
            for rank, item in enumerate(items, start=1):
                con.execute(
                    f"insert into recommendations values ('{user}', {rank}, '{item}', {1 / rank}, 'model', 'm', 'r', now(), 'of {user}')"
                )
        con.execute("insert into reasons values ('u', 1, 1, 'a', 0.7), ('u', 1, 0, null, 0.3)")
        con.execute(
            "insert into recommendations_in select 'home', * replace ('home ' || list_id as list_id) from recommendations"
        )
        con.execute(
            "insert into item_attributes values ('c', 'kind', 'red'), ('d', 'kind', 'red'), ('a', 'kind', 'red')"
        )
        con.execute(
            "insert into recommendations_by values ('u', 'kind', 'red', 1, 'c', 0.5, 'by u'), "
            "('v', 'kind', 'red', 1, 'a', 0.5, 'by v')"
        )
        con.execute("insert into items select item_id, null, 1, null, null from ranked_items")
        con.execute("insert into interactions_summary values (4, 2, 4, 0.5, null, null)")
        con.execute("insert into popular_items values (1, 'a', 2, 0, 'r'), (2, 'b', 1, 0, 'r'), (1, 'b', 1, 7, 'r')")
        for of in ("null, null", "'country', 'NZ'"):
            con.execute(f"insert into fallback_items values ({of}, 1, 'a', 2, 'r'), ({of}, 2, 'b', 1, 'r')")
        con.execute("insert into user_vectors values ('u', 'm', [1, 0]), ('v', 'm', [0.5, -1])")
        con.execute("insert into item_vectors values ('a', 'm', [1, 0]), ('b', 'm', [0.5, -1])")
        con.execute("insert into biases values ('m', 'user', 'u', 1), ('m', 'item', 'a', -1)")
        con.execute("insert into predictions values ('m', 'u', 'a', 4, 3.5)")
        con.execute("insert into audiences values ('c', 1, 'u', 2), ('a', 1, 'v', 2)")
        con.execute("insert into attribute_audiences values ('kind', 'red', 1, 'u', 2), ('kind', 'red', 2, 'v', 1)")
        con.execute("insert into trending_items values (7, null, null, 1, 'c', 2, 1.5, 3, 9, 4, 'r')")
        con.execute("insert into wanted_in values ('home', 2, true, 1)")
        con.execute("insert into ranked_in select 'home', item_id from ranked_items")
        con.execute("insert into promotable_in select 'home', * from promotable_items")
        con.execute("insert into similar_items values ('a', 1, 'b', 0.5, 'm', 'r')")
        con.execute(
            "insert into row_ledger values ('r', 'ingest', 'kept', 4), ('r', 'ingest', 'empty_user', 1), "
            "('r', 'clean', 'kept', 4), ('r', 'encode', 'kept', 4), ('r', 'split', 'kept', 4), ('old', 'clean', 'kept', 9)"
        )
        con.execute("insert into rejected_rows values ('r', 'a.csv', 3, 'user', 'empty_user', ',x,1')")
        yield con


FAULTS = {
    "ranks_dense": "update recommendations set rank = 3 where user_id = 'u' and rank = 2",
    "no_duplicates": "update recommendations set item_id = 'c' where user_id = 'u'",
    "nothing_seen": "update recommendations set item_id = 'a' where user_id = 'u' and rank = 1",
    "items_known": "update recommendations set item_id = 'unknown' where user_id = 'u' and rank = 1",
    "rules_kept": "delete from ranked_items where item_id = 'c'",
    "nothing_excluded": "insert into excluded_items values ('c', 'only_where')",
    "explore_sound": "update recommendations set source = 'explore' where user_id = 'u' and rank = 2",
    "further_lists_sound": "update recommendations_in set item_id = 'a' where user_id = 'u' and rank = 1",
    "by_attribute_sound": "update recommendations_by set item_id = 'b'",
    "popular_items_sound": "update popular_items set rank = 3 where item_id = 'b'",
    "fallback_items_sound": "delete from fallback_items where attribute is null",
    "counts_agree": "delete from users where user_id = 'v'",
    "vectors_sound": "update item_vectors set vector = ['nan'::float, 1] where id = 'a'",
    "trending_sound": "update trending_items set ci_high = 1.9",
    "audiences_sound": "update audiences set user_id = 'u' where item_id = 'a'",
    "promotions_placed": "update recommendations set source = 'promoted' where user_id = 'u' and rank = 1",
    "list_ids_sound": "update recommendations set list_id = 'of v' where user_id = 'u'",
    "holdback_sound": "update recommendations set source = 'holdback' where user_id = 'u'",
    "realised_above_floor": "update realised set ci_high = -0.01 where horizon_days = 7",
    "every_user": "delete from recommendations where user_id = 'v' and rank = 2",
    "users_known": "update recommendations set user_id = 'stranger' where user_id = 'v'",
    "scores_sound": "update recommendations set score = 'nan'::double where user_id = 'v' and rank = 1",
    "similar_items_sound": "update similar_items set similar_item_id = 'a'",
    "reasons_sound": "update reasons set share = 0.2 where because_rank = 0",
    "ledger_sums": "update row_ledger set rows = 3 where run_id = 'r' and stage = 'encode'",
    "rejects_counted": "delete from rejected_rows",
    "churn_usual": "update churn set jaccard = 0.2",
    "churn_bound": "update churn set jaccard = 0.49",
    "coverage_floor": "update recommendations set item_id = 'a' where user_id = 'u'",
    "coverage_low": "update recommendations set item_id = 'unknown'",
    "scores_differ": "update recommendations set score = 1 where user_id = 'u'; delete from recommendations where user_id = 'v'",
    "fallback_share": "update recommendations set source = 'fallback' where user_id = 'u'",
}


@pytest.mark.parametrize(
    "fault",
    [
        "update reasons set because_item_id = 'c' where because_rank = 1",
        "update reasons set rank = 9",
        "update recommendations set source = 'fallback'",
        "update reasons set because_item_id = null",
        "update reasons set share = 1.3 where because_rank = 1; update reasons set share = -0.3 where because_rank = 0",
    ],
)
def test_reasons_belong_to_a_list_and_a_history(good, fault):
    query = warehouse.read_sql(next(path for path in CHECKS if path.stem == "reasons_sound"))
    good.execute(fault)
    assert good.sql(query).fetchall()


@pytest.mark.parametrize("path", [*CHECKS, *INPUT_CHECKS, *VIEWS], ids=lambda p: p.stem)
def test_comments_at_the_start_of_a_line_are_the_header(path):
    """They become the message of a check or the comment of a view."""
    lines = [line.startswith("-- ") for line in warehouse.read_sql(path).splitlines()]
    assert lines == sorted(lines, reverse=True)


@pytest.mark.parametrize("path", CHECKS, ids=lambda p: p.stem)
def test_a_check_passes_what_is_good_and_finds_what_is_planted(good, path):
    query = warehouse.read_sql(path)
    assert good.sql(query).fetchall() == []
    good.execute(FAULTS[path.stem])
    assert good.sql(query).fetchall()


def test_rising_scores_and_missing_users_are_found(good):
    good.execute("update recommendations set score = 2 where user_id = 'u' and rank = 2")
    assert good.sql(warehouse.read_sql(paths.SQL / "checks" / "output" / "scores_sound.sql")).fetchall()
    good.execute("delete from recommendations where user_id = 'v'")
    assert good.sql(warehouse.read_sql(paths.SQL / "checks" / "output" / "every_user.sql")).fetchall() == [("v", 0, 2)]


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("update recommendations_in set rank = 3 where user_id = 'u' and rank = 2", "rank"),
        ("update recommendations_in set item_id = 'c' where user_id = 'u'", "twice"),
        ("update recommendations_in set score = 2 where user_id = 'u' and rank = 2", "score"),
        ("update recommendations_in set item_id = 'a' where user_id = 'u' and rank = 1", "the user has it"),
        ("delete from ranked_in where item_id = 'd'", "excluded, or not in the fit"),
        ("update recommendations_in set source = 'explore' where rank = 2", "no new item, or too many, or at the top"),
        ("update recommendations_in set source = 'promoted' where rank = 1", "not promoted to this place"),
        ("delete from recommendations_in where user_id = 'v' and rank = 2", "length"),
        ("delete from active_users where user_id = 'v'", "length"),
        ("update wanted_in set top_n = 1", "length"),
    ],
)
def test_what_is_wrong_with_a_further_list_is_found(good, fault, problem):
    good.execute(fault)
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / "further_lists_sound.sql")
    assert problem in {row[-1] for row in good.sql(query).fetchall()}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("update recommendations_by set rank = 2", "rank"),
        ("update recommendations_by set score = 'nan'::double", "score"),
        ("delete from ranked_items where item_id = 'c'", "not listable, or without the value"),
        ("update recommendations_by set value = 'blue'", "not listable, or without the value"),
        ("update recommendations_by set item_id = 'a'", "the user has it"),
        ("update wanted set by_n = 2", "length"),
        ("insert into recommendations_by values ('u', 'kind', 'red', 2, 'c', 0.4, 'by u')", "twice"),
        ("delete from recommendations_by where user_id = 'v'", "too few values"),
        ("delete from recommendations_by", "too few values"),
        ("update wanted set by_values = 0", "too many values"),
        ("delete from active_users where user_id = 'u'", "not active"),
    ],
)
def test_what_is_wrong_with_a_list_by_attribute_is_found(good, fault, problem):
    good.execute(fault)
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / "by_attribute_sound.sql")
    assert problem in {row[-1] for row in good.sql(query).fetchall()}


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("popular_items_sound", "update popular_items set score = 3 where item_id = 'b' and window_days = 0"),
        ("popular_items_sound", "update popular_items set score = 'nan'::double where window_days = 7"),
        ("popular_items_sound", "update popular_items set item_id = 'a' where window_days = 0"),
        ("popular_items_sound", "update popular_items set item_id = 'z' where window_days = 7"),
        ("popular_items_sound", "update items set n_interactions = 0 where item_id = 'b'"),
        ("popular_items_sound", "insert into banned_items values ('b')"),
        ("fallback_items_sound", "update fallback_items set rank = 3 where rank = 2 and value = 'NZ'"),
        ("fallback_items_sound", "update fallback_items set score = 3 where rank = 2 and value = 'NZ'"),
        ("fallback_items_sound", "update fallback_items set item_id = 'a' where value = 'NZ'"),
        ("fallback_items_sound", "delete from fallback_items where rank = 2 and value is null"),
        ("fallback_items_sound", "update wanted set top_n = 1"),
        ("counts_agree", "update users set n_interactions = 3 where user_id = 'v'"),
        ("counts_agree", "delete from items where item_id = 'a'"),
        ("counts_agree", "update interactions_summary set rows = 5"),
        ("counts_agree", "update interactions_summary set users = 3"),
        ("counts_agree", "update interactions_summary set items = 3"),
        ("counts_agree", "delete from interactions_summary"),
        ("counts_agree", "update row_ledger set rows = 5 where stage = 'ingest' and reason = 'kept'"),
        ("vectors_sound", "update user_vectors set vector = [1] where id = 'u'"),
        ("vectors_sound", "update user_vectors set vector = ['inf'::float, '-inf'::float] where id = 'u'"),
        ("vectors_sound", "update user_vectors set id = 'stranger' where id = 'u'"),
        ("vectors_sound", "update biases set bias = 'inf'::double where kind = 'user'"),
        ("vectors_sound", "update biases set id = 'a' where kind = 'user'"),
        ("vectors_sound", "update predictions set prediction = 'nan'::double"),
        ("vectors_sound", "update predictions set user_id = 'stranger'"),
        ("similar_items_sound", "insert into similar_items values ('a', 2, 'b', 0.4, 'm', 'r')"),
        ("trending_sound", "insert into trending_items values (7, null, null, 2, 'c', 2, 1.5, 3, 9, 4, 'r')"),
        ("trending_sound", "update trending_items set item_id = 'z'"),
        ("trending_sound", "update trending_items set attribute = 'kind', value = 'blue'"),
        ("trending_sound", "insert into banned_items values ('c')"),
        (
            "reasons_sound",
            "insert into reasons values ('u', 1, 2, 'a', 0.3); delete from reasons where because_rank = 0",
        ),
        ("list_ids_sound", "update recommendations_in set list_id = 'of u' where user_id = 'u'"),
        ("list_ids_sound", "update recommendations_by set list_id = 'by u'"),
        ("list_ids_sound", "update recommendations set list_id = 'new' where user_id = 'u' and rank = 2"),
        ("list_ids_sound", "update recommendations_in set list_id = 'new' where user_id = 'u' and rank = 1"),
        ("list_ids_sound", "insert into recommendations_by values ('u', 'kind', 'red', 2, 'd', 0.4, 'new')"),
        ("list_ids_sound", "insert into recommendations_by values ('u', 'kind', 'blue', 2, 'd', 0.4, 'of a list')"),
        ("every_user", "update wanted set exact = false; delete from recommendations where user_id = 'v'"),
        (
            "further_lists_sound",
            "update wanted_in set exact = false; delete from recommendations_in where user_id = 'v'",
        ),
    ],
)
def test_what_is_planted_in_any_table_is_found(good, check, fault):
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / f"{check}.sql")
    assert good.sql(query).fetchall() == []
    good.execute(fault)
    assert good.sql(query).fetchall()


def test_a_catalog_may_have_columns_of_any_name(good):
    """`items` has the catalog's columns: here those of every other table, which no query may take for its own."""
    names = {name for table in tables.PUBLISHED for name in table.columns} - set(tables.ITEMS.columns)
    for columns in AUDIT_TABLES.values():
        names |= {column.split()[0] for column in columns.strip("()").split(", ")} - set(tables.ITEMS.columns)
    for name in sorted(names):
        good.execute(f"alter table items add column {warehouse.quoted(name)} varchar")
    for path in VIEWS:
        database.create_view(good, path)
        good.sql(f"from {path.stem}").fetchall()
    queries = {path.stem: warehouse.read_sql(path) for path in CHECKS}
    queries |= {name: kind.query for name, kind in sections_lists.KINDS.items()}
    for query in queries.values():
        good.sql(query).fetchall()
    assert good.sql(queries["trending"]).fetchall()[0][0] == "c"


def test_a_limit_by_attribute_may_leave_fewer_items(good):
    good.execute("update wanted set exact = false; delete from recommendations where rank = 2")
    good.execute("delete from fallback_items where rank = 2")
    for check in ("every_user", "fallback_items_sound"):
        assert good.sql(warehouse.read_sql(paths.SQL / "checks" / "output" / f"{check}.sql")).fetchall() == []


def test_a_list_of_an_inactive_user_is_found(good):
    good.execute("delete from active_users where user_id = 'v'")
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / "every_user.sql")
    assert good.sql(query).fetchall() == [("v", 2, 0)]
    good.execute("delete from recommendations where user_id = 'v'")
    assert good.sql(query).fetchall() == []


def test_a_held_back_user_has_as_many_items_as_the_other_model_lists(good):
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / "every_user.sql")
    good.execute(
        "delete from held_items where item_id = 'b'; delete from recommendations where user_id = 'v' and rank = 2"
    )
    assert good.sql(query).fetchall() == [("v", 1, 2)]
    good.execute("update recommendations set source = 'holdback' where user_id = 'v'")
    assert good.sql(query).fetchall() == []
    good.execute("delete from held_items; insert into held_items from ranked_items")
    assert good.sql(query).fetchall() == [("v", 1, 2)]


def test_a_promoted_item_is_at_its_place_or_ends_a_shorter_list(good):
    placed = warehouse.read_sql(paths.SQL / "checks" / "output" / "promotions_placed.sql")
    sound = warehouse.read_sql(paths.SQL / "checks" / "output" / "scores_sound.sql")
    good.execute("update recommendations set source = 'promoted', score = 7 where rank = 2")  # d of u; b of v
    assert good.sql(placed).fetchall() == [] == good.sql(sound).fetchall()
    good.execute("update promotable_items set place = 1")
    assert sorted(good.sql(placed).fetchall()) == [("u", 2, "d"), ("v", 2, "b")]


def test_no_list_has_an_excluded_item(good):
    query = warehouse.read_sql(paths.SQL / "checks" / "output" / "nothing_excluded.sql")
    good.execute("insert into popular_items values (1, 'p', 5, 0, 'r')")
    for item in ("b", "d", "p"):  # of similar items, recommendations, popular items
        good.execute(f"insert into excluded_items values ('{item}', 'exclude_where')")
        assert good.sql(query).fetchall() == [(item, "exclude_where")]
        good.execute(f"delete from excluded_items where item_id = '{item}'")


def test_without_a_bound_nothing_is_refused(good):
    good.execute("update bounds set min_coverage = null, max_change = null")
    for name in ("coverage_floor", "churn_bound"):
        good.execute(FAULTS[name])
        assert good.sql(warehouse.read_sql(paths.SQL / "checks" / "output" / f"{name}.sql")).fetchall() == []


def test_every_check_is_where_it_is_run():
    assert list((paths.SQL / "checks").glob("*.sql")) == []
    names = [path.stem for path in (*CHECKS, *INPUT_CHECKS)]
    assert len(set(names)) == len(names), "a name is a key of the table checks"


@pytest.mark.parametrize("path", [*CHECKS, *INPUT_CHECKS], ids=lambda p: p.stem)
def test_a_check_states_its_severity(path):
    assert re.search(r"^-- severity: (error|warn)$", warehouse.read_sql(path), re.MULTILINE)


@pytest.mark.parametrize("path", [*CHECKS, *INPUT_CHECKS, *VIEWS], ids=lambda p: p.stem)
def test_the_header_names_the_tables_that_the_body_reads(path):
    text = warehouse.read_sql(path)
    header = re.search(r"^-- reads: (.*)$", text, re.MULTILINE)
    assert header, "a file says what it reads"
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    known = {table.name for table in tables.PUBLISHED} | {*AUDIT_TABLES, "earlier_nights"}
    sources = re.findall(r"\b(?:from|join)\s+((?:\w+)(?:\s*,\s*\w+)*)", body)
    read = {name.strip() for source in sources for name in source.split(",")} & known
    assert set(header[1].split(", ")) == read


@pytest.mark.parametrize("path", VIEWS, ids=lambda p: p.stem)
def test_a_view_runs_on_empty_tables(good, path):
    for table in tables.PUBLISHED:
        good.execute(f"delete from {table.name}")
    good.execute(warehouse.read_sql(path))
    assert good.sql(f"from {path.stem}").columns


def test_every_table_view_and_column_has_a_comment(published):
    missing = """
        select table_name from duckdb_tables() where not internal and comment is null union all
        select view_name from duckdb_views() where not internal and comment is null union all
        select table_name || '.' || column_name from duckdb_columns() where not internal and comment is null"""
    assert published.sql(missing).fetchall() == []
    views = published.sql("select view_name from duckdb_views() where not internal").fetchall()
    assert {name for (name,) in views} == {path.stem for path in VIEWS}


def test_a_view_column_has_its_own_comment_or_that_of_the_first_table(tmp_path):
    path = tmp_path / "pairs.sql"
    path.write_text(
        "-- reads: one, two\n-- All pairs.\n-- b: Twice it's so\n"
        "create view pairs as select a, 2 * one.b as b, c, c + 1 as d from one join two using (a)\n"
    )
    with warehouse.connect() as con:
        con.execute("create table one (a int, b int); create table two (a int, c int)")
        for column in ("one.a", "one.b", "two.a", "two.c"):
            con.execute(f"comment on column {column} is 'of {column}'")
        database.create_view(con, path)
        rows = con.sql("select column_name, comment from duckdb_columns() where table_name = 'pairs'").fetchall()
        assert dict(rows) == {"a": "of one.a", "b": "Twice it's so", "c": "of two.c", "d": None}
        assert con.sql("select comment from duckdb_views() where view_name = 'pairs'").fetchall() == [("All pairs.",)]


@pytest.mark.parametrize("path", VIEWS, ids=lambda p: p.stem)
def test_a_view_describes_only_columns_that_it_has(published, path):
    found = map(database.HEADER_LINE.fullmatch, warehouse.read_sql(path).splitlines())
    described = {match[1] for match in found if match} - {"reads"}
    assert described <= set(published.sql(f"from {path.stem}").columns)


def test_standings_round_halves_away_from_zero_as_round_does(good):
    good.execute(
        "insert into runs by name select 'r' as run_id, 'd' as dataset, 'published' as outcome, "
        "now() as started_at, 'full' as recipe, 'x' as code_version"
    )
    values = [0.12345, -0.12345, 0.1, 0.00005, 0.99999, 12.34564, 1234.5]
    for model, value in enumerate(values):
        good.execute(
            "insert into metrics by name select 'r' as run_id, $model as model, 'test' as split, 'full' as protocol, "
            "'ndcg' as metric, 10 as cutoff, 'all' as segment, $value as value, 5 as n",
            {"model": str(model), "value": value},
        )
    good.execute(warehouse.read_sql(paths.SQL / "views" / "standings.sql"))
    found = dict(good.sql("select model, test from standings").fetchall())
    assert found == {
        str(n): good.sql(f"select round({value}::double, 4)").fetchall()[0][0] for n, value in enumerate(values)
    }
