"""A sniffed TOML is a data set: valid, with the right columns, and ingest succeeds on the file with it."""

import datetime as dt
import gzip
import re
import tomllib
import uuid
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Dataset
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core.errors import Refused, UnreadableInput
from pipeline.core.paths import Home
from pipeline.sources.catalog_reader import read_items
from pipeline.sources.sniffing.interactions import propose, sniff
from pipeline.sources.sniffing.layouts import layout_of
from pipeline.stages import ingest
from pipeline.storage import journal, lake
from tests.support.data_sets import data_set


def sniffed(path: Path) -> Dataset:
    return Dataset.model_validate(tomllib.loads(sniff(path)))


def rows_of(home: Path, path: Path, dataset: Dataset) -> pl.DataFrame:
    settings = Settings.model_validate({"dataset": dataset.model_dump(), "models": {"popularity": {}}, "threads": 1})
    run = Run(run_id=uuid.uuid4().hex, home_root=home, data=path.parent, settings=settings, started_at=utcnow())
    journal.open_run(run)
    folder = ingest.read_source(run)
    assert lake.info(folder)["reject_rate"] == 0
    return pl.read_parquet(folder / "interactions.parquet")


@pytest.mark.parametrize(
    ("name", "rows", "users", "items", "timed", "kind"),
    [
        ("ml-100k/u.data", 100_000, 943, 1682, True, "explicit"),
        ("ml-latest-small/ratings.csv", 100_836, 610, 9724, True, "explicit"),
        ("lastfm-hetrec/user_artists.dat", 92_834, 1892, 17_632, False, "implicit"),
        ("ml-1m/ratings-no-timestamp.dat.gz", 1_000_209, 6040, 3706, False, "explicit"),
        ("ml-1m/ratings-timestamp-subset.dat.gz", 693_098, 6040, 3601, True, "explicit"),
        ("ml-1m/ncf/ml-1m.train-no-timestamp.rating.gz", 994_169, 6040, 3704, False, "explicit"),
    ],
)
def test_real_files(tmp_path, name, rows, users, items, timed, kind):
    path = data_set(name.split("/")[0]) / name.split("/", 1)[1]
    dataset = sniffed(path)
    frame = rows_of(tmp_path, path, dataset)
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (rows, users, items)
    assert frame["rating"].null_count() == 0 and frame["timestamp"].null_count() == (0 if timed else rows)
    assert dataset.feedback.kind == kind


