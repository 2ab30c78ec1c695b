"""The whole line on one page. It knows nothing of Prefect: `step` either calls a stage or wraps it as a task."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import outcome as ending
from flows.step import Step, Stopped, plainly, stopping
from pipeline.config.run import Run
from pipeline.config.settings import FLOOR
from pipeline.core.console import log
from pipeline.core.errors import Naming, Refused, Skipped
from pipeline.core.filesystem import is_full
from pipeline.core.stage_call import StageCall, StageName
from pipeline.maintenance.rollback import finish_forgetting
from pipeline.stages import admit, clean, encode, ingest, split
from pipeline.storage import journal
from pipeline.storage.generations import live_run_id, restore_live
from pipeline.storage.lock import lock


@dataclass(frozen=True)
class Data:
    """Folders of what the data stages made."""

    raw: Path
    cleaned: Path
    encoded: Path
    parts: Path
    """The split."""


def data_stages(run: Run, step: Step) -> Data:
    """From the source to a split; without torch."""
    raw = step(StageCall(StageName.INGEST), ingest.read_source, run)
    raw = step(StageCall(StageName.ADMIT), admit.admit_source, run, raw)
    cleaned = step(StageCall(StageName.CLEAN), clean.clean_interactions, run, raw)
    encoded = step(StageCall(StageName.ENCODE), encode.encode_ids, run, cleaned)
    parts = step(StageCall(StageName.SPLIT), split.split_interactions, run, encoded)
    return Data(raw, cleaned, encoded, parts)


def night(run: Run, step: Step) -> None:
    """CSV in, published tables out. Each stage returns the folder (or file) that the next ones read."""
    data = data_stages(run, step)

    from flows.candidates import Competition  # torch takes its time
    from pipeline.stages import audit, compare, export, leaks, profile, publish, report, select, track, train

    step(StageCall(StageName.PROFILE), profile.describe_data, run, data.raw, data.cleaned, data.parts)

    field = Competition(run, step, data.parts)
    field.first_fits()
    field.searches()
    field.blends()
    lineup = field.lineup()
    field.beside_the_recipe(lineup)

    if field.measured.keys() <= {FLOOR}:
        raise Refused("no model could be fitted, so there is nothing to publish")
    fitted, measured = field.fitted, list(field.measured.values())
    step(StageCall(StageName.LEAKS), leaks.audit_leaks, run, data.parts, sorted(field.fits))
    champion = step(StageCall(StageName.SELECT), select.choose_champion, run, measured, data.parts, lineup)
    step(StageCall(StageName.COMPARE), compare.compare_models, run, measured)
    on_all, own = StageCall(StageName.TRAIN, champion, fit="all"), lineup.entrants.get(champion, run)
    try:
        refit = step(on_all, train.fit_model, own, data.encoded, champion, "all", fitted[champion])
    except Skipped as reason:
        raise Refused(f"{champion} was chosen, but can't be fitted on all rows: {reason}") from reason
    shown = [fit for label, fit in fitted.items() if label not in lineup.members]
    searched = list(field.searched.values())
    step(
        StageCall(StageName.TRACK),
        track.log_night,
        run,
        data.parts,
        data.encoded,
        refit,
        shown,
        measured,
        champion,
        searched,
    )

    models = [fitted[label] for label in field.measured]
    lists = step(
        StageCall(StageName.EXPORT), export.export_tables, run, data.raw, data.encoded, refit, models, measured
    )
    building = step(StageCall(StageName.AUDIT), audit.audit_tables, run, data.raw, data.encoded, lists, champion)
    step(StageCall(StageName.PUBLISH), publish.publish_tables, run, building)
    step(StageCall(StageName.REGISTER), track.register_champion, run)
    step(StageCall(StageName.REPORT), report.write_report, run)


def conduct(run: Run, step: Step = plainly, until: str | None = None, at_start: Callable[[], Any] | None = None) -> str:
    """One night from lock to outcome: `published` or `stopped`. Raises Refused, Locked or what crashed it.

    `at_start` is called once the lock is held and nights that never ended are closed.
    """
    with lock(run.home, run.dataset, run.run_id):
        restored = restore_live(run.home, run.dataset, run.run_id)
        closed = journal.close_stale(run.home, run.dataset, live_run_id(run.home, run.dataset))
        for stale, outcome in closed.items():
            log.info(f"night {stale} had never ended; it is closed as {outcome}")
        ending.end_stale_in_mlflow(run, list(closed))
        open_forgets = finish_forgetting(run.home, run.dataset, prove=False)
        journal.open_run(run)
        for line in restored:
            journal.note(run, f"warning: {line}")
        for line in open_forgets:
            journal.note(run, f"warning: a user who is to be forgotten is still there: {line}")
        try:
            if at_start:
                at_start()
            night(run, stopping(step, until))
        except Stopped:
            journal.close_run(run, "stopped", f"--until {until}")
            if journal.read_run(run.home, run.dataset, run.run_id)["outcome"] == "stopped":
                return "stopped"
        except Refused as reason:
            with suppress(OSError):
                journal.close_run(run, "refused", str(reason), reason.ids)
            ending.end_in_mlflow(run, "refused")
            ending.report_shortly(run)
            ending.tell(run, "refused", str(reason))
            raise
        except BaseException as error:
            outcome = "published" if live_run_id(run.home, run.dataset) == run.run_id else "crashed"
            with suppress(OSError):  # a full disk; the next night closes this one
                journal.keep_traceback(run)
                ids = error.ids if isinstance(error, Naming) else None
                journal.close_run(run, outcome, f"{type(error).__name__}: {error}".rstrip(": "), ids)
            if isinstance(error, Exception) and not is_full(error):  # whoever sent a signal waits
                ending.report_shortly(run)
            ending.tell(run, outcome, f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        ending.end_in_mlflow(run, "published")
    return "published"
