"""Draws pictures in a process of its own: drawing is slow Python, and the night has other things to do meanwhile."""

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

if TYPE_CHECKING:  # the process that draws needs no models
    from pipeline.reporting.plots.night import Picture, Source

PATIENCE = 120.0
"""Seconds that pictures may still take when they are asked back; a first use of matplotlib looks through all fonts."""


class Drawer:
    """`with Drawer() as drawer:` ask first, do other things, then take what `drawn` yields, before the block ends.

    The process reads names of files from its standard input and ends with it, so it outlives nobody.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nightrecs-pictures-")
        self._asked: list[tuple[str | None, Path]] = []
        self._failed: list[str] = []
        command, env = child_processes.command("pipeline.reporting.plots.worker"), child_processes.environment()
        with (Path(self._folder.name) / "stderr").open("w") as told:
            self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stderr=told, text=True)

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def ask(self, sources: "Iterable[Source]") -> None:
        """Have every picture of the sources drawn; one that can't be prepared is told by `failed`."""
        for of, pictures in sources:
            try:
                for picture in pictures():
                    folder = Path(tempfile.mkdtemp(dir=self._folder.name))
                    write_order(picture, folder)
                    self._asked.append((of, folder / picture.name))
                    self._tell(str(folder))
            except Exception as error:
                self._failed.append(f"{type(error).__name__}: {error}")

    def drawn(self) -> Iterator[tuple[str | None, Path]]:
        """Wait, then: whose picture, and where it is until the block ends."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        yield from ((of, path) for of, path in self._asked if path.exists())

    def failed(self) -> list[str]:
        """Why a picture is missing, a line each; to be asked after `drawn`."""
        missing = [path for _, path in self._asked if not path.exists()]
        told = [path.with_name("error").read_text() for path in missing if path.with_name("error").exists()]
        if len(told) < len(missing):
            last = (Path(self._folder.name) / "stderr").read_text().strip().splitlines()[-1:]
            told.append(" ".join([f"drawing ended with code {self._process.returncode}", *last]))
        return self._failed + told

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # where it has ended; `failed` tells
            print(line, file=self._process.stdin, flush=True)


def write_order(picture: "Picture", folder: Path) -> None:
    """The function's name and what the picture shows: frames as Parquet, the rest as JSON."""
    frames = {key: value for key, value in picture.shown.items() if isinstance(value, pl.DataFrame)}
    for key, frame in frames.items():
        frame.write_parquet(folder / f"{key}.parquet")
    shown = {key: value for key, value in picture.shown.items() if key not in frames}
    order = {"module": picture.draw.__module__, "function": picture.draw.__name__, "name": picture.name, "shown": shown}
    (folder / "order.json").write_text(json.dumps(order))


def draw_order(folder: Path) -> None:
    """Make the picture that `write_order` described, whole or not at all."""
    order = json.loads((folder / "order.json").read_text())
    frames = {file.stem: pl.read_parquet(file) for file in folder.glob("*.parquet")}
    draw = getattr(importlib.import_module(order["module"]), order["function"])
    draw(**order["shown"], **frames, path=folder / "part.png").rename(folder / order["name"])


def main() -> None:
    """Draw what the folders named on standard input order."""
    for line in sys.stdin:
        folder = Path(line.strip())
        try:
            draw_order(folder)
        except Exception as error:
            traceback.print_exc()
            (folder / "error").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
