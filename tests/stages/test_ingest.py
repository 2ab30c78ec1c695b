"""Every line of a source ends up as a row or as a reject with its place and reason; whatever the bytes."""

import gzip
import json
import re
import tempfile
import time
import uuid
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core import paths
from pipeline.core.errors import Refused, UnreadableInput
from pipeline.schemas import tables
from pipeline.sources import blocks, file_parts, file_reader, incremental, line_reader
from pipeline.sources.dialect import LINE_LIMIT
from pipeline.sources.parsing import clock
from pipeline.stages import ingest
from pipeline.storage import journal, lake, warehouse
from tests.support.data_sets import data_set

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}
HEADER = b"user,item,rating,timestamp\n"
GOOD = b"1,2,3.5,964982703\n"


def make_run(home: Path, data: Path, **dataset) -> Run:
    tree = {"name": "toy", "source": {"files": ["*.csv*"]}, "columns": COLUMNS, **dataset}
    tree["source"] = {"files": ["*.csv*"], "max_reject_rate": 1.0, **tree["source"]}
    settings = Settings.model_validate({"dataset": tree, "models": {"popularity": {}}, "threads": 1})
    run = Run(run_id=uuid.uuid4().hex, home_root=home, data=data, settings=settings, started_at=utcnow())
    journal.open_run(run)
    return run


def read(home: Path, data: Path, **dataset) -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    """Rows, rejects and manifest; the sums are right each time."""
    folder = ingest.read_source(make_run(home, data, **dataset))
    rows, rejects = (
        pl.read_parquet(folder / "interactions.parquet"),
        pl.read_parquet(folder / "rejected_rows.parquet"),
    )
    manifest = lake.read_manifest(folder)
    tables.RAW.check(rows)
    tables.REJECTED_ROWS.check(rejects)
    assert manifest["ledger"].get("kept", 0) == rows.height == manifest["rows_out"]
    assert manifest["rows_in"] == rows.height + rejects.height == sum(manifest["ledger"].values())
    return rows, rejects, manifest


def write(folder: Path, content: bytes, name: str = "toy.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


BROKEN = [
    (b"1,2,3\n", "too_few_fields", None),
    (b"1,2,3,4,5\n", "too_many_fields", None),
    (b"1,2,3,964982703,\n", "too_many_fields", None),
    (b"\n", "empty_line", None),
    (b",2,3,964982703\n", "empty_user", "user"),
    (b"1,,3,964982703\n", "empty_item", "item"),
    (b"1,2,good,964982703\n", "rating_not_a_number", "rating"),
    (b"1,2,,964982703\n", "rating_not_a_number", "rating"),
    (b"1,2,1_000,964982703\n", "rating_not_a_number", "rating"),
    (b"1,2,+-3,964982703\n", "rating_not_a_number", "rating"),
    (b"1,2,0x10,964982703\n", "rating_not_a_number", "rating"),
    ("1,2,４,964982703\n".encode(), "rating_not_a_number", "rating"),
    (b"1,2,NaN,964982703\n", "rating_not_finite", "rating"),
    (b"1,2,-inf,964982703\n", "rating_not_finite", "rating"),
    (b"1,2,1e400,964982703\n", "rating_not_finite", "rating"),
    (b"1,2,-3.5e38,964982703\n", "rating_not_finite", "rating"),
    (b"1,2,3,yesterday\n", "timestamp_unreadable", "timestamp"),
    (b"1,2,3,\n", "timestamp_unreadable", "timestamp"),
    (b"1,2,3,964982703000\n", "timestamp_out_of_range", "timestamp"),
    (b"1,2,3,-1\n", "timestamp_out_of_range", "timestamp"),
    (b"1,2,3,1e30\n", "timestamp_out_of_range", "timestamp"),
    (b"1,2\0,3,964982703\n", "bad_encoding", None),
    (b"1,\xff\xfe,3,964982703\n", "bad_encoding", None),
    (b'1,"2,3,964982703\n', "broken_quote", None),
    (b'1,"2"x,3,964982703\n', "broken_quote", None),
    (b"u" * 1025 + b",2,3,964982703\n", "id_too_long", "user"),
    (b"1," + b"9" * LINE_LIMIT + b",3,964982703\n", "line_too_long", None),
]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"mixed"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_break_is_found_where_it_is(tmp_path, newline, packed):
    content, expected, line = HEADER, [], 1
    for number, (bad, reason, column) in enumerate(BROKEN):
        for text in (GOOD, bad):
            line += 1
            ending = newline if newline != b"mixed" else (b"\n", b"\r\n")[number % 2]
            content += text[:-1] + ending
        expected.append(("toy.csv.gz" if packed else "toy.csv", line, column, reason))
    content = b"\xef\xbb\xbf" + content.removesuffix(b"\n") + b"\n"
    data = write(tmp_path / "data", *((gzip.compress(content), "toy.csv.gz") if packed else (content,)))
    rows, rejects, _ = read(tmp_path, data)
    assert rejects.select("file", "line", "column", "reason").rows() == expected
    assert rows.height == len(BROKEN) and rows.unique().rows()[0][:3] == ("1", "2", 3.5)
    assert rejects["raw"].str.len_chars().max() == 500 and rejects["raw"][0] == "1,2,3"


@pytest.mark.long
def test_each_break_alone_is_found_too(tmp_path):
    """None slips through the fast way, which is tried where nothing else in the file speaks against it."""
    for number, (bad, reason, _) in enumerate(BROKEN):
        data = write(tmp_path / str(number), HEADER + GOOD + bad + GOOD)
        rows, rejects, manifest = read(tmp_path / "home", data)
        assert rejects.select("line", "reason").rows() == [(3, reason)], bad[:50]
        assert rows.height == 2 and manifest["info"]["rescanned"], bad[:50]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + GOOD + GOOD,
        HEADER + GOOD + GOOD[:-1],
        b"\xef\xbb\xbf" + HEADER + GOOD + GOOD,
        (HEADER + GOOD + GOOD).replace(b"\n", b"\r\n"),
        HEADER.replace(b"\n", b"\r\n") + GOOD + GOOD.replace(b"\n", b"\r\n"),
        HEADER + b'"1","2",3.5,"964982703"\n' * 2,
        HEADER + b"1,2,3.5,964982703.0\n" * 2,
    ],
    ids=["lf", "no last newline", "bom", "crlf", "mixed", "quoted", "float time"],
)
def test_sound_files_take_the_fast_way(tmp_path, content):
    rows, _, manifest = read(tmp_path, write(tmp_path / "data", content))
    assert manifest["info"]["rescanned"] == {}
    assert rows.rows() == [("1", "2", 3.5, clock_time("2000-07-30 18:45:03"))] * 2


