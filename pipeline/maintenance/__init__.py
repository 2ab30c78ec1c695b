"""What people do between nights: roll back, collect garbage, forget a user."""

__all__ = ["forget", "gc", "home_search", "rollback", "trace_decoders"]
