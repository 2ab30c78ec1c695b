"""`make bench`: all benchmarks, or those named: `python -m tests.benchmarks bench_split bench_top_k`."""

import subprocess
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> int:
    """Each in a process of its own, so that none measures what another left behind."""
    wanted = sys.argv[1:] or NAMES
    if unknown := set(wanted) - set(NAMES):
        print(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    return max(subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"]).returncode for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
