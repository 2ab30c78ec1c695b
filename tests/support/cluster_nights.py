"""Nights that tests carry out on a cluster, and without one."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.storage import journal
from tests.support.tastes import one_night, write_log

LONG = "[models.mf]\nepochs = 9999\npatience = 9999\nembedding_dim = 8\n"
SLOW = "[models.ease]\n[models.mf]\nepochs = 60\nembedding_dim = 32\n"


def night(folder: Path, models: str, *overrides: str) -> Run:
    """A night on users of three tastes."""
    write_log(folder / "data")
    return one_night(folder, models, "gate.enabled=false", *overrides)


def hash_of(run: Run) -> str:
    """The logical hash of what was published."""
    return journal.read_run(run.home, run.dataset, run.run_id)["logical_hash"]
