"""Peak memory of every stage of a night until `export`, of ials with 64 dimensions.

    python -m tests.benchmarks.bench_memory [--users 1000000 --items 100000 --rows 20000000 --most 3GB --folder DIR]

The peak of each stage is that of the process (VmHWM, reset before the stage), which runs all of them, so it includes
what the process holds in any case, about 0.7 GB with torch. Only a part of the users is evaluated and gets lists, by
`--share`: both are done in parts, and the rest of the memory is that of all rows. Exit code 1: evaluation or export
needs more than `--most`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.conductor import conduct
from flows.prepare import prepare
from pipeline.core.memory import parse_bytes
from pipeline.core.stage_call import StageCall, StageName
from pipeline.datasets.synthetic import write_synthetic
from tests.benchmarks.bench_split import TOML

RECIPE = """[split]
kind = "global_time"
valid = {share}
test = {share}
[models.ials]
embedding_dim = 64
epochs = 1
[gate]
enabled = false
[export]
active_days = {days}
"""
DAYS = 20 * 365
"""The generated rows are of about so many days."""
BOUND = (StageName.EVALUATE, StageName.EXPORT)


class Peaks:
    """A step that notes the peak of every stage, in bytes."""

    def __init__(self) -> None:
        self.by_stage: dict[StageName, int] = {}

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Run the stage."""
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        try:
            return stage(*inputs)
        finally:
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
            self.by_stage[call.stage] = max(peak, self.by_stage.get(call.stage, 0))
            print(f"{call.title:<24} {peak / 1e9:.2f} GB", flush=True)


def main() -> int:
    """Print the peaks and what is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--share", type=float, default=0.01, help="of rows in valid and in test, and of active users")
    parser.add_argument("--most", default="3GB")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="keeps the generated file; default: a temporary folder")
    args = parser.parse_args()
    peaks = Peaks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        csv = folder / "ratings.csv"
        if not csv.exists():
            write_synthetic(csv, rows=args.rows, users=args.users, items=args.items)
        (folder / "big.toml").write_text(TOML)
        recipe = folder / "memory.toml"
        recipe.write_text(RECIPE.format(share=args.share, days=max(1, round(DAYS * args.share))))
        home = str(Path(temporary) / "home")
        run = prepare(str(folder / "big.toml"), str(recipe), home=home, overrides=args.overrides)
        conduct(run, peaks, until="export")
    missed = [stage for stage in BOUND if peaks.by_stage[stage] > parse_bytes(args.most)]
    for stage in missed:
        print(f"missed: {stage} needs more than {args.most}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
