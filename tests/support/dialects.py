"""Writes interaction files in random dialects, each with exactly one consistent reading, and what that reading is."""

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass

EPOCH = dt.datetime(1970, 1, 1)
START = dt.datetime(2019, 1, 13)


def count(per_second: int) -> Callable[[dt.datetime], str]:
    return lambda t: str(int((t - EPOCH).total_seconds()) * per_second)


TIMES: dict[str, Callable[[dt.datetime], str]] = {
    "s": count(1), "ms": count(1000), "us": count(10**6), "iso": lambda t: t.isoformat(" "),
    "iso T": lambda t: t.isoformat(), "iso Z": lambda t: f"{t.isoformat()}Z", "utc": lambda t: f"{t} UTC",
    "day": lambda t: f"{t:%Y-%m-%d}", "slashes": lambda t: f"{t:%Y/%m/%d %H:%M:%S}", "german": lambda t: f"{t:%d.%m.%Y %H:%M:%S}",
    "american": lambda t: f"{t:%m/%d/%Y %I:%M:%S %p}", "ctime": lambda t: f"{t:%a %b %d %H:%M:%S %Y}",
}  # fmt: skip
BY_DAY = ("day",)
DELIMITERS = (",", ";", "\t", "|", "::", ", ", "^")
WORDS = {
    "ascii": ["alpha", "beta", "gamma", "delta", "omega"],
    "western": ["Señor", "Größe", "Amélie", "Château", "Ærø"],
    "cp1252": ["Hero’s", "“Tale”", "Œuvre", "5 €", "naïve"],
    "cp1251": ["Война", "мир", "Сталкер", "Солярис", "Левиафан"],
    "cp932": ["千と千尋", "東京物語", "となり", "おくりびと", "七人の侍"],
    "gb18030": ["卧虎藏龙", "霸王别姬", "英雄", "大红灯笼", "无间道"],
}
ENCODINGS = (
    ("utf-8", "ascii"), ("utf-8", "western"), ("utf-8", "cp932"), ("utf-8-sig", "western"), ("latin-1", "western"),
    ("cp1252", "cp1252"), ("cp1251", "cp1251"), ("cp932", "cp932"), ("gb18030", "gb18030"), ("utf-16", "western"),
)  # fmt: skip
HEADERS = (
    ("user_id", "item_id", "review", "rating", "timestamp"),
    ("userId", "movieId", "comment", "score", "date"),
    ("Customer", "Product", "Note", "Stars", "Created_At"),
)

Row = tuple[str, str, float | None, dt.datetime]


@dataclass(frozen=True)
class DialectFile:
    """A file and its one reading."""

    content: bytes
    rows: list[Row]
    comments: int
    """Lines that are comments or stand before the header."""
    dialect: dict[str, object]
    """How it was written, for messages."""


def draw(seed: int) -> DialectFile:
    """The file of a seed."""
    rng = random.Random(seed)
    encoding, words = rng.choice(ENCODINGS)
    delimiter = rng.choice(DELIMITERS)
    style = rng.choice(["minimal", "all", "escaped", "none", "single"])
    newline = rng.choice(["\n", "\n", "\r\n", "\r"])
    clock = rng.choice(list(TIMES))
    has_header = rng.random() < 0.7
    has_text = has_header and rng.random() < 0.6
    comments = rng.choice(["", "", "#", "%", "preamble", "sep"])
    if comments in ("preamble", "sep") and not has_header:
        comments = ""
    if comments == "sep" and delimiter != ";":
        comments = ""
    decimal = rng.choice([".", ",", "."]) if "," not in delimiter and has_header else "."
    if encoding == "utf-16" and newline == "\r":
        newline = "\n"
    dialect: dict[str, object] = dict(encoding=encoding, words=words, delimiter=delimiter, style=style, newline=newline, clock=clock,
                   header=has_header, text=has_text, comments=comments, decimal=decimal)  # fmt: skip
    rows: list[Row] = []
    lines: list[str] = []
    header = rng.choice(HEADERS)
    texts = _texts(rng, WORDS[words], delimiter, style, newline)
    users = [rng.choice(["u{}", "{}", "user-{}"]).format(n) for n in range(1, 12)]
    named = rng.random() < 0.5 or words != "ascii"
    for number in range(rng.randint(30, 60)):
        user = rng.choice(users)
        item = f"{rng.choice(WORDS[words])} {number % 17}" if named else str(100 + number % 17)
        rating = rng.choice([1.0, 2.0, 3.0, 4.5, 5.0])
        time = START + dt.timedelta(days=number * 3, seconds=rng.randrange(86_400))
        time = time.replace(hour=0, minute=0, second=0) if clock in BY_DAY else time
        rows.append((user, item, rating, time))
        written = f"{rating:g}".replace(".", decimal)
        cells = [user, item, *([texts()] if has_text else []), written, TIMES[clock](time)]
        lines.append(delimiter.join(_quoted(cell, delimiter, style, rng) for cell in cells))
    names = [name for name in header if has_text or name not in ("review", "comment", "Note")]
    head: list[str] = []
    if comments == "preamble":
        head = ["Export of all interactions", "", "made by the shop"][: rng.randint(1, 3)]
    elif comments == "sep":
        head = ["sep=;"]
    elif comments:
        head = [f"{comments} exported by the shop", f"{comments} 2 lines"][: rng.randint(1, 2)]
        if rng.random() < 0.5:
            lines.insert(rng.randrange(5, 20), f"{comments} page 2")
    n_comments = len(head) + (bool(comments) and any(line.startswith(f"{comments} page") for line in lines))
    if has_header:
        lines.insert(0, delimiter.join(_quoted(name, delimiter, style, rng) for name in names))
    text = newline.join([*head, *lines, ""])
    return DialectFile(text.encode(encoding), rows, n_comments, dialect)


def _texts(rng: random.Random, words: list[str], delimiter: str, style: str, newline: str) -> Callable[[], str]:
    """A maker of texts with what the dialect can hold: delimiters, quotes and newlines."""
    hard = {
        "minimal": [delimiter, '"', "\n"], "all": [delimiter, '"', "\n"], "escaped": [delimiter, '"', "\n"],
        "single": [delimiter, "\n"], "none": [],
    }[style]  # fmt: skip
    if newline == "\r":
        hard = [piece for piece in hard if piece != "\n"]

    def make() -> str:
        pieces = rng.choices(words, k=rng.randint(1, 4))
        if hard and rng.random() < 0.6:
            pieces.insert(rng.randint(0, len(pieces)), f"{rng.choice(hard)}and")
        return " ".join(pieces)

    return make


def _quoted(cell: str, delimiter: str, style: str, rng: random.Random) -> str:
    """A cell as the dialect writes it."""
    needs = delimiter in cell or '"' in cell or "\n" in cell
    match style:
        case "minimal":
            return '"' + cell.replace('"', '""') + '"' if needs else cell
        case "all":
            return '"' + cell.replace('"', '""') + '"'
        case "escaped":
            return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case "single":
            return "'" + cell.replace("'", "''") + "'"
    return cell
