"""What a reader may run: every statement type and table function of this DuckDB stands in a list; both locks hold."""

import ast
import json
import re
from types import SimpleNamespace

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.cli import main
from flows.notebook import Published
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import CHECKOUT
from pipeline.storage import reader, statements, warehouse
from tests.support.small_tables import publish

ALLOWED = {
    "SELECT": (
        "select 1", "from users", "from users select user_id limit 2", "values (1), (2)", "table users",
        "with x as (from users) select count(*) from x", "describe users", "describe", "summarize users",
        "show tables", "show all tables", "show databases", "select * from (describe users)", "select 1;",
        "with recursive r as (select 1 as a union all select a + 1 from r where a < 3) from r",
        "/* copy */ select 'copy to' as \"copy\"", "(select 1) union all (select 2)", "from range(3)",
        "from unnest([1, 2])", "from pragma_table_info('users')", "select unnest([1, 2]), nullif(1, 2)",
        "pivot items on item_id in ('i1', 'i2') using count(*)", "unpivot users on n_interactions into name n value v",
        "from duckdb_tables() select table_name", "from query_table('users')", "select lambda_x from (select 1 as lambda_x)",
        "select count(*) from users, lateral (select length(user_id) as n) where n > 1",
        "select *, row_number() over (order by user_id) as place from users qualify place < 3",
    ),
    "EXPLAIN": (
        "explain select 1", "explain analyze from users", "explain (format json) select 1", "explain (select 1)",
        "-- é\nexplain /* é */ analyze -- é\n select 'é'",
    ),
    "MULTI": (
        "pivot users on n_interactions using count(*)", "pivot (from items limit 3) on item_id",
        "with x as (from items limit 2) pivot x on item_id using first(title)",
        "from (pivot users on n_interactions using count(*))", "explain pivot users on n_interactions",
        "explain analyze pivot users on n_interactions", "pivot items on \"title\" using count(*) -- copy",
    ),
    "PRAGMA": ("pragma table_info('users')", "pragma show_tables", "pragma database_list", "pragma version;"),
}  # fmt: skip
REFUSED = {
    "SELECT": (
        "with x as (copy (select 1) to '{wal}') select 1", "with x as (insert into users values ('a', 1)) select 1",
        "with x as (delete from users returning *) from x", "with x as (update users set n_interactions = 1) select 1",
        "select (with x as (copy (select 1) to '{wal}') select 1)", "from checkpoint()", "from system.main.CHECKPOINT()",
        "from \"read_text\"('{live}')", "from query('select 1')", "select nextval('s')", "select Write_Log('x')",
        "from json_execute_serialized_sql(json_serialize_sql('select 1'))", "from read_duckdb('{live}')",
        "select 1 where exists (from glob('*'))", "select 1; copy users to '{wal}'", "select 1; select 2",
    ),
    "EXPLAIN": (
        "explain analyze copy (select 'x') to '{wal}'", "explain (analyze) copy (select 1) to '{wal}'",
        "explain analyze with x as (copy (select 1) to '{wal}') select 1", "explain create table t as select 1",
        "explain analyze from checkpoint()", "explain analyze insert into users values ('a', 1)",
        "EXPLAIN /* x */ ANALYZE /* y */ COPY users TO '{wal}'",
    ),
    "MULTI": (
        "with x as (copy (select 1) to '{wal}') pivot users on n_interactions",
        "copy (pivot users on n_interactions) to '{wal}'", "explain analyze copy (pivot users on user_id) to '{wal}'",
        "explain (format json) copy (pivot users on user_id) to '{wal}'",
        "create table t as pivot users on n_interactions", "pivot (from read_text('{live}')) on filename",
        "pivot (from \"read_text\" /* x */ ('{live}')) on filename", "pivot (from checkpoint()) on Success",
    ),
    "PRAGMA": (
        "pragma enable_profiling", "pragma import_database('/tmp')", "pragma disable_checkpoint_on_shutdown",
        "pragma force_checkpoint", "pragma json_execute_serialized_sql('x')", "import database '/tmp'",
        "copy from database tiny to memory",
    ),
    "INSERT": ("insert into users values ('a', 1)",),
    "UPDATE": ("update users set n_interactions = 1",),
    "CREATE": ("create temp table t as select 1", "create macro f() as 1", "create secret (type http)"),
    "DELETE": ("delete from users", "truncate users"),
    "PREPARE": ("prepare q as select 1",),
    "EXECUTE": ("execute q",),
    "ALTER": ("alter table users rename to x", "comment on table users is 'x'"),
    "TRANSACTION": ("begin", "commit", "rollback"),
    "COPY": ("copy users to '{wal}'", "copy (select 'x'::blob) to '{wal}' (format blob)", "copy users from '{live}'"),
    "VACUUM": ("vacuum", "analyze"),
    "DROP": ("drop table users", "deallocate q"),
    "EXPORT": ("export database '/tmp/x'",),
    "CALL": ("call checkpoint()", "checkpoint", "force checkpoint", "call pragma_version()"),
    "SET": ("set threads = 1", "reset threads", "use memory", "set variable x = 1", "pragma threads = 1"),
    "LOAD": ("load json", "install json"),
    "ATTACH": ("attach '{live}' as x", "attach ':memory:' as x"),
    "DETACH": ("detach tiny",),
    "MERGE_INTO": ("merge into users using items on true when matched then delete",),
}  # fmt: skip
NEVER_PARSED = {
    "INVALID", "ANALYZE", "COPY_DATABASE", "VARIABLE_SET", "CREATE_FUNC", "RELATION", "EXTENSION", "LOGICAL_PLAN",
    "UPDATE_EXTENSIONS",
}  # fmt: skip
"""Types that no text has."""
REACHING_OUT = {
    "arrow_scan", "arrow_scan_dumb", "checkpoint", "create_external_resource", "deregister_external_resource",
    "destroy_external_resource", "disable_logging", "disable_profiling", "duckdb_available_metrics",
    "duckdb_connection_count", "duckdb_eviction_queues", "duckdb_extension_repositories", "duckdb_extensions",
    "duckdb_external_file_cache", "duckdb_external_resource_types", "duckdb_external_resources",
    "duckdb_grammar_extensions", "duckdb_log_contexts", "duckdb_logs", "duckdb_logs_parsed",
    "duckdb_prepared_statements", "duckdb_profiling_settings", "duckdb_secret_type_parameters", "duckdb_secret_types",
    "duckdb_secrets", "duckdb_temporary_files", "enable_logging", "enable_profiling", "force_checkpoint", "glob",
    "json_execute_serialized_sql", "pandas_scan", "parquet_bloom_probe", "parquet_file_metadata",
    "parquet_full_metadata", "parquet_kv_metadata", "parquet_metadata", "parquet_scan", "parquet_schema",
    "python_arrow_scan", "python_map_function", "query", "read_blob", "read_csv", "read_csv_auto", "read_duckdb",
    "read_json", "read_json_auto", "read_json_objects", "read_json_objects_auto", "read_ndjson", "read_ndjson_auto",
    "read_ndjson_objects", "read_parquet", "read_single_csv_file", "read_single_json_file",
    "read_single_parquet_file", "read_text", "register_external_resource", "register_external_resource_type",
    "seq_scan", "sniff_csv", "truncate_duckdb_logs", "which_secret",
}  # fmt: skip
"""Table functions that read or write files, change settings or state, or run text as a statement; refused."""
HARMLESS = {
    "current_connection_id", "current_query", "current_query_id", "current_transaction_id", "error", "gen_random_uuid",
    "random", "setseed", "sleep_ms", "stats", "uuid", "uuidv4", "uuidv7", "vector_type",
}  # fmt: skip
"""Volatile scalar functions that change nothing beyond their own connection."""


