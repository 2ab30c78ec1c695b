"""Keys of a data set's TOML, `dataset` in the settings tree: where its rows are and what they mean."""

import codecs
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from pipeline.config.base import Fraction, Name, Section

IN_PLACE = ("utf-8", "latin-1")
"""Encodings that are read from the file itself; of a file in another one a copy in UTF-8 is read."""
_IN_PLACE_NAMES = {"utf-8": "utf-8", "ascii": "utf-8", "utf-8-sig": "utf-8", "iso8859-1": "latin-1"}
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined")
LATER = {"escape": "", "comment": "", "skip_lines": 0, "explode": ""}
"""Keys of Reading and Source that are younger than the first lake keys: they enter a key only where they are set."""


class Reading(Section):
    """The format of a text file."""

    files: list[str] = Field(default=[])
    """Globs, relative to `--data` or to the TOML: csv tsv dat txt, JSON lines, parquet; also .gz .zst .zip."""
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
    generator: Literal["sample", "anime", "ncf_timed"] | None = None
    """Generates the files, synthetic or from other files, if `--data` is not given."""
    mode: Literal["snapshot", "incremental"] = "snapshot"
    """incremental: files accumulate over nights; a file with known content is not read again."""
    static: bool = False
    """The files don't grow, as in a public data set: no warning about their age."""
    explode: str = ""
    """Separator of several items in one cell of the item column: one row per item. If it is the delimiter, too, the
    item column is the last one and takes the rest of the line."""
    max_reject_rate: Fraction = 0.05
    """A night with a larger share of rejected rows is refused (exit 3)."""


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
    normalize: Literal["none", "standardize", "min_max", "log1p"] = "none"
    """Normalization of ratings; fitted on train only."""
    normalize_to: tuple[float, float] = (0.0, 1.0)
    """For min_max: the values of the lowest and the highest rating."""

    @model_validator(mode="after")
    def _a_range(self) -> "Feedback":
        if self.normalize_to[0] >= self.normalize_to[1]:
            raise ValueError("normalize_to is [lowest, highest], and the first must be below the second")
        return self


class Events(Section):
    """What the types of events mean, for logs with an event type per row."""

    column: str
    """Source column with the event type."""
    quantity: str | None = None
    """Source column with the quantity of an event, e.g. the pieces bought; empty: 1."""


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


class Users(Reading):
    """A file of user attributes."""

    id: str = "user"
    attributes: dict[str, str] = Field(default={})
    """Attribute column to the separator of its values."""
    columns: list[str] | None = None
    """Other columns that are kept as attributes with one value; absent: all of them."""


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
    published: Published | None = None
