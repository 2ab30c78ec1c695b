"""Sniffs an unknown file: its dialect, the roles of its columns, and the item catalog next to it."""

__all__ = ["availability", "column_roles", "event_columns", "interactions", "items", "preview", "rating_words"]
