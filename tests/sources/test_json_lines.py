"""JSON lines: the fast reader keeps and rejects what the line reader does, for files of any content."""

import json
import random
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources import blocks, file_reader, json_arrow
from pipeline.sources.revisions import ITEM_LISTS, revisions_of
from pipeline.storage import warehouse
from tests.support.reading import read_as

SURROGATES = [
    rb"\ud800", rb"\uDE00", rb"\ud83d\ude00", rb"a\ud83dA", rb"\\ud83d\ude00", rb"\\\ud83d\ude00", rb"\ud83d\ud83d\ude00",
    rb"\\ud83d", rb"\ud83d\uD83D",
]  # fmt: skip
"""Whole pairs, halves, and backslashes before what looks like one."""
ODD: list[Callable[[random.Random, dict[str, Any]], bytes]] = [
    lambda draw, row: dumped(row)[: draw.randrange(1, 30)],
    lambda draw, row: b"",
    lambda draw, row: b" \t",
    lambda draw, row: dumped(row) + b" ",
    lambda draw, row: b"  " + dumped(row),
    lambda draw, row: dumped(row) + b"\r",
    lambda draw, row: dumped(row) + dumped(row),
    lambda draw, row: dumped(row).replace(b'", "', b'",\r "', 1),
    lambda draw, row: dumped(row) + b",",
    lambda draw, row: b"[" + dumped(row) + b"]",
    lambda draw, row: b"\xef\xbb\xbf" + dumped(row),
    lambda draw, row: dumped(row).replace(b"u", b"\0", 1),
    lambda draw, row: dumped(row).replace(b"}", b', "note": "\xff"}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": "a\tb"}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": NaN}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": -Infinity}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": "to, Infinity"}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": 01}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": "%s"}' % draw.choice(SURROGATES)),
    lambda draw, row: dumped(row).replace(b'"item": ', b'"item": "%s", "was": ' % draw.choice(SURROGATES)),
    lambda draw, row: dumped(row).replace(b"}", b', "note": 1, "note": [2]}'),
    lambda draw, row: dumped(row).replace(b"}", b', "item": "twice"}'),
    lambda draw, row: dumped(row).replace(b"}", b', "user.id": "flat"}'),
    lambda draw, row: dumped(row).replace(b"}", b', "note": ' + b"[" * 300 + b"]" * 300 + b"}"),
    lambda draw, row: dumped(row).replace(b"}", b', "note": ' + b"[" * 3000 + b"]" * 3000 + b"}"),
    lambda draw, row: dumped(row).replace(b"}", b', "note": "' + b"long" * 300 + b'"}'),
    lambda draw, row: dumped(row).replace(b'"item"', b'"it\\u0065m"'),
    lambda draw, row: dumped({key: value for key, value in row.items() if key != draw.choice(list(row))}),
    lambda draw, row: dumped({**row, draw.choice(list(row)): draw.choice(VALUES)}),
    lambda draw, row: dumped({**row, draw.choice(list(row)): draw.choice(VALUES)}),
    lambda draw, row: dumped(row).replace(b'"item": ', rb'"item": "\ud83d\ude00", "was": '),
    lambda draw, row: dumped(row).replace(b'"item": ', rb'"item": "a\ud800b", "was": '),
    lambda draw, row: dumped(row).replace(b'"stars": ', rb'"stars": "\udfff", "was": '),
    lambda draw, row: dumped(row).replace(b'"kind": ', rb'"kind": "\udfff", "was": '),
    lambda draw, row: dumped(row).replace(b'"at": ', b'"at": -0, "was": '),
    lambda draw, row: dumped(row).replace(b'"item": ', b'"item": -0, "was": '),
    lambda draw, row: dumped(row).replace(b'"stars": ', b'"stars": 1e400, "was": '),
    lambda draw, row: dumped(row).replace(b'"stars": ', b'"stars": 1E-3, "was": '),
    lambda draw, row: dumped(row).replace(b'"at": ', b'"at": 17e8, "was": '),
]
"""Lines that a careless program writes."""
VALUES: list[Any] = [
    None, True, False, "", " ", "x", "4.5", " 4.5", "+3", "1_0", "nan", "inf", "0x10", "١", 0, -1, 5, 10**30, 2**63,
    4.25, 1.0, 0.1, 1e300, [], ["a"], {}, {"id": "z"}, {"id": None}, "é" * 600, "a\0b", "😀", "line\nfeed",
    1_700_000_000, 1_700_000_000.0, 1_700_000_000.5, -5, 99_999_999_999_999, "1700000000", "2024-03-09", "NaN",
]  # fmt: skip


