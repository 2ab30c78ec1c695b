"""The pictures of a night, drawn by matplotlib in a process of their own."""

__all__ = ["data", "figure", "items", "night", "search", "worker"]
