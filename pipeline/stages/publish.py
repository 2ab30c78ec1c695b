"""Makes an audited generation live by an atomic swap: readers see the whole old file or the whole new one."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sha256, sync
from pipeline.storage import checksums, journal
from pipeline.storage.generations import drop_old_generations, go_live


def publish_tables(run: Run, building: Path) -> Path:
    """Make the audited file a read-only generation, and the live file a copy of it; returns the live file."""
    with journal.stage(run, "publish"):
        return _publish(run, building)


def _publish(run: Run, building: Path) -> Path:
    home, dataset = run.home, run.dataset
    generation = home.generation(dataset, run.run_id)
    sync(building)
    building.chmod(0o440)
    checksums.record_generation(home, dataset, run.run_id, sha256(building))
    fault("publish:before_rename")
    building.rename(generation)
    sync(generation.parent)
    for line in go_live(home, dataset, run.run_id):
        journal.note(run, f"warning: {line}")
    fault("publish:before_close")
    journal.close_run(run, "published")
    fault("publish:before_drop")
    drop_old_generations(home, dataset, run.settings.keep.generations)
    return home.live(dataset)
