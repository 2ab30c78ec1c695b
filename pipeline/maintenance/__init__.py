"""What people do between nights: roll back, collect garbage, forget a user."""

__all__ = ["forget", "gc", "home_search", "published_rebuild", "rollback", "trace_decoders"]
