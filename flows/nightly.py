"""The whole line on one page. It knows nothing of Prefect: `step` either calls a stage or wraps it as a task."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flows import ending
from pipeline import journal
from pipeline.contracts import Naming, Refused
from pipeline.disk import is_full
from pipeline.run import Run
from pipeline.settings import FLOOR
from pipeline.stages import admit, clean, encode, ingest, split
from pipeline.stages.publish import live_run_id
from pipeline.stages.rollback import finish_forgetting

Step = Callable[..., Any]
DATA_STAGES = ["ingest", "admit", "clean", "encode", "split"]
"""They run once a night, and without torch."""
MODEL_STAGES = [
    "profile", "search", "train", "evaluate", "leaks", "select", "compare", "track", "export", "audit", "publish",
    "report",
]  # fmt: skip
ORDER = [*DATA_STAGES, *MODEL_STAGES]


class Stopped(Exception):
    """The night ended where `--until` said."""


def night(run: Run, step: Step) -> None:
    """CSV in, published tables out. Each stage returns the folder (or file) that the next ones read."""
    raw = step(ingest.read_source, run)
    raw = step(admit.admit_source, run, raw)
    cleaned = step(clean.clean_interactions, run, raw)
    encoded = step(encode.encode_ids, run, cleaned)
    parts = step(split.split_interactions, run, encoded)

    from flows.competing import Competition  # torch takes its time
    from pipeline.stages import audit, compare, export, leaks, profile, publish, report, select, track, train

    step(profile.describe_data, run, raw, cleaned, parts)

    field = Competition(run, step, parts)
    field.of_the_recipe()
    lineup = field.lineup()
    field.beside_the_recipe(lineup)

    if field.measured.keys() <= {FLOOR}:
        raise Refused("no model could be fitted, so there is nothing to publish")
    fitted, measured = field.fitted, list(field.measured.values())
    step(leaks.audit_leaks, run, parts, sorted(field.fits))
    champion = step(select.choose_champion, run, measured, parts, lineup)
    step(compare.compare_models, run, measured)
    try:
        refit = step(train.fit_model, lineup.entrants.get(champion, run), encoded, champion, "all", fitted[champion])
    except train.Skipped as reason:
        raise Refused(f"{champion} was chosen, but can't be fitted on all rows: {reason}") from reason
    shown = [fit for label, fit in fitted.items() if label not in lineup.members]
    step(track.log_night, run, parts, encoded, refit, shown, measured, champion, list(field.searched.values()))

    models = [fitted[label] for label in field.measured]
    lists = step(export.export_tables, run, raw, encoded, refit, models, measured)
    building = step(audit.audit_tables, run, raw, encoded, lists, champion)
    step(publish.publish_tables, run, building)
    step(track.register_champion, run)
    step(report.write_report, run)


def conduct(run: Run, step: Step, until: str | None = None, at_start: Callable[[], Any] | None = None) -> str:
    """One night from lock to outcome: `published` or `stopped`. Raises Refused, Locked or what crashed it.

    `at_start` is called once the lock is held and nights that never ended are closed.
    """

    def guarded(stage: Callable, *args: Any) -> Any:
        if until and ORDER.index(name_of(stage)) > ORDER.index(until):
            raise Stopped(until)
        result = step(stage, *args)
        if until in DATA_STAGES and name_of(stage) == until:
            raise Stopped(until)
        return result

    with journal.lock(run.home, run.dataset, run.run_id):
        closed = journal.close_stale(run.home, run.dataset, live_run_id(run.home, run.dataset))
        for stale, outcome in closed.items():
            journal.say(f"night {stale} had never ended; it is closed as {outcome}")
        ending.end_stale_in_mlflow(run, list(closed))
        open_forgets = finish_forgetting(run.home, run.dataset, prove=False)
        journal.open_run(run)
        for line in open_forgets:
            journal.note(run, f"warning: a user who is to be forgotten is still there: {line}")
        try:
            if at_start:
                at_start()
            night(run, guarded)
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


def name_of(stage: Callable) -> str:
    """The stage's name is its module's."""
    return stage.__module__.rsplit(".", 1)[-1]


def title_of(stage: Callable, args: tuple[Any, ...]) -> str:
    """`train ease`, `train ease on all`: the stage with what it is about, as the journal names it."""
    name = "register" if stage.__name__ == "register_champion" else name_of(stage)
    if name not in ("search", "train", "evaluate"):
        return name
    label, *fit = [arg for arg in args if isinstance(arg, str)]
    tuned = " tuned" if name == "train" and len(args) > 5 and args[5] else ""
    return f"{name} {label}{tuned}" + (f" on {fit[0]}" if fit and fit[0] != "train" else "")


def plainly(stage: Callable, *args: Any) -> Any:
    """The step of `--no-prefect`: a call."""
    return stage(*args)
