"""Values that are kept, but often stand for a missing one: ids such as `NULL`, the time 1970-01-01 00:00:00."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sources.catalog_ids import NULL_WORDS

_ROLES = {"user_id": "user", "item_id": "item"}
_EPOCH = dt.datetime(1970, 1, 1)


def odd_values(interactions: Path) -> dict[str, Any]:
    """Numbers of rows: `odd_ids` by role and id, and `zero_times`; keys without rows are absent.

    Reads the ids of the raw layer only, group by group, and times only where a group's statistics have the epoch.
    """
    ids = {role: Counter[str]() for role in _ROLES.values()}
    zero_times = 0
    with pq.ParquetFile(interactions) as file:
        time = file.schema_arrow.get_field_index("timestamp")
        for group in range(file.num_row_groups):
            for name, role in _ROLES.items():
                for chunk in file.read_row_group(group, columns=[name]).column(0).chunks:
                    ids[role].update(_null_words(chunk))
            statistics = file.metadata.row_group(group).column(time).statistics
            if statistics is not None and statistics.has_min_max and statistics.min == _EPOCH:
                times = file.read_row_group(group, columns=["timestamp"]).column(0)
                zero_times += int(pc.call_function("sum", [pc.call_function("equal", [times, _EPOCH])]).as_py())
    odd = {role: dict(found.most_common()) for role, found in ids.items() if found.total()}
    return ({"odd_ids": odd} if odd else {}) | ({"zero_times": zero_times} if zero_times else {})


def _null_words(ids: pa.DictionaryArray) -> Counter[str]:
    """Rows by id, of ids that are one of NULL_WORDS."""
    found: Counter[str] = Counter()
    words = pl.Series(NULL_WORDS).to_arrow().cast(ids.dictionary.type)  # pa.array() would import pandas
    is_word = pc.call_function("is_in", [ids.dictionary], pc.SetLookupOptions(value_set=words))
    for place in pc.call_function("indices_nonzero", [is_word]).to_pylist():
        rows = pc.call_function("equal", [ids.indices, pa.scalar(place, ids.indices.type)])
        found[ids.dictionary[place].as_py()] += rows.true_count
    return found


def in_words(found: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each role, and one for times."""
    for role, ids in found.get("odd_ids", {}).items():
        shown = ", ".join(f"{word!r} ({_rows(rows)})" for word, rows in list(ids.items())[:5])
        yield (
            f"{role} ids that look like a missing value are read as ids: {shown}. If they are none, leave these rows "
            f"out with keep_if in [feedback], e.g. \"{role} <> '{next(iter(ids))}'\""
        )
    if rows := found.get("zero_times", 0):
        yield f"the time of {_rows(rows)} is 1970-01-01 00:00:00, which often stands for an unknown one"


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"
