"""Assigns roles to the columns of an unknown table: by their names, then by their values, then by the usual order."""

from dataclasses import dataclass, field

from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.cells import filled, is_numeric, number, plain_name, words_of
from pipeline.sources.sniffing.column_kinds import Kind, is_function_of, kinds_of
from pipeline.sources.sniffing.column_nouns import ITEMS, USERS, is_number_name, says
from pipeline.sources.sniffing.id_graph import followers, joined, numbers_of_orders, sessions_of
from pipeline.sources.sniffing.number_spellings import Spelling, spelling_of

__all__ = ["NAMES", "Assigned", "assign", "fits", "is_numeric", "number", "roles_of"]

NAMES = {
    "user": "user customer member visitor account profile reader listener viewer client person reviewer uid",
    "item": "item movie product artist track song book isbn anime asin article sku business game content show film "
    "title venue location place poi stock video recipe restaurant hotel",
    "rating": "rating rate score stars star weight plays playcount count listencount preference value overall vote "
    "votes liked like grade points quantity qty units",
    "timestamp": times.NAMES,
}
"""Role to the words that name such a column."""
COUNTS = frozenset(
    ["weight", "plays", "playcount", "count", "listencount", "listens", "clicks", "views", "quantity", "qty", "units",
     "pieces", "hours", "minutes", "times", "freq", "frequency", "visits", "checkins", "downloads", "num",
     "menge", "anzahl", "stuck", "quantite", "cantidad", "quantidade", "quantita", "aantal"]
)  # fmt: skip
"""Words in names of columns that count: they have weights, not ratings."""
_RATING_WORDS = (
    frozenset(NAMES["rating"].split())
    | COUNTS
    | {
        "thumb",
        "thumbs",
        "feedback",
        "recommended",
        "isliked",
        "target",
        "label",
        "click",
        "clicked",
        "purchased",
        "bought",
    }
)
_NAMES_OF_KINDS = {
    Kind.EVENT: "event", Kind.LATITUDE: "latitude", Kind.LONGITUDE: "longitude", Kind.CATEGORY: "category",
    Kind.ITEM_ATTRIBUTE: "category", Kind.TEXT: "text",
}  # fmt: skip
_NOUNS = {"user": USERS, "item": ITEMS}
_ID_ENDINGS = ("id", "sha1", "code", "key", "uri", "no", "nr", "number", "name", "title")
_NOT_A_RATING = frozenset({"avg", "average", "mean", "total", "helpful", "max", "min", "std"})
_MOST_LEVELS = 25
"""Distinct values of a scale at most."""


@dataclass
class Assigned:
    """What each column of a table is."""

    roles: dict[str, int]
    """Role to column index, in the order of NAMES."""
    unit: str | None
    """Of the times; None if no column has times that a known unit reads."""
    spelling: Spelling | None
    """How the ratings are written."""
    kinds: dict[int, Kind] = field(default_factory=dict)
    """Kind of columns without a role, as far as it is known."""
    guessed: bool = False
    """The user or the item is known neither by a header nor by its name."""
    flags: list[int] = field(default_factory=list)
    """Columns of 0 and 1, or of yes and no, that might be ratings by what they mean."""
    unread_rating: int | None = None
    """A column that is named like a rating, but has no numbers."""


def roles_of(names: list[str], rows: list[list[str]]) -> tuple[str, dict[str, int]]:
    """Unit of the timestamp, and role to column index; columns without a known name are judged by their values."""
    assigned = assign(names, rows)
    return assigned.unit or "s", assigned.roles


def assign(names: list[str], rows: list[list[str]], item: int | None = None) -> Assigned:
    """Roles and kinds of all columns; `names` are empty texts where the file has no header.

    `item`: the column of the items, where another file says which one it is.
    """
    columns = [[row[at] for row in rows] for at in range(len(names))]
    return _Assignment(names, columns, {} if item is None else {"item": item}).result()


def fits(name: str, role: str) -> bool:
    """Whether a column's name matches a role."""
    plain = plain_name(name)
    words = NAMES[role].split()
    is_id = role in ("user", "item") and plain.endswith(_ID_ENDINGS)
    is_named = plain in words or (is_id and any(plain.startswith(word) for word in words))
    return is_named or (role in _NOUNS and says(name, _NOUNS[role]))


def is_count_name(name: str) -> bool:
    """Whether a column's name says that it counts something, as plays or pieces."""
    return bool(COUNTS & {plain_name(name), *words_of(name)})


def guessed_names(rows: list[list[str]], width: int) -> list[str]:
    """Names for the columns of a file without a header: roles, kinds such as `category`, else `column_3`."""
    assigned = assign([""] * width, rows) if width > 1 and rows else Assigned({}, None, None)
    found = {at: role for role, at in assigned.roles.items()}
    for at, kind in assigned.kinds.items():
        name = _NAMES_OF_KINDS.get(kind)
        if name and name not in found.values():
            found[at] = name
    return [found.get(at, f"column_{at + 1}") for at in range(width)]


