"""Sniffs an unknown file: its dialect, the roles of its columns, and the item catalog next to it."""

__all__ = [
    "availability", "cancellations", "column_doubts", "column_nouns", "column_roles", "encodings", "event_columns",
    "events_section", "id_graph", "interactions", "items", "layouts", "preview", "rating_words", "shapes",
]  # fmt: skip