def clock_time(text: str):
    return pl.Series([clock("iso")(text)]).cast(pl.Datetime("us"))[0]


def test_ids_stay_as_they_are(tmp_path):
    ids = [" 7", "007", "7", "7 ", "1e3", "NULL", "é", '5" disc', "a;b"]
    content = HEADER + "".join(f"{i},x{i},1,964982703\n" for i in ids).encode()
    rows, _, _ = read(tmp_path, write(tmp_path / "data", content))
    assert rows["user_id"].to_list() == ids
    assert rows["item_id"].to_list() == [f"x{i}" for i in ids]


def test_latin_1_is_transcoded_on_the_fast_way(tmp_path):
    content = (HEADER.decode() + "José,Café,4,964982703\n").encode("latin-1")
    rows, _, manifest = read(tmp_path, write(tmp_path / "data", content), source={"encoding": "latin-1"})
    assert rows.row(0)[:2] == ("José", "Café") and not manifest["info"]["rescanned"]


def test_quoted_records_may_span_lines_and_slips_cost_one_line(tmp_path):
    content = HEADER + b'1,"a\nb ""c""",3,964982703\n' + b'2,"open,3,964982703\n' + GOOD + b'3,"x",,1\n' + GOOD
    rows, rejects, _ = read(tmp_path, write(tmp_path / "data", content))
    assert rows["item_id"].to_list() == ['a\nb "c"', "2", "2"]
    assert rejects.select("line", "reason").rows() == [(4, "broken_quote"), (6, "rating_not_a_number")]


def test_columns_are_found_by_name(tmp_path):
    content = b"when,extra,movie,who,stars\n964982703,x,m,u,4\n"
    columns = {"user": "who", "item": "movie", "rating": "stars", "timestamp": "when"}
    rows, _, manifest = read(tmp_path, write(tmp_path / "data", content), columns=columns)
    assert rows.row(0)[:3] == ("u", "m", 4.0) and not manifest["info"]["rescanned"]


def test_a_missing_column_is_refused_with_its_nearest(tmp_path):
    data = write(tmp_path / "data", b"user,item,ratings,timestamp\n")
    with pytest.raises(UnreadableInput, match=r"toy\.csv: no column 'rating' \(rating\) in the header\. ") as error:
        read(tmp_path, data)
    first = ["user", "item", "ratings", "timestamp"]  # apart: the first line may be one of data, with a user's id
    assert error.value.ids == {"nearest": ["ratings"], "first line": first}


@pytest.mark.parametrize(("delimiter", "sniffed"), [("::", True), ("\t", True), (";", True), ("|", True), ("~~~~", False), ("§", False)])  # fmt: skip
def test_any_delimiter(tmp_path, delimiter, sniffed):
    content = "".join(delimiter.join(row) + "\n" for row in (["1", "a,b", "3", "964982703"],) * 3).encode()
    source = {
        "header": False,
        "column_names": list(COLUMNS.values()),
        "delimiter": None if sniffed else delimiter,
    }
    rows, _, manifest = read(tmp_path, write(tmp_path / "data", content), source=source)
    assert rows["item_id"].to_list() == ["a,b"] * 3 and not manifest["info"]["rescanned"]


@pytest.mark.parametrize(
    ("unit", "text", "fast"),
    [
        ("s", "1112486027", True), ("ms", "1112486027000", True), ("s", " 1112486027", False),
        ("us", "1112486027000000", True), ("ns", "1112486027000000000", True), ("ns", "1.112486027e18", False),
        ("%Y-%m-%d %H:%M:%S UTC", "2005-04-02 23:53:47 UTC", True), ("ns", "x", None), ("us", "1_0", None),
        ("iso", "2005-04-02 23:53:47", True), ("iso", "2005-04-02T23:53:47Z", True),
        ("iso", "2005-04-03T01:53:47+02:00", False), ("iso", "20050402", None),
        ("%Y-%m-%d %H:%M:%S", '"2005-04-02 23:53:47"', True), ("%d.%m.%Y %H:%M:%S", "02.04.2005 23:53:47", True),
        ("%d %B %Y %H:%M:%S", "2 April 2005 23:53:47", False), ("%Y-%m-%d %H:%M:%S", "2005-02-30 23:53:47", None),
        ("iso", "2005-02-30 23:53:47", None), ("iso", "2005-04-02 24:00:00", None), ("iso", "infinity", None),
    ],
)  # fmt: skip
def test_times(tmp_path, unit, text, fast):
    data = write(tmp_path / "data", HEADER + f"1,2,3,{text}\n".encode() + b",,,,,\n")
    (data / "toy.csv").write_bytes(HEADER + f"1,2,3,{text}\n".encode())
    run = make_run(tmp_path, data, columns={**COLUMNS, "timestamp_unit": unit})
    if fast is None:
        with pytest.raises(Refused, match="timestamp_unreadable"):
            ingest.read_source(run)
        return
    folder = ingest.read_source(run)
    assert pl.read_parquet(folder / "interactions.parquet")["timestamp"][0] == clock_time("2005-04-02 23:53:47")
    assert (lake.info(folder)["rescanned"] == {}) == fast


