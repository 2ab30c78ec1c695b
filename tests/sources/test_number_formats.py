"""Numbers in every spelling: DuckDB and the line reader read the same texts as the same values, and name the others."""

import uuid
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Dataset, Feedback
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core.errors import Refused
from pipeline.sources import file_reader
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.number_looks import ADVICE, looks_like
from pipeline.sources.source_files import layout_settings
from pipeline.stages import ingest
from pipeline.storage import journal, warehouse
from tests.support.reading import read_as

FORMATS = st.builds(
    NumberFormat,
    decimal=st.sampled_from([".", ","]),
    thousands=st.sampled_from(["", ",", ".", " ", "'", "\u2019", "_"]),
    of=st.sampled_from([None, None, 5.0, 100.0, 1.0, 0.3]),
    values=st.sampled_from([(), (("yes", 1.0), ("", -1.0)), (("★★☆", 2.5), ("4/5", 9.0), ("'", 0.1))]),
).filter(lambda form: form.decimal != form.thousands)
SHAPED = st.builds(
    lambda sign, parts, by, point, rest, end: sign + by.join(parts) + point + rest + end,
    st.sampled_from(["", "-", "+", " "]), st.lists(st.sampled_from(["1", "23", "456", "0", "789"]), min_size=1, max_size=3),
    st.sampled_from([",", ".", " ", "'", "\u2019", "\u00a0", "_", "/", " out of ", ""]), st.sampled_from(["", ".", ","]),
    st.sampled_from(["", "5", "25", "125"]), st.sampled_from(["", "e3", "E-2", "%", " stars", " ", "/5", "\n"]),
)  # fmt: skip
NOISE = st.text("0123456789.,'\u2019 /%+-eE_\u00a0yeso★☆infa４\n", max_size=10) | st.sampled_from(
    ["yes", "", "1e400", "nan"]
)


def value_of(form: NumberFormat, text: str) -> float | None:
    try:
        value = form.reader()(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


@settings(max_examples=60, deadline=None)
@given(form=FORMATS, texts=st.lists(SHAPED | NOISE, min_size=1, max_size=30))
def test_both_readers_agree_on_every_text(con, form, texts):
    """What overflows is an error in DuckDB and infinite line by line: the row is then read line by line."""
    sql = f"SELECT try({form.as_sql('t')}) FROM unnest($texts) AS r(t)"
    found = [value for (value,) in con.sql(sql, params={"texts": texts}).fetchall()]
    found = [value if value is not None and abs(value) < float("inf") else None for value in found]
    assert found == [value_of(form, text) for text in texts]
    assert value_of(form, "") == dict(form.values).get("")


@pytest.fixture(scope="module")
def con():
    with warehouse.scratch(threads=1) as con:
        yield con


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"decimal": ","}, {"4,5": 4.5, "5": 5, "-0,25": -0.25, ",5": 0.5, "1,5e2": 150, "4.5": None, "1.234,5": None}),
        ({"thousands": ","}, {"1,234": 1234, "12,34,567.5": 1234567.5, "1234": 1234, "1,23": None, ",234": None}),
        ({"decimal": ",", "thousands": "."}, {"1.234,5": 1234.5, "999": 999, "1.23": None}),
        ({"thousands": " "}, {"1 234": 1234, "1\u00a0234": 1234, "1\u202f234.5": 1234.5, "1  234": None}),
        ({"thousands": "'"}, {"1'234": 1234, "1\u2019234": 1234}),
        ({"rating_of": 5}, {"4/5": 4, "4.1 / 5": 4.1, "8/10": 4, "4 out of 5 stars": 4, "80 %": 4, "4": None, "1/0": None}),
        ({"rating_of": 100}, {"85%": 85, "4/5": 80}),
        ({"rating_of": 5, "decimal": ","}, {"4,1/5": 4.1}),
        ({"rating_values": {"yes": 1, "no": 0, "": -1}}, {"yes": 1, " no ": 0, "": -1, "2.5": 2.5, "Yes": None}),
    ],
)  # fmt: skip
def test_spellings(columns, texts):
    form = NumberFormat.of_columns(dataset_of(**columns).columns)
    assert {text: value_of(form, text) for text in texts} == texts


