"""One TOML file per shipped data set, and the generators of the synthetic ones."""

__all__ = [
    "anime_like",
    "loader",
    "names",
    "ncf_timed",
    "sample",
    "sample_reading",
    "sample_shop",
    "sample_titles",
    "shop_log",
    "synthetic",
]
