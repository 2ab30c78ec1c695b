"""`run --until split` of many rows in little memory, next to fewer rows at once: memory, and seconds per row.

    python -m tests.benchmarks.bench_shards [--rows 100000000 --memory-limit 2GB --compare 20000000 --folder DIR]

The first night has `memory_limit` and cuts its rows into shards; the second one has neither. Memory is the peak of the
process (ru_maxrss), seconds are wall clock and CPU. Exit code 1: a bar is missed: 1.25 times `memory_limit`, twice the
CPU time per row. The folder takes 80 bytes a row of `--rows`, half of it for the file, which stays in `--folder`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.memory import parse_bytes
from pipeline.datasets.synthetic import write_synthetic
from tests.benchmarks.bench_split import TOML

MOST_MEMORY, MOST_TIME = 1.25, 2.0
"""Bars: of `memory_limit`, and of the CPU time per row at once."""
ROWS_PER_USER = 145


@dataclass(frozen=True)
class Night:
    """What a night until `split` took."""

    rows: int
    seconds: float
    cpu: float
    peak: int
    """Bytes."""

    def __str__(self) -> str:
        each = f"{self.cpu / self.rows * 1e6:.2f} µs of CPU a row"
        return f"{self.rows:,} rows: {self.seconds:.0f} s, CPU {self.cpu:.0f} s ({each}), peak {self.peak / 1e9:.2f} GB"


def night(folder: Path, rows: int, options: list[str]) -> Night:
    """Run it in a home that is removed afterwards."""
    own, home = folder / str(rows), folder / "home"
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "ratings.csv").exists():
        write_synthetic(own / "ratings.part", rows=rows, users=max(1, rows // ROWS_PER_USER))
        (own / "ratings.part").rename(own / "ratings.csv")
    (own / "big.toml").write_text(TOML)
    command = ["-m", "flows.cli", "--home", str(home), "run", str(own / "big.toml"), "--until", "split", "--no-prefect"]
    for option in options:
        command += ["--set", option]
    started = time.perf_counter()
    try:
        process = subprocess.Popen([sys.executable, *command])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if status:
        raise SystemExit(f"the night ended with {os.waitstatus_to_exitcode(status)}")
    return Night(rows, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def main() -> int:
    """Print both nights and what is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--shards", type=int, default=0, help="0: as many as the memory limit asks for")
    parser.add_argument("--compare", type=int, default=20_000_000, help="rows of the night at once; 0: none")
    parser.add_argument("--folder", type=Path, help="keeps the generated files; default: a temporary folder")
    args = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        cut = night(folder, args.rows, [f"memory_limit={args.memory_limit}", f"scale.shards={args.shards}"])
        print(f"in shards, memory_limit = {args.memory_limit}: {cut}", flush=True)
        if cut.peak > MOST_MEMORY * parse_bytes(args.memory_limit):
            missed.append(f"the peak is more than {MOST_MEMORY} times the limit")
        if args.compare:
            whole = night(folder, args.compare, ["scale.shards=1"])
            ratio = cut.cpu / cut.rows / (whole.cpu / whole.rows)
            print(f"at once: {whole}; CPU time per row in shards: {ratio:.2f} times")
            if ratio > MOST_TIME:
                missed.append(f"a row takes more than {MOST_TIME} times the CPU time")
    for bar in missed:
        print(f"missed: {bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
