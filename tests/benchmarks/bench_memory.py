"""Peak memory of every stage of a night until `export`, each in a process of its own; of ials with 64 dimensions.

    python -m tests.benchmarks.bench_memory [--users 1000000 --items 100000 --rows 20000000 --most 3GB --folder DIR]

`--folder` keeps the generated file and the lake, so that a later call measures only what is not there; `--again
evaluate` removes the results of stages, and measures them once more. `--share` of the rows are in valid and in test, and
`--listed` of the users get lists, about: by default one in a hundred; `--listed 1`: all. `--until audit` also builds the
published file.

The peak of a stage is that of its process (VmHWM, reset before the stage), with 0.34 GB that a process with torch
holds in any case. Exit code 1: a stage that is named by `BOUND` needs more than `--most`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.conductor import conduct
from flows.prepare import prepare
from flows.step import Stopped
from pipeline.core.memory import parse_bytes
from pipeline.core.stage_call import StageCall, StageName
from pipeline.datasets.synthetic import write_synthetic
from pipeline.storage import lake
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
{active}
"""
DAYS = 20 * 365
"""The generated rows are of about so many days."""
BOUND = (StageName.TRAIN, StageName.EVALUATE, StageName.EXPORT, StageName.AUDIT)
LAYERS = {"train": "5_models", "evaluate": "6_metrics", "export": "7_recommendations"}
"""Folder of the lake, of stages that can be measured again."""


class OneStage:
    """A step that notes the peak of the first stage that is not in the lake, then stops the night."""

    def __init__(self, report: Path):
        self.report = report

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Run the stage, but for the one that reports to MLflow."""
        if call.stage == StageName.TRACK:
            return None
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        started, before = time.process_time(), time.time()
        result = stage(*inputs)
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        manifest = result / lake.MANIFEST if isinstance(result, Path) else None
        if manifest and (not manifest.exists() or manifest.stat().st_mtime > before):
            seconds = time.process_time() - started
            self.report.write_text(json.dumps({"title": call.title, "stage": call.stage, "peak": peak, "cpu": seconds}))
            raise Stopped
        return result


def measure(data: Path, recipe: Path, home: Path, overrides: list[str], until: str, report: Path) -> None:
    """In a process of its own: the next stage that is not in the lake."""
    run = prepare(str(data), str(recipe), home=str(home), overrides=overrides)
    conduct(run, OneStage(report), until=until)


def peaks(own: list[str], folder: Path, until: str) -> dict[StageName, int]:
    """The peak of every stage that is not in the lake, in bytes; `own`: arguments of this command."""
    report, found = folder / "stage.json", dict[StageName, int]()
    while True:
        report.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_memory", *own, "--next"], check=True)
        if not report.exists():
            return found
        entry = json.loads(report.read_text())
        stage = StageName(entry["stage"])
        found[stage] = max(entry["peak"], found.get(stage, 0))
        print(f"{entry['title']:<24} {entry['peak'] / 1e9:.2f} GB  CPU {entry['cpu']:.0f} s", flush=True)
        if stage == until == StageName.AUDIT:  # which leaves no result that would be found again
            return found


def main() -> int:
    """Print the peaks and what is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--share", type=float, default=0.01, help="of rows in valid and in test")
    parser.add_argument("--listed", type=float, default=0.01, help="of users that get lists")
    parser.add_argument("--most", default="3GB")
    parser.add_argument("--until", default="export")
    parser.add_argument("--again", action="append", default=[], choices=[*LAYERS])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="keeps the generated file and the lake; default: a temporary one")
    parser.add_argument("--next", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        data, recipe, home = folder / "big.toml", folder / "memory.toml", folder / "home"
        if args.next:
            measure(data, recipe, home, args.overrides, args.until, folder / "stage.json")
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        if not (csv := folder / "ratings.csv").exists():
            write_synthetic(csv, rows=args.rows, users=args.users, items=args.items)
        data.write_text(TOML)
        active = f"active_days = {max(1, round(DAYS * args.listed))}" if args.listed < 1 else ""
        recipe.write_text(RECIPE.format(share=args.share, active=active))
        for stage in args.again:
            for layer in home.rglob(LAYERS[stage]):
                shutil.rmtree(layer)
        changed = [word for pair in args.overrides for word in ("--set", pair)]
        found = peaks(["--folder", str(folder), "--until", args.until, *changed], folder, args.until)
    missed = [stage for stage in BOUND if found.get(stage, 0) > parse_bytes(args.most)]
    for stage in missed:
        print(f"missed: {stage} needs more than {args.most}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
