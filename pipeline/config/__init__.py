"""The settings of data sets, recipes and runs, merged from TOML files, environment variables and `--set`."""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "attributes",
    "base",
    "dataset",
    "destinations",
    "lake",
    "loader",
    "publishing",
    "queries",
    "run",
    "settings",
    "toml_files",
]
