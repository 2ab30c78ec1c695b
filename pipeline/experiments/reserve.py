"""What the rest of a night needs: evaluations, blends, the gate, the champion's refit, and publishing.

Publishing must be possible at any moment, so its part is never given away; blends are worth less than a first fit of
a family, so theirs has a limit.
"""

from dataclasses import dataclass, field
from functools import cached_property

from pipeline.config.run import Run
from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation.ranking_metrics import sign_of
from pipeline.experiments import workload
from pipeline.experiments.timings import AFTER_FITS, DOUBT, LEARNING, Timings
from pipeline.models import MODELS
from pipeline.selection import leaderboard
from pipeline.storage import journal
from pipeline.storage.generations import live_run_id

TOLERANCE = 0.05
"""A night may be late by this part of its budget rather than publish nothing but popular items."""
BLENDING, BLENDING_LATER = 0.15, 0.3
"""Largest share of the budget that is kept free for blends: from fits, which are worth more, and from searches."""
CAUTION, MOST_CAUTION = 0.25, 0.08
"""The refit and publishing, which nothing can shorten, may take longer by this part of what is expected, but not by
more than this part of the budget."""
STAGES_LEFT = 14
"""Stages between the last fit on train and publishing."""


@dataclass
class Reserve:
    """Seconds, from what is known now."""

    run: Run
    known: Timings = field(init=False)

    def __post_init__(self) -> None:
        self.known = Timings(self.run)
        self.budget = 60 * (self.run.settings.budget.minutes or 0)
        settings = self.run.settings
        personal = [MODELS[leaderboard.family_name(settings, label)].personal for label in self.known.fitted()
                    if leaderboard.family_name(settings, label) in MODELS]  # fmt: skip
        self.has_personal = any(personal)
        """Whether a model is fitted that has other lists for every user. Until then no caution is worth more."""

    def publishing(self, champion: str) -> float:
        """From the end of the champion's refit to the published tables."""
        known = {stage: self.known.expected(StageCall(stage)) for stage in AFTER_FITS}
        seconds = sum(value or 0.0 for value in known.values())
        if known[StageName.EXPORT] is None and self.known.forecast:
            made = self.known.members(champion) if champion in self.known.blends else [champion]
            seconds += self.known.forecast.tables(made)
        between = self.known.forecast.between(STAGES_LEFT) if self.known.forecast else 0.0
        return seconds + self.known.tracking() + between

    def text(self) -> str:
        """What is reserved for the end of the night."""
        best, known = self.known.best_first[:1], self.known
        parts = [f"MLflow {known.tracking():.0f} s"]
        if best:
            others = self.other_refits()
            parts = [f"other refits {others:.0f} s", *parts] if others else parts
            parts = [f"refit of {best[0]} {known.refit(best[0]):.0f} s", *parts]
            parts += [f"tables {self.publishing(best[0]) - known.tracking():.0f} s"]
        return f"{', '.join(parts)}; {self.shortest_end:.0f} s with caution"

    def end(self, champion: str) -> float:
        """The refit of this champion, and publishing it."""
        return self.cautious(self.known.refit(champion) + self.publishing(champion))

    def cautious(self, seconds: float) -> float:
        """What the refit and publishing may take when these seconds are expected."""
        return seconds + (min(CAUTION * seconds, MOST_CAUTION * self.budget) if self.has_personal else 0.0)

    def longest_fit(self, champion: str, seconds: float) -> float:
        """The longest fit after which its refit, as long again, and publishing end within `seconds`."""
        publishing, growth = self.publishing(champion), self.known.growth
        if not self.has_personal:
            return (seconds - publishing) / (1 + growth)
        most = (seconds - publishing - MOST_CAUTION * self.budget) / (1 + growth)
        return max(most, (seconds - (1 + CAUTION) * publishing) / (1 + (1 + CAUTION) * growth))

    @cached_property
    def shortest_end(self) -> float:
        """The end of the night with the champion that is likely now: the best on valid so far, or the published one."""
        best = [label for label in self.known.best_first if label in self.known.labels][:1]
        ends = [self.end(label) for label in best or [BASELINE]]
        if self.known.gated:
            refit = self.known.growth * self.known.best_fit(INCUMBENT)
            ends.append(self.cautious(refit + self.publishing(INCUMBENT)))
        return max(ends)

    @cached_property
    def gate(self) -> float:
        """Fit and evaluation of the published configuration, and evaluation of popularity; 0 if the gate is off."""
        enabled = self.run.settings.gate.enabled
        floor = self.known.evaluation(BASELINE) if enabled and BASELINE not in self.known.evaluated() else 0.0
        if not self.known.gated:
            return floor
        known, published = self.known, self.published_label
        fit = known.expected(StageCall(StageName.TRAIN, INCUMBENT)) or known.best_fit(published)
        if not fit:
            calls = [StageCall(StageName.TRAIN, label) for label in known.labels]
            fit = max(known.expected(call) or 0.0 for call in calls)
        evaluation = known.expected(StageCall(StageName.EVALUATE, INCUMBENT)) or known.evaluation(published)
        lists = self.known.growth * fit if self.run.settings.gate.prefer == "steadier" else 0.0  # it compares refits
        return floor + fit + evaluation + lists

    @cached_property
    def published_label(self) -> str:
        """The label that the published champion had, if the recipe still has it; otherwise that of the incumbent."""
        live = live_run_id(self.run.home, self.run.dataset)
        record = journal.find_run(self.run.home, self.run.dataset, live) if live else None
        label = str((record or {}).get("champion"))
        return label if label in self.known.labels else INCUMBENT

    def blending(self, but: str = "", most: float = BLENDING) -> float:
        """Weights and evaluations of the blends to come, and what their refits take beyond the shortest end.

        At most the part `most` of the budget; 0 where equal weights, which take least, would need more than that.
        """
        blends, most = [blend for blend in self.blends_to_come() if blend != but], most * self.budget
        learning = sum(map(self.known.learning, blends))
        longest = max((self.end(blend) for blend in blends), default=0.0)
        others = sum(map(self.known.evaluation, blends)) + max(0.0, longest - self.shortest_end)
        return min(learning + others, most) if others + learning / LEARNING <= most else 0.0

    def blending_again(self) -> float:
        """The same for blends that were made tonight; 0 where they are too long to be made twice."""
        made = [blend for blend in self.known.blends if blend in self.known.fitted()]
        work = sum(self.known.learning(blend) + self.known.evaluation(blend) for blend in made)
        return work if work <= BLENDING * self.budget else 0.0

    def blends_to_come(self) -> list[str]:
        """Blends that are neither fitted nor left out."""
        done = {*self.known.fitted(), *self.known.left_out()}
        return [blend for blend in self.known.blends if blend not in done]

    def after_blend(self, blend: str) -> float:
        """From the end of the fit of a blend to the end of the night."""
        end = max(self.shortest_end, self.end(blend))
        return self.known.evaluation(blend) + self.gate + end + self.other_refits(blend)

    def before_refit(self, label: str, blending: float = BLENDING) -> float:
        """From the end of a fit of `label` to the end of the night, without the champion's refit and publishing."""
        return self.known.evaluation(label) + self.gate + self.blending(label, blending) + self.other_refits(label)

    def other_refits(self, label: str = "") -> float:
        """Refits besides the champion's and the incumbent's, of the models so far.

        The runner-up's is for held-back users (`[export.holdback]`), those of challengers of equal quality are for the
        gate, which compares their lists (`gate.prefer = "steadier"`). `label`: the model that is fitted now; its own
        refit is counted as the champion's. Without one the best on valid has that place, unless the incumbent takes it.
        """
        settings, known = self.run.settings, self.known
        ranked = [each for each in known.best_first if each in known.labels and each != label]
        first = label or next(iter(ranked), "")
        rest = ranked if label else ranked[1:]
        refits = {each: known.refit(each) for each in rest if each not in self.with_refit_of(first)}
        incumbent_wins = known.refit(first) if known.gated and not label and first else 0.0
        second = rest[:2] if label else rest[:1]  # two: the model that is fitted now may be worse than both
        held = max([*(refits.get(each, 0.0) for each in second), incumbent_wins]) if settings.export.holdback else 0.0
        if not known.gated or settings.gate.prefer != "steadier":
            return held
        equal = sum(seconds for each, seconds in refits.items() if each in self.equals)
        return equal if set(second) <= set(self.equals) else equal + held

    def with_refit_of(self, label: str) -> list[str]:
        """Models that are refitted with `label`: the members of a blend."""
        return self.known.members(label) if label in self.known.blends else []

    @cached_property
    def equals(self) -> list[str]:
        """Models so far whose metric on valid is within `gate.margin` of the published configuration's, or the best's.

        Fewer of them will be shown to be equal, which depends on their users.
        """
        found, select = self.known.on_valid, self.run.settings.select
        values = {label: sign_of(select.metric) * value for label, value in found.items()}
        if not values:
            return []
        reference = values.get(self.published_label, max(values.values()))
        least = reference - self.run.settings.gate.margin * abs(reference)
        return [label for label, value in values.items() if value >= least and label != self.published_label]

    def share(self, label: str, spare: float) -> float:
        """Seconds for the first fit of a label: an equal share, or as much as it needs if the others can do without.

        The others: first fits that are still to come, each with its equal share or what it is expected to take.
        """
        known, waiting = self.known, self.waiting(label)
        searches = sum(entry.search is not None for entry in self.run.settings.models.values())
        equal = spare / (1 + len(waiting) + searches)
        others = sum(min(equal, known.guess(StageCall(StageName.TRAIN, other))) for other in waiting)
        call, family = StageCall(StageName.TRAIN, label), leaderboard.family_name(self.run.settings, label)
        needed = DOUBT * (known.guess(call) if family in workload.IN_PIECES else known.least(call) or 0.0)
        return max(equal, min(needed, spare - others))

    def waiting(self, label: str) -> list[str]:
        """Labels without a fit tonight that are neither this one nor blends nor left out."""
        done = {label, *self.known.fitted(), *self.known.blends, *self.known.left_out()}
        return [other for other in self.known.labels if other not in done]
