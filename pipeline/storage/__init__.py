"""What is at rest: the lake of stage results, the journal of nights, locks, and the published generations.

`warehouse` is the only importer of duckdb.
"""

__all__ = [
    "checksums",
    "copying",
    "forgotten_users",
    "garbage",
    "generations",
    "home_identity",
    "home_paths",
    "journal",
    "lake",
    "lock",
    "operation_log",
    "optional_steps",
    "reader",
    "state_files",
    "statements",
    "warehouse",
]
