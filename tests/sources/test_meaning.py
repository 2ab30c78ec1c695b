"""`init` proposes what the rows mean: ratings in any spelling, votes, returns, categories, places, prices.

Each file is read with the proposed TOML, fast and line by line, so that a proposal that cannot be read fails.
"""

import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config.dataset import Dataset, Feedback
from pipeline.preparation.filters import mark
from pipeline.sources import file_reader
from pipeline.sources.sniffing.interactions import Proposal, propose
from pipeline.sources.unused_times import unused_times
from pipeline.storage import warehouse
from tests.support.reading import by_itself

CASES = Path(__file__).parent / "cases"
START = 1_700_000_000


def read(folder: Path, path: Path) -> tuple[Dataset, Proposal, pl.DataFrame]:
    """The proposed data set, and the file's rows with `positive`; both readers agree, and no line is rejected."""
    proposal = propose(path)
    dataset = Dataset.model_validate(tomllib.loads(proposal.toml))
    frames = []
    for exact in (False, True):
        into = folder / f"part-{exact}"
        into.mkdir()
        with warehouse.scratch(threads=1) as con:
            result = file_reader.read_file(con, path, path.name, dataset, into, exact)
        assert set(result.ledger) == {"kept"} and (result.rescanned is None) != exact
        frames.append(pl.read_parquet(into / "interactions.parquet"))
    assert frames[0].equals(frames[1])
    rows = mark(frames[0].with_columns(pl.col("user_id", "item_id").cast(pl.String)), dataset.feedback)
    return dataset, proposal, rows


