"""Sources that are not files of this machine: queries on files, database files and servers, and objects of a bucket.

`fetching` writes what a night needs of them to files; everything else reads those. The packages of the extra
`connectors` are imported only here, and only where a data set needs them.
"""

__all__ = [
    "fetched_objects",
    "fetching",
    "file_queries",
    "object_stores",
    "postgres_queries",
    "problems",
    "proposals",
    "query_results",
    "sqlite_queries",
]
