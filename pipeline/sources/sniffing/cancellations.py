"""Finds rows of orders that were cancelled or sent back: a column such as `Status` with a word for it."""

import re
from collections import Counter
from collections.abc import Collection

from pipeline.sources.sniffing.availability import quoted
from pipeline.sources.sniffing.cells import folded
from pipeline.sources.sniffing.preview import Peek

_TEXT_OF_WORDS = """
cancelled canceled cancellation returned refunded void voided declined rejected failed storniert storno
abgebrochen abgelehnt retoure retourniert zuruckgegeben zuruckgesendet erstattet annule annulee rembourse
remboursee retourne retournee refuse cancelado cancelada anulado anulada devuelto devuelta reembolsado
annullato annullata reso resa rimborsato rimborsata devolvido devolvida reembolsada geannuleerd geretourneerd
terugbetaald
"""
_WORDS = frozenset(_TEXT_OF_WORDS.split())
_MOST_VALUES = 25


def cancelled_rows(table: Peek, taken: Collection[int]) -> list[str]:
    """Two lines, or none: what a person should know, and the `keep_if` that leaves such rows out.

    Rows without a value are kept: an empty cell is NULL in a condition. `taken`: columns that another setting reads.
    """
    for at, name in enumerate(table.names):
        counts = Counter(table.column(at))
        if at in taken or not 2 <= len(counts) <= _MOST_VALUES:
            continue
        gone = [value for value in counts if re.sub("[^a-z]", "", folded(value).lower()) in _WORDS]
        if gone and len(gone) < len(counts):
            n, words = sum(counts[value] for value in gone), ", ".join(_text(value) for value in gone)
            note = (
                f"{name!r} says of {n:,} of {len(table.rows):,} rows {', '.join(map(repr, gone))}: they count as any "
            )
            return [
                f"{note}other row. To leave them out, uncomment keep_if",
                f"coalesce({quoted(name)}, '') not in ({words})",
            ]
    return []


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
