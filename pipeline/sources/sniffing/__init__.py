"""Sniffs an unknown file: its dialect, the roles of its columns, and the item catalog next to it."""

__all__ = ["column_roles", "encodings", "interactions", "items", "layouts", "preview", "shapes"]
