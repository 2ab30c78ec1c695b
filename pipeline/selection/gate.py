"""The gate: decides on valid whether a challenger replaces the incumbent and whether it is worse than popularity."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.publishing import Gate
from pipeline.config.settings import Select
from pipeline.core.bootstrap import Difference
from pipeline.evaluation import ranking_metrics
from pipeline.selection.challenge import compete
from pipeline.selection.comparison import IncumbentComparison, PairedComparison, ValidationResults
from pipeline.selection.incumbent import Contest


@dataclass(frozen=True)
class Terms:
    """The labels that were compared, and the settings of the gate."""

    challenger: str | None
    incumbent: str | None
    incumbent_night: str | None
    """Run id of the night that published the incumbent."""
    floor: str | None
    """Label of the baseline."""
    confidence: float
    margin: float


@dataclass(frozen=True)
class BaselineDifference(Difference):
    """Difference of the model `of` from the baseline."""

    of: str


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and the numbers that it decided by."""

    decision: str
    """first, unopposed, replaced, kept or floor; where the gate does not compare: off, unmeasured."""
    published: str
    """Label of the model to publish."""
    text: str
    """The decision as a sentence."""
    terms: Terms | None = None
    comparison: IncumbentComparison | None = None
    """Challenger and incumbent; None where one of them is missing."""
    against_floor: BaselineDifference | None = None

    def record(self) -> dict[str, Any]:
        """The journal's `gate`: one flat record, without the parts that do not apply."""
        record: dict[str, Any] = {"decision": self.decision, "published": self.published, "text": self.text}
        for part in (self.terms, self.comparison):
            record |= asdict(part) if part else {}
        if record.get("cost") is None:
            record.pop("cost", None)
        return record | ({"against_floor": asdict(self.against_floor)} if self.against_floor else {})


def judge(gate: Gate, select: Select, results: ValidationResults, contest: Contest, seed: int) -> Verdict:
    """Decide which model is published.

    Differences are challenger - incumbent (or winner - baseline), positive where the first is better, over the users of
    segment `all`; for rmse they are of squared errors. The challenger is the best model that is neither incumbent nor
    added for the gate. It replaces the incumbent if its gain is significant (`gain.error_rate`: the interval of the
    paired difference lies above min_gain x the incumbent's metric, corrected for the number of challengers and nights),
    and no segment of min_segment_users is harmed: significantly below 0, and by more than `margin`. Where cheaper or
    steadier models are preferred, the best challenger that costs clearly less and whose interval lies above -margin
    replaces it too, and one that costs clearly more must gain more than the margin. The winner must not be
    significantly worse than the baseline; otherwise the other of the two is checked, and if it is worse as well, the
    baseline is published.
    """
    values = results.values
    ranked = best_first(select, results)
    others = challengers_of(ranked, contest)
    incumbent = contest.incumbent if contest.incumbent in values else None
    challenger = others[0] if others else None
    paired = PairedComparison(gate, select.metric, results, seed)
    order = [label for label in (challenger, incumbent) if label] or ranked[:1]
    name, comparison = LabelNames(contest), None
    decision, text = "first", f"{name(order[0])} is the best model, and there is no incumbent"
    if contest.incumbent and incumbent is None:
        text = f"{name(contest.incumbent)} could not be evaluated, so {name(order[0])} replaces it"
        decision = "unopposed"
    if incumbent and challenger is None:
        decision, text = "kept", f"{name(incumbent)} stays: there is no challenger"
    elif incumbent:
        outcome = compete(paired, others, incumbent)
        challenger, comparison = outcome.challenger, outcome.comparison
        decision = "replaced" if outcome.replaced else "kept"
        order = [challenger, incumbent] if outcome.replaced else [incumbent, challenger]
        text = outcome.sentence(name(incumbent))
    published, against_floor = order[0], None
    if contest.baseline and contest.baseline in values and contest.baseline in results.by_user:
        published, against_floor, losses = not_worse_than_baseline(paired, order, contest.baseline, name)
        if losses:
            decision = {contest.baseline: "floor", incumbent: "kept"}.get(published, "replaced")
            text = f"{text}; but {' and '.join(losses)}, so {name(published)} is published"
    return Verdict(
        decision,
        published,
        f"{text} ({contest.reasons})" if contest.reasons else text,
        Terms(challenger, incumbent, contest.live, contest.baseline, gate.confidence, gate.margin),
        comparison,
        against_floor,
    )


def best_first(select: Select, results: ValidationResults) -> list[str]:
    """Labels by their metric; ties go to the first in the recipe."""
    sign, values = ranking_metrics.sign_of(select.metric), results.values
    return sorted(values, key=lambda label: -sign * values[label])  # stable


def challengers_of(ranked: Sequence[str], contest: Contest) -> list[str]:
    """Those that are neither the incumbent nor added for the gate."""
    return [label for label in ranked if label not in (contest.incumbent, *contest.added)]


class LabelNames:
    """Labels as they are shown in the verdict."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest

    def __call__(self, label: str) -> str:
        """`ease`, or `the incumbent ease`."""
        family = self.contest.configurations[label].family if label in self.contest.added else label
        return f"the incumbent {family}" if label == self.contest.incumbent else label

    def is_popularity(self, label: str) -> bool:
        """Whether the model is popularity, which is not personal."""
        return self.contest.configurations[label].family == "popularity"


def not_worse_than_baseline(
    paired: PairedComparison, order: Sequence[str], baseline: str, name: LabelNames
) -> tuple[str, BaselineDifference | None, list[str]]:
    """The first label of `order` that is not significantly worse than the baseline, otherwise the baseline.

    Also returns the last difference from the baseline that was computed, and a sentence for each label that lost.
    """
    last, losses = None, list[str]()
    for label in order:
        difference = None if name.is_popularity(label) else paired.difference(label, baseline)
        if difference:
            last = BaselineDifference(**asdict(difference), of=label)
        if difference is None or difference.ci_high >= 0:
            return label, last, losses
        losses.append(f"{name(label)} loses to {baseline} by {-difference.value:.4g} {_interval(difference)}")
    return baseline, last, losses


def _interval(difference: Difference) -> str:
    return f"[{difference.ci_low:.4g}, {difference.ci_high:.4g}]"