def dumped(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def log(seed: int) -> tuple[bytes, Dataset]:
    """A file of JSON lines with one type per column, but for a few odd lines, and how it is described."""
    draw = random.Random(seed)
    unit = draw.choice(["s", "s", "ms", "iso", "ns", "%Y/%m/%d"])
    time: Callable[[], Any] = {
        "s": lambda: 1_600_000_000 + draw.randrange(10**8), "ms": lambda: 1_600_000_000_000 + draw.randrange(10**10),
        "ns": lambda: 1_600_000_000 * 10**9 + draw.randrange(10**15), "%Y/%m/%d": lambda: f"20{draw.randrange(10, 99)}/03/01",
        "iso": lambda: f"2024-03-{draw.randrange(10, 30)}" + draw.choice(["", " 10:11:12", "T10:11:12Z"]),
    }[unit]  # fmt: skip
    as_text = unit in ("s", "ms", "ns") and draw.random() < 0.3
    ids: Callable[[], Any] = draw.choice([lambda: draw.randrange(50), lambda: draw.choice(["a", "b c", "é", "日本"])])
    stars: Callable[[], Any] = draw.choice(
        [lambda: draw.randrange(6), lambda: draw.randrange(10) / 2, lambda: str(draw.randrange(6))]
    )
    extra: Callable[[], Any] = draw.choice(
        [lambda: draw.choice(["view", "buy", "", None]), lambda: draw.choice([True, False]), lambda: draw.randrange(9)]
    )
    nested = draw.random() < 0.3
    columns = {"user": "user.id" if nested else "user", "item": "item", "rating": "stars", "timestamp": "at"}
    lines = []
    odd = draw.choice([0.0, 0.02, 0.2, 0.2])
    for _ in range(draw.randrange(1, 60)):
        user, at = ids(), time()
        row = {
            "user": {"id": user, "name": "n"} if nested else user, "item": ids(), "stars": stars(),
            "at": str(at) if as_text else at, "kind": extra(),
        }  # fmt: skip
        lines.append(draw.choice(ODD)(draw, row) if draw.random() < odd else dumped(row))
    lines[0:0] = [
        dumped({"user": {"id": None}, "item": None, "stars": None, "at": None, "kind": None, "user.id": None})
    ]
    newline = draw.choice([b"\n", b"\n", b"\r\n"])
    content = draw.choice([b"", b"", b"\xef\xbb\xbf"]) + newline.join(lines) + draw.choice([b"", newline])
    described = {
        "name": "x", "source": {"files": ["a.jsonl"], "encoding": draw.choice(["utf-8", "utf-8", "latin-1"])},
        "columns": {**columns, "timestamp_unit": unit},
        "feedback": {"missing_ratings": draw.choice([[], [0]]), "keep_if": draw.choice([None, "kind <> 'no'"])},
    }  # fmt: skip
    if draw.random() < 0.2:
        del columns["rating"], described["columns"]["rating"]
    return content, Dataset.model_validate(described)


def read(path: Path, dataset: Dataset, exact: bool, scratch: Path) -> tuple[dict[str, Any], str | None]:
    """What was read of a file, and what was read line by line, in words."""
    into = scratch / uuid.uuid4().hex
    into.mkdir()
    with warehouse.scratch(threads=1) as con:
        result = file_reader.read_file(con, path, path.name, dataset, into, exact)
    rows, rejected = (pl.read_parquet(into / f"{name}.parquet") for name in ("interactions", "rejected_rows"))
    ledger = {str(reason): n for reason, n in result.ledger.items() if n}
    found = {"rows": rows.rows(), "schema": rows.schema, "rejected": rejected.rows(), "ledger": ledger}
    return {**found, "looks": result.looks}, result.rescanned


def assert_same(path: Path, dataset: Dataset, scratch: Path) -> str | None:
    """Both ways of reading give the same; returns what the fast one read line by line."""
    try:
        slowly, _ = read(path, dataset, True, scratch)
    except UnreadableInput as error:  # no line has one of the columns
        with pytest.raises(UnreadableInput, match="^" + re.escape(str(error)) + "$"):
            read(path, dataset, False, scratch)
        return "0"
    quickly, rescanned = read(path, dataset, False, scratch)
    assert repr(quickly) == repr(slowly)  # -0.0 is not 0.0
    n_lines = path.read_bytes().count(b"\n") + (not path.read_bytes().endswith(b"\n"))
    assert sum(slowly["ledger"].values()) == n_lines
    return rescanned


@pytest.mark.parametrize(
    "seeds", [range(150), pytest.param(range(1000, 6000), marks=pytest.mark.slow)], ids=["quick", "thorough"]
)
def test_the_fast_reader_reads_as_the_line_reader_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: range):
    path, quick = tmp_path / "a.jsonl", 0
    for seed in seeds:
        content, dataset = log(seed)
        path.write_bytes(content)
        monkeypatch.setattr(blocks, "_SIZE", random.Random(seed).choice([300, 1000, 2**19]))
        try:
            rescanned = assert_same(path, dataset, tmp_path)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {dataset.columns}") from error
        quick += rescanned is None or int(rescanned.split()[0]) < content.count(b"\n")
    assert quick > 0.3 * len(seeds), "most files are read line by line: the test compares nothing"


