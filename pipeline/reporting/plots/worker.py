"""Draws plots in a separate process, since drawing is slow and the night can do other work meanwhile."""

import importlib
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipeline.core import child_processes

if TYPE_CHECKING:  # the drawing process needs no models
    from pipeline.reporting.plots.night import Picture, Source

PATIENCE = 120.0
"""Seconds to wait for plots that are not finished; the first use of matplotlib scans all fonts."""


class Drawer:
    """`with Drawer() as drawer:` call `ask`, do other work, then read `drawn` before the block ends.

    The process reads file names from its standard input and ends with it, so it never outlives its parent.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nightrecs-pictures-")
        self._asked: list[tuple[str | None, Path]] = []
        self._failed: list[str] = []
        command, env = child_processes.command("pipeline.reporting.plots.worker"), child_processes.environment()
        with (Path(self._folder.name) / "stderr").open("w") as errors:
            self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stderr=errors, text=True)

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def ask(self, sources: "Iterable[Source]") -> None:
        """Request every plot of the sources; `failed` reports those that can't be prepared."""
        for of, pictures in sources:
            try:
                for picture in pictures():
                    folder = Path(tempfile.mkdtemp(dir=self._folder.name))
                    write_order(picture, folder)
                    self._asked.append((of, folder / picture.name))
                    self._send(str(folder))
            except Exception as error:
                self._failed.append(f"{type(error).__name__}: {error}")

    def drawn(self) -> Iterator[tuple[str | None, Path]]:
        """Wait for the plots; yields the label of each and its file, which exists until the block ends."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        yield from ((of, path) for of, path in self._asked if path.exists())

    def failed(self) -> list[str]:
        """Why plots are missing, one line each; call it after `drawn`."""
        missing = [path for _, path in self._asked if not path.exists()]
        reasons = [path.with_name("error").read_text() for path in missing if path.with_name("error").exists()]
        if len(reasons) < len(missing):
            last = (Path(self._folder.name) / "stderr").read_text().strip().splitlines()[-1:]
            reasons.append(" ".join([f"drawing ended with code {self._process.returncode}", *last]))
        return self._failed + reasons

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; `failed` reports it
            print(line, file=self._process.stdin, flush=True)


def write_order(picture: "Picture", folder: Path) -> None:
    """Write the name of the drawing function and its arguments: frames as Parquet, the rest as JSON."""
    frames = {key: value for key, value in picture.shown.items() if isinstance(value, pl.DataFrame)}
    for key, frame in frames.items():
        frame.write_parquet(folder / f"{key}.parquet")
    shown = {key: value for key, value in picture.shown.items() if key not in frames}
    order = {"module": picture.draw.__module__, "function": picture.draw.__name__, "name": picture.name, "shown": shown}
    (folder / "order.json").write_text(json.dumps(order))


def draw_order(folder: Path) -> None:
    """Draw the plot that `write_order` described; its file is renamed into place when it is complete."""
    order = json.loads((folder / "order.json").read_text())
    frames = {file.stem: pl.read_parquet(file) for file in folder.glob("*.parquet")}
    draw = getattr(importlib.import_module(order["module"]), order["function"])
    draw(**order["shown"], **frames, path=folder / "part.png").rename(folder / order["name"])


def main() -> None:
    """Draw the plots of the folders that standard input names."""
    for line in sys.stdin:
        folder = Path(line.strip())
        try:
            draw_order(folder)
        except Exception as error:
            traceback.print_exc()
            (folder / "error").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
