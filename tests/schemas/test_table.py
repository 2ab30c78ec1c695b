"""Contracts: frame to DDL to DuckDB and back with the same schema; wrong frames are refused."""

import polars as pl
import pytest

from pipeline.core.errors import ContractError
from pipeline.schemas import table, tables
from pipeline.schemas.table import Table
from pipeline.storage import warehouse

ALL = sorted((t for t in vars(tables).values() if isinstance(t, Table)), key=lambda t: t.name)


@pytest.mark.parametrize("table", ALL, ids=lambda t: t.name)
def test_schema_survives_duckdb(table):
    with warehouse.connect() as con:
        con.execute(table.ddl)
        warehouse.insert(con, table.name, table.empty())
        assert con.sql(f"select * from {table.name}").pl().schema == table.schema
        comments = con.sql(
            "select comment from duckdb_columns() where table_name = $name", params={"name": table.name}
        ).fetchall()
    assert all(comment for (comment,) in comments)


def test_check_refuses_wrong_frames():
    good = pl.DataFrame(
        {"user_id": ["a"], "n_interactions": [1], "first_seen": [None], "last_seen": [None]},
        schema=tables.USERS.schema,
    )
    assert tables.USERS.check(good).equals(good)
    with pytest.raises(ContractError, match="missing columns"):
        tables.USERS.check(good.drop("user_id"))
    with pytest.raises(ContractError, match="n_interactions: String"):
        tables.USERS.check(good.with_columns(pl.col("n_interactions").cast(pl.String)))
    with pytest.raises(ContractError, match="1 nulls"):
        tables.USERS.check(good.with_columns(user_id=pl.lit(None, dtype=pl.String)))
    with pytest.raises(ContractError, match="not unique"):
        tables.USERS.check(pl.concat([good, good]))


def test_identifiers_come_from_an_allow_list():
    assert warehouse.identifier("user_id") == '"user_id"'
    for name in ('a"b', "a b", "a;drop", ""):
        with pytest.raises(ValueError):
            warehouse.identifier(name)
    assert warehouse.literal("it's") == "'it''s'"


@pytest.mark.parametrize("hashes_differ", [True, False])
@pytest.mark.parametrize("few", [1, 10**6])
def test_a_repeated_key_is_found_in_a_table_of_any_size(
    monkeypatch: pytest.MonkeyPatch, few: int, hashes_differ: bool
) -> None:
    rows = pl.DataFrame({"user_id": ["a", "b", "b", "a"], "rank": [1, 1, 2, 2]}, schema_overrides={"rank": pl.Int32})
    key = Table("keyed", "", ("user_id", "rank"), {n: table.Column(rows.schema[n], "") for n in rows.columns})
    monkeypatch.setattr(table, "FEW", few)
    if not hashes_differ:
        monkeypatch.setattr(pl.DataFrame, "hash_rows", lambda keys: pl.repeat(7, keys.height, eager=True))
    assert key.check(rows).equals(rows)
    assert key.check(rows.clear()).is_empty()
    with pytest.raises(ContractError, match="not unique"):
        key.check(pl.concat([rows, rows[2:3]]))
