"""Homes that are copied or moved between nights."""

import hashlib
import sqlite3
import subprocess
from pathlib import Path

from pipeline.core.paths import Home

from .child import Ended, Night
from .ground import DATASET, Ground, rows
from .table import row


def hashes(home: Path) -> dict[str, str]:
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(ground: Ground, *words: str) -> Ended:
    """A command between nights, to its end, with MLflow."""
    log = ground.root / f"{words[0]}.log"
    ended = Night(["--home", str(ground.home.root), *words], log, mlflow=True).end()
    assert ended.code == 0, f"{words[0]} exits {ended.code}: {ended.output[-900:]}"
    return ended


def locations(home: Home) -> list[str]:
    """Where MLflow believes models, runs and experiments to be."""
    con = sqlite3.connect(home.mlflow_db)
    asked = [("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")]
    asked.append(("model_versions", "storage_location"))
    found = [r[0] for table, column in asked for r in con.execute(f"select {column} from {table}").fetchall()]
    con.close()
    return [location for location in found if "mlflow/artifacts/tiny" in location]


@row(35, "`cp -a` of a home, then a night and a `forget` in the copy", "the original's files keep their hashes")
def copied(root: Path) -> str:
    original = Ground(root / "original")
    original.write(rows())
    original.night(mlflow=True)
    before = hashes(original.home.root)
    copy = Ground(root / "copy").copy_of(original)
    output = copy.night(mlflow=True).output
    assert f"is a copy of the home {original.home.root}" in output, output[-600:]
    assert copy.promise() == copy.run_ids()[-1]
    output = command(copy, "forget", DATASET, "u7").output
    assert "2 models that know the user deleted" in output, output[-600:]
    assert hashes(original.home.root) == before, "the original changed"
    assert all(str(copy.home.root) in place for place in locations(copy.home)), "MLflow points out of the copy"
    assert original.promise() == original.run_ids()[-1]
    return f"{len(before)} files as they were; the copy published, and deleted 2 models of its own"


@row(36, "`mv` of a home between two nights", "goes on where it is, and nothing appears at the old place")
def moved(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night(mlflow=True)
    first, second = ground.home.root, root / "elsewhere"
    first.rename(second)
    ground.home = Home(second)
    output = ground.night(mlflow=True).output
    assert f"the home was moved from {first} to {second}" in output, output[-600:]
    assert ground.promise() == ground.run_ids()[-1] and len(ground.run_ids()) == 2
    trained = {stage: skipped for stage, skipped in ground.skipped().items() if stage.startswith("train")}
    assert trained and all(trained.values()), f"fitted again: {trained}"
    output = command(ground, "forget", DATASET, "u7").output
    assert "2 models that know the user deleted" in output, output[-600:]
    assert not first.exists(), "the old place came back"
    assert subprocess.run(["grep", "-rlF", f"{first}/", str(second / "warehouse" / "lake")]).returncode == 1
    return "paths repaired, models reused and deleted where they are; the old place stays gone"
