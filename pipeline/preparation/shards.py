"""Shards: contiguous ranges of users, by source id, so that the data stages hold only a part of the rows at a time.

Results stay single files. Their row groups follow the shards, and the manifest has each shard's rows, so that a later
stage reads one shard, and everybody else the whole file.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.settings import Settings
from pipeline.core.memory import parse_bytes, total_memory
from pipeline.preparation.capacity import BYTES_KEPT
from pipeline.preparation.ids import LAKE_PARQUET
from pipeline.storage import warehouse

LEAST_ROWS = 500_000
"""Rows of a shard, at least, where the number of shards is automatic."""
MOST_SHARDS = 500
"""Each is an open file while rows are scattered."""
ROWS_AT_ONCE = 2_000_000
"""Rows that are scattered at a time: a row group of `1_raw`."""


def data_memory(settings: Settings) -> int:
    """Bytes of memory for the data stages: half of `memory_limit`, whose default is half of the machine's memory."""
    limit = parse_bytes(settings.memory_limit) if settings.memory_limit else total_memory() // 2
    return max(1, limit // 2)


def number_of_shards(settings: Settings, rows: int) -> int:
    """`scale.shards`; if that is 0, as many as `rows` rows of the source need to fit into `data_memory`."""
    if settings.scale.shards:
        return settings.scale.shards
    needed = math.ceil(rows * BYTES_KEPT / data_memory(settings))
    return max(1, min(needed, math.ceil(rows / LEAST_ROWS), MOST_SHARDS))


def cut(raw: Path, shards: int, settings: Settings, scratch: Path) -> list[str]:
    """The first user of every shard but the first, sorted: at most `shards` ranges of users with about as many rows.

    A user's rows are never divided, so there may be fewer shards. DuckDB counts, and spills to `scratch`.
    """
    con = warehouse.connect(
        threads=settings.threads, memory_limit=f"{max(data_memory(settings) >> 20, 64)}MiB", temporary=scratch / "spill"
    )
    try:
        found = con.sql(
            f"""
            WITH counts AS (
                SELECT CAST(user_id AS VARCHAR) AS user_id, count(*) AS n
                FROM read_parquet({warehouse.literal(raw)}) GROUP BY ALL
            ), running AS (
                SELECT user_id, sum(n) OVER (ORDER BY user_id) - n AS before, sum(n) OVER () AS total FROM counts
            )
            SELECT min(user_id) FROM running GROUP BY before * {int(shards)} // total ORDER BY 1
            """
        ).fetchall()
    finally:
        con.close()
    return [user for (user,) in found[1:]]


def scatter(raw: Path, borders: list[str], folder: Path) -> list[Path]:
    """Copy the rows of `raw` into one file per shard, in their order; `borders` as of `cut`."""
    paths = [folder / f"shard-{number:04d}.parquet" for number in range(len(borders) + 1)]
    first = pl.Series(borders, dtype=pl.String)
    with ExitStack() as stack:
        writers = [stack.enter_context(RowsWriter(path, **LAKE_PARQUET)) for path in paths]
        for rows in _row_groups(raw):
            users = rows["user_id"].unique()
            shard_of = pl.DataFrame({"user_id": users, "shard": first.search_sorted(users.cast(pl.String), "right")})
            shard = rows.join(shard_of, on="user_id", how="left", maintain_order="left")["shard"]
            for number, writer in enumerate(writers):
                writer.add(rows.filter(shard == number))
    return paths


def _row_groups(path: Path) -> Iterator[pl.DataFrame]:
    """The rows of a file in order, some at a time; ids are Categorical."""
    with pq.ParquetFile(path) as file:
        for batch in range(file.num_row_groups):
            whole = pl.DataFrame(pl.from_arrow(file.read_row_group(batch)))
            for rows in whole.iter_slices(ROWS_AT_ONCE):
                yield rows.cast({"user_id": pl.Categorical, "item_id": pl.Categorical})


class RowsWriter:
    """Writes a Parquet file of which never more than what is added at a time is in memory.

    `repeated`: columns of numbers that are stored as dictionaries, as texts are. `required`: columns without nulls.
    """

    def __init__(
        self, path: Path, compression: str, statistics: bool = False, row_group_size: int = 2**21,
        repeated: Sequence[str] = (), required: Sequence[str] = (),
    ):  # fmt: skip
        self._path, self._rows_of_group = path, row_group_size
        self._repeated, self._required = repeated, required
        self._options: dict[str, Any] = {
            "compression": "none" if compression == "uncompressed" else compression,
            "write_statistics": statistics,
        }
        self._writer: pq.ParquetWriter | None = None
        self.rows: list[int] = []
        """Rows of each frame that was added."""

    def add(self, rows: pl.DataFrame) -> None:
        """Append a frame. All have the same schema; the first one may be empty, but there must be one."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        fields = [field.with_nullable(field.name not in self._required) for field in table.schema]
        table = pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))
        if self._writer is None:
            numbers = [name for name, kind in rows.schema.items() if kind.is_numeric() or kind.is_temporal()]
            texts = [name for name in rows.columns if name not in numbers]
            self._options["use_dictionary"] = [*texts, *self._repeated]
            self._writer = pq.ParquetWriter(self._path, table.schema, **self._options)
        if rows.height:
            self._writer.write_table(table, row_group_size=self._rows_of_group)
        self.rows.append(rows.height)

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer:
            self._writer.close()


@dataclass(frozen=True)
class Shards:
    """The shards of a stage's result."""

    path: Path
    """File with the rows, shard after shard."""
    rows: list[int]
    """Rows of each."""

    def read(self, number: int, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows of a shard."""
        rows = pl.scan_parquet(self.path).slice(sum(self.rows[:number]), self.rows[number])
        return (rows.select(columns) if columns else rows).collect()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return (self.read(number) for number in range(len(self.rows)))
