"""Data sets whose rows are fetched, read up to the stage ingest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.sources.files import fingerprint
from pipeline.stages import ingest
from pipeline.storage import journal, lake

MODELS = "[models.popularity]\n"


@dataclass(frozen=True)
class Read:
    """What ingest has read."""

    run: Run
    folder: Path

    @property
    def rows(self) -> list[tuple]:
        """User, item, rating of the rows, sorted."""
        frame = pl.read_parquet(self.folder / "interactions.parquet").cast({"user_id": pl.String, "item_id": pl.String})
        return sorted(frame.select("user_id", "item_id", "rating").rows(), key=str)

    @property
    def ledger(self) -> dict[str, int]:
        return lake.read_manifest(self.folder)["ledger"]

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def digest(self) -> str:
        """SHA-256 of the fetched interactions."""
        return fingerprint(self.run.data / "source.query.parquet")


def write_toml(folder: Path, source: Mapping[str, object], more: str = "", name: str = "shop") -> Path:
    """A data set with the columns `u` and `i`; `source` has the keys of [source]."""
    keys = "\n".join(f"{key} = {_toml(value)}" for key, value in source.items())
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n[source]\n{keys}\n[columns]\nuser = "u"\nitem = "i"\n{more}')
    (folder / "one.toml").write_text(MODELS)
    return path


def read(toml: Path, home: Path, *overrides: str) -> Read:
    """Prepare a night of it, and read its source."""
    run = prepare(str(toml), str(toml.parent / "one.toml"), home=str(home), overrides=list(overrides), until="split")
    journal.open_run(run)
    return Read(run, ingest.read_source(run))


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return "'''" + str(value) + "'''"
