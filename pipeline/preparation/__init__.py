"""Filters, conditions, ids, encoding and splitters: functions on Polars frames."""

__all__ = [
    "capacity",
    "encoding",
    "events",
    "filters",
    "ids",
    "published_split",
    "row_names",
    "split_checks",
    "splitters",
]
