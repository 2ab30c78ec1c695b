"""Columns of source ids as dense codes, read one row group at a time: only distinct ids are looked at as texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preparation.ids import any_twice

IDS = ("user_id", "item_id")
_CELLS, _FEW = 2**20, 2000
"""Pairs of user and item that are looked at together, 4 MB, and rows that are too few for it to be worth while."""


@dataclass(frozen=True)
class Coded:
    """A column of ids."""

    codes: np.ndarray
    """Place of each row's id in `ids`, (R,) int32."""
    ids: pl.Series
    """The distinct ids that rows have, (N,), sorted by their UTF-8 bytes."""


def read_coded(path: Path, columns: Sequence[str] = IDS) -> list[Coded]:
    """These columns of a Parquet file. None of them may have nulls."""
    with pq.ParquetFile(path, read_dictionary=list(columns)) as file:
        found = [_Codes(file.metadata.num_rows) for _ in columns]
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=list(columns))
            for codes, column in zip(found, columns, strict=True):
                for chunk in rows[column].chunks:
                    codes.add(chunk)
    return [codes.sorted() for codes in found]


def count_rows(path: Path, column: str) -> pl.DataFrame:
    """The distinct ids of a column without nulls, sorted, and `rows`, how many have each.

    A database hashes the id of every row, which takes four times as long.
    """
    texts, counts = [pl.Series(dtype=pl.String)], [np.zeros(0, dtype=np.int64)]
    with pq.ParquetFile(path, read_dictionary=[column]) as file:
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, columns=[column])[column].chunks:
                texts.append(pl.Series(chunk.dictionary, dtype=pl.String))
                counts.append(np.bincount(_numbers(chunk.indices), minlength=len(chunk.dictionary)))
    each = pl.DataFrame({column: pl.concat(texts), "rows": np.concatenate(counts)})
    return each.filter(pl.col("rows") > 0).group_by(column).agg(pl.col("rows").sum()).sort(column)


def any_pair_twice(user: Coded, item: Coded) -> bool:
    """Whether two rows have the same user and item."""
    starts = np.append(0, np.flatnonzero(user.codes[1:] != user.codes[:-1]) + 1)  # where a run of one user begins
    together = _CELLS // max(len(item.ids), 1)  # users
    if len(starts) != len(user.ids) or together * len(user.codes) < _FEW * len(user.ids):
        keys = user.codes.astype(np.int64)
        keys <<= 32
        keys |= item.codes
        return any_twice(pl.Series(keys))
    ends = np.append(starts[1:], len(user.codes))
    row_in = np.empty(together * len(item.ids), dtype=np.int32)  # by user and item; never cleared
    for first in range(0, len(starts), together):
        of_users = slice(first, first + together)
        rows = slice(starts[first], ends[of_users][-1])
        counts = ends[of_users] - starts[of_users]
        cells = np.repeat(np.arange(len(counts)) * len(item.ids), counts) + item.codes[rows]  # (N,)
        numbers = np.arange(len(cells), dtype=np.int32)
        row_in[cells] = numbers
        if (row_in[cells] != numbers).any():  # a later row has the same cell
            return True
    return False


class _Codes:
    """Codes of the rows so far: those of the dictionary of their chunk, which `sorted` replaces."""

    def __init__(self, n_rows: int) -> None:
        self._codes = np.empty(n_rows, dtype=np.int32)  # (R,)
        self._chunks: list[tuple[int, int]] = []  # first row, and number of ids in the chunks before
        self._dictionaries: list[pa.Array] = []
        self._rows = self._ids = 0

    def add(self, chunk: Any) -> None:
        """Append the rows of a dictionary array."""
        indices = _numbers(chunk.indices)  # (N,)
        used = np.zeros(len(chunk.dictionary), dtype=bool)
        used[indices] = True
        ids = chunk.dictionary.cast(pa.large_string())  # together they may have more than 2 GB
        if not used.all():  # ids of rows that a filter left out
            indices, ids = (np.cumsum(used) - 1)[indices], ids.filter(pa.array(used))
        self._codes[self._rows : self._rows + len(indices)] = indices
        self._chunks.append((self._rows, self._ids))
        self._dictionaries.append(ids)
        self._rows += len(indices)
        self._ids += len(ids)

    def sorted(self) -> Coded:
        """All rows, with codes in the order of ids."""
        if not self._rows:
            return Coded(self._codes, pl.Series(dtype=pl.String))
        each = pa.concat_arrays(self._dictionaries).dictionary_encode()
        distinct = pl.Series(each.dictionary)
        order = distinct.arg_sort().to_numpy()  # (N,)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        codes = rank[_numbers(each.indices)]  # of each id of each chunk
        ends = [*(row for row, _ in self._chunks[1:]), self._rows]
        for (start, first), end in zip(self._chunks, ends, strict=True):
            rows = self._codes[start:end]
            rows[:] = codes[first:][rows]
        return Coded(self._codes, distinct[order])


def _numbers(array: Any) -> np.ndarray:
    """An Arrow array without nulls as numpy's, (N,). Its own `to_numpy` would import pandas."""
    return pl.Series(array).to_numpy()
