"""The night's report as one HTML file."""

__all__ = ["charts", "page", "sections_data", "sections_lists", "sections_models"]
