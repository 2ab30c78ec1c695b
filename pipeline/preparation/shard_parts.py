"""What the data stages do with one shard: here, one after another, or by an engine, several at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.core import spread
from pipeline.core.filesystem import temporary_name
from pipeline.preparation.ids import LAKE_PARQUET


@dataclass(frozen=True)
class Part:
    """What came out of a shard."""

    frames: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    """Rows, and counts by item."""
    counts: dict[str, Any] = field(default_factory=dict[str, Any])
    """A few numbers; picklable."""


def parts(function: Callable[..., Part], calls: Sequence[tuple[Any, ...]], scratch: Path) -> Iterator[Part]:
    """`function(*call)` of every call, in order. `function` is a module's own; arguments are paths and small objects.

    An engine writes the frames into `scratch`, and only one part at a time is read here. The caller pops its
    frames, so that they are gone when the next one is made.
    """
    engine = spread.engine()
    if not engine.is_elsewhere or len(calls) < 2:
        yield from (function(*call) for call in calls)
        return
    heads = [f"{function.__name__}-{number:04d}" for number in range(len(calls))]
    stored = engine.each(store, [(function, call, scratch, head) for call, head in zip(calls, heads, strict=True)])
    for head, (names, counts) in zip(heads, stored, strict=True):
        yield Part({name: pl.read_parquet(_file(scratch, head, name)) for name in names}, counts)
        for name in names:
            _file(scratch, head, name).unlink()


def store(
    function: Callable[..., Part], call: tuple[Any, ...], scratch: Path, head: str
) -> tuple[list[str], dict[str, Any]]:
    """Write the frames of a part; returns their names, and its counts.

    Two processes may do so at once: files appear by a rename.
    """
    part = function(*call)
    for name, frame in part.frames.items():
        temporary = temporary_name(_file(scratch, head, name))
        frame.write_parquet(temporary, **LAKE_PARQUET)
        temporary.replace(_file(scratch, head, name))
    return list(part.frames), part.counts


def _file(scratch: Path, head: str, name: str) -> Path:
    return scratch / f"{head}-{name}.parquet"
