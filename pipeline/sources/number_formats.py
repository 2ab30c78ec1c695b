"""Numbers as a source writes them: decimal comma, thousands separators, fractions, percentages, words.

`reader` and `as_sql` read the same texts as the same numbers: line by line, and in DuckDB.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config.dataset import Columns
from pipeline.storage import warehouse

ALIKE = {" ": " \u00a0\u202f", "'": "'\u2019", "\u2019": "'\u2019"}
"""Thousands separators that stand for others that look the same: no-break spaces, typographic apostrophes."""
_OF = r"(?:/|of|out of|von|sur|su|de|van)"
_UNIT = r"(?: *(?:stars?|★|⭐))?"


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a source are written; see config.dataset.Columns for the fields."""

    decimal: str = "."
    thousands: str = ""
    of: float | None = None
    values: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of_columns(cls, columns: Columns) -> "NumberFormat":
        """The format that a data set's `[columns]` set."""
        values = tuple((text.strip(" "), value) for text, value in columns.rating_values.items())
        return cls(columns.decimal, columns.thousands, columns.rating_of, values)

    @property
    def is_usual(self) -> bool:
        """Whether ratings are written as in most files: `4.5`."""
        return self == NumberFormat()

    @property
    def is_usual_in_times(self) -> bool:
        """Whether times that are counts are written as in most files."""
        return self.decimal == "." and not self.thousands

    @property
    def pattern(self) -> str:
        """What a number looks like, for `re` and for RE2, which DuckDB uses. Blanks around it are allowed."""
        whole, point = "[0-9]+", re.escape(self.decimal)
        if self._separators:
            by = f"[{re.escape(self._separators)}]"
            whole = (
                f"(?:[1-9][0-9]{{0,2}}(?:{by}[0-9]{{2,3}})*{by}[0-9]{{3}}|[0-9]+)"  # 1,234,567 or, in India, 12,34,567
            )
        return f" *[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)? *"

    @property
    def fraction(self) -> str:
        """What a fraction looks like: `4/5`, `4.1 out of 5 stars`, `85 %`. Groups: part, whole, percentage."""
        point = re.escape(self.decimal)
        number = f"(?:[0-9]{{1,15}}(?:{point}[0-9]{{0,15}})?|{point}[0-9]{{1,15}})"
        return f" *(?:({number}) *{_OF} *({number}){_UNIT}|({number}) *%) *"

    @property
    def _separators(self) -> str:
        return ALIKE.get(self.thousands, self.thousands)

    def plain(self, text: str) -> str:
        """A text that fits `pattern`, as Python writes numbers."""
        return _translated(text, self._separators, self.decimal)

    def reader(self) -> Callable[[str], float]:
        """A function from text to number, which may be infinite; it raises ValueError for other texts."""
        is_number, is_fraction = re.compile(self.pattern).fullmatch, re.compile(self.fraction).fullmatch
        values, of = dict(self.values), self.of

        def read(text: str) -> float:
            if values and (value := values.get(text.strip(" "))) is not None:
                return value
            if of is not None:
                found = is_fraction(text)
                if not found:
                    raise ValueError(text)
                part, whole = (float(self.plain(t)) for t in (found[1] or found[3], found[2] or "100"))
                if whole == 0:
                    raise ValueError(text)
                return part if whole == of else part * of / whole
            if not is_number(text):
                raise ValueError(text)
            return float(self.plain(text))

        return read

    def as_sql(self, text: str) -> str:
        """A DuckDB expression of type DOUBLE for the text column `text`; NULL for what `reader` does not read."""
        if self.of is None:
            number = f"CASE WHEN {_matches(text, self.pattern)} THEN CAST({self._plain_sql(text)} AS DOUBLE) END"
        else:
            number = self._fraction_sql(text)
        if not self.values:
            return number
        cases = " ".join(f"WHEN {warehouse.literal(t)} THEN CAST('{value!r}' AS DOUBLE)" for t, value in self.values)
        return f"CASE trim(coalesce({text}, ''), ' ') {cases} ELSE {number} END"

    def time_as_sql(self, text: str) -> str:
        """A DuckDB expression for the text of a time that is a count, as Python writes numbers."""
        return f"CASE WHEN {_matches(text, self.pattern)} THEN {self._plain_sql(text)} ELSE {text} END"

    def time_reader(self, parse: Callable[[str], int]) -> Callable[[str], int]:
        """`parse`, a clock for counts, for texts in this format."""
        if self.is_usual_in_times:
            return parse
        is_number = re.compile(self.pattern).fullmatch
        return lambda text: parse(self.plain(text) if is_number(text) else text)

    def _fraction_sql(self, text: str) -> str:
        pattern = warehouse.literal(self.fraction)

        def group(at: int) -> str:
            found = f"regexp_extract({text}, {pattern}, {at})"
            return f"CAST(nullif(replace({found}, {warehouse.literal(self.decimal)}, '.'), '') AS DOUBLE)"

        part, whole, of = (
            f"coalesce({group(1)}, {group(3)})",
            f"coalesce({group(2)}, 100)",
            f"CAST('{self.of!r}' AS DOUBLE)",
        )
        value = f"CASE WHEN {whole} = {of} THEN {part} WHEN {whole} <> 0 THEN {part} * {of} / {whole} END"
        return f"CASE WHEN {_matches(text, self.fraction)} THEN {value} END"

    def _plain_sql(self, text: str) -> str:
        plain = f"trim({text}, ' ')"
        for separator in self._separators:
            plain = f"replace({plain}, {warehouse.literal(separator)}, '')"
        return plain if self.decimal == "." else f"replace({plain}, {warehouse.literal(self.decimal)}, '.')"


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {warehouse.literal(pattern)})"


def _translated(text: str, separators: str, decimal: str) -> str:
    text = text.strip(" ")
    for separator in separators:
        text = text.replace(separator, "")
    return text if decimal == "." else text.replace(decimal, ".")
