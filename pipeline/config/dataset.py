"""Keys of a data set's TOML, `dataset` in the settings tree: where its rows are and what they mean."""

import codecs
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from pipeline.config.base import Fraction, Name, Section
from pipeline.config.queries import Queried

IN_PLACE = ("utf-8", "latin-1")
"""Encodings that are read from the file itself; of a file in another one a copy in UTF-8 is read."""
_IN_PLACE_NAMES = {"utf-8": "utf-8", "ascii": "utf-8", "utf-8-sig": "utf-8", "iso8859-1": "latin-1"}
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined")
LATER = {"escape": "", "comment": "", "skip_lines": 0, "explode": "", "decimal": ".", "thousands": ""}
"""Keys of Reading, Source and Items that are younger than the first lake keys: in a key only where they are set."""


class Reading(Queried):
    """Which files are read, or which query, and the format of a text file."""

    files: list[str] = Field(default=[])
    """Globs, relative to `--data` or to the TOML: csv tsv dat txt, JSON lines, parquet; also .gz .zst .zip. Also
    `s3://bucket/a/*.csv`, `gs://…`, `https://…` (extra `connectors`)."""
    delimiter: str | None = None
    """Up to 4 bytes; sniffed when absent."""
    header: bool = True
    column_names: list[str] | None = None
    """Names of the columns where `header` is false."""
    encoding: str = "utf-8"
    """utf-8, latin-1, or any other text encoding that Python knows, e.g. cp1252. A byte order mark overrides it."""
    quote: str = '"'
    """Empty if the file has no quoting."""
    escape: str = ""
    """Character that makes a following quote, delimiter or escape an ordinary character, usually a backslash."""
    comment: str = ""
    """Start of lines that are no rows, e.g. `#`."""
    skip_lines: NonNegativeInt = 0
    """Lines before the header or, without one, before the first row."""

    @field_validator("delimiter")
    @classmethod
    def _delimiter_fits(cls, value: str | None) -> str | None:
        if value is not None and not 1 <= len(value.encode()) <= 4:
            raise ValueError("a delimiter has 1 to 4 bytes")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        """The name under which Python knows the encoding; utf-8 and latin-1 for their variants."""
        try:
            with suppress(UnicodeError):  # in some encodings the four bytes are no text
                b"text".decode(value)
            found = codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"{value!r} is no text encoding that Python knows, e.g. utf-8, cp1252, utf-16") from None
        if found in _NO_CHARSETS:
            raise ValueError(f"{value!r} is no encoding of files")
        return _IN_PLACE_NAMES.get(found, found)

    def later_keys(self) -> dict[str, object]:
        """The keys of LATER that are set."""
        return {key: value for key, default in LATER.items() if (value := getattr(self, key, default)) != default}


class Source(Reading):
    """The interaction files."""

    folder: str | None = None
    """Folder below NIGHTRECS_DATA; the data set's name when absent."""
    generator: Literal["sample", "anime", "ncf_timed", "shop", "sample_shop"] | None = None
    """Generates the files, synthetic or from other files, if `--data` is not given."""
    mode: Literal["snapshot", "incremental"] = "snapshot"
    """incremental: files accumulate over nights; a file with known content is not read again."""
    changed_files: Literal["", "add", "replace"] = ""
    """Of an incremental source, if a file has another content under its name: `add` counts both, `replace` only the
    newest. The default adds with a warning. A file to which lines were added never counts twice."""
    drop_files: list[str] = Field(default=[])
    """Of an incremental source: files, as globs of their names, that were wrong: their rows no longer count once they
    are gone from the source."""
    static: bool = False
    """The files don't grow, as in a public data set: no warning about their age."""
    explode: str = ""
    """Separator of several items in one cell of the item column: one row per item, without blanks around it; empty
    parts are left out. If it is the delimiter, too, the item column is the last one and takes the rest of the line."""
    max_reject_rate: Fraction = 0.05
    """A night with a larger share of rejected rows is refused (exit 3)."""

    @model_validator(mode="after")
    def _drops_files_of_earlier_nights(self) -> "Source":
        if self.drop_files and self.mode == "snapshot":
            raise ValueError(
                'drop_files is for mode = "incremental": of a snapshot only the files that are there count'
            )
        return self


