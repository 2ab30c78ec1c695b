"""Whole command `run --until split` next to a bare DuckDB COPY of the same CSV to Parquet, in turn.

    python -m tests.benchmarks.bench_split [--rows 20000000 --rounds 3 --folder DIR]

Both with as many threads as there are cores. Seconds are wall clock and, with fewer errors on a busy machine, CPU time;
memory is the peak of the process. The ratios are those of the medians.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.datasets.synthetic import write_synthetic

TOML = """name = "big"
[source]
files = ["ratings.csv"]
[columns]
user = "user"
item = "item"
rating = "rating"
timestamp = "timestamp"
"""
COPY = "import duckdb, sys; con = duckdb.connect(); con.execute('SET enable_progress_bar = false'); con.execute(f\"COPY (FROM read_csv('{sys.argv[1]}')) TO '{sys.argv[2]}'\")"


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall and CPU seconds, and peak memory in GB, of a command that must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    """Print every round, then medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the generated file; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        csv = folder / "ratings.csv"
        if not csv.exists():
            write_synthetic(csv, rows=args.rows)
        (folder / "big.toml").write_text(TOML)
        print(f"{args.rows:,} rows, {csv.stat().st_size / 2**20:,.0f} MB, {os.cpu_count()} cores")
        rounds = []
        for number in range(args.rounds):
            bare = timed([sys.executable, "-c", COPY, str(csv), str(Path(temporary) / "bare.parquet")])
            home = Path(temporary) / "home"
            command = ["-m", "flows.cli", "--home", str(home), "run", str(folder / "big.toml"), "--until", "split"]
            ours = timed([sys.executable, *command, "--no-prefect"])
            shutil.rmtree(home)
            rounds.append((bare, ours))
            print(
                f"round {number + 1}: COPY {bare[0]:.1f} s, CPU {bare[1]:.1f} s, {bare[2]:.1f} GB; "
                f"until split {ours[0]:.1f} s, CPU {ours[1]:.1f} s, {ours[2]:.1f} GB; "
                f"ratio {ours[0] / bare[0]:.2f}, of CPU time {ours[1] / bare[1]:.2f}",
                flush=True,
            )
        for at, name in enumerate(("wall", "CPU")):
            bare_s, ours_s = (statistics.median(r[i][at] for r in rounds) for i in (0, 1))
            print(f"medians, {name}: COPY {bare_s:.1f} s, until split {ours_s:.1f} s, ratio {ours_s / bare_s:.2f}")


if __name__ == "__main__":
    main()
