"""Source files that an engine reads are what one process reads: rows, rejected lines, ledger and key."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.errors import UnreadableInput
from pipeline.sources import file_parts, files
from pipeline.stages import ingest
from pipeline.storage import journal, lake
from tests.support.engines import Elsewhere
from tests.support.stage_runs import make_run

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "at"}


def write_files(folder: Path, n: int = 4) -> Path:
    """Files with rows of their own, a rejected line each, and the first one twice."""
    folder.mkdir()
    texts = [
        f"user,item,rating,at\nu{n},i1,3,96498270{n}\n,i2,4,1\nu{n},i{n},x\nv,i{n},1,96498260{n}\n" for n in range(n)
    ]
    for number, text in enumerate([*texts, texts[0]]):
        (folder / f"{number}.csv").write_text(text)
    return folder


def night(home: Path, data: Path, mode: str) -> Run:
    """An open night that reads these files."""
    source = {"files": ["*.csv"], "mode": mode, "max_reject_rate": 1.0}
    return make_run(home, data, dataset={"source": source, "columns": COLUMNS}, threads=1)


def read(run: Run, engine: spread.Engine) -> dict[str, Any]:
    """What `ingest` makes of them."""
    with spread.using(engine):
        folder = ingest.read_source(run)
    manifest = lake.read_manifest(folder)
    frames = {path.name: pl.read_parquet(path).rows() for path in folder.glob("*.parquet")}
    assert not list(folder.parent.glob(".*"))
    return {**frames, **{key: manifest[key] for key in ("key", "ledger", "info", "rows_in", "rows_out")}}


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_files_read_elsewhere_are_those_read_here(tmp_path: Path, mode: str):
    data, engine = write_files(tmp_path / "data"), Elsewhere()
    here, there = (night(tmp_path / name, data, mode) for name in ("here", "there"))
    assert read(here, spread.Engine()) == read(there, engine)
    assert engine.parts == ["read_part"] * (5 if mode == "snapshot" else 4)
    assert journal.notes(here.home, "three", "r1") == journal.notes(there.home, "three", "r1")
    if mode == "incremental":
        for number in (7, 8):
            (data / f"{number}.csv").write_text(f"user,item,rating,at\nw,i{number},3,964982703\n")
        assert read(here, spread.Engine()) == read(there, engine)
        assert engine.parts == ["read_part"] * 6


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("user,item,rating,at\nanother,i,1,1\n")])
def test_a_file_that_another_machine_sees_differently_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
):
    data, elsewhere = write_files(tmp_path / "data"), write_files(tmp_path / "elsewhere")
    change(elsewhere / "3.csv")
    here, there = (night(tmp_path / name, data, "snapshot") for name in ("here", "there"))
    read_part = file_parts.read_part
    monkeypatch.setattr(
        file_parts, "read_part", lambda run, *rest: read_part(run.model_copy(update={"data": elsewhere}), *rest)
    )

    class Threads(Elsewhere):
        """Without pickling, for the function above."""

        def each(self, function, calls):
            return (function(*call) for call in calls)

    assert read(here, spread.Engine()) == read(there, Threads())
    text = "ingest: 1 of 5 source files were read here: machines of the cluster do not have them, or with other content"
    assert any(note.startswith(text) for note in journal.notes(there.home, "three", "r1"))


def test_an_unreadable_file_is_named_as_without_an_engine(tmp_path: Path):
    data = write_files(tmp_path / "data")
    (data / "2.csv").write_text("user,article\nu,i\n")
    found = []
    for name, engine in (("here", spread.Engine()), ("there", Elsewhere())):
        with pytest.raises(UnreadableInput, match=r"2\.csv") as raised:
            read(night(tmp_path / name, data, "snapshot"), engine)
        found.append(str(raised.value))
    assert found[0] == found[1]
    assert not list((tmp_path / "there").rglob(".scratch-*"))


def test_who_is_second_leaves_what_the_first_one_wrote(tmp_path: Path):
    run = night(tmp_path / "home", write_files(tmp_path / "data"), "snapshot")
    digest, into = files.fingerprint(run.data / "1.csv"), tmp_path / "ahead-1"
    first = file_parts.read_part(run, "1.csv", digest, into)
    stamps = {path.name: path.stat().st_mtime_ns for path in into.iterdir()}
    assert file_parts.read_part(run, "1.csv", digest, into) == first
    assert stamps == {path.name: path.stat().st_mtime_ns for path in into.iterdir()}
    assert [path.name for path in tmp_path.glob("*ahead*")] == ["ahead-1"]
