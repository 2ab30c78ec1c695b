"""What the ratings of an unknown file mean, as lines of `[feedback]`: votes, scales, counts, returns."""

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil

_SENTINELS = (-1.0, -9.0, -99.0, -999.0, 99.0, 999.0, 9999.0)
"""Values that stand for no rating in many files."""
_MOST_LEVELS, _HIGHEST = 20, 100
"""Distinct values of an explicit scale, and the highest of them, at most."""

IMPLICIT = 'kind = "implicit"'


@dataclass(frozen=True)
class Feedback:
    """Lines of TOML below `[feedback]`, and what a person should check."""

    lines: list[str]
    notes: list[str] = field(default_factory=list)
    positives: str = ""
    """Which rows count as positive, or how much a row counts, where that is a matter of choice."""


def feedback_of(values: list[float], is_count: bool = False, is_rating: bool = False) -> Feedback:
    """The section for a column with these numbers, empty for a file without ratings.

    `is_count`, `is_rating`: the column's name or the way its numbers are written says so. `positive_if` is written
    where no reader could doubt it: a vote against, a 0 for no, a return are no positives. It is proposed in a comment
    where it is a matter of choice, as for ratings from 1 to 5.
    """
    levels = Counter(values)
    if not levels:
        return Feedback([IMPLICIT])
    lowest, highest = min(levels), max(levels)
    if highest <= 0:
        note = (
            f"no row has a rating above 0 ({lowest:g} to {highest:g}); every row counts as positive without positive_if"
        )
        return Feedback([IMPLICIT, f"# {note}"], [note])
    if lowest == 0 and highest <= 1:
        return _signed(levels, "0 is no positive", "mean no")
    if lowest < 0 and highest <= 1:
        return _signed(levels, "a vote against is no positive", "are votes against")
    is_scale = _is_scale(levels, is_count, is_rating)
    if missing := _missing(levels, is_count, is_rating):
        return _scale(levels, missing)
    if lowest < 0 and (is_scale or (highest <= 10 and any(value % 1 for value in levels))):
        return _signed(levels, "ratings below 0 are no positives", "are taken for dislikes", "explicit")
    if lowest < 0:
        return _signed(levels, "returns and corrections are no positives", "are taken for returns")
    if is_scale:
        return _scale(levels)
    if 0 in levels:
        return _signed(levels, "a count of 0 is no positive", "count nothing")
    return Feedback([IMPLICIT])


def _signed(levels: Counter[float], why: str, meaning: str, kind: str = "implicit") -> Feedback:
    n, total = sum(count for value, count in levels.items() if value <= 0), levels.total()
    shown = ", ".join(f"{value:g}" for value in sorted(value for value in levels if value <= 0)[:3])
    note = f'{shown} {meaning}: by positive_if = "rating > 0", {n:,} of {total:,} rows are no positives'
    return Feedback([f'kind = "{kind}"', f'positive_if = "rating > 0"  # {why}'], [note])


def _scale(levels: Counter[float], missing: float | None = None) -> Feedback:
    """Explicit ratings, with a threshold to uncomment; the lowest rating counts as positive without it."""
    rated = sorted(value for value in levels if value != missing)
    lowest, highest, threshold = rated[0], rated[-1], _threshold(rated)
    named = f"{lowest:g} (half a star)" if lowest == 0.5 else f"{lowest:g}"
    lines, notes, positives = ['kind = "explicit"'], list[str](), ""
    if missing is not None:
        lines.append(f"missing_ratings = [{missing:g}]  # means 'seen, not rated'")
        notes.append(
            f"{missing:g} is apart from the ratings from {lowest:g} to {highest:g}: it is read as 'seen, not rated'"
        )
    elif lowest == 0 and highest >= 5:
        notes.append(f"ratings from 0 to {highest:g}: if 0 means 'not rated', set missing_ratings = [0]")
        lines.append(f"# {notes[-1]}")
    if lowest < highest:
        lines.append(
            f'# positive_if = "rating >= {threshold:g}"  # without it, every row counts as positive, '
            f"{named} as well as {highest:g}"
        )
        positives = (
            f"every row counts as positive, {named} as well as {highest:g}; to count only high ratings, uncomment "
            f'positive_if = "rating >= {threshold:g}"'
        )
    return Feedback(lines, notes, positives)


def _missing(levels: Counter[float], is_count: bool, is_rating: bool) -> float | None:
    """A value that stands for no rating: apart from a scale, as -1 from 1 to 10, or 99 from 1 to 5."""
    for value in _SENTINELS:
        rest = Counter({level: n for level, n in levels.items() if level != value})
        if value not in levels or len(rest) < 2 or not _is_scale(rest, is_count, is_rating):
            continue
        if min(rest) >= (1 if value == -1 else 0) and (value < 0 or max(rest) <= 10):
            return value
    return None


def _threshold(levels: list[float]) -> float:
    """Four fifths of the highest rating, rounded up to a step of the scale."""
    step = min(max(_step(levels), 0.1), 1.0)
    return ceil(levels[-1] * 0.8 / step - 1e-9) * step


def _is_scale(values: Collection[float], is_count: bool, is_rating: bool) -> bool:
    """Whether values are steps of a scale, most of them used, rather than counts or amounts."""
    levels = sorted(values)
    if is_count or levels[-1] > _HIGHEST or levels == [1]:
        return False
    if is_rating:
        return len(levels) <= _MOST_LEVELS or levels[-1] <= 10
    ones = values[1] / values.total() if isinstance(values, Counter) and levels[0] == 1 and len(levels) > 1 else 0
    return (
        ones < 0.5
        and len(levels) <= _MOST_LEVELS
        and len(levels) >= 0.3 * ((levels[-1] - levels[0]) / _step(levels) + 1)
    )


def _step(levels: list[float]) -> float:
    """The smallest difference between two levels."""
    return min((after - before for before, after in itertools.pairwise(levels)), default=1.0)
