"""`make gpu-check`: device tests, parity, and how fast each family is on the CUDA card of this machine.

    python -m tests.benchmarks.gpu [--out FOLDER] [--only mf pmf …] [--device cuda]

Steps run in a separate process, each with a time limit. A step that fails or takes too long is recorded, and the next
one runs. Writes results.json and results.md into the folder, by default this one. Needs no network: all data are random.
"""

import argparse
import json
import os
import platform
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu.steps import STEPS

HERE = Path(__file__).parent
START_SECONDS = 60
"""Time limit until the process of the steps writes its first line."""


def main() -> int:
    """Exit code 1 if a step failed, 2 if there is no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=[*STEPS], metavar="STEP")
    parser.add_argument("--device", default="cuda", help="cpu to try the script out")
    parser.add_argument("--small", action="store_true", help="use little data; the numbers mean nothing then")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device; --device cpu --small tries the script out")
        return 2
    if args.work:
        work(args.only, args.device, args.small)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {"machine": about(args.device), "steps": {}}

    def keep(name: str, found: dict[str, Any]) -> None:
        """Write the results after each step, so that an interrupted run leaves some."""
        kept["steps"][name] = found
        (args.out / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
        (args.out / "results.md").write_text(markdown(kept))
        print(f"{name:<16} {found}", file=sys.stderr, flush=True)

    worker = [sys.executable, "-m", "tests.benchmarks.gpu", "--work", "--device", args.device]
    while pending := [name for name in args.only if name not in kept["steps"]]:
        supervise([*worker, *["--small"] * args.small, "--only", *pending], pending, keep)
    print(markdown(kept))
    return int(any("failed" in found for found in kept["steps"].values()))


def work(names: list[str], device: str, small: bool) -> None:
    """Run the steps in order and print one line of JSON for each result; stop if the device is lost."""
    for name in names:
        print(json.dumps({"begin": name}), flush=True)
        lost = False
        try:
            found = STEPS[name].run(torch.device(device), small)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}".strip()[:500]}
            lost = "CUDA error" in str(error)
        print(json.dumps({"end": name, "found": found}), flush=True)
        if lost:
            return


def supervise(command: list[str], names: list[str], keep: Callable[[str, dict[str, Any]], None]) -> None:
    """Run steps in another process until it ends; a step over its time limit ends it. `keep` receives the results.

    At least the first step gets a result, so repeated calls with the remaining steps terminate.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    running: str | None = names[0]
    limit = START_SECONDS + STEPS[names[0]].seconds
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            process.kill()
            process.wait()
            if running:
                keep(running, {"failed": f"not done within {limit} s"})
            return
        if line is None:
            process.wait()
            if running:
                keep(running, {"failed": f"the process ended with {process.returncode}"})
            return
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if "begin" in event:
            running, limit = event["begin"], STEPS[event["begin"]].seconds
        else:
            keep(event["end"], event["found"])
            running, limit = None, START_SECONDS


def about(device: str) -> dict[str, Any]:
    """The machine and its versions of torch, CUDA and Python."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
    }
    if device == "cuda":
        found["card"] = torch.cuda.get_device_name()
        found["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            found["driver"] = "unknown"
    return found


def markdown(kept: dict[str, Any]) -> str:
    """Tables of the results: fits with their steps, and all other steps."""
    lines = ["# Measured", "", ", ".join(f"{name} {value}" for name, value in kept["machine"].items()), ""]
    columns = ("rows_a_second", "epoch_s", "step_ms", "kernels_ms", "busy", "launches", "syncs", "peak_gib")
    fits = {name: found for name, found in kept["steps"].items() if "epoch_s" in found}
    if fits:
        lines += [f"| fit | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        lines += [f"| {n} | {' | '.join(_shown(found.get(c)) for c in columns)} |" for n, found in fits.items()]
        lines += ["", "`launches` and `syncs` are per step, `busy` is `kernels_ms` / `step_ms`.", ""]
    lines += ["| step | found |", "|---|---|"]
    for name, found in kept["steps"].items():
        if name not in fits:
            lines.append(f"| {name} | {', '.join(f'{key} {_shown(value)}' for key, value in found.items())} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
