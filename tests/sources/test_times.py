"""Times in the spellings that real exports have: `init` finds the unit, and the night reads every row exactly."""

import datetime as dt
import time
import tomllib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Dataset
from pipeline.sources import file_reader
from pipeline.sources.parsing import clock
from pipeline.sources.sniffing.interactions import sniff
from pipeline.sources.sniffing.times import looks_like_time, unit_of
from pipeline.sources.unused_times import unused_times
from pipeline.storage import warehouse
from tests.support.reading import by_itself

CASES = Path(__file__).parent / "cases"
FIRST = dt.datetime(2024, 3, 9, 16, 37, 10)


def times_of(folder: Path, path: Path, exact: bool = False) -> pl.Series:
    """Times of all rows, read with the sniffed data set; no line is rejected."""
    dataset = Dataset.model_validate(tomllib.loads(sniff(path)))
    into = folder / f"part-{exact}"
    into.mkdir()
    with warehouse.scratch(threads=1) as con:
        result = file_reader.read_file(con, path, path.name, dataset, into, exact)
    assert set(result.ledger) == {"kept"}
    return pl.read_parquet(into / "interactions.parquet")["timestamp"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("time-utc-suffix", FIRST),
        ("time-microseconds", FIRST.replace(microsecond=5)),
        ("time-compact-date", dt.datetime(2024, 3, 9)),
        ("time-ctime-with-zone", FIRST + dt.timedelta(hours=7)),
        ("time-am-pm", FIRST),
        ("time-exponent", FIRST),
    ],
)
def test_exported_times_are_read(tmp_path, name, first):
    path = by_itself(CASES / f"{name}.csv", tmp_path)
    fast, exact = times_of(tmp_path, path), times_of(tmp_path, path, exact=True)
    assert len(fast) == len(path.read_text().splitlines()) - 1 and fast.null_count() == 0
    assert fast[0] == first and fast.equals(exact)


MOMENTS = st.datetimes(dt.datetime(2005, 1, 1), dt.datetime(2035, 1, 1)).map(lambda t: t.replace(microsecond=0))
EPOCH = dt.datetime(1970, 1, 1)


def counted(per_second: int):
    return lambda t: str(int((t - EPOCH).total_seconds()) * per_second)


SPELLINGS = {
    "s": counted(1), "ms": counted(10**3), "us": counted(10**6), "ns": counted(10**9),
    "iso": lambda t: t.isoformat(), "iso Z": lambda t: f"{t.isoformat()}Z",
    "iso offset": lambda t: f"{t + dt.timedelta(hours=5, minutes=30)}+05:30",
    "UTC": lambda t: f"{t} UTC", "offset": lambda t: f"{t - dt.timedelta(hours=7)} -0700",
    "comma": lambda t: f"{t},000", "12 hours": lambda t: f"{t:%Y-%m-%d %I:%M:%S %p}", "compact": lambda t: f"{t:%Y%m%d%H%M%S}",
    "ctime": lambda t: f"{t:%a %b %d %H:%M:%S %Y}", "mail": lambda t: f"{t:%a, %d %b %Y %H:%M:%S} +0000",
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(deadline=None, max_examples=30)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=5))
def test_a_sniffed_unit_reads_every_spelling_exactly(spelling, moments):
    column = [SPELLINGS[spelling](moment) for moment in moments]
    unit = unit_of(column)
    assert unit is not None
    assert [EPOCH + dt.timedelta(microseconds=clock(unit)(text)) for text in column] == moments


def test_nanoseconds_are_cut_to_microseconds_by_both_readers(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u,{n},170000000012345678{n}\n" for n in range(9)))
    fast, exact = times_of(tmp_path, path), times_of(tmp_path, path, exact=True)
    assert fast.equals(exact) and fast.to_physical().unique().to_list() == [1_700_000_000_123_456]


@pytest.mark.parametrize(
    ("name", "value"),
    [("event_time", "week 10 of 2024"), ("column", "9 März 2024, 16:37"), ("seen", "2024/3/9 at noon"), ("date", "17")],
)
def test_a_time_that_no_format_reads_is_named(tmp_path, name, value):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,{name}\n" + "".join(f'u,{n},"{value}"\n' for n in range(9)))
    text = sniff(path)
    assert "timestamp" not in tomllib.loads(text)["columns"]
    assert f'# "{name}" looks like a time, but no known format reads it' in text


@pytest.mark.parametrize(
    ("name", "value"), [("price", "9.90"), ("title", "Heat (1995)"), ("runtime", "104"), ("x", "")]
)
def test_other_columns_are_not_taken_for_times(name, value):
    assert unit_of([value] * 3) is None and not looks_like_time(name, [value] * 3)


def test_ambiguous_days_and_months_are_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,date\n" + "".join(f"u,{n},0{n}/03/2024\n" for n in range(1, 9)))
    text = sniff(path)
    assert tomllib.loads(text)["columns"]["timestamp_unit"] == "%d/%m/%Y"
    assert '# day and month are ambiguous: "%m/%d/%Y" reads these times too' in text
    path.write_text("user,item,date\n" + "".join(f"u,{n},{n + 10}/03/2024\n" for n in range(1, 9)))
    assert "ambiguous" not in sniff(path)


@pytest.mark.parametrize(
    ("header", "cell", "found"),
    [
        ("seen_at", "2024-03-09 16:37:10", "seen_at"), ("x", "1710002230", "x"), ("when", "week 10 of 2024", "when"), ("price", "9.90", None),
        ("session_id", "1710002230", None), ("title", "Heat (1995)", None),
    ],
)  # fmt: skip
def test_a_column_of_times_that_a_data_set_does_not_use_is_found(tmp_path, header, cell, found):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,{header}\n" + "".join(f"u,{n},{cell}\n" for n in range(9)))
    dataset = Dataset.model_validate({"name": "log", "source": {"files": ["log.csv"]}})
    assert unused_times(dataset, path) == found
    timed = dataset.model_copy(update={"columns": dataset.columns.model_copy(update={"timestamp": header})})
    assert unused_times(timed, path) is None and unused_times(dataset, tmp_path / "missing.csv") is None


def test_an_unused_column_of_times_is_found_in_parquet_and_without_a_header(tmp_path):
    pl.DataFrame({"user": ["u"], "item": ["i"], "at": [FIRST]}).write_parquet(tmp_path / "log.parquet")
    dataset = Dataset.model_validate({"name": "log"})
    assert unused_times(dataset, tmp_path / "log.parquet") == "at"
    (tmp_path / "log.tsv").write_text("u\ti\t1710002230\n" * 9)
    names = {"header": False, "column_names": ["user", "item", "third"]}
    assert unused_times(Dataset.model_validate({"name": "log", "source": names}), tmp_path / "log.tsv") == "third"


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "America/New_York"])
def test_a_zone_by_name_is_read_alike_on_every_machine(monkeypatch, zone):
    """Python takes the names of the machine's own zone for `%Z`, and ignores them."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        read = clock("%Y-%m-%d %H:%M %Z")
        for name in ("UTC", "GMT", "utc"):
            assert read(f"1970-01-01 01:00 {name}") == 3600 * 10**6
        for name in ("CET", "CEST", "EST", "EDT", "XYZ"):
            with pytest.raises(ValueError, match="1970"):
                read(f"1970-01-01 01:00 {name}")
    finally:
        monkeypatch.undo()
        time.tzset()
