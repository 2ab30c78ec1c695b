"""Decides on valid whether a challenger may replace what is published, and whether anybody loses to popularity."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from pipeline.config.publishing import Gate
from pipeline.config.settings import Select
from pipeline.core.bootstrap import Difference
from pipeline.evaluation import ranking_metrics
from pipeline.selection.comparison import Comparing, Figures
from pipeline.selection.incumbent import Contest


def judge(
    gate: Gate, select: Select, values: Mapping[str, float], figures: Figures, activity: pl.DataFrame, contest: Contest,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The verdict: `published` is the label to publish, `decision` and `text` say why, the rest is numbers.

    `values`: the figure that selects, by eligible label, in the recipe's order; `activity`: user_idx and
    n_interactions in train. Differences are challenger - incumbent (or winner - floor), positive where the first is
    better, over the users of segment `all`; of rmse they are of squared errors. The challenger is the best of the
    others. It replaces the incumbent where its figure is better, the interval of the paired difference lies above
    -margin x the incumbent's figure, and no segment of min_segment_users is harmed: significantly below 0, and by
    more than that margin. Whoever wins must not be significantly worse than the floor; else the other one is tried,
    then it is the floor.
    """
    sign = ranking_metrics.sign_of(select.metric)
    ranked = sorted(values, key=lambda label: -sign * values[label])  # stable: ties go to the first in the recipe
    others = [label for label in ranked if label not in (contest.incumbent, *contest.added)]
    incumbent = contest.incumbent if contest.incumbent in values else None
    challenger = others[0] if others else None
    verdict: dict[str, Any] = {
        "decision": "first", "challenger": challenger, "incumbent": incumbent, "incumbent_night": contest.live,
        "floor": contest.floor, "confidence": gate.confidence, "margin": gate.margin,
    }  # fmt: skip
    compare = Comparing(gate, select.metric, figures, activity, seed)
    order = [label for label in (challenger, incumbent) if label] or ranked[:1]
    named = Named(contest)
    said = f"{named(order[0])} is the best of the night, and there is no incumbent"
    if contest.incumbent and incumbent is None:
        said = f"{named(contest.incumbent)} could not be measured tonight, so {named(order[0])} replaces it"
        verdict["decision"] = "unopposed"
    if incumbent and challenger is None:
        verdict["decision"], said = "kept", f"{named(incumbent)} stays: there is no challenger"
    elif incumbent and challenger:
        found = compare.challenge(challenger, incumbent)
        verdict |= found
        better = sign * values[challenger] > sign * values[incumbent]
        harmed = [segment["segment"] for segment in found["segments"] if segment["harmed"]]
        replaced = better and found["holds_margin"] and not harmed
        verdict["decision"] = "replaced" if replaced else "kept"
        order = [challenger, incumbent] if replaced else [incumbent, challenger]
        said = told(challenger, named(incumbent), better, harmed, found, gate.margin)
    chosen = order[0]
    if contest.floor and contest.floor in values and contest.floor in figures:
        chosen, beside, text = over_the_floor(compare, order, contest.floor, named)
        verdict |= beside
        if text:
            verdict["decision"] = {contest.floor: "floor", incumbent: "kept"}.get(chosen, "replaced")
            said = f"{said}; but {text}"
    return {**verdict, "published": chosen, "text": f"{said} ({contest.said})" if contest.said else said}


class Named:
    """Labels as people know them."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest

    def __call__(self, label: str) -> str:
        """`ease`, or `the incumbent ease`."""
        family = self.contest.configurations[label].family if label in self.contest.added else label
        return f"the incumbent {family}" if label == self.contest.incumbent else label

    def is_popularity(self, label: str) -> bool:
        """Whether there is nothing personal in it."""
        return self.contest.configurations[label].family == "popularity"


def over_the_floor(
    compare: Comparing, order: list[str], floor: str, named: Named
) -> tuple[str, dict[str, Any], str | None]:
    """The first of `order` that is not significantly worse than the floor, else the floor; the numbers; what to say."""
    beside, losers, chosen = {}, [], floor
    for label in order:
        difference = None if named.is_popularity(label) else compare.difference(label, floor)
        if difference:
            beside = {"against_floor": {"of": label, **asdict(difference)}}
        if difference is None or difference.ci_high >= 0:
            chosen = label
            break
        losers.append(f"{named(label)} loses to {floor} by {-difference.value:.4g} {_interval(difference)}")
    return chosen, beside, f"{' and '.join(losers)}, so {named(chosen)} is published" if losers else None


def told(
    challenger: str, incumbent: str, better: bool, harmed: list[str], found: dict[str, Any], margin: float
) -> str:  # fmt: skip
    """The comparison with the incumbent as a sentence."""
    if found["against_incumbent"] is None:
        return f"{incumbent} stays: no user is measured on both"
    of = Difference(**found["against_incumbent"])
    by = f"by {of.value:+.4g} {_interval(of)}, p {of.p_value:.2g}, {of.n:,} users"
    if not better:
        return f"{incumbent} stays: {challenger} is not better, {by}"
    if harmed:
        return f"{incumbent} stays: {challenger} harms {', '.join(harmed)}; in all it differs {by}"
    if not found["holds_margin"]:
        return f"{incumbent} stays: {challenger} may be worse by more than {margin:.0%}; it differs {by}"
    return f"{challenger} replaces {incumbent}: it is better {by}"


def _interval(difference: Difference) -> str:
    return f"[{difference.ci_low:.4g}, {difference.ci_high:.4g}]"
