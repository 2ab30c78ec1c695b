"""Which columns of ids make a graph of users and items: both recur, and neither follows from the other."""

import itertools
from collections.abc import Collection, Mapping, Sequence

from pipeline.sources.sniffing.cells import filled, is_numeric
from pipeline.sources.sniffing.column_kinds import Kind, is_function_of
from pipeline.sources.sniffing.column_nouns import ORDERS, says

_NEARLY_ALL, _FEWEST_ROWS = 0.95, 20
_COARSE = 0.1
_MOST_LEVELS = 25
"""Values of a scale at most."""
_MOST_CANDIDATES = 8


def is_nearly_distinct(column: list[str]) -> bool:
    """Whether hardly a value occurs twice, as of the numbers of orders: users and items recur."""
    cells = filled(column)
    return len(cells) >= _FEWEST_ROWS and len(set(cells)) >= _NEARLY_ALL * len(cells)


def numbers_of_orders(columns: Sequence[list[str]], among: Collection[int], time: list[str] | None, n: int) -> set[int]:
    """Those of the columns `among` that number rows or orders, if at least `n` others are left.

    Hardly a value of them occurs twice, or each has one time and one value of another column, as an order has its
    customer.
    """
    free = [at for at in among if filled(columns[at])]
    found = {at for at in free if is_nearly_distinct(columns[at])}
    if time is not None:
        for at in (at for at in free if at not in found and is_function_of(time, columns[at])):
            others = (columns[other] for other in free if other != at and other not in found)
            found |= {at} if any(is_function_of(other, columns[at]) for other in others) else set()
    left = [at for at in free if at not in found and not _is_scale(columns[at])]
    return found if len(left) >= n else set()


def sessions_of(names: Sequence[str], columns: Sequence[list[str]], kinds: Mapping[int, Kind]) -> list[int]:
    """Columns of sessions, baskets or orders that stand for the users of a table without a column of users.

    They recur, and no column without a kind follows from them, as the customer does from an order.
    """
    found = list[int]()
    for at in (at for at, kind in kinds.items() if kind == Kind.OTHER_ID and says(names[at], ORDERS)):
        ids = len(set(columns[at]))
        others = (columns[other] for other in range(len(names)) if other != at and other not in kinds)
        of_it = (len(set(other)) for other in others if filled(other) and is_function_of(other, columns[at]))
        if not is_nearly_distinct(columns[at]) and not any(n > _MOST_LEVELS or n >= _COARSE * ids for n in of_it):
            found.append(at)
    return found


def followers(columns: Sequence[list[str]], among: Collection[int], user: list[str]) -> set[int]:
    """Those of the columns `among` that follow from the user, such as an e-mail address: they are no items."""
    return {at for at in among if is_function_of(columns[at], user)}


def joined(columns: Sequence[list[str]], among: Sequence[int], known: Collection[int], n: int) -> Sequence[int]:
    """The first `n` of the columns `among` that fit each other and the `known` column of users or items.

    None is a function of another one, as the branch of a customer is, and none has a few values where the others have
    many. Without such columns it is the first `n`.
    """
    values = {at: len(set(columns[at])) for at in among}
    many = sorted((count for at, count in values.items() if not _has_fractions(columns[at])), reverse=True)[:n]
    fewest = min(_COARSE * min(many, default=0), _MOST_LEVELS + 1)
    for some in itertools.combinations(among[:_MOST_CANDIDATES], n):
        pairs = itertools.permutations([*some, *known], 2)
        is_fine = all(values[at] >= fewest for at in some)
        if is_fine and not any(is_function_of(columns[one], columns[of]) for one, of in pairs):
            return some
    return among[:n]


def _is_scale(column: list[str]) -> bool:
    return len(set(column)) <= _MOST_LEVELS and is_numeric(filled(column))


def _has_fractions(column: list[str]) -> bool:
    return any("." in cell for cell in column) and is_numeric(filled(column))