class _Assignment:
    """One table whose columns get their roles, the surest first."""

    def __init__(self, names: list[str], columns: list[list[str]], known: dict[str, int]) -> None:
        self.names, self.columns = names, columns
        self.roles: dict[str, int] = dict(known)
        self.kinds: dict[int, Kind] = {}
        self.units: dict[int, str | None] = {}
        self.spellings: dict[int, Spelling | None] = {}

    def result(self) -> Assigned:
        self._take_named()
        self.kinds = kinds_of(self.names, self.columns, set(self.roles.values()))
        self._take_time()
        if "user" not in self.roles and (sessions := sessions_of(self.names, self.columns, self.kinds)):
            self.roles["user"] = sessions[0]
        self._take_by_order()
        spelling = self._take_rating()
        kinds = {at: kind for at, kind in self.kinds.items() if at not in self.roles.values()}
        named = [at for at in self._free() if fits(self.names[at], "rating") and filled(self.columns[at])]
        guessed = not all(role in self.roles and fits(self.names[self.roles[role]], role) for role in ("user", "item"))
        return Assigned(
            roles={role: self.roles[role] for role in NAMES if role in self.roles},
            unit=self._unit(self.roles["timestamp"]) if "timestamp" in self.roles else None,
            spelling=spelling, kinds=kinds, guessed=guessed, flags=[] if spelling else self._flags(),
            unread_rating=named[0] if named and "rating" not in self.roles else None,
        )  # fmt: skip

    def _flags(self) -> list[int]:
        free = [at for at in self._free() if at not in self.kinds]
        return [at for at in free if (found := self._spelling(at)) and self._is_truth(at, found)]

    def _free(self) -> list[int]:
        return [at for at in range(len(self.names)) if at not in self.roles.values()]

    def _unit(self, at: int) -> str | None:
        if at not in self.units:
            self.units[at] = times.unit_of(self.columns[at])
        return self.units[at]

    def _spelling(self, at: int) -> Spelling | None:
        if at not in self.spellings:
            self.spellings[at] = spelling_of(self.columns[at], is_count_name(self.names[at]))
        return self.spellings[at]

    def _take_named(self) -> None:
        for role in (role for role in NAMES if role not in self.roles):
            named = [at for at in self._free() if fits(self.names[at], role)]
            if role == "timestamp":
                named = [at for at in named if self._unit(at)]
            if role == "rating":
                named = [at for at in named if self._spelling(at)]
            if named:
                self.roles[role] = min(named, key=lambda at: self._preference(role, at))

    def _preference(self, role: str, at: int) -> tuple[bool, bool, int]:
        """Columns that most rows have before others; ids before names; ratings before counts."""
        name, column = self.names[at], self.columns[at]
        is_sparse = len(filled(column)) < 0.5 * len(column)
        if role == "rating":
            return is_sparse, is_count_name(name), at
        is_id = plain_name(name).endswith(("id", "uri", "key", "code", "sha1")) or is_number_name(name)
        return is_sparse, not is_id, at

    def _take_time(self) -> None:
        """The column that looks most like times of events: with a name, as dates rather than counts, the last."""
        timed = [at for at in self._free() if self.columns[at] and self.kinds.get(at) is None and self._unit(at)]
        timed = [at for at in timed if not (self.names[at].lower().endswith("id") and self._unit(at) in times.EPOCHS)]
        timed = [at for at in timed if not self._is_first_id(at)]
        places = 2 - len(self.roles.keys() & {"user", "item"})
        if "timestamp" in self.roles or not timed or len(self._free()) <= places:
            return
        known = [self.columns[self.roles[role]] for role in ("user", "item") if role in self.roles]

        of_item = self.columns[self.roles["item"]] if "item" in self.roles else None
        attributes = [at for at in timed if of_item and is_function_of(self.columns[at], of_item)]
        self.kinds |= dict.fromkeys(attributes, Kind.ITEM_ATTRIBUTE)  # as the release date of a film
        timed = [at for at in timed if at not in attributes]
        if not timed:
            return

        def quality(at: int) -> tuple[bool, bool, bool, int]:
            of_user = any(is_function_of(self.columns[at], of) for of in known)
            return not of_user, times.is_time_name(self.names[at]), self._unit(at) not in times.EPOCHS, at

        self.roles["timestamp"] = max(timed, key=quality)

    def _is_first_id(self, at: int) -> bool:
        """Whether the first column of a file without header has ids of nine digits, which repeat, rather than times."""
        column = self.columns[at]
        return at == 0 and not self.names[at] and self._unit(at) in times.EPOCHS and len(set(column)) < len(column) / 2

    def _take_by_order(self) -> None:
        """User and item from the columns without role and kind, in their order; else from ids and categories."""
        missing = [role for role in ("user", "item") if role not in self.roles]
        chosen = list[int]()
        user = self.columns[self.roles["user"]] if "user" in self.roles else []
        follow = followers(self.columns, self._free(), user) if user and missing else set[int]()
        for tier in self._id_tiers(len(missing)):
            if len(chosen) < len(missing):
                chosen += [at for at in self._free() if at in tier - follow]
        known = [at for role, at in self.roles.items() if role in ("user", "item")]
        for role, at in zip(missing, sorted(joined(self.columns, chosen, known, len(missing))), strict=False):
            self.roles[role] = at
            self.kinds.pop(at, None)
        if "item" in self.roles and not fits(self.names[self.roles["item"]], "item"):
            self._prefer_the_finer_item()

    def _id_tiers(self, n: int) -> list[set[int]]:
        """Columns that may have ids, the likely ones first: no kind; numbers of rows and orders; texts, categories,
        other ids; scales and flags."""
        kinds = [Kind.TEXT, Kind.CATEGORY, Kind.OTHER_ID, Kind.ITEM_ATTRIBUTE, Kind.USER_ATTRIBUTE, Kind.ROW_NUMBER]
        plain = {at for at in self._free() if at not in self.kinds}
        rare = {at for at in plain if _is_scale(self.names[at], self.columns[at]) or self._is_named_flag(at)}
        time = self.columns[self.roles["timestamp"]] if "timestamp" in self.roles else None
        numbers = numbers_of_orders(self.columns, sorted(plain - rare), time, n)
        return [
            plain - rare - numbers,
            numbers,
            *({at for at, own in self.kinds.items() if own == kind} for kind in kinds),
            rare,
        ]

    def _is_named_flag(self, at: int) -> bool:
        return bool(self.names[at]) and set(self.columns[at]) == {"0", "1"}

    def _prefer_the_finer_item(self) -> None:
        """Where the guessed item is a function of another column, as a category is of an item, that one is the item."""
        guess = self.columns[self.roles["item"]]
        for at in self._free():
            is_finer = at not in self.kinds and len(set(self.columns[at])) > len(set(guess)) and self._unit(at) is None
            if is_finer and is_function_of(guess, self.columns[at]):
                self.kinds[self.roles["item"]] = Kind.CATEGORY
                self.roles["item"] = at
                return

    def _take_rating(self) -> Spelling | None:
        """The column of ratings: by its name, by a word in it, else the only one whose values could be ratings."""
        if "rating" not in self.roles:
            self._mark_attributes()
            free = [at for at in self._free() if at not in self.kinds and not is_id_or_time(self.names[at])]
            spelled = {at: found for at in free if self.columns[at] and (found := self._spelling(at))}
            worded = [at for at in spelled if _has_rating_word(self.names[at])]
            guesses = [
                at for at, found in spelled.items()
                if not (self.names[at] and self._is_truth(at, found)) and _is_plausible(found.numbers(self.columns[at]))
            ]  # fmt: skip
            if worded:
                self.roles["rating"] = worded[0]
            elif guesses and (not self.names[guesses[0]] or len(guesses) == 1):
                self.roles["rating"] = guesses[0]
        return self._spelling(self.roles["rating"]) if "rating" in self.roles else None

    def _is_truth(self, at: int, spelling: Spelling) -> bool:
        """Whether a column has yes and no, or 1 and 0: such flags are ratings only if their name says so."""
        return spelling.is_truth or set(filled(self.columns[at])) == {"0", "1"}

    def _mark_attributes(self) -> None:
        """Columns that are functions of the item or of the user: categories, prices, ages."""
        for role, kind in (("item", Kind.ITEM_ATTRIBUTE), ("user", Kind.USER_ATTRIBUTE)):
            if role in self.roles:
                of = self.columns[self.roles[role]]
                found = [at for at in self._free() if at not in self.kinds and is_function_of(self.columns[at], of)]
                self.kinds |= dict.fromkeys(found, kind)