def dataset_of(name: str = "toy", unit: str = "s", **columns) -> Dataset:
    roles = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time", "timestamp_unit": unit}
    source = {"files": ["*.csv"], "delimiter": "\t"}
    return Dataset.model_validate({"name": name, "source": source, "columns": {**roles, **columns}})


def both(folder: Path, dataset: Dataset, ratings: list[str], times: list[str]) -> list[pl.DataFrame]:
    """The rows as DuckDB reads them and as the line reader does; the first without one line read singly."""
    path = folder / "toy.csv"
    lines = [f"u{n}\ti\t{rating}\t{time}\n" for n, (rating, time) in enumerate(zip(ratings, times, strict=True))]
    path.write_text("user\titem\trating\ttime\n" + "".join(lines))
    frames = []
    for exact in (False, True):
        (folder / str(exact)).mkdir()
        with warehouse.scratch(threads=1) as con:
            result = file_reader.read_file(con, path, path.name, dataset, folder / str(exact), exact)
        assert (result.rescanned is not None) == exact and set(result.ledger) == {"kept"}
        frames.append(pl.read_parquet(folder / str(exact) / "interactions.parquet"))
    return frames


@pytest.mark.parametrize(
    ("columns", "ratings", "times"),
    [
        ({"decimal": ","}, ["4,5", "3", "0,5"], ["1710002230,0", "1710002231", "1710002232.0"]),
        ({"thousands": ",", "unit": "ms"}, ["1,234", "3", "12,345.5"], ["1,710,002,230,000", "1710002231000", "1710002232000"]),
        ({"thousands": " ", "decimal": ","}, ["1 234,5", "3", "1\u00a0234"], ["1710002230"] * 3),
        ({"rating_of": 5}, ["4/5", "4.1/5", "9/10"], ["1710002230"] * 3),
        ({"rating_values": {"up": 1, "down": -1, "": 0}}, ["up", "down", ""], ["1710002230"] * 3),
    ],
)  # fmt: skip
def test_files_are_read_fast_and_alike(tmp_path, columns, ratings, times):
    dataset = dataset_of(**columns)
    fast, exact = both(tmp_path, dataset, ratings, times)
    form = NumberFormat.of_columns(dataset.columns)
    assert fast.equals(exact) and fast["rating"].to_list() == [value_of(form, text) for text in ratings]
    assert fast["timestamp"].dt.year().unique().to_list() == [2024]


def test_numbers_of_a_parquet_file_are_numbers_and_its_texts_are_texts(tmp_path):
    dataset = dataset_of(timestamp=None, decimal=",", rating_values={"true": 1, "false": 0})
    for name, ratings, expected in (
        ("numbers", [4.5, 3.0], [4.5, 3.0]), ("texts", ["4,5", "3"], [4.5, 3.0]), ("flags", [True, False], [1.0, 0.0]),
    ):  # fmt: skip
        path, into = tmp_path / f"{name}.parquet", tmp_path / name
        pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": ratings}).write_parquet(path)
        for exact in (False, True):
            (into / str(exact)).mkdir(parents=True)
            with warehouse.scratch(threads=1) as con:
                file_reader.read_file(con, path, path.name, dataset, into / str(exact), exact)
            assert pl.read_parquet(into / str(exact) / "interactions.parquet")["rating"].to_list() == expected


