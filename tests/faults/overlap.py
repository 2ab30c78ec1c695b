"""Nights that overlap, readers that never stop, and what they may find next to the live file."""

import multiprocessing
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.storage import warehouse

from .ground import DATASET, STAMPED, Ground, rows
from .table import row

TIMES, READERS, PUBLISHES = 20, 30, 10
QUESTION = " union ".join(
    [*(f"select run_id from {t}" for t in STAMPED), "select max(run_id) from runs where outcome = 'published'"]
)


def meet(place: Path, n: int) -> None:
    """Wait until `n` nights are here, so that they begin at the same moment."""
    place.mkdir(exist_ok=True)
    (place / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(place.iterdir())) < n and time.monotonic() < end:
        time.sleep(0.001)


@row(4, "two nights at once, 20 times", "one publishes, one exits 4")
def two_nights(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    for number in range(TIMES):
        together = partial(meet, root / f"meeting-{number}", 2)
        ended = [night.end() for night in [ground.start(before=together), ground.start(before=together)]]
        codes = sorted(night.code for night in ended)
        assert codes == [0, 4], f"time {number + 1}: exit {codes}: {[night.output[-300:] for night in ended]}"
        locked = next(night for night in ended if night.code == 4)
        output = f"another night of {DATASET} is running: run "
        assert output in locked.output and locked.seconds < 30, locked.output
        assert ground.promise() == ground.run_ids()[-1] and len(ground.run_ids()) == number + 1
    return f"{TIMES} times exit 0 and 4; the second says who holds the lock"


def ask_all_the_time(live: Path, holds: bool, until: Any, answers: Any) -> None:
    """Ask which night the tables are of, on a new connection each time or on one that stays open for many answers."""
    seen: Counter[str] = Counter()
    wrong = ""
    try:
        while not until.is_set() and not wrong:
            with warehouse.connect(live, read_only=True, threads=1) as con:
                nights = set()
                for _ in range(10 if holds else 1):
                    found = [run_id for (run_id,) in con.sql(QUESTION).fetchall()]
                    nights.update(found)
                    seen[found[0]] += 1
                    if len(found) != 1 or len(nights) != 1:
                        wrong = f"one answer of {found}, one connection of {sorted(nights)}"
                    time.sleep(0.5)  # 30 of them
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    answers.put((dict(seen), wrong))


@row(5, "30 readers querying through 10 publishes", "no error, no mixed generation in any answer")
def readers(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night()
    forks = multiprocessing.get_context("forkserver")
    until, answers, live = forks.Event(), forks.Queue(), ground.home.live(DATASET)
    asking = [
        forks.Process(target=ask_all_the_time, args=(live, n % 3 == 0, until, answers), daemon=True)
        for n in range(READERS)
    ]
    for process in asking:
        process.start()
    for _ in range(PUBLISHES):
        ground.night()
    until.set()
    printed = [answers.get(timeout=120) for _ in asking]
    for process in asking:
        process.join(60)
    wrong = [text for _, text in printed if text]
    assert not wrong, f"{len(wrong)} readers: {wrong[0]}"
    seen: Counter[str] = Counter()
    for counted, _ in printed:
        seen.update(counted)
    assert len(seen) >= PUBLISHES and set(seen) <= set(ground.run_ids()), f"only {len(seen)} generations were seen"
    return f"{seen.total():,} answers, no error, each of one generation; {len(seen)} generations were seen"


@row(6, "stray `.wal` at the target", "set aside, published, warned")
def stray_log(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night()
    live = ground.home.live(DATASET)
    stray = live.with_name(live.name + ".wal")
    stray.write_bytes(b"left behind by somebody who opened the file for writing")
    ground.night()
    assert ground.promise() == ground.run_ids()[-1] and not stray.exists()
    (aside,) = live.parent.glob("*.stray-before-*")
    assert aside.name in ground.notes(), f"no warning in: {ground.notes()!r}"
    return "renamed to `.wal.stray-before-<night>`, published, noted in the journal and in the output"
