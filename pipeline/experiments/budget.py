"""How much of a night's time budget is left, and how long its stages will take, from the journals of past nights."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import polars as pl

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.core.stage_call import StageCall, StageName
from pipeline.models.blend import BlendConfig
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.storage import journal
from pipeline.training.context import NotServable

NIGHTS = 20
"""Number of past nights whose timings are read."""
AFTER_FITS = (
    StageName.SELECT,
    StageName.TRACK,
    StageName.EXPORT,
    StageName.AUDIT,
    StageName.PUBLISH,
    StageName.REGISTER,
    StageName.COMPARE,
)
NEVER_EXPORTED = 0.2
"""Share of the budget reserved for AFTER_FITS on the first night of a data set."""
LEARNING = 3.0
"""Assumed time to learn the weights of a blend, in evaluations of its members, until one was timed."""
REFIT = 1.25
"""Assumed time of the refit on all rows, in fits on train, until one was timed."""


def left(run: Run) -> float | None:
    """Seconds until the night should be published; None without a budget."""
    minutes = run.settings.budget.minutes
    return None if minutes is None else minutes * 60 - (utcnow() - run.started_at).total_seconds()


def deadline(run: Run, call: StageCall) -> float | None:
    """When a fit on train must end (on time.monotonic()), so that the night can still evaluate, refit and publish.

    The models that are not yet fitted and the searches have equal shares; what a cheap model leaves goes to the others.
    A tuned fit, after the searches, may use everything except the time for blends. Blends come last and share what is
    left. None: the night has no budget, or this is its first model, or one that the gate needs. Raises NotServable when
    past timings show that the fit would not end in time; learning the weights of a blend can stop at any time.
    """
    seconds, known, label = left(run), Timings(run), call.label or ""
    if seconds is None or label == BASELINE or label.startswith(INCUMBENT) or not known.tonight(StageName.EVALUATE):
        return None
    spare, waiting = seconds - known.after_fit(label), known.labels[known.labels.index(label) :]
    searches = sum(entry.search is not None for entry in run.settings.models.values())
    is_blend = label in known.blends
    last = call.tuned or is_blend
    share = spare / len(known.blends_from(label) if is_blend else [label] if last else [*waiting, *range(searches)])
    fit = None if is_blend else known.expected(call, replace(call, cut_short=True))
    if share <= 0 or (fit is not None and fit > share):
        takes = "the fit" if fit is None else f"the fit, {fit:.0f} s when last timed,"
        raise NotServable(
            f"{takes} would not end within its part of the budget, {max(share, 0):.0f} s: {seconds:.0f} s are left, "
            f"{seconds - spare:.0f} s of them for evaluating, refitting on all rows and publishing"
        )
    return time.monotonic() + share


def spare(run: Run, label: str, usual: float) -> float:
    """Seconds for trials of `label`; `usual`: seconds of one fit.

    Reserves the time to fit, evaluate and publish its best trial, and the best of the other members of blends.
    """
    known = Timings(run)
    own = known.expected(StageCall(StageName.TRAIN, label, tuned=True)) or usual
    return (left(run) or 0) - known.after_fit(label) - own - known.tuned_members(label)


class Timings:
    """Durations of stages on this data set, in seconds."""

    def __init__(self, run: Run):
        ids = journal.run_ids(run.home, run.dataset)[-NIGHTS:]
        stages = [journal.read(run.home, run.dataset, tables.STAGES, run_id) for run_id in ids]
        self.run, self.run_id, self.labels = run, run.run_id, list(run.settings.models)
        self.blends = [label for label in self.labels if leaderboard.is_blend(run.settings, label)]
        published = any(journal.read_run(run.home, run.dataset, i).get("outcome") == "published" for i in ids)
        self.gated = published and run.settings.gate.enabled
        self.budget = 60 * (run.settings.budget.minutes or 0)
        self.stages = pl.concat([tables.STAGES.empty(), *stages]).filter(~pl.col("skipped"))
        self.all_stages = pl.concat([tables.STAGES.empty(), *stages])

    def expected(self, *calls: StageCall) -> float | None:
        """Expected duration of the first of these calls that was ever timed: the longest of its last three times."""
        for call in calls:
            times = self.stages.filter(stage=call.title).sort("run_id")["seconds"].tail(3)
            if len(times):
                return float(times.max())  # type: ignore[arg-type]
        return None

    def of(self, wanted: Callable[[StageCall], bool]) -> pl.DataFrame:
        """Rows of the stages whose call is wanted."""
        titles = []
        for title in self.stages["stage"].unique():
            with suppress(ValueError):  # a stage of another version of the code
                titles += [title] if wanted(StageCall.parse(title)) else []
        return self.stages.filter(pl.col("stage").is_in(titles))

    def tonight(self, stage: StageName) -> list[StageCall]:
        """Calls of a stage in this night, including those whose result existed already."""
        calls = map(StageCall.parse, self.all_stages.filter(run_id=self.run_id)["stage"])
        return [call for call in calls if call.stage is stage]

    def turns(self, label: str) -> int:
        """Number of turns of the search of this label so far this night."""
        return sum(call.label == label for call in self.tonight(StageName.SEARCH))

    def blends_from(self, label: str) -> list[str]:
        """Blends at or after this label in the recipe."""
        return [blend for blend in self.blends if self.labels.index(blend) >= self.labels.index(label)]

    def members(self, blend: str) -> list[str]:
        """Labels that the blend would have as members now."""
        settings = self.run.settings
        config = BlendConfig.model_validate(settings.models[blend].model_extra or {})
        fitted = {label: leaderboard.family_name(settings, label) for label in self.fitted()}
        return leaderboard.members_of(config, fitted, leaderboard.best_first(self.run))

    def fitted(self) -> list[str]:
        """Labels that are fitted in this night, in the recipe's order."""
        fitted = {call.label for call in self.tonight(StageName.TRAIN)}
        return [label for label in self.labels if label in fitted]

    def evaluation(self, label: str) -> float:
        """Evaluation; if never timed, as long as the slowest so far, and for a blend as long as for its members."""
        own = StageCall(StageName.EVALUATE, label)
        if label in self.blends:
            return self.expected(own) or sum(map(self.evaluation, self.members(label)))
        slowest = self.of(lambda call: call.stage is StageName.EVALUATE)["seconds"].max()
        return self.expected(own) or float(slowest or 0)  # type: ignore[arg-type]

    def refit(self, label: str) -> float:
        """Fit on all rows; of a blend, including those of its members."""
        on_all = self.expected(StageCall(StageName.TRAIN, label, fit="all"))
        if label in self.blends:
            return (on_all or 0.0) + sum(map(self.refit, self.members(label)))
        return on_all or REFIT * self.best_fit(label)

    def best_fit(self, label: str) -> float:
        """Fit on train with the result of a search, otherwise with the configured hyperparameters; 0 if never timed."""
        first = StageCall(StageName.TRAIN, label)
        return self.expected(replace(first, tuned=True), first, replace(first, cut_short=True)) or 0.0

    def publishing(self) -> float:
        """Everything after the fits on train, without the refit."""
        known = {stage: self.expected(StageCall(stage)) or 0.0 for stage in AFTER_FITS}
        return sum(known.values()) + (0 if known[StageName.EXPORT] else NEVER_EXPORTED * self.budget)

    def after_fit(self, label: str) -> float:
        """From the end of a fit of `label` to the end of the night, with the longest refit of any of its models."""
        waiting = [blend for blend in self.blends if blend != label and blend not in self.fitted()]
        blending = sum(self.learning(blend) + self.evaluation(blend) for blend in waiting)
        refit = max(map(self.refit, {label, *self.fitted(), *self.blends}))
        return self.evaluation(label) + blending + self.gate() + refit + self.publishing()

    def tuned_members(self, label: str) -> float:
        """Fits and evaluations of the searched members of blends, without `label`."""
        members = {member for blend in self.blends for member in self.members(blend)} - {label}
        searched = [member for member in members if self.run.settings.models[member].search]
        return sum(map(self.best_fit, searched)) + sum(map(self.evaluation, searched))

    def learning(self, blend: str) -> float:
        """Fit of a blend whose members are fitted already."""
        guess = LEARNING * sum(map(self.evaluation, self.members(blend)))
        return self.expected(StageCall(StageName.TRAIN, blend)) or guess

    def gate(self) -> float:
        """Fit and evaluation of the published configuration; 0 where nothing is published or the gate is off."""
        if not self.gated:
            return 0.0
        fits = {label: self.expected(StageCall(StageName.TRAIN, label)) or 0.0 for label in (INCUMBENT, *self.labels)}
        return (fits.pop(INCUMBENT) or max(fits.values())) + self.evaluation(INCUMBENT)
