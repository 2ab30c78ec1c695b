"""How much of a night's time budget is left, and how long its stages will take.

Stages that were timed on this data set, tonight or in past nights, are expected to take as long again. For the others
there is a forecast (forecast.py).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import polars as pl

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import workload
from pipeline.experiments.families import family_of
from pipeline.experiments.forecast import Forecast, sizes_of, slowdown_of
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
NEVER_EXPORTED = 0.22
"""Largest share of the budget reserved for AFTER_FITS on the first night of a data set."""
BLENDING = 0.15
"""Largest share of the budget that is kept free for blends: a fit of another family is worth more."""
DOUBT = 1.5
"""A stage that was never timed may take this many times its forecast."""
TRY = 0.3
"""A fit that gives up early where it would take too long is begun if this part of its forecast fits."""
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
    A fit that can't be ended early, or not before its first epoch, may use more, up to what the others don't need. A
    tuned fit, after the searches, may use everything except the time for blends. Blends come last and share what is
    left. None: the night has no budget, or this is its first model, or one that the gate needs. Raises NotServable when
    the fit would not end in time; learning the weights of a blend can stop at any time.
    """
    seconds, known, label = left(run), Timings(run), call.label or ""
    if seconds is None or label == BASELINE or label.startswith(INCUMBENT) or not known.tonight(StageName.EVALUATE):
        return None
    is_blend, before_refit = label in known.blends, seconds - known.rest(label)
    fit = None if is_blend else known.least(call)
    spare = before_refit - max(known.refits(), known.refit(label) if is_blend else 0.0)
    if is_blend:
        share = spare / len(known.blends_from(label))
    else:  # if it becomes champion, or part of it, its refit takes as long as the fit, whenever that ended
        bound = (before_refit - known.partners(label)) / (1 + REFIT)
        share = min(bound, spare if call.tuned else known.share(label, spare))
    if share <= 0 or (fit is not None and fit > share):
        takes = "the fit" if fit is None else f"the fit, which takes at least {fit:.0f} s,"
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


def cheapest_first(run: Run, parts: Path) -> list[str]:
    """The recipe's labels except blends, by the expected seconds of their first fit; popularity first.

    So all of them have a fit before a long one begins. As in the recipe without a budget or a split.
    """
    labels = [label for label in run.settings.models if not leaderboard.is_blend(run.settings, label)]
    sizes = sizes_of(run, parts)
    if run.settings.budget.minutes is None or sizes is None:
        return labels
    known = Timings(run)
    known.known_sizes = known.known_sizes or sizes
    expected = {label: round(known.guess(StageCall(StageName.TRAIN, label))) for label in labels}
    popular = {label: leaderboard.family_name(run.settings, label) == "popularity" for label in labels}
    return sorted(labels, key=lambda label: (not popular[label], expected[label]))


