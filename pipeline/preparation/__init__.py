"""Filters, conditions, ids and splitters: pure functions on Polars frames."""

__all__ = ["conditions", "filters", "ids", "published_split", "split_checks", "splitters"]
