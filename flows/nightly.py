"""The line: all stages of a night in order, on one page.

It knows nothing of Prefect: `step` either calls a stage or wraps it as a task.
"""

from dataclasses import dataclass
from pathlib import Path

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core import collector
from pipeline.core.errors import Refused, Skipped
from pipeline.core.stage_call import StageCall, StageName
from pipeline.stages import admit, clean, encode, ingest, split


@dataclass(frozen=True)
class Data:
    """Result folders of the data stages."""

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
    encoded = step(StageCall(StageName.ENCODE), encode.encode_ids, run, cleaned, raw)
    parts = step(StageCall(StageName.SPLIT), split.split_interactions, run, encoded)
    return Data(raw, cleaned, encoded, parts)


def night(run: Run, step: Step) -> None:
    """CSV in, published tables out. Each stage returns the folder (or file) that the next ones read."""
    data = data_stages(run, step)

    with collector.paused():  # imports torch: takes seconds
        from flows.candidate_models import fit_candidates, fit_runner_up, refit_for_lists
    from pipeline.experiments import budget
    from pipeline.stages import audit, compare, deliver, export, leaks, profile, publish, report, select, track, train

    step(StageCall(StageName.PROFILE), profile.describe_data, run, data.raw, data.cleaned, data.parts)

    if run.settings.budget.minutes:
        track.prepare(run)
        run = budget.with_threads(run)
    candidates, lineup = fit_candidates(run, step, data.parts)  # search, train, evaluate: each model in isolation
    fitted, measured = candidates.fitted, list(candidates.measured.values())

    step(StageCall(StageName.LEAKS), leaks.audit_leaks, run, data.parts, sorted(candidates.fits))
    compared = refit_for_lists(run, step, data, candidates, lineup)
    champion = step(StageCall(StageName.SELECT), select.choose_champion, run, measured, data.parts, lineup, compared)
    step(StageCall(StageName.COMPARE), compare.compare_models, run, measured)
    on_all, own = StageCall(StageName.TRAIN, champion, fit="all"), lineup.added.get(champion, run)
    try:
        refit = step(on_all, train.refit_model, own, data.encoded, champion, "all", fitted[champion])
    except Skipped as reason:
        raise Refused(f"{champion} was chosen, but can't be fitted on all rows: {reason}") from reason
    shown = [fit for label, fit in fitted.items() if label not in lineup.members]
    searched = list(candidates.searched.values())
    logged = (data.parts, data.encoded, refit, shown, measured, champion, searched)
    step(StageCall(StageName.TRACK), track.log_night, run, *logged)

    models = [fitted[label] for label in candidates.measured]
    second = fit_runner_up(run, step, data.encoded, champion, candidates)
    made = export.Models(refit, models, measured, second)
    lists = step(StageCall(StageName.EXPORT), export.export_tables, run, data.raw, data.encoded, made)
    building = step(StageCall(StageName.AUDIT), audit.audit_tables, run, data.raw, data.encoded, lists, champion)
    step(StageCall(StageName.PUBLISH), publish.publish_tables, run, building)
    if run.settings.publish and not run.as_of:
        step(StageCall(StageName.DELIVER), deliver.deliver_tables, run)
    step(StageCall(StageName.REGISTER), track.register_champion, run)
    step(StageCall(StageName.REPORT), report.write_report, run)
