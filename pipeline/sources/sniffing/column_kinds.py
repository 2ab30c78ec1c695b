"""Recognizes columns that have no role: categories, places, prices, event types, row numbers, attributes of items."""

import itertools
from collections import Counter, defaultdict
from enum import StrEnum

from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.cells import filled, is_numeric, mostly, number, words_of
from pipeline.sources.sniffing.column_nouns import ORDERS, says
from pipeline.sources.sniffing.event_columns import event_column


class Kind(StrEnum):
    """What a column is that is neither user, item, rating nor time."""

    EVENT = "event type"
    CATEGORY = "category"
    LATITUDE = "latitude"
    LONGITUDE = "longitude"
    PRICE = "price"
    ROW_NUMBER = "row number"
    ITEM_ATTRIBUTE = "attribute of the item"
    USER_ATTRIBUTE = "attribute of the user"
    TEXT = "text"
    OTHER_ID = "id"


_WORDS = {
    Kind.CATEGORY: "category categories categoryid cat genre genres class brand department subcategory section topic "
    "cluster tag tags kategorie warengruppe produktgruppe marke categorie rayon marque categoria marca merk",
    Kind.LATITUDE: "lat latitude",
    Kind.LONGITUDE: "lon lng long longitude",
    Kind.PRICE: "price prices cost amount revenue discount tax fee spend spent turnover sales unitprice "
    "preis umsatz betrag rabatt steuer prix montant remise precio importe descuento prezzo importo sconto preco "
    "desconto prijs bedrag omzet korting",
    Kind.ROW_NUMBER: "index idx row rownum rank position pos sequence seq unnamed",
    Kind.USER_ATTRIBUTE: "age gender sex zip zipcode postcode postal occupation country city birthyear",
    Kind.ITEM_ATTRIBUTE: "year runtime length size width height color colour helpful",
    Kind.TEXT: "comment comments review text description summary message notes remark",
    Kind.OTHER_ID: "order session sessionid invoice invoiceno basket transaction orderid id guid uuid hash",
}
"""Kind to the words in names of such columns."""
_SUFFIXES = frozenset({"id", "ids", "code", "name", "no", "num", "number"})
"""After one of these, the first word of a name decides instead of the last: `category_id`, `invoice_no`."""
_CERTAIN = 1e-3
"""Below this probability of chance, a column is a function of another one."""
_LONG_TEXT = 40  # characters


def kinds_of(names: list[str], columns: list[list[str]], taken: set[int]) -> dict[int, Kind]:
    """Kind of each column that is known to have no role, by its name and its values. Columns in `taken` have one."""
    free = [at for at in range(len(names)) if at not in taken and filled(columns[at])]
    found = {at: kind for at in free if (kind := _by_name(names[at])) and not _has_dates(kind, columns[at])}
    rows = [list(row) for row in zip(*columns, strict=True)]
    if event := event_column(names, rows, taken):
        found[event.at] = Kind.EVENT
    for at in free:
        if at not in found and (kind := _by_values(columns[at], has_header=any(names))):
            found[at] = kind
    for left, right in itertools.pairwise(free):
        if right == left + 1 and not {left, right} & found.keys() and _are_places(columns[left], columns[right]):
            found |= {left: Kind.LATITUDE, right: Kind.LONGITUDE}
    return found


def _by_name(name: str) -> Kind | None:
    words = words_of(name)
    if not words or times.is_time_name(name):
        return None
    for word in ("".join(words), words[0] if words[-1] in _SUFFIXES else words[-1], words[-1]):
        for kind, known in _WORDS.items():
            if word in known.split():
                return kind
    return Kind.OTHER_ID if says(name, ORDERS) else None


def _has_dates(kind: Kind, column: list[str]) -> bool:
    """Whether a column that is named like a category has times: `Tag` is the German word for day."""
    return kind == Kind.CATEGORY and not is_numeric(filled(column)) and times.unit_of(column) is not None


def _by_values(column: list[str], has_header: bool) -> Kind | None:
    cells = filled(column)
    if not is_numeric(cells):
        return Kind.TEXT if sum(map(len, cells)) > _LONG_TEXT * len(cells) and times.unit_of(column) is None else None
    values = [number(cell) for cell in column]
    if not has_header or len(values) < 10 or None in values or times.unit_of(column):
        return None
    steps = {after - before for before, after in itertools.pairwise(values)}  # type: ignore[operator]
    return Kind.ROW_NUMBER if steps == {1.0} else None


def _are_places(left: list[str], right: list[str]) -> bool:
    """Whether two neighbours are degrees of latitude and longitude, as most have: with three decimals or more."""
    return _are_degrees(left, 90) and _are_degrees(right, 180)


def _are_degrees(column: list[str], most: float) -> bool:
    cells = filled(column)
    within = mostly((value := number(cell)) is not None and abs(value) <= most for cell in cells)
    return bool(cells) and within and mostly(len(cell.partition(".")[2]) >= 3 for cell in cells)


def is_function_of(column: list[str], of: list[str]) -> bool:
    """Whether the column has one value for each value of `of`, as a category has for an item, and not by chance.

    `of` must repeat often enough: the probability that equal values meet by chance is below 0.1 %. A constant column
    is no function of anything.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for key, value in zip(of, column, strict=True):
        values[key].add(value)
    if any(len(each) > 1 for each in values.values()):
        return False
    repeats = len(of) - len(values)
    by_chance = sum((n / len(column)) ** 2 for n in Counter(column).values())
    return by_chance < 1 and by_chance**repeats < _CERTAIN
