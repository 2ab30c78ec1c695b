"""Nights that are killed: at every fault point, by a signal in training, with everything else at once."""

import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import safe_open

from pipeline.core.fault_injection import BUILT, POINTS

from . import plants
from .ground import DATASET, WITH_GRADIENT, WITH_SEARCH, Ground, rows
from .table import row

LIVE_FROM = POINTS.index("publish:after_replace")
AFTER_GOING_LIVE = {*POINTS[LIVE_FROM : LIVE_FROM + 3], "register:before_log"}
"""Points at which the new tables are live."""


def often_checkpointed() -> None:
    """Every epoch is kept and printed."""
    from pipeline.stages import train
    from pipeline.training import checkpoint, loop

    for module, name in (
        (checkpoint, "SNAPSHOT_SECONDS"),
        (loop, "CHECKPOINT_SECONDS"),
        (train, "SECONDS_BETWEEN_LINES"),
    ):
        plants.set_constant(module, name, 0.0)


def snapshots_only() -> None:
    """Epochs are kept in memory only, and printed."""
    from pipeline.training import loop

    often_checkpointed()
    plants.set_constant(loop, "CHECKPOINT_SECONDS", 3600.0)


def epochs_printed() -> None:
    """Epochs that really run are printed, those repeated from a checkpoint are not."""
    import sys

    from pipeline.training import loop

    def printing(run_epoch: Callable[[loop.Stepper, int], float]) -> Callable[[loop.Stepper, int], float]:
        def output(self: loop.Stepper, epoch: int) -> float:
            print(f"runs epoch {epoch}.", file=sys.stderr)
            return run_epoch(self, epoch)

        return output

    plants.replace(loop.Stepper, "run_epoch", printing)


def after_a_published_night(root: Path) -> tuple[Ground, str]:
    """A home whose live tables are of older data, the sources of tonight, and tonight's undisturbed hash."""
    base = Ground(root / "base", recipe=WITH_SEARCH)
    base.write(rows(30))
    base.night()
    base.write(rows(40))
    undisturbed = Ground(root / "undisturbed").copy_of(base)
    undisturbed.night()
    return base, undisturbed.record()["logical_hash"]


def kill_and_resume(base: Ground, point: str, expected: str) -> None:
    """One point: killed there, the promise holds; the next night goes on and ends as if undisturbed."""
    ground = Ground(base.root.parent / point.replace(":", "-")).copy_of(base)
    (old,) = ground.run_ids()
    ground.night(code=-9, fault=f"{point}:kill", before=often_checkpointed)
    live, (_, killed) = ground.promise(), ground.run_ids()
    assert live == (killed if point in AFTER_GOING_LIVE else old), f"{point}: {live} is live"
    finished = {stage for stage, _ in ground.skipped().items() if stage.split()[0] in BUILT}
    ground.night()
    record = ground.record()
    assert ground.promise() == record["run_id"] and record["logical_hash"] == expected, f"{point}: another hash"
    done_again = sorted(stage for stage in finished if not ground.skipped()[stage])
    assert not done_again, f"{point}: {done_again} were done again"
    outcome = ground.record(-2)["outcome"]
    assert outcome == ("published" if point in AFTER_GOING_LIVE else "crashed"), f"{point}: closed as {outcome}"
    assert not list(ground.home.generations(DATASET).glob(".*")), f"{point}: a half-built file is left"


@row(1, "kill -9 at each fault point", "promise holds; resumes; same logical hash")
def kill_everywhere(root: Path) -> str:
    base, expected = after_a_published_night(root)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda point: kill_and_resume(base, point, expected), POINTS))
    return f"{len(POINTS)} points: old or new file whole, finished stages skipped, hash {expected[:8]} each time"


@row(2, "SIGTERM / Ctrl-C in training", "checkpoint, 143 / 130, resumable")
def signals_in_training(root: Path) -> str:
    patient = WITH_GRADIENT.replace("epochs = 4", "epochs = 40\npatience = 40\nbatch_size = 4")
    undisturbed = Ground(root / "undisturbed", recipe=patient)
    undisturbed.write(rows())
    undisturbed.night()
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT):
        ground = Ground(root / number.name, recipe=patient)
        ground.write(rows())
        night = ground.start(before=snapshots_only)
        night.wait_for("train mf  epoch 5/40")
        night.signal(number)
        codes.append(night.end().code)
        (left,) = (ground.home.lake(DATASET) / "5_models").glob(".checkpoint-*.safetensors")
        with safe_open(left, framework="pt") as file:
            epoch = int(file.metadata()["progress"].split('"epoch": ')[1].split(",")[0])
        output = ground.night(before=epochs_printed).output
        first = next(int(line[11:-1]) for line in output.splitlines() if line.startswith("runs epoch"))
        assert first == epoch + 1 > 5 and not left.exists(), f"resumed at epoch {first}, the checkpoint was at {epoch}"
        assert ground.record()["logical_hash"] == undisturbed.record()["logical_hash"]
        assert ground.record(-2)["outcome"] == "crashed"
    assert codes == [128 + signal.SIGTERM, 128 + signal.SIGINT], codes
    return f"exit {codes[0]} / {codes[1]}, went on after the last finished epoch, same hash"


@row(3, "everything killed at once (reboot)", "next night not blocked, stale runs closed")
def reboot(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night(code=-9, fault="export:before_write:kill", mlflow=True)
    assert statuses(ground) == ["RUNNING"], "the killed night is RUNNING in MLflow, as a reboot leaves it"
    ended = ground.night(mlflow=True)
    closed = ground.record(-2)
    assert closed["outcome"] == "crashed", closed
    assert "RUNNING" not in statuses(ground), f"MLflow still shows {statuses(ground)}"
    return f"next night published in {ended.seconds:.0f} s; journal says crashed, nothing is RUNNING in MLflow"


def statuses(ground: Ground) -> list[str]:
    """Status of the nights that MLflow knows, oldest first."""
    query = (
        "select r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        "where t.key = 'nightrecs.kind' and t.value = 'night' order by r.start_time"
    )
    with sqlite3.connect(ground.home.mlflow_db) as con:
        return [status for (status,) in con.execute(query)]
