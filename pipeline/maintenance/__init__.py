"""What people do between nights: roll back, collect garbage, forget a user, back up and restore a home."""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "archive",
    "backup",
    "forget",
    "free_space",
    "gc",
    "home_search",
    "published_rebuild",
    "restore",
    "rollback",
    "shared_results",
    "trace_decoders",
]