def test_a_wrong_unit_is_refused(tmp_path):
    with pytest.raises(UnreadableInput, match="timestamp_unit = 'seconds'"):
        read(
            tmp_path,
            write(tmp_path / "data", HEADER + GOOD),
            columns={**COLUMNS, "timestamp_unit": "seconds"},
        )


@pytest.mark.parametrize("doubt", [b"", b"\n"])
def test_missing_ratings_become_null_and_the_row_stays(tmp_path, doubt):
    content = HEADER + doubt + b"1,2,-1,964982703\n1,3,-1.0,964982703\n1,4,5,964982703\n"
    rows, _, _ = read(tmp_path, write(tmp_path / "data", content), feedback={"missing_ratings": [-1]})
    assert rows["rating"].to_list() == [None, None, 5.0]


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD, "b.csv")
    write(data, HEADER + b"9,9,1,964982703\n,,,\n", "a.csv")
    packed = pa.compress(HEADER + b"8,8,1,964982703\n", codec="zstd", asbytes=True)
    write(data, packed, "c.csv.zst")
    rows, rejects, manifest = read(tmp_path, data)
    assert rows["user_id"].to_list() == ["9", "1", "8"]
    assert rejects.select("file", "line").rows() == [("a.csv", 3)]
    assert list(manifest["info"]["files"]) == ["a.csv", "b.csv", "c.csv.zst"]


def test_parquet_is_read_as_text_would_be(tmp_path):
    good = {"user": [7, 8], "item": ["007", " 7"], "rating": [3.5, 4.0], "timestamp": [clock_time("2005-04-02"), clock_time("2006-01-01 10:00:00")]}  # fmt: skip
    data = tmp_path / "data"
    data.mkdir()
    source = {"files": ["*.parquet"]}
    pl.DataFrame(good).write_parquet(data / "a.parquet")
    rows, _, manifest = read(tmp_path, data, source=source)
    assert rows.rows() == [("7", "007", 3.5, good["timestamp"][0]), ("8", " 7", 4.0, good["timestamp"][1])]
    assert not manifest["info"]["rescanned"]
    bad = pl.DataFrame(good).with_columns(rating=pl.Series([float("nan"), 4.0]), user=pl.Series([1, None]))
    bad.write_parquet(data / "b.parquet")
    again, rejects, _ = read(tmp_path, data, source=source)
    assert again.rows() == rows.rows()
    assert rejects.select("file", "line", "reason").rows() == [("b.parquet", 1, "rating_not_finite"), ("b.parquet", 2, "empty_user")]  # fmt: skip


def test_unreadable_files_are_named(tmp_path):
    data, packed = tmp_path / "data", gzip.compress(HEADER + GOOD * 1000)
    data.mkdir()
    for name, content, pattern in [
        ("none.csv", None, "no file matches"), ("cut.csv.gz", packed[:-20], "truncated or damaged"),
        ("cut.csv.zst", pa.compress(HEADER, codec="zstd", asbytes=True)[:-3], "truncated or damaged"),
        ("no.parquet", b"PAR1 cut", "no Parquet file"), ("wide.csv", "user,item\n".encode("utf-16"), "no column 'rating'"),
        ("one.csv", b"user\n1\n2\n", "no known delimiter"), ("twice.csv", b"user,item,user,rating,timestamp\n", "two columns"),
    ]:  # fmt: skip
        if content is not None:
            (data / name).write_bytes(content)
        with pytest.raises(UnreadableInput, match=pattern) as caught:
            read(tmp_path, data, source={"files": [name]})
        assert name in str(caught.value)
    assert not list((tmp_path / "warehouse/lake").rglob(".*")), "nothing half-made stays behind"


@pytest.mark.parametrize("content", [b"", HEADER, HEADER[:-1]])
def test_a_source_without_lines_is_refused(tmp_path, content):
    with pytest.raises(Refused, match=r"toy\.csv: the source has no data lines"):
        read(tmp_path, write(tmp_path / "data", content))


def test_too_many_rejects_are_refused_and_kept_for_looking(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD * 9 + b"1,2,oops,964982703\n")
    run = make_run(tmp_path, data, source={"max_reject_rate": 0.05})
    with pytest.raises(Refused, match=r"10\.0%.*max_reject_rate = 5\.0%.*rating_not_a_number 1.*line 11") as error:
        ingest.read_source(run)
    assert "oops" not in str(error.value) and error.value.ids == {"raw": ["1,2,oops,964982703"]}
    rejects = pl.read_parquet(journal.folder(run) / "rejected_rows.parquet")
    assert rejects.select("run_id", "line").rows() == [(run.run_id, 11)]
    ledger = journal.read(run.home, "toy", tables.ROW_LEDGER)
    assert dict(ledger.select("reason", "rows").iter_rows()) == {"kept": 9, "rating_not_a_number": 1}


def test_the_second_night_reads_nothing_again_and_journals_the_same(tmp_path, monkeypatch):
    data = write(tmp_path / "data", HEADER + GOOD * 30 + b"1,2,oops,1\n")
    first = ingest.read_source(make_run(tmp_path, data))
    monkeypatch.setattr(file_parts, "read_file", lambda *_: pytest.fail("read again"))
    run = make_run(tmp_path, data)
    assert ingest.read_source(run) == first
    assert pl.read_parquet(journal.folder(run) / "rejected_rows.parquet").height == 1


