"""Filters, conditions, ids, encoding and splitters: functions on Polars frames."""

__all__ = ["conditions", "encoding", "events", "filters", "ids", "published_split", "split_checks", "splitters"]