def log(folder: Path, header: str, *columns: Callable[[int], Any], rows: int = 180, by: str = ",") -> Path:
    """A file of users and items drawn at random, with further columns from the number of the row; then a time."""
    draw = random.Random(7)
    path = folder / "log.csv"
    lines = [header] if header else []
    for n in range(rows):
        user, item = draw.randrange(30), draw.randrange(20)
        cells = [
            f"u{user}",
            f"i{item}",
            *(column(n) if column is not OF_ITEM else 1000 + item % 7 for column in columns),
        ]
        lines.append(by.join(map(str, [*cells, START + 977 * n])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def OF_ITEM(n: int) -> int:
    """A category: `log` knows the item."""
    raise NotImplementedError


def among(*values: Any) -> Callable[[int], Any]:
    """Values that are drawn at random."""
    return lambda n: random.Random(n).choice(values)


def test_a_decimal_comma_is_read(tmp_path):
    dataset, proposal, rows = read(tmp_path, by_itself(CASES / "number-decimal-comma.csv", tmp_path))
    assert dataset.columns.decimal == "," and dataset.feedback.kind == "explicit"
    assert rows["rating"].head(3).to_list() == [5.5, 3.5, 5.5] and rows["rating"].null_count() == 0
    assert "1.5 as well as 5.5" in proposal.positives and proposal.notes == []


def test_a_rating_of_five_is_read(tmp_path):
    dataset, _, rows = read(tmp_path, by_itself(CASES / "number-rating-of-five.csv", tmp_path))
    assert dataset.columns.rating_of == 5 and rows["rating"].head(3).to_list() == [5.0, 3.0, 5.0]
    assert dataset.feedback.kind == "explicit"


def test_a_vote_against_is_no_positive(tmp_path):
    dataset, proposal, rows = read(tmp_path, by_itself(CASES / "votes-minus-one.csv", tmp_path))
    assert dataset.feedback == Feedback(kind="implicit", positive_if="rating > 0")
    against = rows.filter(pl.col("item_id") == "99")
    assert (
        against.height == 25 and not against["positive"].any() and rows["positive"].sum() == (rows["rating"] == 1).sum()
    )
    assert any("votes against" in note for note in proposal.notes)


def test_the_item_of_a_check_in_is_its_place_and_degrees_are_no_ratings(tmp_path):
    dataset, proposal, rows = read(tmp_path, by_itself(CASES / "check-ins.txt", tmp_path))
    assert dataset.columns.rating is None and set(rows["item_id"]) <= {str(n) for n in range(22001, 22021)}
    assert proposal.guess[0] == ["user", "timestamp", "latitude", "longitude", "item"] and len(proposal.guess) == 4
    assert any("guessed" in note for note in proposal.notes)


def test_a_category_is_no_rating(tmp_path):
    dataset, proposal, _ = read(tmp_path, by_itself(CASES / "category-as-rating.csv", tmp_path))
    columns = dataset.columns
    assert (columns.user, columns.item, columns.rating, columns.timestamp) == ("user", "item", None, "timestamp")
    assert dataset.source.column_names == ["user", "item", "category", "event", "timestamp"]
    assert "not used" in proposal.toml and proposal.guess


SPELLINGS: dict[str, tuple[str, str, Callable[[int], Any], Callable[[int], float], dict[str, Any]]] = {
    "decimal comma, tab": ("\t", "rating", lambda n: f"{n % 9 / 2 + 0.5:.1f}".replace(".", ","), lambda n: n % 9 / 2 + 0.5, {"decimal": ","}),
    "thousands, quoted": (",", "plays", lambda n: f'"{n * 997:,}"', lambda n: n * 997, {"thousands": ","}),
    "thousands, blank": (";", "plays", lambda n: f"{n * 997:,}".replace(",", " "), lambda n: n * 997, {"thousands": " "}),
    "thousands, apostrophe": (";", "plays", lambda n: f"{n * 997:,}".replace(",", "’"), lambda n: n * 997, {"thousands": "'"}),
    "thousands, dot": (";", "plays", lambda n: f"{n * 997:,}".replace(",", "."), lambda n: n * 997, {"thousands": ".", "decimal": ","}),
    "of 5": (",", "rating", lambda n: f"{n % 5 + 1} of 5", lambda n: n % 5 + 1, {"rating_of": 5}),
    "4.1/5": (",", "rating", lambda n: f"{n % 41 / 10 + 1:.1f}/5", lambda n: n % 41 / 10 + 1, {"rating_of": 5}),
    "out of 5 stars": (",", "stars", lambda n: f"{n % 5 + 1}.0 out of 5 stars", lambda n: n % 5 + 1, {"rating_of": 5}),
    "percent": (",", "score", lambda n: f"{n % 101}%", lambda n: n % 101, {"rating_of": 100}),
    "stars": (",", "rating", lambda n: "★" * (n % 5 + 1) + "☆" * (4 - n % 5), lambda n: n % 5 + 1, {}),
    "counted stars": (",", "rating", lambda n: f"{n % 5 + 1} star{'s' * (n % 5 > 0)}", lambda n: n % 5 + 1, {}),
    "exponent": (",", "weight", lambda n: f"{n + 1:.3e}", lambda n: n + 1, {}),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ratings_in_any_spelling_are_read(tmp_path, spelling):
    by, name, spelled, value, settings = SPELLINGS[spelling]
    path = log(tmp_path, by.join(["user_id", "item_id", name, "time"]), spelled, by=by)
    dataset, _, rows = read(tmp_path, path)
    assert rows["rating"].to_list() == pytest.approx([value(n) for n in range(180)])
    assert settings.items() <= dataset.columns.model_dump(exclude_defaults=True).items()


@pytest.mark.parametrize(
    ("name", "values", "positive"),
    [
        ("liked", ("True", "False"), {"True": 1}), ("liked", ("yes", "no"), {"yes": 1}), ("is_like", ("0", "1"), {"1": 1}),
        ("vote", ("up", "down"), {"up": 1}), ("feedback", ("thumbs_up", "thumbs_down"), {"thumbs_up": 1}),
        ("rating", ("like", "dislike", "neutral"), {"like": 1}), ("reaction", ("👍", "👎"), {"👍": 1}), ("vote", ("1", "0", "-1"), {"1": 1}),
        ("recommended", ("Recommended", "Not Recommended"), {"Recommended": 1}), ("", ("like", "dislike"), {"like": 1}),
        ("quantity", ("1", "2", "12", "-2", "-1"), {"1": 1, "2": 1, "12": 1}), ("Qty", ("0", "3", "40"), {"3": 1, "40": 1}),
        ("joke_rating", ("-9.5", "-3", "0.5", "7.25", "9"), {"0.5": 1, "7.25": 1, "9": 1}),
    ],
)  # fmt: skip
def test_what_is_against_or_not_so_is_no_positive(tmp_path, name, values, positive):
    texts = [among(*values)(n) for n in range(180)]
    header = f"user_id,item_id,{name},time" if name else ""
    dataset, proposal, rows = read(tmp_path, log(tmp_path, header, among(*values)))
    assert dataset.feedback.positive_if == "rating > 0" and dataset.feedback.missing_ratings == []
    assert rows["positive"].to_list() == [text in positive for text in texts]
    assert any("no positives" in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("values", "missing", "kind"),
    [
        (range(1, 11), [], "explicit"), ([-1, *range(1, 11)], [-1], "explicit"), ([-1, 1], [], "implicit"),
        ([-1, 0, 1], [], "implicit"), ([-2, -1, 1, 2], [], "explicit"), ([0.5, 1, 1.5, 2, 3, 4, 5], [], "explicit"), ([1], [], "implicit"),
        ([1, 2, 3, 150, 4000], [], "implicit"), ([-1, 7, 10], [-1], "explicit"),
    ],
)  # fmt: skip
def test_minus_one_is_a_missing_rating_only_apart_from_a_scale(tmp_path, values, missing, kind):
    dataset, proposal, rows = read(tmp_path, log(tmp_path, "user_id,item_id,rating,time", among(*values)))
    assert (dataset.feedback.missing_ratings, dataset.feedback.kind) == (missing, kind)
    if min(values) < 0 and not missing:
        assert not rows.filter(pl.col("rating") < 0)["positive"].any()
    if kind == "explicit" and dataset.feedback.positive_if is None:
        lowest = min(v for v in values if v != -1)
        assert f"{lowest:g}" in proposal.positives and '# positive_if = "rating >= ' in proposal.toml
        assert ("half a star" in proposal.positives) == (lowest == 0.5)


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        ("user_id,item_id,category_id,time", [OF_ITEM], None), ("user_id,item_id,x,time", [OF_ITEM], None),
        ("user_id,item_id,price,time", [lambda n: f"{n % 37}.99"], None), ("user_id,item_id,age,time", [lambda n: n % 50 + 18], None),
        ("user_id,item_id,position,time", [lambda n: n], None), ("user_id,item_id,session_id,time", [lambda n: n // 3], None),
        ("user_id,item_id,zip,time", [lambda n: 90000 + n % 90], None), ("user_id,item_id,timezone_offset,time", [lambda n: -240], None),
        ("user_id,item_id,lat,lon,time", [lambda n: f"{n % 9}.12345", lambda n: f"{n % 7}.98765"], None),
        ("user_id,item_id,quantity,price,time", [lambda n: n % 4 + 1, lambda n: f"{n % 37}.99"], "quantity"),
        ("user_id,item_id,price,star_rating,helpful_votes,time", [lambda n: 7, among(1, 5), lambda n: n % 9], "star_rating"),
        ("user_id,item_id,x,time", [among(1, 2, 3, 4, 5)], "x"), ("user_id,item_id,hours,time", [lambda n: n * 7.25], "hours"),
        ("user_id,item_id,verified,time", [among("True", "False")], None),
        ("user_id,item_id,event_type,time", [among("view", "cart", "purchase")], None),
    ],
)  # fmt: skip
def test_only_ratings_and_counts_are_taken_for_ratings(tmp_path, header, columns, expected):
    dataset, _, _ = read(tmp_path, log(tmp_path, header, *columns))
    assert (dataset.columns.rating, dataset.columns.timestamp) == (expected, "time")
    if expected == "quantity":
        assert dataset.feedback.kind == "implicit"


@pytest.mark.parametrize("width", [4, 5, 6])
def test_the_item_is_finer_than_its_category_wherever_it_stands(tmp_path, width):
    lines = [f"u{n * 7 % 30}\tc{n % 20 % 4}\ti{n % 20}\t{START + n}" + "\tx" * (width - 4) for n in range(180)]
    path = tmp_path / "log.tsv"
    path.write_text("\n".join(lines) + "\n")
    dataset, _, rows = read(tmp_path, path)
    assert rows["item_id"][0] == "i0" and dataset.columns.timestamp == "timestamp" and dataset.columns.rating is None


def test_an_online_shop_with_returns_is_understood(tmp_path):
    """In the form of UCI's Online Retail: invoices, codes, quantities with returns, prices, dates without century."""
    lines = [
        f"{536365 + n // 4},{10000 + n % 23},WHITE HANGING HEART,{-2 if n % 11 == 0 else n % 6 + 1},12/{n % 27 + 1}/10 8:26,2.55,{17850 + n % 9},United Kingdom"
        for n in range(90)
    ]
    path = tmp_path / "retail.csv"
    path.write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n" + "\n".join(lines)
    )
    dataset = Dataset.model_validate(tomllib.loads(propose(path).toml))
    columns = dataset.columns
    assert (columns.user, columns.item, columns.rating) == ("CustomerID", "StockCode", "Quantity")
    assert (columns.timestamp, columns.timestamp_unit) == ("InvoiceDate", "%m/%d/%y %H:%M")
    assert dataset.feedback == Feedback(kind="implicit", positive_if="rating > 0")


def test_a_rating_that_no_setting_reads_is_named(tmp_path):
    proposal = propose(log(tmp_path, "user_id,item_id,rating,time", among("poor", "fair", "great")))
    assert "rating" not in tomllib.loads(proposal.toml)["columns"]
    assert any('"rating" is named like a rating, but has no numbers' in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("cells", "says"),
    [(("1,234", "5", "999"), "'1,234' is read as 1234; if it is 1.234"), (("3", "4", "4", "5", "5", "3", "2", "1", "4", "5", "NA"), "cells are no such numbers")],
)  # fmt: skip
def test_doubts_about_numbers_are_said(tmp_path, cells, says):
    proposal = propose(log(tmp_path, "user_id;item_id;plays;time", among(*cells), by=";"))
    assert any(says in note for note in proposal.notes) and says in proposal.toml


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (["2024-03-09 16:37:10"] * 85 + ["09/13/2024 16:37"] * 9, "mixed formats"),
        (["1710002230"] * 50 + ["2024-03-09"] * 50, "mixed formats"),
        (["13/02/2024"] * 60 + ["02/13/2024"] * 60, "mixed formats"),
        (["03/02/2024"] * 60, "day and month are ambiguous"),
        (["2024-03-09"] * 60 + [""] * 5, "times are empty"),
    ],
)
def test_doubts_about_times_are_said(tmp_path, times, says):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u{n % 5},i{n},{time}\n" for n, time in enumerate(times)))
    proposal = propose(path)
    assert any(says in note for note in proposal.notes) and says in proposal.toml