WRAPPERS = (
    "with x as ({}) select 1", "with x as materialized ({}) from x", "explain {}", "explain analyze {}",
    "explain (analyze, format json) {}", "select * from ({})", "({})", "pivot ({}) on a", "/* select */ {}", "\n{} ;",
    "with y as (select 1 as a), x as ({}) pivot y on a", "summarize {}", "select 1 where exists ({})", "describe {}",
    "with recursive r as (select 1 as a union all ({})) from r", "select (select count(*) from ({}) as t)",
)  # fmt: skip
WRITING = (
    "copy users to 'x'", "copy (select 1) to 'x' (format blob)", "insert into users values ('a', 1)",
    "delete from users", "update users set n_interactions = 1", "from checkpoint()", "select * from read_text('x')",
    "call checkpoint()", "create table t as select 1", "select nextval('s')", "from query('select 1')", "attach 'x' as y",
)  # fmt: skip
READING = ("select 1 as a", "from users", "select user_id as a from users", "values (1)", "select 'copy to' as a")


@pytest.fixture
def live(run):
    return publish(run)


@pytest.fixture
def con(live):
    with reader.open_file(live) as con:
        yield con


def test_queries_of_every_kind_are_answered(con):
    for kind, group in ALLOWED.items():
        for text in group:
            types = warehouse.statement_types(con, text)
            assert types == [kind], f"{text}: {types}"
            assert reader.ask(con, text).height, text


