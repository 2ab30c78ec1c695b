"""The schemas of all tables.

Polars schema, DuckDB DDL, comments and checks are derived from these declarations. `reasons` lists why rows are
kept or dropped.
"""

# pyright: reportUnsupportedDunderAll=false
__all__ = ["backtest_tables", "click_tables", "common_columns", "list_tables", "reasons", "table", "tables"]