class Columns(Section):
    """Names of the source's columns."""

    user: str = "user"
    item: str = "item"
    rating: str | None = None
    """A rating, or a weight such as a play count."""
    timestamp: str | None = None
    timestamp_unit: str = "s"
    """s, ms, us, ns (since 1970), iso, or a strptime format."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of ratings, and of times that are counts: with `,`, `4,5` is 4.5."""
    thousands: Literal["", ",", ".", " ", "'", "\u2019", "_"] = ""
    """Separator of thousands: with `,`, `1,234` is 1234. A blank stands for no-break spaces, too."""
    rating_of: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Ratings are fractions or percentages, on a scale up to this: with 5, `4/5` is 4, `4.1 out of 5 stars` is 4.1, and
    `80 %` is 4."""
    rating_values: dict[str, FiniteFloat] = Field(default={})
    """What texts count as: `{ yes = 1, no = 0 }`, `{ "★★★☆☆" = 3 }`. Other texts are read as numbers."""

    @model_validator(mode="after")
    def _marks_differ(self) -> "Columns":
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}: a number would have two meanings")
        return self


class Feedback(Section):
    """What a row means.

    A condition is one boolean expression of DuckDB over `rating`, `rated`, `timestamp`, `user`, `item`, the source's
    other columns and `night_date`, e.g. `rating >= 4` or `category = 'book' and price < 20`. NULL counts as false.
    """

    kind: Literal["explicit", "implicit"] = "implicit"
    missing_ratings: list[float] = Field(default=[])
    """Values that mean 'seen, not rated': an interaction without a rating."""
    keep_if: str | None = None
    """Condition on a row's columns. Fits and metrics ignore other rows, but their items are never recommended again."""
    positive_if: str | None = None
    """Condition on a row's columns: which kept rows count as positive for ranking."""
    repeats: Literal["latest", "sum", "count", "max", "separate"] | None = None
    """What becomes of several rows of one user and item (and event type): the latest one stays, and counts by its own
    quantity (latest), by the sum, the number or the maximum (sum, count, max); or all stay (separate). Absent: the
    latest one stays, and no quantity is read. A quantity is `events.quantity`, else an implicit `columns.rating`."""
    normalize: Literal["none", "standardize", "min_max", "log1p"] = "none"
    """Normalization of ratings; fitted on train only."""
    normalize_to: tuple[float, float] = (0.0, 1.0)
    """For min_max: the values of the lowest and the highest rating."""

    @model_validator(mode="after")
    def _a_range(self) -> "Feedback":
        if self.normalize_to[0] >= self.normalize_to[1]:
            raise ValueError("normalize_to is [lowest, highest], and the first must be below the second")
        return self


class Caps(Section):
    """Limits on events of bots and scrapers."""

    per_user_per_day: PositiveInt | None = None
    """Later events of a user on the same day (UTC) are dropped; those of the target's types never are."""


