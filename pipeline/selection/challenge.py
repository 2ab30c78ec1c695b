"""The challengers of a night against the incumbent: who replaces it, and the verdict as a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation import ranking_metrics
from pipeline.selection.comparison import IncumbentComparison, PairedComparison
from pipeline.selection.gain import Gain


@dataclass(frozen=True)
class Challenge:
    """One challenger against the incumbent."""

    challenger: str
    comparison: IncumbentComparison
    better: bool
    """Whether its metric is better."""

    @property
    def gains(self) -> bool:
        """Whether it is significantly better, and harms no segment."""
        gain = self.comparison.gain
        return self.better and gain is not None and gain.significant and not self.comparison.harmed

    @property
    def saves(self) -> bool:
        """Whether it costs less, is of equal quality, and harms no segment."""
        cost = self.comparison.cost
        return cost is not None and cost.lower and self.equals

    @property
    def equals(self) -> bool:
        """Whether it is shown to lose no more than the margin, and harms no segment."""
        gain = self.comparison.gain
        return gain is not None and gain.equal and not self.comparison.harmed

    @property
    def replaced(self) -> bool:
        """Whether it replaces the incumbent."""
        return self.gains or self.saves

    def sentence(self, incumbent: str) -> str:
        """The verdict as a sentence; `incumbent` is its displayed name."""
        challenger, gain = self.challenger, self.comparison.gain
        overall = self.comparison.against_incumbent
        if gain is None or overall is None:
            return f"{incumbent} stays: it shares no evaluated user with {challenger}"
        by = f"by {gain.value:+.4g} {_interval(gain)}"
        basis = f"{gain.level:.2%} interval over {overall.n:,} users"
        if self.gains:
            return f"{challenger} replaces {incumbent}: it is better {by} ({basis})"
        if self.saves:
            assert self.comparison.cost
            loss = f"loses at most {gain.allowed_loss:.4g}"
            return (
                f"{challenger} replaces {incumbent}: {self.comparison.cost.sentence()} and it {loss}, "
                f"it differs {by} ({basis})"
            )
        if not self.better:
            return f"{incumbent} stays: {challenger} is not better, {by} ({basis})"
        if self.comparison.harmed:
            harmed = ", ".join(self.comparison.harmed)
            return f"{incumbent} stays: {challenger} harms {harmed}; over all users it differs {by} ({basis})"
        several = "1 challenger" if gain.challengers == 1 else f"{gain.challengers} challengers"
        need = "above 0" if gain.needed == 0 else f"above the gain of {gain.needed:.4g} that it needs"
        cost = self.comparison.cost
        need += f", as {cost.sentence()}" if cost is not None and cost.higher else ""
        return (
            f"{incumbent} stays: {challenger} is better {by}, but this interval is not {need} "
            f"({basis}, corrected for {several} on {gain.nights} nights)"
        )


def compete(paired: PairedComparison, challengers: Sequence[str], incumbent: str) -> Challenge:
    """The challenge that decides. `challengers`: best first.

    It is that of the best challenger, unless that one does not replace the incumbent and one that costs less does.
    """
    best = _challenge(paired, challengers[0], incumbent, len(challengers))
    if best.replaced:
        return best
    for challenger in challengers[1:]:
        cost = paired.cost(challenger, incumbent, len(challengers))
        if cost is not None and cost.lower:
            other = _challenge(paired, challenger, incumbent, len(challengers))
            if other.saves:
                return other
    return best


def equals(paired: PairedComparison, challengers: Sequence[str], incumbent: str) -> list[str]:
    """The challengers that are shown to lose no more than the margin: those whose cost can decide."""
    challenges = (_challenge(paired, challenger, incumbent, len(challengers)) for challenger in challengers)
    return [each.challenger for each in challenges if each.equals]


def _challenge(paired: PairedComparison, challenger: str, incumbent: str, challengers: int) -> Challenge:
    sign, values = ranking_metrics.sign_of(paired.metric), paired.results.values
    return Challenge(
        challenger,
        paired.with_incumbent(challenger, incumbent, challengers),
        sign * values[challenger] > sign * values[incumbent],
    )


def _interval(gain: Gain) -> str:
    return f"[{gain.ci_low:.4g}, {gain.ci_high:.4g}]"
