"""Files that careless programs write: each is read as its owner means it, or what is wrong with it is named."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources import doubts
from pipeline.sources.sniffing.interactions import propose
from tests.support.reading import Reading, read_as, read_sniffed

HEADER = "user,item,rating\n"
PAIRS = [(f"u{n % 7}", f"i{n % 5}") for n in range(40)]
ROWS = "".join(f"{user},{item},{1 + n % 5}\n" for n, (user, item) in enumerate(PAIRS))
GOOD = HEADER + ROWS


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def both_ways(path: Path, scratch: Path, **columns: str) -> Reading:
    """The file as the fast and the exact reader read it, which is the same."""
    dataset = Dataset.model_validate({"name": "d", "source": {"files": [path.name]}, "columns": columns})
    fast, exact = (read_as(path, dataset, scratch, exact) for exact in (False, True))
    assert (fast.rows, fast.rejects, fast.ledger) == (exact.rows, exact.rejects, exact.ledger)
    return fast


def gzipped(content: bytes) -> bytes:
    """Without the time, which would make the names of tests differ between the processes that collect them."""
    return gzip.compress(content, mtime=0)


# ── joined, cut and packed files ──


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_joined_files_lose_their_marks_and_headers(tmp_path: Path, newline: str, before: bytes):
    one = before + GOOD.replace("\n", newline).encode()
    found = read_sniffed(put(tmp_path, "log.csv", one * 3), tmp_path)
    assert found.ledger == {"kept": 120, "repeated_header": 2} and not found.rejects
    assert {row[0] for row in found.rows} == {user for user, _ in PAIRS}
    assert any("header occurs again in 2" in note for note in found.notes)
    assert both_ways(tmp_path / "log.csv", tmp_path, user="user", item="item").ledger == found.ledger


def test_a_header_without_numbers_is_no_interaction_when_it_comes_again(tmp_path: Path):
    pairs = "user,item\n" + "".join(f"{user},{item}\n" for user, item in PAIRS)
    path = put(tmp_path, "log.csv", pairs + pairs.rstrip("\n"))
    found = both_ways(path, tmp_path, user="user", item="item")
    assert found.ledger == {"kept": 80, "repeated_header": 1} and ("user", "item", None, None) not in found.rows
    wide = "user,item\n" + "".join(f"{user},{item * 300}\n" for user, item in PAIRS)
    blocks = put(tmp_path, "large.csv", wide * 30 + wide.removeprefix("user,item\n") * 30 + wide)
    found = both_ways(blocks, tmp_path, user="user", item="item")
    assert blocks.stat().st_size > 2**20 and found.ledger == {"kept": 61 * 40, "repeated_header": 30}


@pytest.mark.parametrize(
    "again", ['"user","item"', "user ,item", " user, item", "  user,item", '"user",item', "\tuser,item"]
)
def test_a_header_that_is_written_otherwise_the_second_time(tmp_path: Path, again: str):
    pairs = "".join(f"{user},{item}\n" for user, item in PAIRS)
    path = put(tmp_path, "log.csv", f"user,item\n{pairs}{again}\n{pairs}")
    found = both_ways(path, tmp_path, user="user", item="item")
    assert found.ledger == {"kept": 80, "repeated_header": 1}


def test_a_mark_in_a_value_stays_and_one_before_a_line_goes(tmp_path: Path):
    path = put(tmp_path, "log.csv", f"\ufeff\ufeff{GOOD}\ufeffu1,i1,3\nu\ufeff2,i2,4\n")
    found = both_ways(path, tmp_path, user="user", item="item", rating="rating")
    assert found.rows[-2:] == [("u1", "i1", 3.0, None), ("u\ufeff2", "i2", 4.0, None)]
    assert found.doubts == {doubts.MARK_IN_TEXT: 2}
    assert doubts.in_words(found.doubts) == [
        "2 lines begin with a byte order mark, as where files were joined: it is left out"
    ]


def packed(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.csv.gz", gzipped(GOOD.encode()) + gzipped(ROWS.encode()), 80),  # members are one text
        ("a.csv.gz", GOOD.encode(), 40),  # a browser has unpacked it
        ("a.csv.zst", GOOD.encode(), 40),
        ("a.csv.gz", packed(("a.csv", GOOD.encode())), 40),
        ("a.csv", gzipped(GOOD.encode()), 40),
        ("a.zip", packed(("x/", b""), ("x/a.csv", GOOD.encode()), ("__MACOSX/._a.csv", b"x")), 40),
        ("a.csv", GOOD.rstrip("\n").encode(), 40),
    ],
)
def test_what_is_packed_is_read_by_its_content(tmp_path: Path, name: str, content: bytes, rows: int):
    assert read_sniffed(put(tmp_path, name, content), tmp_path).ledger == {"kept": rows}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n \n\n", "is empty"),
        ("a.csv", b"\xef\xbb\xbf", "is empty"),
        ("a.csv.gz", b"", "is empty"),
        ("a.csv.gz", gzipped(b""), "is empty"),
        ("a.csv", HEADER.encode(), "has one line only"),
        ("a.csv.gz", gzipped(GOOD.encode())[:-9], "truncated or damaged"),
        ("a.csv.gz", b"\x00\x01" + GOOD.encode(), "truncated or damaged"),
        ("a.csv.gz", gzipped(gzipped(GOOD.encode())), "a gzip file inside another"),
        ("a.zip", packed(("a.csv.gz", gzipped(GOOD.encode()))), "a gzip file inside another"),
        ("a.zip", packed(), "without a file"),
        ("a.zip", packed(("a.csv", GOOD.encode()), ("b.csv", GOOD.encode())), "2 files (a.csv, b.csv)"),
        ("a.json", b'{"user": "a", "item": "b"},\n' * 9, "sed 's/,$//'"),
        ("a.json", b'\x1e{"user": "a", "item": "b"}\n' * 9, "tr -d"),
    ],
)
def test_what_no_one_can_read_is_named(tmp_path: Path, name: str, content: bytes, says: str):
    with pytest.raises(UnreadableInput) as error:
        propose(put(tmp_path, name, content))
    assert says in str(error.value)


# ── names of columns ──


def test_a_role_whose_name_occurs_twice_gets_names_apart(tmp_path: Path):
    path = put(tmp_path, "log.csv", "user,item,user\n" + "".join(f"{u},{i},x{u}\n" for u, i in PAIRS))
    found = read_sniffed(path, tmp_path)
    assert found.rows[0][:2] == PAIRS[0] and found.ledger == {"kept": 40, "comment": 1}
    assert found.dataset.source.column_names == ["user", "item", "user_2"]
    assert any("two columns are named 'user'" in note for note in found.notes)
    table = pa.Table.from_arrays([pa.array(column) for column in ("ab", "cd", "ef")], names=["user", "item", "user"])
    pq.write_table(table, tmp_path / "log.parquet")
    for read in (propose, lambda at: both_ways(at, tmp_path, user="user", item="item")):
        with pytest.raises(UnreadableInput, match="two columns are named 'user'"):
            read(tmp_path / "log.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_columns_that_differ_by_case_are_two_columns(tmp_path: Path, kind: str):
    path = tmp_path / f"log.{kind}"
    if kind == "csv":
        put(tmp_path, path.name, "User,item,user\n" + "".join(f"x{u},{i},{u}\n" for u, i in PAIRS))
    elif kind == "jsonl":
        put(tmp_path, path.name, "".join(json.dumps({"User": f"x{u}", "item": i, "user": u}) + "\n" for u, i in PAIRS))
    else:
        columns = [
            pa.array([f"x{u}" for u, _ in PAIRS]),
            pa.array([i for _, i in PAIRS]),
            pa.array([u for u, _ in PAIRS]),
        ]
        pq.write_table(pa.Table.from_arrays(columns, names=["User", "item", "user"]), path)
    assert [row[:2] for row in both_ways(path, tmp_path, user="user", item="item").rows] == PAIRS
    assert [row[0] for row in both_ways(path, tmp_path, user="User", item="item").rows] == [f"x{u}" for u, _ in PAIRS]
    assert any("differ only in upper and lower case" in note for note in propose(path).notes)


# ── JSON lines ──


@pytest.mark.parametrize(
    ("line", "user"),
    [
        ('{"user": "a", "user": "b", "item": "x"}', "b"),
        ('{"user": null, "user": "b", "item": "x"}', "b"),
        ('{"user": "a", "us\\u0065r": "b", "item": "x"}', "b"),
        ('{"user": "b", "item": "y", "item": "x"}', "b"),
        (f'{{"user": "a", "user": "b", "item": "x", "n": {"9" * 5000}}}', "b"),
    ],
    ids=range(5),
)
def test_a_key_twice_is_counted_and_its_last_value_counts(tmp_path: Path, line: str, user: str):
    text = "".join(json.dumps({"user": u, "item": i}) + "\n" for u, i in PAIRS) + line + "\n"
    path = put(tmp_path, "log.jsonl", text)
    found = both_ways(path, tmp_path, user="user", item="item")
    assert found.rows[-1][:2] == (user, "x") and found.doubts == {doubts.KEY_TWICE: 1}
    assert "1 line has a key twice in one JSON object: the last value counts" in propose(path).notes


def test_a_key_twice_below_a_path_and_one_that_is_not_read(tmp_path: Path):
    rows = [json.dumps({"user": {"id": u}, "item": i, "note": 1}) for u, i in PAIRS]
    rows += [
        '{"user": {"id": "a", "id": "b"}, "item": "x"}',
        '{"user": {"id": "a"}, "item": "x", "note": 1, "note": 2}',
    ]
    found = both_ways(put(tmp_path, "log.jsonl", "\n".join(rows)), tmp_path, user="user.id", item="item")
    assert [row[0] for row in found.rows[-2:]] == ["b", "a"] and found.doubts == {doubts.KEY_TWICE: 1}


def test_init_says_which_keys_are_missing_and_of_mixed_types(tmp_path: Path):
    rows = [{("user" if n % 5 < 2 else "user_id"): user, "item": item} for n, (user, item) in enumerate(PAIRS)]
    notes = propose(put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))).notes
    assert "16 of 40 lines lack the key 'user_id' (most of them have 'user' instead)" in notes[0]
    rows = [{"user": n % 7 if n % 2 else str(n % 7), "item": item} for n, (_, item) in enumerate(PAIRS)]
    (note,) = propose(put(tmp_path, "b.jsonl", "".join(json.dumps(row) + "\n" for row in rows))).notes
    assert "'user' has values of several types (text, whole number)" in note
    rows[3]["item"] = ["a", "b"]
    notes = propose(put(tmp_path, "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))).notes
    assert any("'item' is a list in some lines" in note for note in notes)
    good = [{"user": user, "item": item} for user, item in PAIRS]
    assert propose(put(tmp_path, "d.jsonl", "".join(json.dumps(row) + "\n" for row in good))).notes == []


def test_a_rare_path_does_not_take_the_place_of_the_usual_key(tmp_path: Path):
    rows = [{"user": user, "item": item} for user, item in PAIRS] + [{"user": {"id": "a"}, "item": "b"}]
    path = put(tmp_path, "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_sniffed(path, tmp_path).ledger == {"kept": 40, "nested_value": 1}


# ── Parquet ──


def parquet(folder: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), folder / "log.parquet")
    return folder / "log.parquet"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_that_are_no_text_are_rejected_for_that(tmp_path: Path, kind: pa.DataType):
    ids = [b"\xff\x00" if n == 3 else "é".encode() if n == 4 else None if n == 5 else b"" if n == 6 else user.encode()
           for n, (user, _) in enumerate(PAIRS)]  # fmt: skip
    path = parquet(tmp_path, user=pa.array(ids, kind), item=pa.array([item for _, item in PAIRS]))
    found = both_ways(path, tmp_path, user="user", item="item")
    assert found.rejects == [(4, "bad_encoding"), (6, "empty_user"), (7, "empty_user")]
    assert found.rows[3][0] == "é" and found.raw[0].startswith("\\xFF\\x00\t")
    assert any("1 of 40 values of 'user' are bytes that are no UTF-8" in note for note in propose(path).notes)
    other = both_ways(path, tmp_path, user="item", item="user")
    assert other.rejects[0] == (4, "bad_encoding")


@pytest.mark.parametrize("kind", ["parquet", "csv", "wide"])
def test_a_rating_that_32_bits_do_not_hold_is_rejected_fast_and_exactly(tmp_path: Path, kind: str):
    ratings = [1e39 if n == 7 else float(1 + n % 5) for n in range(40)]
    columns = {"user": [u for u, _ in PAIRS], "item": [i for _, i in PAIRS], "rating": ratings}
    if kind == "parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table(columns), path)
    else:
        by = ";;" if kind == "wide" else ","
        lines = [by.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path = put(tmp_path, "a.csv", "\n".join([by.join(columns), *lines, ""]))
    source = {"files": [path.name], **({"delimiter": ";;"} if kind == "wide" else {})}
    dataset = Dataset.model_validate({"name": "d", "source": source, "columns": {"rating": "rating"}})
    for exact in (False, True):
        assert read_as(path, dataset, tmp_path, exact).ledger == {"kept": 39, "rating_not_finite": 1}


def test_nan_is_no_user_whatever_the_statistics_of_the_file_say(tmp_path: Path):
    users = [(float("nan"), -float("nan"))[n % 20 == 0] if n % 10 == 0 else float(n % 7) for n in range(40)]
    for items in (pa.array([item for _, item in PAIRS]), pa.array(users, pa.float32())):
        path = parquet(tmp_path, user=pa.array(users), item=items)
        found = both_ways(path, tmp_path, user="user", item="item")
        assert found.ledger == {"kept": 36, "empty_user": 4} and "nan" not in {row[0] for row in found.rows}


# ── ids ──


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["1", "01", "2", "3"], "differ from others only in leading zeros, e.g. '1' and '01'"),
        (["1", "1.0", "2", "3"], "only in a decimal fraction such as .0"),
        (["ann", "ann\u00a0", "bob", "eve"], "only in blanks around them"),
        (["ann", "\u200bann", "bob", "eve"], "only in invisible characters"),
        (["é", "e\u0301", "bob", "eve"], "only in invisible characters, or composed and combining ones"),
        (["Ann", "ann", "bob", "eve"], "only in upper and lower case"),
        ([" ann", " bob", " eve"], "have blanks around them"),
        (["NULL", "ann", "bob", "eve"], "'NULL', which look like a missing value but are read as ids"),
        (["\\N", "NA", "bob", "eve"], "'\\\\N', 'NA', which look like a missing value"),
        (["1.23E+12", "1.24E+12", "ann"], "a spreadsheet has rounded"),
        (['="0001"', '="0002"', "ann"], "written for Excel"),
    ],
)
def test_init_says_which_ids_a_person_may_mean_otherwise(tmp_path: Path, ids: list[str], says: str):
    rows = "".join(f"{ids[n % len(ids)]},{item}\n" for n, (_, item) in enumerate(PAIRS))
    path = put(tmp_path, "log.csv", "user,item\n" + rows)
    found = read_sniffed(path, tmp_path)
    assert any(says in note and "'user'" in note for note in found.notes), found.notes
    assert {row[0] for row in found.rows} == set(ids), "they are read as they are"
