"""How many rows this machine can take: the memory that the data stages need, against what there is."""

from dataclasses import dataclass
from functools import cached_property

from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.core.memory import GIB, parse_bytes, total_memory

BYTES_READ, BYTES_KEPT = 50, 100
"""Memory per row that `clean` holds of all rows, and `encode` of those it keeps (peak of a process on 20 M rows)."""
BASE_LISTED, BYTES_LISTED = 900_000_000, 105
"""Memory of a process that makes lists, and more per row (peaks of ials with 64 dimensions, 20 rows a user, 100,000
items: 1.4 GB for 5 million rows, 3.0 for 20 million)."""
BYTES_STORED = 46
"""Disk per row and night, in the lake: the results of ingest, clean, encode and split."""
MOST_ROWS = 2**32 - 1
"""Polars counts rows in 32 bits."""
MACHINES = [2**n * unit * GIB for n in range(2, 14) for unit in (1, 1.5)]
"""Common sizes of memory, from 4 GiB."""


@dataclass(frozen=True)
class Capacity:
    """Memory needed for `rows` rows, and memory at hand. A fit's own tables come on top of it."""

    rows: int
    user_fraction: float
    memory_limit: int | None
    """Bytes of the setting; None: it is not set."""
    total: int
    """Bytes of this machine, or of the container."""

    @classmethod
    def of(cls, settings: Settings, rows: int) -> "Capacity":
        """For the settings of a night on this machine."""
        limit = parse_bytes(settings.memory_limit) if settings.memory_limit else None
        return cls(rows, settings.dataset.filter.user_fraction, limit, total_memory())

    @property
    def bytes_per_row(self) -> float:
        """The larger of both peaks, per row of the source."""
        return max(BYTES_READ, BYTES_KEPT * self.user_fraction)

    @property
    def needed(self) -> int:
        """Bytes that the data stages need."""
        return round(self.rows * self.bytes_per_row)

    @property
    def for_lists(self) -> int:
        """Bytes that the lists of all users need, about."""
        return round(BASE_LISTED + self.rows * BYTES_LISTED * self.user_fraction)

    @property
    def room(self) -> int:
        """Bytes for the data stages: half of the memory, or `memory_limit` where that is more."""
        return max(self.total // 2, self.memory_limit or 0)

    @property
    def rows_that_fit(self) -> int:
        """Rows for which there is room."""
        return min(MOST_ROWS, int(self.room // self.bytes_per_row))

    @property
    def fits(self) -> bool:
        """Whether a night can take so many rows."""
        return self.rows <= self.rows_that_fit

    @cached_property
    def machine(self) -> int | None:
        """Bytes of the smallest common machine that takes all rows; None: no single one does."""
        if self.rows > MOST_ROWS:
            return None
        return next((int(size) for size in sorted(MACHINES) if size // 2 >= self.needed), None)

    @property
    def what_helps(self) -> str:
        """The settings or the machine with which so many rows fit."""
        if self.rows > MOST_ROWS:
            return f"no single machine takes more than {MOST_ROWS:,} rows: leave out old files, or rows by keep_if"
        ways = [f"use a machine of {in_gib(self.machine)}"] if self.machine else []
        if self.needed <= self.total * 0.9:
            ways.append(f'set memory_limit = "{-(-self.needed // 10**9)}GB", which leaves less for the models')
        if self.rows * BYTES_READ <= self.room:
            share = int(100 * self.room / BYTES_KEPT / self.rows) / 100
            ways.append(f"take a share of the users with dataset.filter.user_fraction = {share}")
        return ", or ".join(ways) or "leave out old files"

    def require(self, how_many: str) -> None:
        """Raise SettingsError if the rows don't fit. `how_many` is their number for a person."""
        if not self.fits:
            raise SettingsError(
                f"{how_many} rows need {in_gib(self.needed)} of memory ({self.bytes_per_row:g} bytes a row) until they "
                f"are split, and {in_gib(self.room)} of {in_gib(self.total)} are for that: {self.what_helps}"
            )


def in_gib(size: float) -> str:
    """`11.7 GiB`."""
    whole = size >= 100 * GIB or size % GIB == 0
    return f"{size / GIB:,.0f} GiB" if whole else f"{size / GIB:,.1f} GiB"
