"""A first record is a header if its cells do not have the form of the columns below, in any language."""

import json
import tomllib
from pathlib import Path

import pytest

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing.headers import is_header
from pipeline.sources.sniffing.interactions import propose, sniff
from tests.support.reading import read_as, read_sniffed

ROWS = [f"K-{12 + n % 7};Stuhl {'ABCDEF'[n % 6]};{n % 5},{5 * (n % 2)};{n % 27 + 1:02d}.02.2024" for n in range(60)]
HEADER = "Kunde;Artikel;Bewertung;Datum"


def written(folder: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path = folder / "log.csv"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("above", "header", "by", "encoding"),
    [
        ([], HEADER, ";", "utf-8"),
        ([], HEADER, "\t", "utf-8"),
        ([], "Käufer;Möbel;Punkte;Tag", "\t", "cp1252"),
        ([], "Käufer;Möbel;Punkte;Größe", ";", "utf-8-sig"),
        (["Bericht der Filiale", "", ""], HEADER, ";", "utf-8"),
        (["sep=;"], HEADER, ";", "utf-16"),
        ([], "Utilisateur;Œuvre;Étoiles;Jour", ";", "cp1252"),
    ],
)
def test_names_in_any_language_above_texts_and_decimal_commas(tmp_path, above, header, by, encoding):
    path = written(tmp_path, [*above, *(line.replace(";", by) for line in [header, *ROWS])], encoding)
    found = read_sniffed(path, tmp_path)
    names = found.dataset.columns
    assert found.dataset.source.header and len(found.rows) == len(ROWS) and not found.rejects
    assert [names.user, names.item, names.rating, names.timestamp] == header.split(";")
    assert found.rows[1][:3] == ("K-13", "Stuhl B", 1.5) and found.rows[1][3].day == 2


@pytest.mark.parametrize("missing", ["", "NULL", "keine", "N/A"])
@pytest.mark.parametrize("at", [2, 3])
def test_a_first_row_that_lacks_a_value_is_a_row(tmp_path, missing, at):
    cells = ROWS[0].split(";")
    cells[at] = missing
    path = written(tmp_path, [";".join(cells), *ROWS])
    assert tomllib.loads(sniff(path))["source"]["header"] is False


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4])
def test_rows_alone_have_no_header(n_columns):
    rows = [row.split(";")[:n_columns] for row in ROWS]
    assert not any(is_header(rows[at], rows[:at] + rows[at + 1 :]) for at in range(20))


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("Kunde", ["K-7", "K-12", "K-130"], True),
        ("K-5", ["K-7", "K-12", "K-130"], False),
        ("asin", ["B000A1", "0099ZZ", "B12345"], True),
        ("BX00A1", ["B000A1", "0099ZZ", "B12345"], False),
        ("Empfohlen", ["yes", "no", "yes"], True),
        ("no", ["yes", "no", "yes"], False),
        ("Wertung", ["★★★", "★", "★★"], True),
        ("Film", ["Alien 3", "Heat", "Se7en"], False),
        ("Kunde", ["anna", "otto", "ida"], False),
    ],
)
def test_one_column_decides(name, cells, expected):
    assert is_header([name], [[cell] for cell in cells * 5]) is expected


@pytest.mark.parametrize("n_more", [1, 2])
def test_delimiters_after_the_last_name_alone_lose_no_row(tmp_path, n_more):
    found = read_sniffed(path := written(tmp_path, [HEADER + ";" * n_more, *ROWS]), tmp_path)
    assert len(found.rows) == len(ROWS) and not found.rejects
    assert tomllib.loads(sniff(path))["source"]["column_names"] == HEADER.split(";")


@pytest.mark.parametrize(
    "above", [["# export"], ["# export", "", "# of today"], ["", "# export", ""], ["sep=;", "# e"]]
)
@pytest.mark.parametrize(
    ("header", "names", "end"),
    [
        (HEADER + ";;", HEADER.split(";"), ""),
        (HEADER, [*HEADER.split(";"), "column_5"], ";"),
        ("Kunde;Artikel;Artikel;Datum", ["Kunde", "Artikel", "Artikel_2", "Datum"], ""),
        ("Kunde;Artikel;Artikel;Datum;", ["Kunde", "Artikel", "Artikel_2", "Datum"], ""),
    ],
)
def test_a_header_that_is_replaced_below_comments_is_no_row(tmp_path, above, header, names, end):
    source = tomllib.loads(sniff(path := written(tmp_path, [*above, header, *(row + end for row in ROWS)])))["source"]
    assert (source["skip_lines"], source["column_names"]) == (len(above) + 1, names)
    found = read_sniffed(path, tmp_path)
    assert len(found.rows) == len(ROWS) and not found.rejects


@pytest.mark.parametrize("header", ["Kunde;Artikel", "Kunde;Artikel;Bewertung;Datum;Filiale;Kasse"])
def test_a_header_that_is_no_name_for_each_field_is_refused_with_both_numbers(tmp_path, header):
    with pytest.raises(UnreadableInput, match=f"the header has {len(header.split(';'))} names, and .* 4 fields"):
        sniff(written(tmp_path, [header, *ROWS]))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_that_end_in_a_return_alone_are_not_lost_in_silence(tmp_path, end):
    path = tmp_path / "log.csv"
    path.write_bytes(f"{HEADER}\r{end.join(ROWS)}{end}".encode())
    with pytest.raises(UnreadableInput, match="first line ends in CR alone"):
        sniff(path)
    path.write_bytes(f"{HEADER}{end}{end.join(ROWS[:9])}\r{end.join(ROWS[9:])}{end}".encode())
    assert any("1 of the first lines are several lines" in note for note in propose(path).notes)


def test_a_rating_that_few_rows_have_is_named_and_can_be_read_as_proposed(tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [{"user": f"u{n % 7}", "item": f"i{n % 9}", **({"rating": n % 5 + 1} if n % 3 == 0 else {})}
            for n in range(60)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (note,) = [note for note in propose(path).notes if "rating" in note]
    assert "40 of 60 rows have none" in note
    toml = sniff(path).replace("[columns]", '[columns]\nrating = "rating"\nrating_values = { "" = -1 }')
    toml = toml.replace("\n[feedback]", "\n[feedback]\nmissing_ratings = [-1]")
    found = read_as(path, Dataset.model_validate(tomllib.loads(toml)), tmp_path)
    assert len(found.rows) == 60 and sum(row[2] is not None for row in found.rows) == 20
