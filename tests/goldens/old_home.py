"""A home with two published nights and their registered models, made by version 0.1.0; see `old_home/README.md`."""

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("old_home") / "old_home.tar.xz"
MADE_AT = "/tmp/nightrecs-old-home"
DATASET = "old"


def unpack(folder: Path) -> Path:
    """Unpack into `folder` the data set (`old.toml`, `first.toml`, `second.toml`) and its home, which is returned."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    inner = folder / Path(MADE_AT).name
    for path in inner.iterdir():
        shutil.move(path, folder / path.name)
    inner.rmdir()
    _moved(folder)
    return folder / "home"


def _moved(folder: Path) -> None:
    """Say in journal and MLflow where the home is now.

    By hand, as a home that was copied elsewhere has to be as long as no command of Nightrecs does it.
    """
    for path in (folder / "home" / "warehouse" / "journal").rglob("run.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record, indent=2).replace(MADE_AT, str(folder)))
    with sqlite3.connect(folder / "home" / "mlflow" / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
            ("model_versions", "source"), ("model_versions", "storage_location"),
        ):  # fmt: skip
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (MADE_AT, str(folder)))
    database.close()