def test_incremental_adds_up_and_knows_files_by_content(tmp_path, monkeypatch):
    data, read_names = write(tmp_path / "data", HEADER + b"1,a,1,964982703\n", "z.csv"), []
    original = file_parts.read_file
    monkeypatch.setattr(file_parts, "read_file", lambda *a: (read_names.append(a[2]), original(*a))[1])
    source = {"mode": "incremental"}
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["a"]
    write(data, HEADER + b"1,b,1,964982703\n,,,\n", "a.csv")
    (data / "z.csv").rename(data / "renamed.csv")
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["a", "b"], "first seen first"
    (data / "renamed.csv").unlink()
    write(data, HEADER + b"1,c,1,964982703\n,,,\n", "a.csv")  # same name, new content
    rows, rejects, _ = read(tmp_path, data, source=source)
    assert rows["item_id"].to_list() == ["a", "b", "c"]
    assert rejects.select("line").rows() == [(3,), (3,)] and rejects["file"].n_unique() == 2
    (data / "a.csv").unlink()
    assert read(tmp_path, data, source=source)[0].height == 3, "a night without new files"
    assert read_names == ["z.csv", "a.csv", "a.csv"]
    with pytest.raises(UnreadableInput, match="put it back"):
        read(tmp_path, data, source={**source, "quote": ""})


NIGHTS = st.lists(
    st.tuples(
        st.sampled_from(["add lines", "correct", "rename", "as it is", "other file", "take back"]), st.integers(0, 3)
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(NIGHTS, st.sampled_from(["", "add", "replace"]))
@settings(max_examples=15)
def test_changed_files_of_an_incremental_source(nights, changed_files):
    """A file to which lines were added counts once; one that was corrected as `changed_files` says."""
    with tempfile.TemporaryDirectory() as place:
        tmp = Path(place)
        source = {"mode": "incremental"} | ({"changed_files": changed_files} if changed_files else {})
        lines, others, number, older = [b"1,first,1,1"], 0, 0, list[bytes]()
        data, before, kept = tmp / "data", list[bytes](), list[bytes]()
        for kind, n in [("as it is", 0), *nights]:
            fresh = [b"1,i%d,1,1" % (number := number + 1) for _ in range(n)]
            if kind == "add lines":
                lines = lines + fresh
            elif kind == "correct":
                number, older = number + 1, lines
                if changed_files != "replace":
                    kept = kept + lines
                lines = [b"1,corrected%d,1,1" % number, *lines[1:], *fresh]
            elif kind == "take back" and older and changed_files == "replace":
                lines, older = older, []
            elif kind == "rename" and (data / "log.csv").exists():
                others += 1
                (data / "log.csv").rename(data / f"log.csv.{others}")
                older = []
                before, lines = before + lines, [b"1,new%d,1,1" % (number := number + 1)]
            elif kind == "other file":
                others += 1
                before.append(b"1,other%d,1,1" % others)
                write(data, HEADER + before[-1] + b"\n", f"other{others}.csv")
            write(data, HEADER + b"\n".join([*lines, b""]), "log.csv")
            run = make_run(tmp, data, source=source)
            rows = pl.read_parquet(ingest.read_source(run) / "interactions.parquet")
            expected = [line.split(b",")[1].decode() for line in kept + before + lines]
            assert sorted(rows["item_id"].to_list()) == sorted(expected)
            incremental.judge(run.home.lake(run.dataset) / ingest.LAYER, is_refused=False)
            seen = incremental.read_seen(run.home.lake(run.dataset) / ingest.LAYER)
            parts = incremental.folder(run.home.lake(run.dataset) / ingest.LAYER).iterdir()
            assert {digest[:16] for digest in seen} == {path.name[:16] for path in parts if path.is_dir()}
            warned = "counts with" in " ".join(journal.notes(run.home, run.dataset, run.run_id))
            assert warned == (bool(kept) and not changed_files)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("+-="), st.sampled_from(["admitted", "refused", "killed"])), max_size=7))
def test_what_only_refused_nights_have_read_counts_while_it_is_there(tmp_path_factory, nights):
    """Nights with a new file, one file less, or the same ones."""
    tmp = tmp_path_factory.mktemp("refused")
    data, layer = tmp / "data", None
    there, counting, refused, admitted = ["first"], set[str](), set[str](), set[str]()
    write(data, HEADER + b"1,first,1,1\n", "first.csv")
    for number, (change, outcome) in enumerate([("=", "admitted"), *nights, ("=", "admitted")]):
        if change == "+":
            there.append(f"new{number}")
            write(data, HEADER + f"1,new{number},1,1\n".encode(), f"new{number}.csv")
        elif change == "-" and len(there) > 1:
            (data / f"{there.pop()}.csv").unlink()
        run = make_run(tmp, data, source={"mode": "incremental"})
        layer = run.home.lake(run.dataset) / ingest.LAYER
        rows = pl.read_parquet(ingest.read_source(run) / "interactions.parquet")["item_id"].to_list()
        expected = counting | set(there)
        assert sorted(rows) == sorted(expected)
        gone = sorted(f"{name}.csv" for name in refused - expected)
        warnings = [note for note in journal.notes(run.home, run.dataset, run.run_id) if "refused night" in note]
        assert len(warnings) == len(gone) and all(name in str(warnings) for name in gone)
        if outcome == "killed":
            refused &= expected
            counting = expected - refused
            continue
        incremental.judge(layer, is_refused=outcome == "refused")
        admitted = admitted if outcome == "refused" else expected
        counting, refused = admitted, expected - admitted
    parts = [path for path in incremental.folder(layer).iterdir() if path.is_dir()]
    assert len(parts) == len(counting)


