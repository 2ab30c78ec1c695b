"""Stored state: the lake of stage results, the journal of runs, locks, and the published generations.

Only `warehouse` imports duckdb.
"""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "buckets",
    "checksums",
    "copying",
    "expressions",
    "file_stores",
    "forgotten_users",
    "garbage",
    "generations",
    "home_identity",
    "home_paths",
    "journal",
    "journal_entries",
    "journal_records",
    "lake",
    "list_hints",
    "lock",
    "operation_log",
    "optional_steps",
    "reader",
    "running_servers",
    "secret_files",
    "shared_homes",
    "shared_lake",
    "sqlite_files",
    "state_files",
    "statements",
    "warehouse",
]