def test_of_two_orders_of_day_and_month_the_one_that_reads_all_is_taken(tmp_path):
    path = tmp_path / "log.csv"
    days = [f"03/{n % 12 + 1:02}/2024" for n in range(88)] + ["03/29/2024"] * 2
    path.write_text("user,item,time\n" + "".join(f"u{n % 5},i{n},{day}\n" for n, day in enumerate(days)))
    assert tomllib.loads(propose(path).toml)["columns"]["timestamp_unit"] == "%m/%d/%Y"


def test_flags_with_an_unknown_name_are_named_but_not_taken(tmp_path):
    dataset, proposal, _ = read(tmp_path, log(tmp_path, "user_id,item_id,reordered,time", among(0, 1)))
    assert dataset.columns.rating is None and any('"reordered" has two values' in note for note in proposal.notes)


def test_a_release_date_is_no_time_of_an_event(tmp_path):
    path = tmp_path / "log.csv"
    lines = [f"u{n * 7 % 30},i{n % 19},{n % 5 + 1},20{n % 19:02}-01-01\n" for n in range(180)]
    path.write_text("user,item,rating,released\n" + "".join(lines))
    dataset, proposal, _ = read(tmp_path, path)
    assert dataset.columns.timestamp is None and '"released" (attribute of the item)' in proposal.toml
    assert unused_times(dataset, path) is None


@pytest.mark.parametrize("header", ["", "user_id,item_id,stars,time"])
@pytest.mark.parametrize("missing", [99, -99, 999])
def test_a_value_apart_from_the_scale_is_a_missing_rating(tmp_path, header, missing):
    dataset, proposal, _ = read(tmp_path, log(tmp_path, header, among(1, 2, 3, 4, 5, missing)))
    if dataset.columns.rating:
        assert dataset.feedback.missing_ratings == [missing] and any("is apart from" in note for note in proposal.notes)
    else:
        assert not header


def test_ids_of_nine_digits_before_items_are_users_not_times(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("".join(f"{541312140 + n * 7 % 31},{n % 19},{n % 5 + 1}\n" for n in range(180)))
    assert read(tmp_path, path)[0].source.column_names == ["user", "item", "rating"]


def test_a_column_of_zeros_makes_no_row_negative(tmp_path):
    dataset, proposal, rows = read(tmp_path, log(tmp_path, "user_id,item_id,rating,time", lambda n: 0))
    assert dataset.feedback.positive_if is None and rows["positive"].all()
    assert any("no row has a rating above 0" in note for note in proposal.notes)
