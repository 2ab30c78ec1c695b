"""Reading source files of any dialect, exactly: every line becomes a row or a rejected row with its reason.

`sniffing` proposes a data set TOML for a file.
"""

__all__ = [
    "assemble",
    "blocks",
    "catalog_reader",
    "dialect",
    "duckdb_reader",
    "exclusions",
    "file_reader",
    "files",
    "incremental",
    "line_reader",
    "parquet_writer",
    "parsing",
    "rejects",
    "sniffing",
    "source_files",
    "text_reader",
    "user_traces",
]
