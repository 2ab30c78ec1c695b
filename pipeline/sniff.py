"""Looks at an interaction file and writes a commented data set TOML for it; a person is meant to read it over."""

import glob
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import layout, sources, values
from pipeline.contracts import UnreadableInput

_NAMES = {
    "user": "user customer member visitor account profile reader listener viewer client person reviewer uid",
    "item": "item movie product artist track song book isbn anime asin article sku business game content show film title",
    "rating": "rating rate score stars star weight plays playcount count listencount preference value overall",
    "timestamp": "timestamp time datetime date ts createdat created ratedat unixreviewtime when updatedat",
}
_FORMATS = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y")  # fmt: skip
_PEEK = 2**22  # bytes


@dataclass
class _Table:
    """The first rows of a file, as text."""

    names: list[str]
    rows: list[list[str]]
    reading: list[str] = field(default_factory=list)
    """Lines of [source] that say how it is laid out."""


def sniff(path: Path) -> str:
    """The TOML of a data set with this file. Raises UnreadableInput where no two columns can be told apart."""
    if not path.is_file():
        raise UnreadableInput(f"{path} does not exist, or is no file")
    table = _parquet(path) if path.suffix == ".parquet" else _text(path)
    if len(table.names) < 2 or not table.rows:
        raise UnreadableInput(
            f"{path}: an interaction file has a user and an item in every line; this one has not"
        )
    unit, roles = _roles(table)
    ratings = [
        number
        for row in table.rows
        if "rating" in roles and (number := _number(row[roles["rating"]])) is not None
    ]
    lines = [
        f"# Sniffed from the first lines of {path.name!r}; read it over.",
        f"name = {_quoted(_name(path))}",
        'description = ""',
        "",
        "[source]",
        f"files = [{_quoted(glob.escape(path.name))}]  # globs, beside this file or in --data",
        *table.reading,
        "",
        "[columns]",
        f"# the file has: {', '.join(map(_quoted, table.names))}",
    ]
    lines += [
        f"{role} = {_quoted(table.names[at])}{_example(table, at)}"
        for role, at in sorted(roles.items(), key=lambda r: list(_NAMES).index(r[0]))
    ]
    if "timestamp" in roles:
        lines.append(
            f"timestamp_unit = {_quoted(unit)}  # s, ms, iso, or a strptime format; check day and month"
        )
    explicit = bool(ratings) and len(set(ratings)) <= 20 and max(ratings) <= 100
    lines += ["", "[feedback]", f'kind = "{"explicit" if explicit else "implicit"}"']
    if ratings and -1 in ratings and sorted(set(ratings))[1:2] >= [0]:
        lines.append("missing_ratings = [-1]  # 'seen, not rated'")
    if explicit:
        lines.append(
            f'# positive_if = "rating >= {max(ratings) * 0.8:g}"  # every row is positive without it'
        )
    return "\n".join(lines) + "\n"


def _text(path: Path) -> _Table:
    start = sources.first_bytes(path, _PEEK)
    whole = start[: start.rfind(b"\n") + 1] if len(start) >= _PEEK else start
    encoding = "utf-8" if _decodes(whole) else "latin-1"
    lines = [layout.decode(line, encoding, "replace") for line in layout.head(io.BytesIO(start), path.name)]
    lines = [line for line in lines if line]
    quotes = [q for q in ('"', "") if lines]
    delimiter = layout.sniff_delimiter(lines, '"', [], path.name)
    quote = max(quotes, key=lambda q: _alike(lines, delimiter, q), default='"')
    rows = [layout.fields(line, delimiter, quote) for line in lines]
    width = max((len(row) for row in rows), key=[len(row) for row in rows].count, default=0)
    header = len(rows) > 1 and _is_header(rows[0], rows[1:])
    names = [name.strip() for name in rows[0]] if header else []
    body = [row for row in (rows[1:] if header else rows) if len(row) == width]
    reading = [f"delimiter = {_quoted(delimiter)}", f"header = {'true' if header else 'false'}"]
    if not header:
        guessed = _Table([""] * width, body)
        found = {at: role for role, at in _roles(guessed)[1].items()} if width > 1 and body else {}
        names = [found.get(at, f"column_{at + 1}") for at in range(width)]
        reading.append(
            f"column_names = [{', '.join(map(_quoted, names))}]  # guessed: the file has no header"
        )
    reading.append(f"encoding = {_quoted(encoding)}")
    reading.append(f"quote = {json.dumps(quote)}")
    return _Table(names, [row for row in body if len(row) == len(names)], reading)


