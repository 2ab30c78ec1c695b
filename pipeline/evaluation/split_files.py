"""The files of a split, as frames by name: small ones are read once, large ones a part at a time."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import polars as pl

IN_MEMORY = 128 * 2**20
"""Bytes of all files together up to which frames are kept."""


class SplitFiles(Mapping[str, pl.DataFrame]):
    """Frames by name; each is read when it is asked for."""

    def __init__(self, paths: Mapping[str, Path]):
        self.paths = paths
        large = sum(path.stat().st_size for path in paths.values()) > IN_MEMORY
        self._frames = {} if large else {name: pl.read_parquet(path) for name, path in paths.items()}

    def __getitem__(self, name: str) -> pl.DataFrame:
        """All rows of a file."""
        return self._frames[name] if self._frames else pl.read_parquet(self.paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def scan(self, name: str) -> pl.LazyFrame:
        """The rows of a file, of which a part can be read."""
        return self._frames[name].lazy() if self._frames else pl.scan_parquet(self.paths[name])

    @cached_property
    def size(self) -> int:
        """Bytes that it keeps in memory."""
        return int(sum(frame.estimated_size() for frame in self._frames.values()))
