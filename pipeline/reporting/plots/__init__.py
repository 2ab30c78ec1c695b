"""The plots of a night, drawn by matplotlib in a separate process."""

__all__ = ["data", "figure", "items", "night", "search", "worker"]