def test_a_usual_file_is_read_at_once_and_an_odd_line_costs_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"user": f"u{n % 7}", "item": n % 5, "stars": 4.5, "at": 1_700_000_000 + n} for n in range(2000)]
    columns = {"user": "user", "item": "item", "rating": "stars", "timestamp": "at"}
    dataset = Dataset.model_validate({"name": "x", "source": {"files": ["a.jsonl"]}, "columns": columns})
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(dumped(row) + b"\n" for row in rows))
    assert assert_same(path, dataset, tmp_path) is None
    monkeypatch.setattr(blocks, "_SIZE", 6000)  # about 100 lines
    path.write_bytes(path.read_bytes().replace(b'"at": 1700001234', b'"at": "soon"'))
    rescanned = assert_same(path, dataset, tmp_path)
    assert rescanned and rescanned.endswith("of 2,000 lines: a value of another type, or no JSON")
    assert 0 < int(rescanned.split()[0]) < 200


def test_a_line_longer_than_allowed_is_rejected_alone(tmp_path: Path):
    row = {"user": "u", "item": "i"}
    dataset = Dataset.model_validate(
        {"name": "x", "source": {"files": ["a.jsonl"]}, "columns": {"user": "user", "item": "item"}}
    )
    path = tmp_path / "a.jsonl"
    for size in (2**19, 2**20 - 100, 2**20 + 100, 3 * 2**20):
        path.write_bytes(b"\n".join([dumped(row), dumped({**row, "note": "x" * size}), dumped(row), b""]))
        assert_same(path, dataset, tmp_path)


def test_doubts_are_those_of_lines_and_not_of_what_is_around_them():
    usual = b'{"a": 1}\n{"b": "NaN [1]"}\r\n{}'
    assert json_arrow.doubts(usual, "utf-8") == ""
    for odd in (b"\n", b'{"a":\n1}', b"[1]", b'{"a":NaN}', b'{"a":1}\r{"b":2}', b'{"a":"\xff"}', b"\xef\xbb\xbf{}"):
        assert json_arrow.doubts(usual + b"\n" + odd, "utf-8"), odd


@pytest.mark.parametrize("column", ["sku", "basket.sku"])
def test_lists_of_items_are_exploded_at_any_path(tmp_path, column):
    lists = [["a", "b"], ["c"], "d,e", [1, 2.5, True]]
    rows = [{"user": f"u{n}", **({"sku": each} if column == "sku" else {"basket": {"sku": each}})}
            for n, each in enumerate(lists)]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = Dataset.model_validate(
        {"name": "t", "source": {"files": ["*"], "explode": ","}, "columns": {"user": "user", "item": column}}
    )
    found = read_as(path, dataset, tmp_path)
    assert [row[1] for row in found.rows] == ["a", "b", "c", "d", "e", "1", "2.5", "true"] and not found.rejects
    assert revisions_of(dataset, tmp_path, [path.name], []) == ([ITEM_LISTS] if "." in column else [])