def test_a_log_that_grows_while_its_nights_are_refused_loses_nothing(tmp_path):
    data, source, lines = tmp_path / "data", {"mode": "incremental"}, HEADER
    for number, is_refused in enumerate([False, True, True, False, True, False]):
        lines += b"1,i%d,1,1\n" % number
        run = make_run(tmp_path, write(data, lines, "log.csv"), source=source)
        rows = pl.read_parquet(ingest.read_source(run) / "interactions.parquet")["item_id"].to_list()
        assert rows == [f"i{each}" for each in range(number + 1)]
        assert not any("refused night" in note for note in journal.notes(run.home, run.dataset, run.run_id))
        incremental.judge(run.home.lake(run.dataset) / ingest.LAYER, is_refused=is_refused)


def test_a_refused_log_that_is_gone_gives_way_to_the_admitted_one(tmp_path):
    """Also after a night that was killed before its source was judged."""
    data, source, good = tmp_path / "data", {"mode": "incremental"}, HEADER + b"1,a,1,1\n"
    layer = make_run(tmp_path, data, source=source).home.lake("toy") / ingest.LAYER
    write(data, HEADER + b"1,other,1,1\n", "z.csv")
    for lines, outcome in [(b"", False), (b"1,bad,1,1\n", True), (b"1,bad,1,1\n", None), (None, False)]:
        if lines is None:
            (data / "log.csv").unlink()
        else:
            write(data, good + lines, "log.csv")
        rows, _, _ = read(tmp_path, data, source=source)
        if outcome is not None:
            incremental.judge(layer, is_refused=outcome)
    assert sorted(rows["item_id"].to_list()) == ["a", "other"]


def test_a_source_of_which_no_file_counts_is_named(tmp_path):
    data, source = tmp_path / "data", {"mode": "incremental"}
    run = make_run(tmp_path, write(data, HEADER + b"1,bad,1,1\n", "a.csv"), source=source)
    ingest.read_source(run)
    incremental.judge(run.home.lake(run.dataset) / ingest.LAYER, is_refused=True)
    (data / "a.csv").unlink()
    with pytest.raises(UnreadableInput, match="no file matches"):
        read(tmp_path, data, source=source)
    read(tmp_path, write(data, HEADER + b"1,good,1,1\n", "a.csv"), source=source)
    (data / "a.csv").unlink()
    with pytest.raises(UnreadableInput, match=r"no file of the source counts.*drop_files"):
        read(tmp_path, data, source=source | {"drop_files": ["*.csv"]})


def test_a_file_that_grows_to_what_another_one_had_counts_once(tmp_path):
    """As a mirror does that lags behind by a night."""
    data, source, start = tmp_path / "data", {"mode": "incremental"}, HEADER + b"1,x,1,1\n"
    write(data, start, "a.csv")
    read(tmp_path, write(data, start + b"1,y,1,1\n", "b.csv"), source=source)
    rows, _, _ = read(tmp_path, write(data, start + b"1,y,1,1\n", "a.csv"), source=source)
    assert rows["item_id"].to_list() == ["x", "y"]


def test_a_corrected_log_counts_without_what_a_refused_night_read(tmp_path):
    """The refused content, which begins with the admitted one, is in no file any more."""
    data, source = tmp_path / "data", {"mode": "incremental"}
    good, bad, corrected = HEADER + b"1,a,1,1\n", b"1,bad,1,1\n", b"1,b,1,1\n"
    layer = (run := make_run(tmp_path, write(data, good, "log.csv"), source=source)).home.lake(
        run.dataset
    ) / ingest.LAYER
    for lines, is_refused in [(b"", False), (bad, True), (bad + bad, True), (corrected, False), (corrected * 2, False)]:
        rows, _, _ = read(tmp_path, write(data, good + lines, "log.csv"), source=source)
        incremental.judge(layer, is_refused=is_refused)
        assert rows["item_id"].to_list() == ["a", *(line.split(",")[1] for line in lines.decode().split())]
    (data / "log.csv").write_bytes(good + bad)
    read(tmp_path, data, source=source)
    incremental.judge(layer, is_refused=True)
    (data / "log.csv").unlink()
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["a", "b", "b"]  # the admitted one


def test_a_wrong_file_that_is_gone_can_be_dropped(tmp_path):
    source, data = {"mode": "incremental"}, tmp_path / "data"
    for name in ("part-1", "part-2", "part-3", "other"):
        write(data, HEADER + b"1,%s,1,1\n" % name.encode(), f"{name}.csv")
    read(tmp_path, data, source=source)
    for name in ("part-1", "part-2", "other"):
        (data / f"{name}.csv").unlink()
    dropping = source | {"drop_files": ["part-*.csv"]}
    rows, _, _ = read(tmp_path, data, source=dropping)
    assert sorted(rows["item_id"]) == ["other", "part-3"], "what is there is read"
    write(data, HEADER + b"1,right,1,1\n", "part-2.csv")
    for settings_of in (dropping, source):
        assert sorted(read(tmp_path, data, source=settings_of)[0]["item_id"]) == ["other", "part-3", "right"]


@pytest.mark.parametrize("changed_files", ["", "replace"])
def test_files_that_come_to_have_one_content_count_it_once(tmp_path, changed_files):
    """Such as files of days that are emptied down to their header."""
    data, source = tmp_path / "data", {"mode": "incremental", "changed_files": changed_files}
    for n, name in enumerate(("a.csv", "b.csv", "c.csv")):
        write(data, HEADER + b"1,old%d,1,1\n" % n, name)
    read(tmp_path, data, source=source)
    for name in ("a.csv", "b.csv", "c.csv"):
        write(data, HEADER + b"1,new,1,1\n", name)
    old = [] if changed_files else ["old0", "old1", "old2"]
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == [*old, "new"]


