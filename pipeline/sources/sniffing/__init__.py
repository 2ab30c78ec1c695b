"""Sniffs an unknown file: its dialect, the roles of its columns, and the item catalog next to it."""

__all__ = [
    "availability", "column_doubts", "column_roles", "encodings", "event_columns", "events_section", "interactions",
    "items", "layouts", "preview", "rating_words", "shapes",
]  # fmt: skip
