"""Copies of the published tables elsewhere: a schema of PostgreSQL, Parquet in a folder or a bucket.

The published file of the home stays the truth. A plain night imports nothing of this package.
"""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "copy_text",
    "delivery",
    "errors",
    "health",
    "parquet",
    "places",
    "postgres",
    "postgres_grants",
    "postgres_publication",
    "postgres_session",
    "postgres_tables",
    "published_file",
    "record",
]