def test_a_name_that_is_not_utf8_does_not_hide_new_files(tmp_path):
    data, source = write(tmp_path / "data", HEADER + b"1,a,1,1\n", "a.csv"), {"mode": "incremental"}
    read(tmp_path, data, source=source)
    write(data, HEADER + b"1,b,1,1\n", "b.csv")
    write(data, HEADER + b"1,c,1,1\n", "c\udcff.csv")
    with pytest.raises(UnreadableInput, match=r"is not UTF-8.*rename it"):
        read(tmp_path, data, source=source)


def test_an_earlier_content_counts_again_after_its_file_is_gone(tmp_path):
    """Its lake key is that of an earlier night, so nothing is read."""
    data, source = tmp_path / "data", {"mode": "incremental", "changed_files": "replace"}
    contents = [HEADER + b"1,first,1,1\n", HEADER + b"1,corrected,1,1\n", HEADER + b"1,first,1,1\n"]
    for content in contents:
        rows, _, _ = read(tmp_path, write(data, content, "z.csv"), source=source)
        assert rows["item_id"].to_list() == [content.split(b",")[4].decode()]
    layer = make_run(tmp_path, data, source=source).home.lake("toy") / ingest.LAYER
    incremental.judge(layer, is_refused=False)
    (data / "z.csv").unlink()
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["first"]
    write(data, HEADER + b"1,another,1,1\n", "a.csv")
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["first", "another"]


@pytest.mark.parametrize("changed_files", ["", "replace"])
@pytest.mark.parametrize("twin", ["a.csv", "b.csv"])
def test_two_files_of_one_content_replace_what_each_had(tmp_path, changed_files, twin):
    """Corrected with `replace`, else lines were added to one of them; the content that both have counts once."""
    data, source = tmp_path / "data", {"mode": "incremental"}
    source |= {"changed_files": changed_files} if changed_files else {}
    mine, other = b"1,mine,1,1\n", b"1,other,1,1\n"
    new = mine + b"1,more,1,1\n" if not changed_files else b"1,new,1,1\n"
    grown, still = ("a.csv", "b.csv") if twin == "a.csv" else ("b.csv", "a.csv")
    write(data, HEADER + mine, grown)
    read(tmp_path, write(data, HEADER + other, still), source=source)
    write(data, HEADER + new, grown)
    rows, _, _ = read(tmp_path, write(data, HEADER + new, still), source=source)
    wanted = ["mine", "more", "other"] if not changed_files else ["new"]
    assert sorted(rows["item_id"].to_list()) == wanted


def test_a_kill_while_the_list_of_files_is_written_counts_no_file_twice(tmp_path, monkeypatch):
    data, source = tmp_path / "data", {"mode": "incremental"}
    read(tmp_path, write(data, HEADER + b"1,a,1,1\n", "z.csv"), source=source)
    written = incremental.write_atomically

    def killed(path: Path, text: str) -> None:
        if path.name == "seen.json":
            raise KeyboardInterrupt
        written(path, text)

    write(data, HEADER + b"1,a,1,1\n1,b,1,1\n", "z.csv")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(incremental, "write_atomically", killed)
        read(tmp_path, data, source=source)
    assert read(tmp_path, data, source=source)[0]["item_id"].to_list() == ["a", "b"]


def test_incremental_judges_new_files_by_themselves(tmp_path):
    data, source = (
        write(tmp_path / "data", HEADER + GOOD * 1000),
        {"mode": "incremental", "max_reject_rate": 0.05},
    )
    read(tmp_path, data, source=source)
    write(data, HEADER + b"1,2,oops,1\n", "new.csv")
    with pytest.raises(Refused, match=r"new\.csv line 2 \(rating_not_a_number\)"):
        read(tmp_path, data, source=source)
    write(data, HEADER + GOOD, "new.csv")
    assert read(tmp_path, data, source=source)[0].height == 1001, "the refused file was not added"


def test_the_catalog_survives_broken_lines(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD)
    items = b'id,title,genres\n1,"Heat, the (1995)",Action|Crime\n2,B\n,C,x\n3,\xff,x\n1,Heat,\n4,,Drama\n'
    write(data, items, "films.txt")
    config = {"files": ["films.txt"], "id": "id", "title": "title", "attributes": {"genres": "|"}}
    folder = ingest.read_source(make_run(tmp_path, data, items=config))
    catalog = tables.CATALOG.check(pl.read_parquet(folder / "catalog.parquet"))
    assert [(i, t, json.loads(a)) for i, t, a in catalog.iter_rows()] == [("1", "Heat", {"genres": []}), ("4", None, {"genres": ["Drama"]})]  # fmt: skip
    assert lake.info(folder)["catalog"].items() >= {"items": 2, "repeated": 1, "skipped": 3}.items()