@pytest.mark.parametrize(
    ("text", "columns", "unit"),
    [
        ("song_id,customer_id,plays\ns1,c1,300\ns2,c1,5\n", ("customer_id", "song_id", "plays", None), "s"),
        ("a;b;c\nx;y;3\nz;y;4\n", ("a", "b", "c", None), "s"),
        ("user,item\na,b\nc,d\n", ("user", "item", None, None), "s"),
        ('uid,isbn,score,date\n1,"x, y",-1,2005-04-02 23:53:47\n1,z,8,2005-04-02 23:53:48\n', ("uid", "isbn", "score", "date"), "iso"),
        ("ts|userId|movieId\n1112486027000|1|2\n", ("userId", "movieId", None, "ts"), "ms"),
        ("u1 i1 5 31.12.2020\n".replace(" ", "\t") * 3, ("user", "item", "rating", "timestamp"), "%d.%m.%Y"),
        ("7,8,4.5,1112486027\n" * 3, ("user", "item", "rating", "timestamp"), "s"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_columns_by_name_and_by_value(tmp_path, text, columns, unit, packed):
    path = tmp_path / ("my file (1).csv" + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset = sniffed(path)
    assert dataset.name == "my-file-1-"
    assert tuple(getattr(dataset.columns, role) for role in ("user", "item", "rating", "timestamp")) == columns
    assert dataset.columns.timestamp_unit == unit
    assert rows_of(tmp_path, path, dataset).height == len(text.splitlines()) - dataset.source.header


LOG = "user_id,movie_id,rating\n" + "".join(f"{n % 7},{n % 11},{n % 5 + 1}\n" for n in range(60))
FILMS = [(n, f'Film "{n}" of, many') for n in range(11)]


def films(folder: Path, name: str) -> None:
    """An item catalog in the form that its name says."""
    text = {
        "movies.csv": "movie_id,title,genres\n"
        + "".join(f'{n},"Film ""{n}"" of, many",Drama|War\n' for n in range(11)),
        "u.item": "".join(f'{n}|Film "{n}" of, many|{1950 + n % 2}|Música\n' for n in range(11)),
        "Artists_2020.dat": "id\turl\tname\n" + "".join(f'{n}\thttp://x/{n}\tFilm "{n}" of, many\n' for n in range(11)),
        "meta.csv": "key;movie_id;label\n" + "".join(f'k{n};{n};Film "{n}" of, many\n' for n in range(11)),
    }
    if name.endswith(".parquet"):
        pl.DataFrame(FILMS, schema=["movie_id", "title"], orient="row").write_parquet(folder / name)
    else:
        (folder / name).write_text(text[name], encoding="latin-1" if name == "u.item" else "utf-8")


@pytest.mark.parametrize("name", ["movies.csv", "u.item", "Artists_2020.dat", "meta.csv", "items.parquet"])
def test_the_catalog_beside_it_is_found_and_gives_titles(tmp_path, name):
    """Among files that look much like one: of users, of other items, of tags, and a broken one."""
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    films(tmp_path, name)
    (tmp_path / "users.csv").write_text("id,name\n" + "".join(f"{n},User {n}\n" for n in range(11)))
    (tmp_path / "books.csv").write_text("movie_id,title\n" + "".join(f"b{n},Book {n}\n" for n in range(11)))
    (tmp_path / "movie_tags.csv").write_text("movie_id,tag\n" + "".join(f"{n % 11},Tag {n}\n" for n in range(50)))
    (tmp_path / "links.csv").write_text("movie_id,imdb\n" + "".join(f"{n},{n + 70}\n" for n in range(11)))
    (tmp_path / "items_old.csv").write_bytes(b"movie_id,title\n\xff\xfe\x00")
    (tmp_path / "items_cut.parquet").write_bytes(b"PAR1 cut")
    dataset = sniffed(path)
    assert dataset.items and dataset.items.files == [name]
    assert dataset.items.attributes == ({"genres": "|"} if name == "movies.csv" else {})
    rows_of(tmp_path, path, dataset)
    (catalog,) = Home(tmp_path).lake(dataset.name).glob("1_raw/*/catalog.parquet")
    found = pl.read_parquet(catalog).select(pl.col("item_id").cast(pl.Int64), "title").sort("item_id")
    assert found.rows() == FILMS


@pytest.mark.parametrize(
    ("spell", "difference"),
    [("0000{}", "leading zeros"), ("{}.0", "decimal fraction"), (" {}", "blanks"), ("00{}.0", "fractions")],
)
def test_a_catalog_whose_ids_are_spelt_otherwise_is_named(tmp_path, spell, difference):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    films = "".join(f"{spell.format(n)},Film {n}\n" for n in range(1, 11))
    (tmp_path / "movies.csv").write_text("movie_id,title\n" + films)
    proposal = propose(path)
    (note,) = proposal.notes
    assert re.search(f"movies.csv looks like the item catalog, but 0 of 10 catalog ids .* {difference}", note)
    assert f"# Check: {note}" in proposal.toml and "items" not in tomllib.loads(proposal.toml)


def test_without_a_catalog_there_is_an_example_to_uncomment(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    text = sniff(path)
    assert "items" not in tomllib.loads(text)
    told = text.partition("# No item catalog")[2]
    lines = [line.removeprefix("# ") for line in told.splitlines()[1:]]
    items = Dataset.model_validate({"name": "x", **tomllib.loads("\n".join(lines))}).items
    assert items and items.files == ["items.csv"] and items.attributes


@pytest.mark.parametrize(
    ("name", "catalog", "n"),
    [
        ("ml-100k/u.data", "u.item", 1682),
        ("ml-latest-small/ratings.csv", "movies.csv", 9742),
        ("lastfm-hetrec/user_artists.dat", "artists.dat", 17_632),
        ("ml-1m/ratings-timestamp-subset.dat.gz", "movies.dat", 3883),
    ],
)
def test_real_catalogs(name, catalog, n, tmp_path):
    path = data_set(name.split("/")[0]) / name.split("/", 1)[1]
    items = sniffed(path).items
    assert items and items.files == [catalog]
    _, told, _ = read_items(path.parent, items.files, items, tmp_path)
    assert told == {"items": n, "repeated": 0, "skipped": 0}


def test_minus_one_among_ratings_is_a_missing_rating(tmp_path):
    path = tmp_path / "rating.csv"
    path.write_text("user_id,anime_id,rating\n1,20,-1\n1,24,10\n2,20,7\n")
    dataset = sniffed(path)
    assert dataset.feedback.missing_ratings == [-1] and dataset.feedback.kind == "explicit"
    assert rows_of(tmp_path, path, dataset)["rating"].to_list() == [None, 10.0, 7.0]


def test_cp1252_stray_quotes_and_glob_characters(tmp_path):
    path = tmp_path / "[x] plays.tsv"
    path.write_bytes('user\tartist\tplays\nJosé\t"Weird Al\t3\nJosé\tB\t99999\n'.encode("latin-1"))
    dataset = sniffed(path)
    assert dataset.source.encoding == "cp1252" and dataset.source.quote == ""
    assert rows_of(tmp_path, path, dataset)["item_id"].to_list() == ['"Weird Al', "B"]


def test_parquet(tmp_path):
    path = tmp_path / "log.parquet"
    times = pl.Series(["2020-01-01 10:00:00"] * 2).str.to_datetime()
    pl.DataFrame({"time": times, "product_id": [1, 2], "customer": ["a", "b"]}).write_parquet(path)
    dataset = sniffed(path)
    roles = {"user": "customer", "item": "product_id", "timestamp": "time", "timestamp_unit": "iso"}
    assert dataset.columns.model_dump(exclude_defaults=True) == roles
    assert rows_of(tmp_path, path, dataset).rows() == [("a", "1", None, times[0]), ("b", "2", None, times[0])]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"word\nword\n", b"user,item\n", "word\nword\n".encode("utf-16")])
def test_what_is_no_interaction_file_is_refused(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(UnreadableInput, match=r"x\.csv"):
        sniff(path)
    with pytest.raises(UnreadableInput, match="does not exist"):
        sniff(tmp_path / "nowhere.csv")


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.lists(st.text(max_size=6) | st.sampled_from(["user", "item", "1", "964982703", '"']), min_size=1, max_size=5), max_size=6), delimiter=st.sampled_from([",", "\t", "::"]))  # fmt: skip
@example(rows=[["", "", "", "\x7f"], ["", "", "", "0"]], delimiter=",")
def test_whatever_the_text(tmp_path_factory, rows, delimiter):
    """The TOML is always valid, and ingest never stumbles over it in another way than it may."""
    path = tmp_path_factory.mktemp("sniff") / "x.csv"
    path.write_text("\n".join(delimiter.join(row) for row in rows), newline="")
    try:
        dataset = sniffed(path)
        rows_of(path.parent, path, dataset.model_copy(update={"name": "x"}))
    except (UnreadableInput, Refused):
        pass
    except AssertionError as error:
        assert "reject_rate" in str(error)


@pytest.mark.parametrize("delimiter", [", ", ",", ";", "; ", "|", "^"])
@pytest.mark.parametrize("time", ["%m/%d/%Y %I:%M:%S %p", "%d %b %Y %H:%M:%S", "%Y-%m-%d %H:%M:%S"])
def test_a_delimiter_between_digits_only_is_no_decimal_comma(delimiter, time):
    """Blanks in times make more fields of equal number."""
    start = dt.datetime(2019, 1, 13, 22, 54, 40)
    times = [f"{start + dt.timedelta(days=n):{time}}" for n in range(40)]
    lines = [delimiter.join((f"u{n % 9}", f"{100 + n % 7}", f"{n % 5 + 1}", at)) for n, at in enumerate(times)]
    assert layout_of(lines, "x.csv").marks.delimiter == delimiter


def test_decimal_commas_between_blanks_are_no_delimiters():
    lines = [f"u{n % 9} i{n % 7} {n % 5 + 1},5 {964982703 + n},25" for n in range(40)]
    assert layout_of(lines, "x.csv").marks.delimiter == " "


@pytest.mark.parametrize(
    "broken",
    ["a line without separators", "u1;i1", "u1;i1;4;notatime", "u1;i1;five;964982703", "u1;i1;4;964982703;more"],
)
def test_a_broken_line_changes_nothing(tmp_path, broken):
    lines = [f"u{n % 9};i{n % 7};{n % 5 + 1};{964982703 + n}" for n in range(60)]
    lines.insert(30, broken)
    path = tmp_path / "own.csv"
    path.write_text("Kunde;Artikel Nr;Sterne;Zeitpunkt\n" + "\n".join(lines) + "\n")
    dataset = sniffed(path)
    assert dataset.source.header
    roles = {"user": "Kunde", "item": "Artikel Nr", "rating": "Sterne", "timestamp": "Zeitpunkt"}
    assert dataset.columns.model_dump(exclude_defaults=True) == roles


FOUR = ["user", "item", "rating", "timestamp"]
STAYS = {
    "ml-100k/u.data": ("\t", FOUR, None, "explicit"),
    "ml-100k/ua.test": ("\t", FOUR, None, "explicit"),
    "ml-latest-small/ratings.csv": (",", None, ["userId", "movieId", "rating", "timestamp"], "explicit"),
    "lastfm-hetrec/user_artists.dat": ("\t", None, ["userID", "artistID", "weight", None], "implicit"),
    "ml-1m/ratings-no-timestamp.dat.gz": ("::", FOUR[:3], None, "explicit"),
    "ml-1m/ratings-timestamp-subset.dat.gz": ("::", FOUR, None, "explicit"),
    "ml-1m/ncf/ml-1m.train-no-timestamp.rating.gz": ("\t", FOUR[:3], None, "explicit"),
    "ml-1m/ncf/ml-1m.test.rating": ("\t", FOUR, None, "explicit"),
    "amazon-sports/interactions.csv.gz": (",", None, ["user_id", "item_id", None, "timestamp"], "implicit"),
}
"""File to delimiter, guessed column names, columns by role, kind. `position` of amazon-sports is no rating."""


@pytest.mark.parametrize("name", STAYS)
def test_what_is_proposed_for_public_files_stays(name):
    delimiter, guessed, columns, kind = STAYS[name]
    toml = tomllib.loads(sniff(data_set(name.split("/")[0]) / name.split("/", 1)[1]))
    roles = columns or [*(guessed or []), None][:4]
    assert toml["columns"] == {
        **{role: column for role, column in zip(FOUR, roles, strict=True) if column},
        **({"timestamp_unit": "s"} if roles[3] else {}),
    }
    assert (toml["source"]["delimiter"], toml["source"].get("column_names")) == (delimiter, guessed)
    assert toml["feedback"] == {"kind": kind}
