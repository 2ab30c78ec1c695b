"""The schemas of all tables.

Polars schema, DuckDB DDL, comments and checks are derived from these declarations. `reasons` lists why rows are
kept or dropped.
"""

__all__ = ["reasons", "table", "tables"]
