"""Statements of a transaction count together or not at all."""

import pytest

from pipeline.storage import warehouse


def test_a_transaction_is_undone_where_it_raises_and_kept_where_it_does_not():
    with warehouse.connect(threads=1) as con:
        with warehouse.transaction(con):
            con.execute("CREATE TABLE kept AS SELECT 1 AS x; COMMENT ON COLUMN kept.x IS 'a number'")
        with pytest.raises(ZeroDivisionError), warehouse.transaction(con):
            con.execute("CREATE TABLE lost (x INTEGER)")
            raise ZeroDivisionError
        with pytest.raises(warehouse.DatabaseError), warehouse.transaction(con):
            con.execute("INSERT INTO kept VALUES (2)")
            con.execute("INSERT INTO kept VALUES ('no number')")
        assert con.sql("SHOW TABLES").fetchall() == [("kept",)]
        assert con.sql("SELECT x FROM kept").fetchall() == [(1,)]
