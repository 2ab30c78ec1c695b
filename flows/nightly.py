"""The whole line on one page. It knows nothing of Prefect: `step` either calls a stage or wraps it as a task."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import journal, notify
from pipeline.contracts import Refused
from pipeline.disk import is_full
from pipeline.masking import masked
from pipeline.run import Run
from pipeline.settings import FLOOR
from pipeline.stages import admit, clean, encode, ingest, split
from pipeline.stages.publish import live_run_id

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

    from pipeline import incumbent, standing  # torch takes its time
    from pipeline.stages import audit, compare, evaluate, export, leaks, profile, publish, report, select, track, train

    step(profile.describe_data, run, raw, cleaned, parts)

    searched: dict[str, Path] = {}
    fitted: dict[str, Path] = {}
    measured: dict[str, Path] = {}
    audited: set[Path] = set()

    def compete(label: str, own: Run) -> None:
        with family_alone(run, f"{label} tuned" if label in measured else label):
            fit = tested = step(train.fit_model, own, parts, label, "train", None, searched.get(label), {**fitted})
            fitted.setdefault(label, fit)
            if run.settings.evaluation.fit_for_test != "train":
                tested = step(train.fit_model, own, parts, label, run.settings.evaluation.fit_for_test, fit)
            measured[label] = step(evaluate.measure_model, own, parts, label, fit, tested)
            fitted[label] = fit
            audited.update((fit, tested))

    budgeted = run.settings.budget.minutes is not None
    blends = [label for label in run.settings.models if standing.is_blend(run.settings, label)]
    for label, entry in run.settings.models.items():
        if label in blends:
            continue  # they are made of the others
        if entry.search and not budgeted:
            with family_alone(run, f"search {label}"):
                searched[label] = step(search_stage(), run, parts, label)
        compete(label, run)
    if budgeted:  # something can be published by now; what time is left goes into searches
        from flows.turns import search_in_turns

        for label, folder, is_better in search_in_turns(run, step, parts, fitted, family_alone):
            searched[label] = folder
            if is_better:
                compete(label, run)
    for label in blends:
        compete(label, run)
    taking_part = {label: fitted[label] for label in measured}
    lineup = incumbent.lineup(run, live_run_id(run.home, run.dataset), taking_part)
    for label, own in lineup.members.items():
        with family_alone(run, label):
            fitted[label] = step(train.fit_model, own, parts, label)
            audited.add(fitted[label])
    for label, own in lineup.entrants.items():  # what is published now, and popularity, beside the recipe's models
        if label == FLOOR or lineup.members.keys() <= fitted.keys():
            compete(label, own)

    if measured.keys() <= {FLOOR}:
        raise Refused("no model could be fitted, so there is nothing to publish")
    step(leaks.audit_leaks, run, parts, sorted(audited))
    champion = step(select.choose_champion, run, list(measured.values()), parts, lineup)
    step(compare.compare_models, run, list(measured.values()))
    try:
        refit = step(train.fit_model, lineup.entrants.get(champion, run), encoded, champion, "all", fitted[champion])
    except train.Skipped as reason:
        raise Refused(f"{champion} was chosen, but can't be fitted on all rows: {reason}") from reason
    shown = [fit for label, fit in fitted.items() if label not in lineup.members], list(measured.values())
    step(track.log_night, run, parts, encoded, refit, *shown, champion, list(searched.values()))

    models = [fitted[label] for label in measured]
    lists = step(export.export_tables, run, raw, encoded, refit, models, shown[1])
    building = step(audit.audit_tables, run, raw, encoded, lists, champion)
    step(publish.publish_tables, run, building)
    step(track.register_champion, run)
    step(report.write_report, run)


def search_stage() -> Callable:
    """The stage `search`, imported where a night searches: optuna takes its time."""
    from pipeline.stages import search

    return search.search_model


class family_alone:
    """A family that can't be used, or that crashes, is journaled and left out; the night goes on with the others."""

    def __init__(self, run: Run, label: str):
        self.run, self.label = run, label

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception) or isinstance(error, Stopped) or is_full(error):  # full for all of them
            return False
        from pipeline.stages import train

        verb = "skipped" if isinstance(error, train.Skipped) else f"failed ({kind.__name__ if kind else ''})"
        journal.note(self.run, f"{self.label} {verb}: {error}")
        left_out = journal.read_run(self.run.home, self.run.dataset, self.run.run_id).get("left_out", {})
        journal.update_run(self.run, left_out={**left_out, self.label: masked(f"{verb}: {error}")})
        if not isinstance(error, train.Skipped):
            journal.keep_traceback(self.run)
        return True


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
        end_stale_in_mlflow(run, list(closed))
        journal.open_run(run)
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
                journal.close_run(run, "refused", str(reason))
            end_in_mlflow(run, "refused")
            report_shortly(run)
            tell(run, "refused", str(reason))
            raise
        except BaseException as error:
            outcome = "published" if live_run_id(run.home, run.dataset) == run.run_id else "crashed"
            with suppress(OSError):  # a full disk; the next night closes this one
                journal.keep_traceback(run)
                journal.close_run(run, outcome, f"{type(error).__name__}: {error}".rstrip(": "))
            if isinstance(error, Exception) and not is_full(error):  # whoever sent a signal waits
                report_shortly(run)
            tell(run, outcome, f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        end_in_mlflow(run, "published")
    return "published"


def tell(run: Run, outcome: str, reason: str) -> None:
    """Send word to whoever the environment names, where a night did not go well; see pipeline/notify.py."""
    about = {"dataset": run.dataset, "run_id": run.run_id, "outcome": outcome, "home": str(run.home.root)}
    for failed in notify.tell(f"nightrecs: the night of {run.dataset} is {outcome}: {reason}", about):
        journal.say(failed)


def report_shortly(run: Run) -> None:
    """The report of a night that did not publish: what the journal knows of it."""
    from pipeline.stages import report

    with suppress(Exception):
        report.write_report(run)


def end_in_mlflow(run: Run, outcome: str) -> None:
    """The night's run there carries its outcome."""
    from pipeline.stages import track

    track.end_night(run, outcome)


def end_stale_in_mlflow(run: Run, closed: list[str]) -> None:
    """Nights that were killed after they began to show themselves there left runs behind."""
    if any("made" in journal.read_run(run.home, run.dataset, run_id) for run_id in closed):
        from pipeline.stages import track

        track.end_stale(run.home, run.dataset)


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