@pytest.mark.parametrize(
    ("text", "looks", "columns"),
    [
        ("4,5", "decimal comma", {"decimal": ","}), ("1,234,567", "thousands separator", {"thousands": ","}),
        ("1,234", "decimal comma or thousands separator", {"decimal": ","}), ("4.1/5", "fraction", {"rating_of": 5}),
        ("1 234", "thousands separator", {"thousands": " "}), ("85%", "percentage", {"rating_of": 100}),
        ("4 of 5", "fraction", {"rating_of": 5}), ("yes", "word", {"rating_values": {"yes": 1}}),
        ("★★★☆☆", "stars", {"rating_values": {"★★★☆☆": 3}}), ("", "empty", {"rating_values": {"": 0}}),
        ("$4.50", "number with a unit or currency", {"rating_values": {"$4.50": 4.5}}),
    ],
)  # fmt: skip
def test_a_refusal_says_what_the_numbers_look_like_and_what_reads_them(tmp_path, text, looks, columns):
    (tmp_path / "toy.csv").write_text("user\titem\trating\ttime\n" + f"u\ti\t{text}\t1710002230\n" * 30)
    assert looks_like(text) == looks and looks in ADVICE
    with pytest.raises(Refused, match=r"rating_not_a_number 30 \(30 ") as error:
        ingest.read_source(night(tmp_path, dataset_of()))
    assert ADVICE[looks] in str(error.value)
    assert (
        pl.read_parquet(ingest.read_source(night(tmp_path, dataset_of(**columns))) / "interactions.parquet").height
        == 30
    )


def night(folder: Path, dataset: Dataset, **source) -> Run:
    tree = {"dataset": dataset.model_dump(), "models": {"popularity": {}}, "threads": 1}
    tree["dataset"]["source"] |= source
    run = Run(
        run_id=uuid.uuid4().hex, home_root=folder / "home", data=folder, settings=Settings.model_validate(tree), started_at=utcnow()
    )  # fmt: skip
    journal.open_run(run)
    return run


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_rejected_ratings_that_a_setting_reads_are_a_warning_each_night(tmp_path, mode):
    lines = "u\ti\t4\t1710002230\n" * 90 + "u\ti\t4,5\t1710002230\n" * 3
    (tmp_path / "toy.csv").write_text("user\titem\trating\ttime\n" + lines)
    for _ in range(2):
        run = night(tmp_path, dataset_of(), mode=mode)
        ingest.read_source(run)
        (note,) = journal.notes(run.home, "toy", run.run_id)
        assert note.startswith(
            'warning: ingest: of the rejected ratings, 3 look like a decimal comma: set dataset.columns.decimal = ","'
        )


def test_usual_data_sets_keep_their_lake_keys():
    assert layout_settings(dataset_of())["columns"] == {
        "user": "user", "item": "item", "rating": "rating", "timestamp": "time", "timestamp_unit": "s"
    }  # fmt: skip
    assert layout_settings(dataset_of(decimal=","))["columns"]["decimal"] == ","


@pytest.mark.parametrize(
    "columns",
    [{"decimal": ",", "thousands": ","}, {"decimal": ";"}, {"rating_of": 0}, {"rating_values": {"x": float("nan")}}],
)
def test_numbers_with_two_meanings_or_none_are_refused(columns):
    with pytest.raises(ValueError):
        dataset_of(**columns)


@pytest.mark.parametrize(
    "text",
    ["1.", ".5", "-.5", "1e5", "1E-3", "-0", "-1", "007", "0x10", "1e400", "-1e400", "1e-400", "nan", "-NaN", "inf",
     "Infinity", "12345678901234567890", "1710002230.0", "1710002230.5", "4102444800", "4102444799", "1d5", "1f", "٣",
     "1,5", "", "--1", "1.2.3", "e5", ".", "-", "1e", "true", "null", "NA"],
)  # fmt: skip
@pytest.mark.parametrize("column", ["rating", "time", "item"])
def test_a_plain_file_is_read_as_it_is_line_by_line(tmp_path, text, column):
    """Arrow takes no text that the line reader does not, and reads the others to the same values."""
    good = {"user": "u", "item": "i", "rating": "3.5", "time": "1710002230"}
    path = tmp_path / "toy.csv"
    lines = [good, {**good, "item": "j"}, {**good, column: text}, {**good, "item": "k"}]
    path.write_text("\n".join("\t".join(line) for line in [good, *(one.values() for one in lines)]), encoding="utf-8")
    data = dataset_of().model_copy(update={"feedback": Feedback(missing_ratings=[-1.0])})
    fast, exact = (read_as(path, data, tmp_path, exact) for exact in (False, True))
    assert (fast.rows, fast.rejects, fast.ledger) == (exact.rows, exact.rejects, exact.ledger)
    assert [str(row[2]) for row in fast.rows] == [str(row[2]) for row in exact.rows]  # -0.0 is not 0.0
