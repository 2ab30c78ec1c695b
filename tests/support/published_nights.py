"""A data set that is published night after night in this process, for tests of what people do between the nights."""

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import conductor as line
from flows.cli import main
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.stages import report, track
from pipeline.storage import home_identity
from tests.support.nights import rows_of

TOML = """name = "tiny"
[source]
files = ["*.csv"]
mode = "{mode}"
max_reject_rate = 0.2
[columns]
rating = "rating"
timestamp = "t"
"""
RECIPE = """[split]
kind = "leave_one_out"
[models.mf]
embedding_dim = 4
epochs = 1
[gate]
enabled = false
"""
DAY = 86_400
START = 1_700_000_000 // DAY * DAY
"""2023-11-14, UTC midnight."""
SECRET = "user-to-forget"


class Dataset:
    """`tiny` in a folder of its own: write() its source, night() publishes, command() is `nightrecs`."""

    def __init__(self, folder: Path, mode: str = "snapshot"):
        self.folder, self.home_root, self.mode = folder, folder / "home", mode
        folder.mkdir(exist_ok=True)
        (folder / "tiny.toml").write_text(TOML.format(mode=mode))
        (folder / "cheap.toml").write_text(RECIPE)

    def write(self, name: str = "a.csv", users: int = 20, first_day: int = 0, extra: tuple[str, ...] = ()) -> None:
        """One interaction a user and day, ten days from `first_day`; SECRET is one of the users."""
        names = [f"u{user:02d}" for user in range(users)] + [SECRET]
        lines = [
            f"{name},i{(5 * u + 3 * day) % 17:02d},{1 + (u + day) % 5},{START + day * DAY + u}"
            for day in range(first_day, first_day + 10)
            for u, name in enumerate(names)
        ]
        (self.folder / name).write_text("\n".join(["user,item,rating,t", *lines, *extra, ""]))

    def prepare(self, *overrides: str) -> Run:
        """A night that has not begun."""
        recipe = str(self.folder / "cheap.toml")
        return prepare(str(self.folder / "tiny.toml"), recipe, None, str(self.home_root), ["threads=1", *overrides])

    def night(self, *overrides: str) -> str:
        """Publish one; returns its run id."""
        run = self.prepare(*overrides)
        assert line.conduct(run, line.plainly) == "published"
        return run.run_id

    @property
    def home(self):
        """As the pipeline sees it."""
        return self.prepare().home

    def command(self, *words: str) -> int:
        """Exit code of `nightrecs --home … words`."""
        return main(["--home", str(self.home_root), *words])

    def printed(self, capsys: pytest.CaptureFixture, *words: str, code: int = 0) -> Any:
        """What it prints with --json."""
        capsys.readouterr()
        assert self.command(*words, "--json") == code
        return json.loads(capsys.readouterr().out)

    def ask(self, query: str, path: Path | None = None) -> pl.DataFrame:
        """Of the live tables, or of another file."""
        return rows_of(path or self.home.live("tiny"), query)

    def live_night(self) -> str:
        """The night that readers see."""
        return self.ask("select distinct run_id from recommendations")["run_id"].item()


def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nights as they are when MLflow can't be had, without the seconds that finding out takes."""
    monkeypatch.setattr(track, "best_effort", lambda run, problem, action: None)


def without_report_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nights with the stage `report` as it is where it fails, without the second or two that the page takes."""
    monkeypatch.setattr(report, "best_effort", lambda run, problem, action: None)


def copied(data: Dataset, folder: Path) -> Dataset:
    """The same data set elsewhere, with a home of its own; the live file stays a link to its generation."""
    subprocess.run(["cp", "-a", f"{data.folder}/.", str(folder)], check=True)
    copy = Dataset(folder, data.mode)
    home_identity.settle(Home(copy.home_root))
    return copy
