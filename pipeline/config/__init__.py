"""What a run is asked to do: the settings of a data set, a recipe and a run, and how TOML files, environment variables
and `--set` are merged into them.
"""

__all__ = ["base", "dataset", "loader", "publishing", "run", "settings"]