class Events(Section):
    """What the types of events mean, for logs with an event type per row."""

    column: str
    """Source column with the event type."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Event type to its weight in training. 0: not learnt from. Rows of any other type are dropped, with a warning."""
    withdraws: dict[str, list[str]] = Field(default={})
    """Event type to the types that it cancels: earlier events of the same user and item."""
    target: list[str] = Field(default=[])
    """Types that are held out, ranked and counted by metrics; absent: those with the highest weight."""
    mask: list[str] | None = None
    """Types after which an item is not recommended to the user again; absent: those of `target`."""
    quantity: str | None = None
    """Source column with the quantity of an event, e.g. the pieces bought; empty: 1."""
    caps: Caps = Caps()
    search: bool = False
    """true: the weights of other types than the target's are searched on valid, for each weight-aware model."""

    @property
    def targets(self) -> list[str]:
        """`target`, or the types with the highest weight."""
        highest = max(self.weights.values(), default=0)
        return self.target or [kind for kind, weight in self.weights.items() if weight == highest]

    @property
    def masks(self) -> list[str]:
        """`mask`, or the target's types."""
        return self.targets if self.mask is None else self.mask

    @property
    def kinds(self) -> list[str]:
        """Types with a weight, sorted: their places are the codes in the contract `encoded`."""
        return sorted(self.weights)

    @model_validator(mode="after")
    def _types_are_listed(self) -> "Events":
        if not any(self.weights.values()):
            raise ValueError("weights: list the event types, e.g. { view = 0.1, purchase = 1.0 }, one of them above 0")
        named = {
            "target": self.target,
            "mask": self.mask or [],
            "withdraws": [kind for kinds in self.withdraws.values() for kind in kinds],
        }
        for key, kinds in named.items():
            if unknown := [kind for kind in kinds if kind not in self.weights]:
                raise ValueError(f"{key}: {unknown[0]!r} is not in weights")
        if idle := [kind for kind in self.targets if not self.weights[kind]]:
            raise ValueError(f"target: {idle[0]!r} has weight 0, so nothing would be learnt about it")
        if both := [kind for kind in self.withdraws if kind in self.weights]:
            raise ValueError(f"withdraws: {both[0]!r} cancels events, so it has no weight of its own")
        return self


class Filter(Section):
    """Which users and items take part."""

    min_user_interactions: PositiveInt = 1
    min_item_interactions: PositiveInt = 1
    user_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Seeded sample of users."""


class Items(Reading):
    """The item catalog."""

    id: str = "item"
    title: str | None = None
    attributes: dict[str, str] = Field(default={})
    """Attribute column to the separator of its values."""
    columns: list[str] | None = None
    """Other columns that are kept as attributes with one value; absent: all of them."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of the other columns: one whose values are all numbers with it, and with `thousands`, is numeric."""
    thousands: Literal["", ",", ".", " ", "'", "\u2019", "_"] = ""
    """Separator of thousands in them, as in `[columns]`."""

    @model_validator(mode="after")
    def _marks_differ(self) -> "Items":
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}: a number would have two meanings")
        return self


class Users(Reading):
    """A file of user attributes."""

    id: str = "user"
    attributes: dict[str, str] = Field(default={})
    """Attribute column to the separator of its values."""
    columns: list[str] | None = None
    """Other columns that are kept as attributes with one value; absent: all of them."""


class Impressions(Reading):
    """Files with what was shown of published lists, and clicked. They are counted in the table `realised_clicks`."""

    list_id: str | None = None
    """Column with `recommendations.list_id`."""
    user: str | None = None
    """Column with the user instead, together with `timestamp`: the lists that were published then are meant."""
    timestamp: str | None = None
    timestamp_unit: str = "s"
    """As in `[columns]`."""
    item: str = "item_id"
    """Column with the item."""
    clicked: str = "clicked"
    """Column with the number of clicks, e.g. 1 and 0."""
    clicked_values: dict[str, FiniteFloat] = Field(default={})
    """What texts in it count as: `{ true = 1, false = 0 }`."""
    shown_if: str | None = None
    """Condition on the columns; absent: all rows were shown. E.g. `visible = 1`."""

    @model_validator(mode="after")
    def _names_lists(self) -> "Impressions":
        if (self.list_id is None) == (self.user is None or self.timestamp is None):
            raise ValueError("impressions name their lists either by list_id, or by user and timestamp")
        return self


class Published(Section):
    """Files of a published split."""

    train: str
    test: str
    candidates: str | None = None


class Dataset(Section):
    """A data set, as its TOML describes it."""

    name: Name
    description: str = ""
    source: Source = Source()
    columns: Columns = Columns()
    feedback: Feedback = Feedback()
    events: Events | None = None
    filter: Filter = Filter()
    items: Items | None = None
    users: Users | None = None
    impressions: Impressions | None = None
    published: Published | None = None

    @property
    def is_weighted(self) -> bool:
        """Whether rows have event types or quantities, so that interactions have different weights."""
        return self.events is not None or self.feedback.repeats is not None
