"""Filters, conditions, ids, encoding and splitters: functions on Polars frames."""

__all__ = [
    "capacity",
    "clean_rows",
    "clean_shards",
    "encode_shards",
    "encoding",
    "events",
    "filters",
    "id_columns",
    "ids",
    "order_statistics",
    "published_split",
    "row_names",
    "seen",
    "shard_parts",
    "shards",
    "split_checks",
    "split_parts",
    "split_shards",
    "splitters",
]
