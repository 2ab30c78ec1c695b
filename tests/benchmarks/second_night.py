"""CPU time of a warm second night, with 1 % new rows, against the first: by stage, and in all.

    NIGHTRECS_DATA=... python -m tests.benchmarks.second_night [--rows 1500000] [--set KEY=VALUE …]

The rows are those of ml-1m-timed; to have more, users are repeated under other ids. The first night reads the oldest
99 %, the second all. Each night is a process of its own with one thread, imports and plots included. Two rows with a
model in both nights are the same work: the ratio says what warm starts and reused results save.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RATINGS, ITEMS = "ratings-timestamp-subset.dat.gz", "movies.dat"
NEW = 0.01
"""Share of the rows that come with the second night."""


def main() -> None:
    """Write the data, run both nights, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--night", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.night:
        print(json.dumps(one_night(args.night, args.overrides)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        old, new = written(place, args.rows)
        first = in_process(place, args.overrides)
        (place / "later.dat").rename(place / "data" / "b.dat")
        second = in_process(place, args.overrides)
    print(f"{old:,} rows, then {new:,} more; seconds of CPU")
    print(table(first, second))


def written(place: Path, n_rows: int) -> tuple[int, int]:
    """Write the data set to `place`; returns the rows of the first night, and those that the second adds."""
    source = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / "ml-1m"
    with gzip.open(source / RATINGS, "rt") as file:
        rows = [(int(line.rsplit("::", 1)[1]), line) for line in file]
    users = sorted({line.split("::", 1)[0] for _, line in rows}, key=int)
    copies, rest = divmod(n_rows, len(rows))
    some = set(users[: round(len(users) * rest / len(rows))])  # by user, so that nobody's history is cut
    many = [
        (at, line.replace("::", f"c{copy}::", 1) if copy else line)
        for copy in range(copies + 1)
        for at, line in rows
        if copy < copies or line.split("::", 1)[0] in some
    ]
    many.sort()
    cut, draw = int(len(many) * (1 - NEW)), random.Random(0)
    (place / "data").mkdir()
    for path, part in ((place / "data" / "a.dat", many[:cut]), (place / "later.dat", many[cut:])):
        draw.shuffle(part)
        path.write_text("".join(line for _, line in part))
    (place / "data" / ITEMS).write_bytes((source / ITEMS).read_bytes())
    shipped = Path(__file__).parents[2] / "pipeline" / "datasets" / "ml-1m-timed.toml"
    toml = shipped.read_text().replace('name = "ml-1m-timed"', 'name = "nights"').replace('folder = "ml-1m"\n', "")
    (place / "nights.toml").write_text(toml.replace(RATINGS, "[ab].dat"))
    return cut, len(many) - cut


def in_process(place: Path, overrides: list[str]) -> dict[str, float]:
    """Seconds of CPU by stage, and `in all`, of a night in a new process."""
    words = [word for text in overrides for word in ("--set", text)]
    command = [sys.executable, "-m", "tests.benchmarks.second_night", "--night", str(place), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_night(place: Path, overrides: list[str]) -> dict[str, float]:
    """Run a night in this process."""
    from flows.conductor import conduct
    from flows.prepare import prepare
    from flows.step import plainly
    from pipeline.core.stage_call import StageCall

    stages: dict[str, float] = {}

    def step(call: StageCall, stage: Any, *inputs: Any) -> Any:
        before = cpu()
        result = plainly(call, stage, *inputs)
        name = call.title.replace(", warm", "")
        stages[name] = stages.get(name, 0.0) + cpu() - before
        return result

    settings = ["threads=1", "warm_start=true", *overrides]
    data, home = str(place / "data"), str(place / "home")
    conduct(prepare(str(place / "nights.toml"), "nightly", data, home, settings), step)
    return {**stages, "in all": cpu()}


def cpu() -> float:
    """Seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def table(first: dict[str, float], second: dict[str, float]) -> str:
    """Stages of half a second or more in one of the nights, and all."""
    lines = ["| stage | first | second | ratio |", "|---|---|---|---|"]
    for name in dict.fromkeys([*first, *second]):
        a, b = first.get(name, 0.0), second.get(name, 0.0)
        if max(a, b) >= 0.5:
            lines.append(f"| {name} | {a:.1f} | {b:.1f} | {b / a:.2f} |" if a else f"| {name} | | {b:.1f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
