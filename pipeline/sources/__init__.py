"""Reads source files of any dialect: every line becomes a row or a rejected line with a reason.

`source_files` finds the files of a night, `assemble` reads them, `rejects` limits the share of rejected lines, and
`sniffing` proposes a data set TOML for a file.
"""

__all__ = [
    "arrow_reader",
    "assemble",
    "attributes",
    "blocks",
    "catalog_ids",
    "catalog_reader",
    "column_names",
    "column_types",
    "connectors",
    "csv_reader",
    "dialect",
    "duckdb_reader",
    "exclusions",
    "extra_columns",
    "file_kinds",
    "file_parts",
    "file_reader",
    "files",
    "incremental",
    "json_arrow",
    "json_lines",
    "line_reader",
    "model_attributes",
    "number_formats",
    "number_looks",
    "parquet_cells",
    "parquet_writer",
    "parsing",
    "plain_text",
    "rejects",
    "row_estimate",
    "sniffing",
    "source_files",
    "unused_times",
    "user_traces",
]