def test_nothing_else_passes_either_lock(con, live):
    """Each statement is refused by the rules; and, run without them, changes no file."""
    before, there = live.read_bytes(), sorted(live.parent.rglob("*"))
    for kind, group in REFUSED.items():
        for template in group:
            text = template.format(live=live, wal=f"{live}.wal")
            assert kind in warehouse.statement_types(con, text), f"{text}: {warehouse.statement_types(con, text)}"
            with pytest.raises(UnreadableInput, match="the query was refused"):
                reader.ask(con, text)
            try:
                relation = con.sql(text)
                _ = relation and relation.fetchall()
            except duckdb.Error:
                pass
            assert live.read_bytes() == before and sorted(live.parent.rglob("*")) == there, text


def test_every_statement_type_of_this_duckdb_is_known():
    known = {*ALLOWED, *REFUSED, *NEVER_PARSED}
    there = set(duckdb.StatementType.__members__)
    assert there <= known, f"new in this DuckDB, to be allowed or refused: {there - known}"


def test_every_table_function_of_this_duckdb_is_known(con):
    known, there = statements.TABLE_FUNCTIONS | REACHING_OUT, warehouse.table_functions(con)
    assert not statements.TABLE_FUNCTIONS & REACHING_OUT
    assert there <= known, f"new in this DuckDB, to be allowed or refused: {there - known}"
    for name in there & REACHING_OUT:
        for text in (
            f"from {name}()",
            f"from {name.upper()}('x')",
            f'pivot (from "{name}"()) on a',
            f"explain from {name}()",
        ):
            with pytest.raises(statements.NotAQuery, match=name):
                statements.check(con, text)


def test_every_pragma_and_volatile_function_of_this_duckdb_is_known(con):
    volatile = "select function_name from duckdb_functions() where function_type = 'scalar' and "
    volatile += "(has_side_effects or stability = 'VOLATILE')"
    there = {name for (name,) in con.sql(volatile).fetchall()}
    assert there <= HARMLESS | statements.REFUSED_FUNCTIONS, there - HARMLESS - statements.REFUSED_FUNCTIONS
    pragmas = {
        n for (n,) in con.sql("select function_name from duckdb_functions() where function_type = 'pragma'").fetchall()
    }
    for name in pragmas - statements.PRAGMAS:
        with pytest.raises(statements.NotAQuery):
            statements.check(con, f"pragma {name}")


def test_the_reader_sees_one_file_and_no_variable_of_python(con):
    frame = pl.DataFrame({"a": [1]})  # DuckDB would find it by its name
    assert duckdb.sql("from frame").fetchall() == [(1,)] and frame.height
    for text in ("from frame", "from '/etc/passwd'", "from 'x.parquet'", "from query_table('/etc/passwd')"):
        with pytest.raises(UnreadableInput, match="the query failed"):
            reader.ask(con, text)
    with pytest.raises(UnreadableInput, match="the query failed: Parser Error"):
        reader.ask(con, "selec 1")
    with pytest.raises(UnreadableInput, match="nested too deeply"):
        reader.ask(con, "select " + "+".join("1" * 900))
    for text in ("", " ; ", "-- nothing"):
        with pytest.raises(UnreadableInput, match="there is no statement"):
            reader.ask(con, text)


def test_values_are_bound_in_every_kind(con):
    assert reader.ask(con, "from users where user_id = $user", {"user": "u1"}).height == 1
    assert reader.ask(con, "select * from range($n)", {"n": 3}).height == 3


COLUMNS = (
    "true", "1::tinyint", "-2::smallint", "3", "4::bigint", "5::utinyint", "6::usmallint", "7::uinteger", "8::ubigint",
    "0.1::float", "0.1::double", "'nan'::double", "'infinity'::double", "'é''\t'", "date '2026-01-02'",
    "timestamp '2026-01-02 03:04:05.678901'", "timestamptz '2026-01-02 03:04:05+02'", "1.50::decimal(9, 2)",
    "[1, null]", "{'a': 1}", "map {'a': 1}", "'a'::enum ('a', 'b')", "'a'::blob", "time '01:02:03'", "1::hugeint",
    "'0f8fad5b-d9cb-469f-a165-70867728950e'::uuid", "timestamp_s '2026-01-02 03:04:05'", "null", "null::varchar",
)  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
def test_records_are_those_of_the_frame(con, column):
    text = f"select {column} as x, 1 as y union all select null, 2 order by y"
    assert repr(reader.records(con, text)) == repr(reader.ask(con, text).to_dicts())


def test_records_of_odd_queries_are_those_of_the_frame(con):
    for text in ("select 1 as a, 2 as a", "from users where false", "describe users", "show tables", "from users"):
        assert reader.records(con, text) == reader.ask(con, text).to_dicts(), text
    for text in ("selec 1", "select 1 / 'a'::int", "select interval 1 day", ""):
        for ask in (reader.ask, reader.records):
            with pytest.raises(UnreadableInput):
                ask(con, text)


