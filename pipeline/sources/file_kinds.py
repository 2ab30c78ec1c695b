"""What a file is, by its first bytes: text, JSON lines or Parquet are read; anything else is named and refused."""

import json
import re
from enum import StrEnum
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.sources import files

START = 2**16  # bytes
_PACK = "unpack it, then name the file inside"
_EXPORT = "export it as CSV or Parquet"
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive inside another file", _PACK),
    (b"\x1f\x8b", "a gzip file inside another compressed file", _PACK),
    (b"\x28\xb5\x2f\xfd", "a zst file inside another compressed file", _PACK),
    (b"BZh", "a bzip2 file", "bz2 is not read; unpack it, or pack it as .gz or .zst"),
    (b"\xfd7zXZ\0", "an xz file", "xz is not read; unpack it, or pack it as .gz or .zst"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z is not read; unpack it, or pack it as .gz or .zst"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "lz4 is not read; unpack it, or pack it as .gz or .zst"),
    (b"Rar!\x1a\x07", "a RAR archive", _PACK),
    (b"SQLite format 3\0", "an SQLite database", "export the table: sqlite3 -csv -header FILE 'select …' > out.csv"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file (.xls)", _EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"ARROW1", "an Arrow file (Feather)", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"%PDF-", "a PDF document", _EXPORT),
    (b"\x89PNG\r\n", "a PNG image", "choose another file"),
    (b"\xff\xd8\xff", "a JPEG image", "choose another file"),
    (b"GIF8", "a GIF image", "choose another file"),
    (b"\x7fELF", "a program", "choose another file"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file", _EXPORT),
    (b"RDX", "an R data file", _EXPORT),
)  # fmt: skip
"""First bytes, what such a file is, what to do."""
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL).match
_XML = re.compile(rb"\s*<(\?xml\b|[A-Za-z][\w:.-]*(\s[^<>]*)?>\s*<)").match
_ARRAY = re.compile(rb"\s*\[\s*(\{\s*[\"}]|\[)").match
_SQL = re.compile(
    rb"(\s|--[^\n]*\n|/\*.*?\*/;?)*(create table|insert into|drop table)\b", re.IGNORECASE | re.DOTALL
).match
_NETFLIX = re.compile(rb"[0-9]+:\r?\n[0-9]+,[^\n]*\n").match
_LITERAL = re.compile(rb"\s*\{\s*u?'").match
_OPEN_OBJECT = re.compile(rb"\s*\{\s*\"[^\"\n]*\"\s*:").match


class Kind(StrEnum):
    """The kinds of file that are read."""

    TEXT = "text"
    JSON_LINES = "JSON lines"
    PARQUET = "Parquet"


def kind_of(path: Path, name: str) -> Kind:
    """The kind of a file, compressed or not. Raises UnreadableInput, with what the file is, if it can't be read.

    A file whose name ends in .parquet is taken for one, so that a damaged one is named as such.
    """
    if path.suffix == ".parquet":
        return Kind.PARQUET
    start = files.first_bytes(path, START)
    if start.startswith(b"PAR1"):
        return Kind.PARQUET
    refusal = _container(start)
    if not refusal:
        wide = wide_encoding(start)
        start = start.decode(wide, "replace").encode() if wide else start
        refusal = _document(start) or _binary(start)
    if refusal:
        what, advice = refusal
        raise UnreadableInput(f"{name} is {what}, no file with one line per user and item: {advice}")
    return Kind.JSON_LINES if is_json_object(first_line(start)) else Kind.TEXT


def wide_encoding(start: bytes) -> str | None:
    """The encoding of a text in UTF-16 or UTF-32, by its byte order mark or, without one, by its zero bytes."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = start[::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half < 8 or min(even, odd) > half // 20 or max(even, odd) < half // 2:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def first_line(start: bytes) -> bytes:
    """The first line that is not blank."""
    return next((line for line in start.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()), b"")


def is_json_object(line: bytes) -> bool:
    """Whether a line is a JSON object with at least one key."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found)


def _container(start: bytes) -> tuple[str, str] | None:
    """What a binary file is and what to do, by its first bytes."""
    for magic, what, advice in _MAGIC:
        if start.startswith(magic):
            return what, advice
    if start[8:12] == b"DUCK":
        return "a DuckDB database", "export the table, e.g. copy (from TABLE) to 'out.parquet'"
    if start[257:262] == b"ustar":
        return "a tar archive", _PACK
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a Python pickle", _EXPORT
    return None


def _document(start: bytes) -> tuple[str, str] | None:
    """What a text is that has no lines of rows, and what to do."""
    if _HTML(start):
        return "an HTML page, perhaps a login or error page", "download the file again"
    if _XML(start):
        return "an XML document", _EXPORT
    if _ARRAY(start) or _is_one_object(start):
        return "one JSON document", "write one object per line, e.g. jq -c '.[]' FILE > out.jsonl"
    first = first_line(start).strip()
    if first.startswith(b"\x1e") and is_json_object(first.lstrip(b"\x1e")):
        return "a JSON text sequence", "remove its record separators: tr -d '\\036' < FILE > out.jsonl"
    if first.endswith(b",") and is_json_object(first[:-1]):
        return "a list of JSON objects", "remove the comma after each one: sed 's/,$//' FILE > out.jsonl"
    if start.startswith(b"%%MatrixMarket"):
        return "a Matrix Market file", "write its entries as lines, e.g. with scipy.io.mmread"
    if _SQL(start):
        return "an SQL dump", "load it into a database, and export the table as CSV"
    if _NETFLIX(start):
        return "a file in the form of the Netflix Prize", "write the number above each group into its lines"
    if _LITERAL(start):
        return (
            "a file of Python literals, which are no JSON",
            'convert it, e.g. python -c "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) '
            'for line in sys.stdin]" < FILE > out.jsonl',
        )
    return None


def _is_one_object(start: bytes) -> bool:
    """Whether the text is one JSON object that is not whole on its first line."""
    lines = [line.strip() for line in start.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()][:2]
    if not lines or is_json_object(lines[0]):
        return False
    if len(lines) == 1:
        return len(start) >= START and _OPEN_OBJECT(lines[0]) is not None
    return lines[0] == b"{" and lines[1].startswith(b'"') and b":" in lines[1]


def _binary(start: bytes) -> tuple[str, str] | None:
    """A file with many control bytes that no text has; a few may be damage in a text."""
    control = sum(start.count(byte) for byte in (*range(0, 9), *range(14, 27), 28, 29, 30))
    return ("a binary file of an unknown kind", _EXPORT) if control > max(8, len(start) / 20) else None
