"""The scorecard: provokes each fault and prints a table; exit 1 if a row fails.

`python -m tests.faults` writes the table into README.md, `python -m tests.faults --only 5,8` runs two rows and writes
nothing, with `--write` it replaces these two rows.
"""

import argparse
import importlib
import re
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

from flows.cli.output import replace_block

from .table import ROWS, Row, Skip

MODULES = (
    "killed",
    "overlap",
    "space",
    "files",
    "values",
    "verdicts",
    "services",
    "state",
    "tampered",
    "doors",
    "forgetting",
    "homes",
    "clusters",
)


README = Path(__file__).with_name("README.md")
HEAD = ("| # | fault | expected | observed | pass |", "|---|---|---|---|---|")


def main() -> int:
    """Run the rows that were asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", help="numbers of rows, e.g. 5,8")
    parser.add_argument("--write", action="store_true", help="with --only: write these rows into README.md")
    parser.add_argument("--debug", action="store_true", help="show where a row failed")
    options = parser.parse_args()
    for module in MODULES:
        importlib.import_module(f"{__package__}.{module}")
    wanted = [int(number) for number in options.only.split(",")] if options.only else sorted(ROWS)
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"no row {', '.join(map(str, sorted(unknown)))}; there are {', '.join(map(str, sorted(ROWS)))}")
    lines, failed = {}, 0
    for number in wanted:
        row = ROWS[number]
        started = time.monotonic()
        passed, observed = attempt(row, options.debug)
        if passed is None:
            print(f"skip {row.number:>2}  {row.fault}: {observed}", flush=True)
            continue
        failed += not passed
        seconds = time.monotonic() - started
        print(f"{'pass' if passed else 'FAIL'} {row.number:>2}  {row.fault}: {observed}  ({seconds:.0f} s)", flush=True)
        cells = (str(row.number), row.fault, row.expected, observed, "yes" if passed else "**NO**")
        lines[number] = "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
    skipped = f", {len(wanted) - len(lines)} skipped" if len(lines) < len(wanted) else ""
    print("\n" + merged(lines, "") + f"\n\n{len(lines) - failed} of {len(wanted)} rows pass{skipped}")
    if options.write or not options.only:
        replace_block(README, "table", partial(merged, lines))
    return 1 if failed else 0


def merged(lines: dict[int, str], block: str) -> str:
    """The table with these lines in the place of those of `block` with the same number."""
    found = {int(row[1]): row[0] for row in re.findall(r"^(\| ([0-9]+) \|.*)$", block, flags=re.MULTILINE)}
    rows = sorted((found | lines).items())
    return "\n".join([*HEAD, *(line for number, line in rows if number in ROWS)])


def attempt(row: Row, debug: bool) -> tuple[bool | None, str]:
    """Whether a row passes, and what was observed; None and why it is skipped."""
    with tempfile.TemporaryDirectory(prefix=f"fault-{row.number}-") as place:
        try:
            return True, row.provoke(Path(place))
        except Skip as reason:
            return None, str(reason)
        except Exception as error:
            if debug:
                traceback.print_exc()
            return False, f"{type(error).__name__}: {error}"[:1200]


if __name__ == "__main__":
    sys.exit(main())
