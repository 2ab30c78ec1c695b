"""The whole line on one page. It knows nothing of Prefect: `step` either calls a stage or wraps it as a task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import journal
from pipeline.contracts import Refused
from pipeline.run import Run
from pipeline.stages import clean, encode, ingest, split
from pipeline.stages.publish import live_run_id

Step = Callable[..., Any]
ORDER = ["ingest", "clean", "encode", "split", "train", "evaluate", "select", "track", "export", "audit", "publish"]
DATA_STAGES = ORDER[:4]
"""They run once a night, and without torch."""


class Stopped(Exception):
    """The night ended where `--until` said."""


def night(run: Run, step: Step) -> None:
    """CSV in, published tables out. Each stage returns the folder (or file) that the next ones read."""
    raw = step(ingest.read_source, run)
    cleaned = step(clean.clean_interactions, run, raw)
    encoded = step(encode.encode_ids, run, cleaned)
    parts = step(split.split_interactions, run, encoded)

    from pipeline.stages import audit, evaluate, export, publish, select, track, train  # torch takes its time

    fitted: dict[str, Path] = {}
    measured: dict[str, Path] = {}
    for label in run.settings.models:
        with family_alone(run, label):
            fitted[label] = step(train.fit_model, run, parts, label)
            tested = fitted[label]
            if run.settings.evaluation.fit_for_test != "train":
                tested = step(train.fit_model, run, parts, label, run.settings.evaluation.fit_for_test, fitted[label])
            measured[label] = step(evaluate.measure_model, run, parts, label, fitted[label], tested)

    champion = step(select.choose_champion, run, list(measured.values()))
    try:
        refit = step(train.fit_model, run, encoded, champion, "all", fitted[champion])
    except train.Skipped as reason:
        raise Refused(f"{champion} was chosen, but can't be fitted on all rows: {reason}") from reason
    shown = list(fitted.values()), list(measured.values())
    step(track.log_night, run, parts, encoded, refit, *shown, champion)

    models = [fitted[label] for label in measured]
    lists = step(export.export_tables, run, raw, encoded, refit, models)
    building = step(audit.audit_tables, run, raw, encoded, lists, champion)
    step(publish.publish_tables, run, building)
    step(track.register_champion, run)


class family_alone:
    """A family that can't be used, or that crashes, is journaled and left out; the night goes on with the others."""

    def __init__(self, run: Run, label: str):
        self.run, self.label = run, label

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception) or isinstance(error, Stopped):
            return False
        from pipeline.stages import train

        verb = "skipped" if isinstance(error, train.Skipped) else f"failed ({kind.__name__ if kind else ''})"
        journal.note(self.run, f"{self.label} {verb}: {error}")
        left_out = journal.read_run(self.run.home, self.run.dataset, self.run.run_id).get("left_out", {})
        journal.update_run(self.run, left_out={**left_out, self.label: f"{verb}: {error}"})
        if not isinstance(error, train.Skipped):
            journal.keep_traceback(self.run)
        return True


def conduct(run: Run, step: Step, until: str | None = None) -> str:
    """One night from lock to outcome: `published` or `stopped`. Raises Refused, Locked or what crashed it."""

    def guarded(stage: Callable, *args: Any) -> Any:
        if until and ORDER.index(name_of(stage)) > ORDER.index(until):
            raise Stopped(until)
        result = step(stage, *args)
        if until in DATA_STAGES and name_of(stage) == until:
            raise Stopped(until)
        return result

    with journal.lock(run.home, run.dataset, run.run_id):
        for stale, outcome in journal.close_stale(run.home, run.dataset, live_run_id(run.home, run.dataset)).items():
            journal.say(f"night {stale} had never ended; it is closed as {outcome}")
        journal.open_run(run)
        try:
            night(run, guarded)
        except Stopped:
            journal.close_run(run, "stopped", f"--until {until}")
            return "stopped"
        except Refused as reason:
            journal.close_run(run, "refused", str(reason))
            end_in_mlflow(run, "refused")
            raise
        except BaseException as error:
            journal.keep_traceback(run)
            journal.close_run(run, "crashed", f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        end_in_mlflow(run, "published")
    return "published"


def end_in_mlflow(run: Run, outcome: str) -> None:
    """The night's run there carries its outcome."""
    from pipeline.stages import track

    track.end_night(run, outcome)


def name_of(stage: Callable) -> str:
    """The stage's name is its module's."""
    return stage.__module__.rsplit(".", 1)[-1]


def title_of(stage: Callable, args: tuple[Any, ...]) -> str:
    """`train ease`, `train ease on all`: the stage with what it is about, as the journal names it."""
    name = name_of(stage)
    if name not in ("train", "evaluate"):
        return name
    label, *fit = [arg for arg in args if isinstance(arg, str)]
    return f"{name} {label}" + (f" on {fit[0]}" if fit else "")


def plainly(stage: Callable, *args: Any) -> Any:
    """The step of `--no-prefect`: a call."""
    return stage(*args)
