"""What a challenger costs, against what the incumbent costs: seconds of its fit, or how it would change the lists."""

from dataclasses import dataclass
from typing import Literal

from pipeline.config.publishing import Gate
from pipeline.selection.gain import error_rate, interval
from pipeline.selection.list_changes import ListChanges


@dataclass(frozen=True)
class Cost:
    """Costs of a challenger and of the incumbent."""

    of: Literal["fit", "lists"]
    """fit: seconds; lists: mean of 1 - Jaccard of a model's lists and the published ones."""
    challenger: float
    incumbent: float
    lower: bool
    """Whether the challenger costs clearly less."""
    higher: bool
    """Whether the incumbent costs clearly less."""
    n: int | None = None
    """Number of users whose lists were compared."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Interval of the difference of the changes, challenger - incumbent."""

    def sentence(self) -> str:
        """Both costs in words."""
        if self.of == "fit":
            return f"its fit takes {self.challenger:.3g} s instead of {self.incumbent:.3g} s"
        return (
            f"it changes the published lists by {self.challenger:.3g} instead of {self.incumbent:.3g} "
            f"(1 - Jaccard, {self.n:,} users)"
        )


def of_fits(gate: Gate, challenger: float, incumbent: float) -> Cost:
    """From the seconds of both fits. One is clearly less if it is at most `max_cost` of the other."""
    lower, higher = challenger <= gate.max_cost * incumbent, incumbent <= gate.max_cost * challenger
    return Cost("fit", challenger, incumbent, lower, higher)


def of_lists(gate: Gate, changes: ListChanges, challenger: str, incumbent: str, challengers: int) -> Cost:
    """From the changes of the lists, paired by user.

    One is clearly less if the interval of its mean change minus `max_cost` of the other's lies below 0, at the level of
    the gain (gain.error_rate).
    """
    a, b, alpha = changes[challenger], changes[incumbent], error_rate(gate, challengers)
    _, _, above_a = interval(a - gate.max_cost * b, alpha)
    _, _, above_b = interval(b - gate.max_cost * a, alpha)
    _, low, high = interval(a - b, alpha)
    return Cost(
        "lists", float(a.mean()), float(b.mean()), bool(above_a < 0), bool(above_b < 0), len(a), float(low), float(high)
    )
