"""Whole nights on a small file with planted tastes, without MLflow and report, for tests of successive nights."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import conductor as line
from flows.orchestration.cluster import engine_of
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import journal

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


def record(run: Run) -> dict:
    """run.json of a night."""
    return journal.read_run(run.home, run.dataset, run.run_id)


def last_record(folder: Path) -> dict:
    """run.json of the last night of `folder`."""
    from pipeline.core.paths import Home

    home = Home(folder / "home")
    return journal.read_run(home, "tastes", journal.run_ids(home, "tastes")[-1])
