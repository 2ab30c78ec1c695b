"""A night as a person at a terminal sees it: the lines that everybody gets, and below them the stage at work."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.core.console import terminal_handler
from pipeline.core.progress import ProgressListener, listening

REFRESHES = 4  # a second
STEPS = 8
"""Last units that the time left and rows/s are reckoned by: a fit that goes on from its checkpoint has none before."""
WIDE = 100
"""Columns from which on there is room for a bar."""


@contextmanager
def shown_live() -> Iterator[None]:
    """Show how far each stage is while the block runs, where stderr is a terminal that can; else lines as ever."""
    console = Steady(stderr=True)
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    if dumb or not console.is_interactive:  # TTY_INTERACTIVE and TTY_COMPATIBLE have a say
        yield
        return
    line = LiveLine(console)
    with listening(line), terminal_handler.writing_with(line.print):
        yield


class Steady(Console):
    """Leaves the cursor alone: one that was hidden would stay so where the process is killed."""

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False


@dataclass
class Count:
    """How many units are over, and when the last of them were."""

    done: int
    of: int | None
    metrics: Mapping[str, float]
    steps: deque[tuple[float, int, int | None]] = field(default_factory=lambda: deque(maxlen=STEPS + 1))
    """Time, units and rows."""

    def left(self, now: float) -> float | None:
        """Seconds until all are over, from the speed of the last ones; None if unknown."""
        if not self.of or self.done >= self.of or len(self.steps) < 2:
            return None
        (since, first, _), (until, last, _) = self.steps[0], self.steps[-1]
        return max((until - since) / max(last - first, 1) * (self.of - last) - (now - until), 0)

    def rows_per_second(self) -> float | None:
        """Of the last units; None where their rows are not known."""
        (since, _, first), (until, _, last) = self.steps[0], self.steps[-1]
        return None if last is None or until <= since else (last - (first or 0)) / (until - since)


class LiveLine(ProgressListener):
    """One line at the bottom of the terminal while a stage runs; it is gone when the stage is over."""

    shows_epochs = True

    def __init__(self, console: Console):
        self.console = console
        self.live: Live | None = None
        self.spinner = Spinner("line")
        self.stage, self.began, self.n_rows = "", 0.0, 0
        self.counts: dict[str, Count] = {}

    def print(self, text: str) -> None:
        """A line above the live one, never cut or wrapped by us."""
        self.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def begin(self, stage: str) -> None:
        """Show the line."""
        self.end()
        self.stage, self.began, self.n_rows, self.counts = stage, time.monotonic(), 0, {}
        self.live = Live(
            get_renderable=self.line, console=self.console, refresh_per_second=REFRESHES, transient=True,
            redirect_stdout=False,
        )  # fmt: skip
        self.live.start()

    def rows(self, rows: int) -> None:
        """Keep them for the line."""
        self.n_rows = rows

    def advance(
        self,
        unit: str,
        done: int,
        total: int | None,
        metrics: Mapping[str, float] | None = None,
        rows: int | None = None,
    ) -> None:
        """Keep them for the line, which is drawn by its own clock, however fast they come."""
        now, counts = time.monotonic(), dict(self.counts)
        units = list(counts)
        for inner in units[units.index(unit) + 1 :] if unit in units else []:
            del counts[inner]
        old = counts.get(unit)
        count = Count(done, total, metrics or {}, *([old.steps] if old and done > old.done else []))
        if not count.steps:  # the first unit began with the stage, or when the one around it did
            outer = [each.steps[-1][0] for name, each in counts.items() if name != unit]
            count.steps.append((max([self.began, *outer]), 0, 0))
        if done > count.steps[-1][1] + 1:  # others were over before the stage began
            count.steps.append((count.steps[-1][0], done - 1, None))
            count.steps.popleft()
        if done:
            count.steps.append((now, done, rows))
        self.counts = {**counts, unit: count}

    def end(self) -> None:
        """Take the line away."""
        live, self.live = self.live, None
        if live:
            live.stop()

    def line(self) -> RenderableType:
        """What is shown at this moment."""
        now = time.monotonic()
        line = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self.spinner.render(now), Text(f"{self.stage:<27}", "bold")]
        outer = next(iter(self.counts.values()), None)
        if outer and outer.of and self.console.width >= WIDE:
            cells.append(ProgressBar(outer.of, outer.done, width=20))
        cells.append(Text("  ".join(self.words(now)), overflow="ellipsis", no_wrap=True))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        return line

    def words(self, now: float) -> Iterator[str]:
        """The most important first: a narrow terminal cuts the rest."""
        yield clock(now - self.began)
        counts = self.counts
        outer = next(iter(counts.values()), None)
        for unit, count in counts.items():
            yield f"{unit} {count.done}" + (f"/{count.of}" if count.of else "")
        if outer and (left := outer.left(now)) is not None:
            yield f"~{clock(left)} left"
        for count in counts.values():
            yield from (f"{name} {value:.4g}" for name, value in count.metrics.items())
        totals = [count.steps[-1][2] for count in counts.values()]
        if rows := self.n_rows or next((rows for rows in totals if rows), 0):
            yield f"{rows:,} rows"
        speeds = [count.rows_per_second() for count in counts.values()]
        yield from (f"{speed:,.0f} rows/s" for speed in speeds if speed)


def clock(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
