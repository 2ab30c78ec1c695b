"""Whole nights on a small file with planted tastes, without MLflow and report, for tests of successive nights."""

import atexit
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flows import conductor as line
from flows.orchestration.engines import engine_of
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import home_identity, journal

TOML = """name = "tastes"
[source]
files = ["*.csv"]
[columns]
user = "user"
item = "item"
timestamp = "timestamp"
[feedback]
kind = "implicit"
"""
RECIPE = '[split]\nkind = "leave_one_out"\n'
GOOD = "[models.ease]\nl2 = 5.0\n"
BAD = '[models.worse]\nfamily = "mf"\nepochs = 1\nlearning_rate = 1e-6\nembedding_dim = 2\n'


def write_log(
    folder: Path, n_users: int = 240, name: str = "log.csv", seed: int = 0, start: int = 1_600_000_000
) -> int:
    """Users of three tastes among 45 items; returns the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    pairs = [
        (user, item)
        for user in range(n_users)
        for item in draw.sample(range(45), 45)
        if draw.random() < (0.6 if (user + item) % 3 == 0 else 0.06)
    ]
    lines = [f"u{user:03d},i{item:02d},{start + 600 * n}" for n, (user, item) in enumerate(pairs)]
    (folder / name).write_text("\n".join(["user,item,timestamp", *lines, ""]))
    return len(lines)


def one_night(
    folder: Path, models: str = GOOD, *overrides: str, step: Callable[..., Any] = line.plainly, until: str | None = None
) -> Run:
    """Run a night on `folder`/data with these models; raises what the night raises."""
    (folder / "tastes.toml").write_text(TOML)
    (folder / "recipe.toml").write_text(RECIPE + models)
    options = ["threads=1", "export.top_n=5", *overrides]
    places = [str(folder / name) for name in ("tastes.toml", "recipe.toml", "data", "home")]
    run = prepare(*places, options)

    def without_views(call: StageCall, stage: Callable, *args: Any) -> Any:
        return None if call.place in (StageName.TRACK, StageName.REPORT) else step(call, stage, *args)

    with engine_of(run):
        line.conduct(run, without_views, until)
    return run


def first_night(folder: Path, models: str = GOOD, *overrides: str) -> Run:
    """`write_log` and a first night of `folder`, copied from one that is made once in this process."""
    made, run_id = _made_once(models, *overrides)
    subprocess.run(["cp", "-a", f"{made}/.", str(folder)], check=True)
    home = Home(folder / "home")
    home_identity.settle(home)
    return journal.load_run(home, "tastes", run_id)


@cache
def _made_once(models: str, *overrides: str) -> tuple[Path, str]:
    folder = Path(tempfile.mkdtemp(prefix="nightrecs-tastes-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_log(folder / "data")
    return folder, one_night(folder, models, *overrides).run_id


def record(run: Run) -> dict:
    """run.json of a night."""
    return journal.read_run(run.home, run.dataset, run.run_id)


def last_record(folder: Path) -> dict:
    """run.json of the last night of `folder`."""
    home = Home(folder / "home")
    return journal.read_run(home, "tastes", journal.run_ids(home, "tastes")[-1])