def test_a_catalog_may_be_parquet(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD)
    films = pl.DataFrame(
        {"id": [1, None, 4, 1], "title": ["Heat", "C", None, "Heat II"], "year": [1995, 0, 2000, 2022]}
    )
    films.write_parquet(data / "films.parquet")
    config = {"files": ["films.parquet"], "id": "id", "title": "title", "attributes": {"year": ""}}
    folder = ingest.read_source(make_run(tmp_path / "a", data, items=config))
    rows = tables.CATALOG.check(pl.read_parquet(folder / "catalog.parquet")).rows()
    assert rows == [("1", "Heat II", '{"year": ["2022"]}'), ("4", None, '{"year": ["2000"]}')]
    assert lake.info(folder)["catalog"].items() >= {"items": 2, "repeated": 1, "skipped": 1}.items()
    with pytest.raises(UnreadableInput, match=r"no column 'name' \(items.title\).*'title'"):
        ingest.read_source(make_run(tmp_path / "b", data, items={**config, "title": "name"}))
    kinds = [["Crime", " Drama"], ["x"], None, ["Crime", None]]
    films.with_columns(kinds=pl.Series(kinds)).write_parquet(data / "films.parquet")
    for at, by in (("by", "|"), ("no", "")):
        folder = ingest.read_source(make_run(tmp_path / at, data, items={**config, "attributes": {"kinds": by}}))
        kept = pl.read_parquet(folder / "catalog.parquet")["attributes"].to_list()
        assert kept == ['{"kinds": ["Crime"]}', '{"kinds": []}']
    films.select("id", title=pl.concat_list("title")).write_parquet(data / "films.parquet")
    with pytest.raises(UnreadableInput, match=r"films.parquet: column 'title' \(items.title\) .*: cast it to text"):
        ingest.read_source(make_run(tmp_path / "c", data, items={**config, "attributes": {}}))
    (data / "films.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UnreadableInput, match=r"films.parquet is truncated, or no Parquet file"):
        ingest.read_source(make_run(tmp_path / "d", data, items=config))


def read_both(folder: Path, path: Path, dataset: Dataset) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The file by the fast way and line by line."""
    frames = []
    for exact in (False, True):
        into = folder / str(exact)
        into.mkdir()
        with warehouse.scratch(threads=1) as con:
            result = file_reader.read_file(con, path, path.name, dataset, into, exact)
        assert (result.rescanned is None) != exact
        frames.append(pl.read_parquet(into / "interactions.parquet"))
        assert pl.read_parquet(into / "rejected_rows.parquet").height == 0
    return frames[0], frames[1]


@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small", "lastfm-hetrec"])
def test_the_two_ways_read_real_files_alike(tmp_path, name):
    dataset = Dataset.model_validate(loader.read_toml(paths.DATASETS / f"{name}.toml"))
    path = data_set(name) / dataset.source.files[0]
    fast, exact = read_both(tmp_path, path, dataset)
    assert fast.height > 90_000 and fast.equals(exact)


@pytest.mark.long
@pytest.mark.parametrize("n", [245_761])
def test_batches_do_not_matter(tmp_path, n):
    """More rows than two batches, and than a block of bytes; one of them bad, to read line by line."""
    lines = [f"{i % 977},{i},{i % 11 / 2},{964982703 + i}\n" for i in range(n)]
    sound, _, _ = read(tmp_path / "a", write(tmp_path / "sound", HEADER + "".join(lines).encode()))
    lines.insert(200_000, "broken\n")
    rows, rejects, _ = read(tmp_path / "b", write(tmp_path / "broken", HEADER + "".join(lines).encode()))
    assert rejects["line"].to_list() == [200_002] and rows.equals(sound) and rows.height == n


@pytest.mark.long
@pytest.mark.parametrize(
    "faults", [{3_000: b"1,2,oops,964982703\n", 90_000: b"1,2,3\n"}, {50_000: b'7,"a\nb",3,964982703\n'}]
)
def test_a_broken_line_slows_only_its_own_block(tmp_path, monkeypatch, faults):
    one_by_one, original = [], line_reader.rescan

    def counted(path, block, *args):
        one_by_one.append(block.lines)
        return original(path, block, *args)

    monkeypatch.setattr(line_reader, "rescan", counted)
    monkeypatch.setattr(blocks, "_SIZE", 20_000)
    lines = [f"{i % 977},{i},3.5,{964982703 + i}\n".encode() for i in range(100_000)]
    sound, _, _ = read(tmp_path / "a", write(tmp_path / "sound", HEADER + b"".join(lines)))
    assert not one_by_one
    for place, line in faults.items():
        lines.insert(place, line)
    rows, rejects, manifest = read(tmp_path / "b", write(tmp_path / "broken", HEADER + b"".join(lines)))
    assert 0 < len(one_by_one) <= 2 * len(faults) and sum(one_by_one) < 3000
    assert f"{sum(one_by_one):,} of " in manifest["info"]["rescanned"]["toy.csv"]
    broken = [place + 2 for place, line in faults.items() if line.count(b"\n") == 1]
    assert rejects["line"].to_list() == broken
    assert rows.filter(pl.col("item_id") != "a\nb").equals(sound) and rows.height == 100_000 + len(faults) - len(broken)


@pytest.mark.timing
def test_a_very_long_line_costs_little(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD + b"x" * 10_000_000 + b"\n" + GOOD)
    started = time.perf_counter()
    rows, rejects, _ = read(tmp_path, data)
    assert rejects.select("line", "reason").rows() == [(3, "line_too_long")] and rows.height == 2
    assert time.perf_counter() - started < 20


def number_texts():
    return st.text("0123456789.+-eExaINFinf_ \t'４", max_size=8)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(number_texts(), min_size=100, max_size=200))
def test_numbers_mean_the_same_to_both_ways(tmp_path_factory, texts):
    """What a cast takes of a file without blanks, underscores and pluses is a number line by line too, or not finite."""
    from pipeline.sources.parsing import _NUMBER

    plain = [text for text in texts if not set(text) & set(" \t_+")]
    with warehouse.scratch(threads=1) as con:
        cast = con.sql("SELECT try_cast(unnest($t) AS DOUBLE)", params={"t": plain or ["1"]}).fetchall()
    for text, (value,) in zip(plain, cast, strict=False):
        if value is not None and abs(value) < float("inf"):
            assert _NUMBER(text) and float(text) == value, text


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(
        st.lists(st.sampled_from([b"1", b"u", b"", b'"', b'""', b'"a"', b"\n", b"\r", b"\0", b"\xff", b",", b" ", b"nan", b"-1", b"964982703", "é".encode()]), max_size=9).map(b"".join)
        | st.tuples(st.sampled_from([b"1", b'"x"', b" 7"]), st.sampled_from([b"3", b"-1", b"4.5", b"1_0"]), st.sampled_from([b"964982703", b"0", b"1e9", b"x"])).map(lambda t: b"%s,i,%s,%s" % t),
        max_size=12,
    ),
    newline=st.sampled_from([b"\n", b"\r\n"]), size=st.sampled_from([1, 20, 60, 2**19]),
)  # fmt: skip
def test_whatever_the_bytes(tmp_path_factory, lines, newline, size):
    """No other exception than the two, no line lost, and the same rows as when read line by line, in one block."""
    folder = tmp_path_factory.mktemp("fuzz")
    content = HEADER + b"".join(line + newline for line in lines)
    write(folder, content)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "_SIZE", size)
            rows, rejects, manifest = read(folder / "home", folder)
    except Refused:
        return
    except UnreadableInput as error:
        assert "is a binary file" in str(error) and content.count(b"\0") > 8
        return
    assert manifest["rows_in"] >= 1
    dataset = make_run(folder / "other", folder).settings.dataset
    (folder / "exact").mkdir()
    with warehouse.scratch(threads=1) as con:
        file_reader.read_file(con, folder / "toy.csv", "toy.csv", dataset, folder / "exact", exact=True)
    assert pl.read_parquet(folder / "exact/interactions.parquet").equals(rows)
    assert pl.read_parquet(folder / "exact/rejected_rows.parquet").equals(rejects)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200), header=st.booleans())
def test_any_bytes_at_all(tmp_path_factory, content, header):
    folder = tmp_path_factory.mktemp("bytes")
    write(folder, content)
    source = {"header": header, "column_names": None if header else ["user", "item", "rating", "timestamp"]}
    try:
        read(folder / "home", folder, source=source)
    except (Refused, UnreadableInput) as error:
        assert "toy.csv" in str(error)


def warnings_of(run: Run) -> list[str]:
    return [note for note in journal.notes(run.home, run.dataset, run.run_id) if note.startswith("warning: ")]


def test_rejected_lines_of_a_catalog_are_listed_and_counted(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD)
    write(data, b'id,title\n2,"Heat,\nthe film"\nNULL,x\n3\n4,\\N\n\n5,"x\n', "films.txt")
    run = make_run(tmp_path, data, items={"files": ["films.txt"], "id": "id", "title": "title"})
    folder = ingest.read_source(run)
    catalog = pl.read_parquet(folder / "catalog.parquet")
    assert catalog.select("item_id", "title").rows() == [("2", "Heat,\nthe film"), ("4", None)]
    listed = [(4, "empty_item"), (5, "too_few_fields"), (7, "empty_line"), (8, "broken_quote")]
    rejects = tables.REJECTED_ROWS.check(pl.read_parquet(folder / "rejected_rows.parquet"))
    assert rejects.select("file", "line", "reason").rows() == [("films.txt", *each) for each in listed]
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER).filter(stage="catalog")
    counted = dict(ledger.select("reason", "rows").iter_rows())
    assert counted == {"kept": 2, **{reason: 1 for _, reason in listed}}
    (warning,) = warnings_of(run)
    assert "4 of 6 lines of the item catalog were rejected" in warning
    again = make_run(tmp_path, data, items={"files": ["films.txt"], "id": "id", "title": "title"})
    assert ingest.read_source(again) == folder and warnings_of(again) == [warning], "a reused result warns, too"


def test_repeated_ids_of_a_catalog_are_counted_and_the_last_line_wins(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD)
    write(data, b"id,title,price\n2,A,1\n4,B,2\n2,C,3\n2,D,4\n", "films.txt")
    write(data, b"id,title,price\n4,E,5\n\n", "more.txt")
    run = make_run(tmp_path, data, items={"files": ["films.txt", "more.txt"], "id": "id", "title": "title"})
    folder = ingest.read_source(run)
    assert pl.read_parquet(folder / "catalog.parquet").select("item_id", "title").rows() == [("2", "D"), ("4", "E")]
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER).filter(stage="catalog")
    assert dict(ledger.select("reason", "rows").iter_rows()) == {"kept": 2, "duplicate": 3, "empty_line": 1}
    rejected, repeated = warnings_of(run)
    assert "1 of 6 lines of the item catalog were rejected: empty_line 1" in rejected
    assert "3 of 6 lines of the item catalog were dropped as duplicate" in repeated


def test_a_source_that_is_its_own_catalog_lists_a_broken_line_once(tmp_path):
    data = write(tmp_path / "data", HEADER + GOOD + b"1,2\n")
    run = make_run(tmp_path, data, items={"files": ["toy.csv"], "id": "item"})
    assert pl.read_parquet(ingest.read_source(run) / "rejected_rows.parquet").height == 1
    assert journal.read(run.home, run.dataset, tables.ROW_LEDGER)["stage"].unique().to_list() == ["ingest"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["00001", "00002"], "0 of 2 catalog ids occur in the interactions; 2 of their 2 items .* leading zeros"),
        (["1.0", "2.0"], "0 of 2 catalog ids .* decimal fraction"), (["x"], "0 of 1 .* Check items.id"),
        (["2", "7", "8"], None),
    ],
)  # fmt: skip
def test_a_catalog_of_other_ids_is_a_warning(tmp_path, ids, expected):
    data = write(tmp_path / "data", HEADER + GOOD + b"1,1,3,964982703\n")
    write(data, "".join(["id\n", *(f"{i}\n" for i in ids)]).encode(), "films.txt")
    run = make_run(tmp_path, data, items={"files": ["films.txt"], "id": "id", "delimiter": ","})
    ingest.read_source(run)
    assert len(warnings_of(run)) == (expected is not None)
    assert not expected or re.search(expected, warnings_of(run)[0])
