"""Every table's schema, once.

Polars schema, DuckDB DDL, comments and checks are derived from these declarations. `reasons` lists why rows
are dropped.
"""

__all__ = ["reasons", "table", "tables"]