def _parquet(path: Path) -> _Table:
    try:
        batch = next(pq.ParquetFile(path).iter_batches(100))
    except (OSError, pa.ArrowException, StopIteration) as error:
        raise UnreadableInput(f"{path} is no Parquet file, is cut off or empty ({error})") from None
    columns = [["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns]
    return _Table(list(batch.schema.names), [list(row) for row in zip(*columns, strict=True)])


def _roles(table: _Table) -> tuple[str, dict[str, int]]:
    """Unit of the timestamp, and role to column: by names, then by values, then by the usual order."""
    free = list(range(len(table.names)))
    columns = [[row[at] for row in table.rows] for at in free]
    roles: dict[str, int] = {}
    for role in _NAMES:
        named = [at for at in free if _fits(table.names[at], role)]
        if role == "timestamp":
            named = [at for at in named if _unit(columns[at])]
        if role == "rating":
            named = [at for at in named if all(_number(v) is not None for v in columns[at])]
        if named:
            roles[role] = min(named, key=lambda at: (not table.names[at].lower().endswith("id"), at))
            free.remove(roles[role])
    timed = [at for at in free if columns[at] and _unit(columns[at])]
    if "timestamp" not in roles and timed and len(free) > 2 - len(roles.keys() & {"user", "item"}):
        roles["timestamp"] = timed[-1]
        free.remove(timed[-1])
    for role in ("user", "item"):
        if role not in roles and free:
            roles[role] = free.pop(0)
    numeric = [at for at in free if columns[at] and all(_number(v) is not None for v in columns[at])]
    if "rating" not in roles and numeric and (not table.names[numeric[0]] or len(numeric) == 1):
        roles["rating"] = numeric[0]
    return _unit(columns[roles["timestamp"]]) or "s" if "timestamp" in roles else "s", roles


def _fits(name: str, role: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    known = _NAMES[role].split()
    return plain in known or (role in ("user", "item") and any(plain.startswith(k) and plain.endswith(("id", "sha1", "code")) for k in known))  # fmt: skip


def _unit(column: list[str]) -> str | None:
    """How the times of a column are written; None: it has none."""
    if all(re.fullmatch(r"[0-9]{9,10}(\.0*)?", v) for v in column):
        return "s"
    if all(re.fullmatch(r"[0-9]{12,13}(\.0*)?", v) for v in column):
        return "ms"
    for unit in ("iso", *_FORMATS):
        parse = values.clock(unit)
        try:
            if all(0 <= parse(v) < values.END_OF_TIME for v in column):
                return unit
        except (ValueError, OverflowError):
            continue
    return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", text) and len(text) < 300 else None


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    if any(_number(field.strip()) is not None for field in first):
        return False
    known = sum(any(_fits(name, role) for role in _NAMES) for name in first)
    return known >= 2 or any(
        all(_number(v) is not None for v in column) for column in zip(*rest, strict=False)
    )


def _alike(lines: list[str], delimiter: str, quote: str) -> int:
    """Lines that split into the usual number of fields; the quote counts where it is at work."""
    widths = [
        len(split[0]) if (split := layout.split_quoted(line, delimiter, quote))[1] == "whole" else 0
        for line in lines
    ]
    return max(map(widths.count, set(widths) - {0}), default=0)


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _name(path: Path) -> str:
    name = re.sub(
        r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0] if not path.name.startswith(".") else path.stem
    )
    return name.lstrip("-_")[:64] or "dataset"


def _example(table: _Table, at: int) -> str:
    return f"  # e.g. {table.rows[0][at][:40]!r}" if table.rows else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