def trial(run: Run, label: str, usual: float) -> float:
    """Expected seconds of a trial; `usual`: seconds of the first fit, which may have been cut short."""
    known = Timings(run)
    cut = StageCall(StageName.TRAIN, label, cut_short=True) in known.tonight(StageName.TRAIN)
    return max(usual, known.guess(StageCall(StageName.TRAIN, label))) if cut else usual


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
        self.known_sizes = sizes_of(run)
        self.all_stages = pl.concat([tables.STAGES.empty(), *stages])

    def expected(self, *calls: StageCall) -> float | None:
        """Expected duration of the first of these calls that was ever timed: the longest of its last three times."""
        for call in calls:
            rows = self.stages.filter(stage=call.title).sort("run_id").tail(3)
            tonight = rows.filter(run_id=self.run_id)["seconds"]
            if len(rows):
                longest = float(rows["seconds"].max())  # type: ignore[arg-type]
                return longest if len(tonight) else self.slowdown * longest
        return None

    @cached_property
    def slowdown(self) -> float:
        """How many times as long as in past nights tonight's stages take."""
        return slowdown_of(self.stages, self.run_id)

    @cached_property
    def forecast(self) -> Forecast | None:
        """Of fits and evaluations, corrected by those that were timed; None before tonight's split is there."""
        if self.known_sizes is None:
            return None
        made = Forecast(self.run, self.known_sizes)
        fits = self.of(lambda call: call.stage in (StageName.TRAIN, StageName.EVALUATE))
        for row in fits.to_dicts():
            made.learn([(StageCall.parse(row["stage"]), row["seconds"])], row["run_id"] == self.run_id)
        return made

    def guess(self, call: StageCall) -> float:
        """Expected seconds of a call: as timed, else as forecast; 0 where neither is there."""
        timed = self.expected(call)
        return timed if timed is not None else self.forecast(call) if self.forecast else 0.0

    def least(self, call: StageCall) -> float | None:
        """Seconds without which a fit leaves nothing: one epoch, or all of a fit in one piece; None: not known."""
        cut, timed = self.expected(replace(call, cut_short=True)), self.expected(call)
        family, config = family_of(self.run.settings, call.label or "")
        epochs = workload.epochs_of(config)
        if timed is None and self.forecast:
            doubt = TRY if family.family in workload.IN_PIECES else DOUBT if epochs else self.forecast.doubt
            seconds = doubt * self.forecast(call)
        else:
            seconds = timed or 0.0
        if epochs:
            seconds = seconds / epochs
        elif cut is not None and timed is None:
            seconds = cut
        return seconds or None

    def share(self, label: str, spare: float) -> float:
        """Seconds for the first fit of a label: an equal share, or as much as it needs if the others can do without.

        The others: first fits that are still to come, each with its equal share or what it is expected to take.
        """
        waiting = self.waiting(label)
        searches = sum(entry.search is not None for entry in self.run.settings.models.values())
        equal = spare / (1 + len(waiting) + searches)
        others = sum(min(equal, self.guess(StageCall(StageName.TRAIN, other))) for other in waiting)
        call, family = StageCall(StageName.TRAIN, label), leaderboard.family_name(self.run.settings, label)
        needed = DOUBT * (self.guess(call) if family in workload.IN_PIECES else self.least(call) or 0.0)
        return max(equal, min(needed, spare - others))

    def waiting(self, label: str) -> list[str]:
        """Labels without a fit tonight that are neither this one nor blends nor left out."""
        done = {label, *self.fitted(), *self.blends, *self.left_out()}
        return [other for other in self.labels if other not in done]

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

    def left_out(self) -> set[str]:
        """Labels that were skipped or failed in this night."""
        return set((journal.find_run(self.run.home, self.run.dataset, self.run_id) or {}).get("left_out", {}))

    def blends_to_come(self) -> list[str]:
        """Blends that are neither fitted nor left out."""
        return [blend for blend in self.blends if blend not in {*self.fitted(), *self.left_out()}]

    def partners(self, label: str) -> float:
        """Refits of the other members of a blend to come, whose champion's refit has those of all members."""
        sums = [sum(self.refit(m) for m in self.members(blend) if m != label) for blend in self.blends_to_come()]
        return max(sums, default=0.0)

    def evaluated(self) -> set[str | None]:
        """Labels that are evaluated in this night."""
        return {call.label for call in self.tonight(StageName.EVALUATE)}

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
        """Evaluation; for a blend that was never timed, as long as for its members."""
        own = StageCall(StageName.EVALUATE, label)
        if label in self.blends:
            return self.expected(own) or sum(map(self.evaluation, self.members(label)))
        times = self.of(lambda call: call.stage is StageName.EVALUATE)["seconds"]
        typical = times.min() if label == BASELINE else times.max()
        return self.guess(own) or float(typical or 0)  # type: ignore[arg-type]

    def refit(self, label: str) -> float:
        """Fit on all rows; of a blend, including those of its members."""
        on_all = self.expected(StageCall(StageName.TRAIN, label, fit="all"))
        if label in self.blends:
            return (on_all or 0.0) + sum(map(self.refit, self.members(label)))
        return on_all or REFIT * (self.best_fit(label) or self.guess(StageCall(StageName.TRAIN, label)))

    def best_fit(self, label: str) -> float:
        """Fit on train with the result of a search, otherwise with the configured hyperparameters; 0 if never timed."""
        first = StageCall(StageName.TRAIN, label)
        tuned = replace(first, tuned=True)
        cut = [replace(call, cut_short=True) for call in (tuned, first)]
        return self.expected(tuned, cut[0], first, cut[1]) or 0.0

    def publishing(self) -> float:
        """Everything after the fits on train, without the refit."""
        known = {stage: self.expected(StageCall(stage)) or 0.0 for stage in AFTER_FITS}
        if known[StageName.EXPORT]:
            return sum(known.values())
        most = NEVER_EXPORTED * self.budget
        return sum(known.values()) + (min(most, DOUBT * self.forecast.publishing()) if self.forecast else most)

    def after_fit(self, label: str) -> float:
        """From the end of a fit of `label` to the end of the night, with the longest refit of a likely champion."""
        return self.rest(label) + max(self.refit(label), self.refits())

    def rest(self, label: str) -> float:
        """From the end of a fit of `label` to the end of the night, without the refit of the champion."""
        waiting = [blend for blend in self.blends_to_come() if blend != label]
        blending = sum(self.learning(blend) + self.evaluation(blend) for blend in waiting)
        blending = min(blending, BLENDING * self.budget)
        return self.evaluation(label) + blending + self.gate() + self.publishing()

    def refits(self) -> float:
        """The longest refit of a likely champion: the best on valid so far, blends to come, and the published one."""
        best = leaderboard.best_first(self.run)
        likely = {*best[:1], *self.blends_to_come()}
        published = REFIT * self.best_fit(INCUMBENT) if self.gated else 0.0
        return max([published, *(self.refit(each) for each in likely if each in self.labels)])

    def tuned_members(self, label: str) -> float:
        """Fits and evaluations of the searched members of blends, without `label`."""
        members = {member for blend in self.blends_to_come() for member in self.members(blend)} - {label}
        searched = [member for member in members if self.run.settings.models[member].search]
        return sum(map(self.best_fit, searched)) + sum(map(self.evaluation, searched))

    def learning(self, blend: str) -> float:
        """Fit of a blend whose members are fitted already."""
        guess = LEARNING * sum(map(self.evaluation, self.members(blend)))
        return self.expected(StageCall(StageName.TRAIN, blend)) or guess

    def gate(self) -> float:
        """Fit and evaluation of the published configuration, and evaluation of popularity; 0 if the gate is off."""
        floor = (
            self.evaluation(BASELINE) if self.run.settings.gate.enabled and BASELINE not in self.evaluated() else 0.0
        )
        if not self.gated:
            return floor
        fits = {label: self.expected(StageCall(StageName.TRAIN, label)) or 0.0 for label in (INCUMBENT, *self.labels)}
        return floor + (fits.pop(INCUMBENT) or max(fits.values())) + self.evaluation(INCUMBENT)