def test_two_readers_of_a_process_share_the_locks(live):
    with (
        reader.open_file(live) as one,
        reader.open_file(live) as other,
        warehouse.connect(live, read_only=True) as third,
    ):
        for con in (one, other, third):
            with pytest.raises(duckdb.Error):
                con.execute(f"copy users to '{live}.wal'")
        assert reader.ask(other, "select count(*) as n from users")["n"].item() == 20


def test_a_query_beyond_the_memory_says_what_to_do(run, monkeypatch, capsys):
    publish(run)
    monkeypatch.setenv(reader.MEMORY_LIMIT, "20MB")
    large = "select count(*) as n from (select distinct md5(range::varchar) as a from range(2_000_000))"
    home = str(run.home.root)
    assert main(["--home", home, "sql", "tiny", large]) == 2
    output = capsys.readouterr().err
    assert "needs more memory than" in output and reader.MEMORY_LIMIT in output and "do not spill" in output, output
    monkeypatch.setenv(reader.MEMORY_LIMIT, "2GB")
    assert main(["--home", home, "sql", "tiny", large, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 2_000_000}]


def test_there_is_no_other_way_to_open_a_published_file():
    for path in [*CHECKOUT.glob("flows/**/*.py"), *CHECKOUT.glob("pipeline/**/*.py")]:
        if "read_only" not in (text := path.read_text()):
            continue
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        opened = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "warehouse.connect"]
        read_only = [call for call in opened if "read_only=" in call]
        of_its_own = path.match("doctor/installation.py")
        assert len(read_only) <= of_its_own, f"{path.name}: use reader.open_file or reader.open_live"


@given(st.lists(st.sampled_from(WRAPPERS), max_size=4), st.sampled_from([*WRITING, *READING]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_is_wrapped_a_statement_that_writes_is_refused(con, wrappers, statement):
    text = statement
    for wrapper in wrappers:
        text = wrapper.replace("{}", text)
    try:
        parsed = bool(warehouse.statement_types(con, text))
    except duckdb.Error:
        parsed = False
    if not parsed:
        return
    if statement in WRITING:
        with pytest.raises(statements.NotAQuery):
            statements.check(con, text)
    elif not re.search(r"explain \(?analyze.*pivot", text, re.IGNORECASE | re.DOTALL):  # has no tree: refused
        statements.check(con, text)


def test_the_command_and_the_notebook_use_the_same_door(run, capsys):
    live = publish(run)
    before, night = live.read_bytes(), Published("tiny", run.home.root)
    for text in (f"copy (select 'x'::blob) to '{live}.wal' (format blob)", f"explain analyze copy users to '{live}'"):
        assert main(["--home", str(run.home.root), "sql", "tiny", text]) == 2
        assert "COPY is not allowed here" in capsys.readouterr().err
        with pytest.raises(UnreadableInput, match="COPY is not allowed here"):
            night.sql(text)
    assert live.read_bytes() == before and not live.with_name(live.name + ".wal").exists()
    assert night.sql("pivot users on n_interactions using count(*)").height == 20
    with duckdb.connect(str(night.file), read_only=True), pytest.raises(UnreadableInput, match="open already"):
        night.sql("from users")


def test_a_notebook_without_ipywidgets_can_connect():
    """There DuckDB has no progress bar, and refuses to switch it off."""
    executed = []

    class Notebook:
        def sql(self, query):
            return SimpleNamespace(fetchall=lambda: [(False,)])

        def execute(self, query):
            executed.append(query)

    warehouse._without_progress_bar(Notebook())
    assert not executed
    with warehouse.connect() as con:
        assert con.sql("select current_setting('enable_progress_bar')").fetchall() == [(False,)]


def test_within_one_process_attaching_reads_the_newest_night(tmp_path):
    """The advice of sql/README.md. DuckDB shares a file that is open in the process, whatever has its name by now."""
    live = tmp_path / "live.duckdb"

    def publish(night: int) -> None:
        made = tmp_path / "made.duckdb"
        with duckdb.connect(made) as con:
            con.execute(f"create table nights as select {night} as night")
            con.execute("create view newest as select max(night) as night from nights")
        made.replace(live)

    def attached() -> int:
        with duckdb.connect() as con:
            con.execute(f"attach '{live}' as night (read_only)")
            con.execute("use night")
            return con.sql("from newest").fetchall()[0][0]

    def connected() -> int:
        with duckdb.connect(live, read_only=True) as con:
            return con.sql("from newest").fetchall()[0][0]

    publish(1)
    with duckdb.connect(live, read_only=True):
        publish(2)
        assert (connected(), attached()) == (1, 2)
        publish(3)
        assert (connected(), attached()) == (1, 3)
    assert connected() == 3