def _has_rating_word(name: str) -> bool:
    words = {plain_name(name), *words_of(name)}
    return bool(words & _RATING_WORDS) and not words & _NOT_A_RATING and words_of(name)[-1:] != ["id"]


def is_id_or_time(name: str) -> bool:
    """Whether a column's name says that it has ids or times."""
    return times.is_time_name(name) or words_of(name)[-1:] in (["id"], ["ids"], ["key"], ["no"], ["code"])


def _is_scale(name: str, column: list[str]) -> bool:
    """Whether an unnamed column has values such as 0.5 to 5, which are no ids."""
    values = [number(cell) for cell in column]
    fractions = [value for value in values if value is not None and value % 1]
    return not name and bool(fractions) and len(set(values)) <= _MOST_LEVELS and is_numeric(column)


def _is_plausible(values: list[float]) -> bool:
    """Whether values can be ratings, counts or amounts: no codes, no years, no degrees."""
    different = set(values)
    fine = any(round(value, 2) != value for value in different)
    is_scale = len(different) <= _MOST_LEVELS and min(different) >= -10 and max(different) <= 100
    is_whole = all(value % 1 == 0 for value in different)
    is_counts = is_whole and min(map(abs, different)) <= 5 and min(different) >= -1000
    is_amounts = not is_whole and min(different) >= 0
    is_range = min(different) >= -10 and max(different) <= 10
    return not fine and different != {0} and (is_scale or is_counts or is_amounts or is_range)
