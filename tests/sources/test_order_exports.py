"""Exports of orders: which column is the customer and which the article, in any language and order of the columns."""

import itertools
import random
import tomllib
from pathlib import Path

import polars as pl
import pytest

from pipeline.config.dataset import Dataset
from pipeline.sources import attributes
from pipeline.sources.catalog_reader import read_items
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.sniffing.column_nouns import ITEMS, ORDERS, USERS, says
from pipeline.sources.sniffing.interactions import propose
from pipeline.storage import expressions, warehouse

HEADERS = [
    "Order No.;Customer No.;Product Code;Qty;Order Date",
    "Auftragsnr.;Kunde;Artikel;Menge;Bestelldatum",
    "Bestellnummer;Kundennummer;Artikelnr.;Anzahl;Datum",
    "N° commande;Code client;Réf. article;Quantité;Date",
    "Número de pedido;Código de cliente;Artículo;Cantidad;Fecha",
    "Numero ordine;Codice cliente;Codice articolo;Quantità;Data",
    "Número da encomenda;Cliente;Código do produto;Quantidade;Data",
    "Bestelnummer;Klantnr;Artikelcode;Aantal;Datum",
    "Beleg;Käufer;Produkt-Nr.;Stück;Zeit",
]


def rows(seed: int = 1, lines: int = 1) -> list[list[str]]:
    """200 rows: order (with so many lines), customer, article, quantity, time."""
    draw, found = random.Random(seed), []
    for order in range(200 // lines):
        customer, time = f"K{draw.randrange(40):03d}", f"2026-{draw.randrange(1, 9):02d}-11T10:{order % 60:02d}:00"
        for article in draw.sample(range(30), lines):
            found.append([str(70000 + order * 3), customer, f"A{article:02d}", str(draw.randrange(1, 4)), time])
    return found


def write(path: Path, header: list[str], lines: list[list[str]], order: tuple[int, ...]) -> Path:
    text = [[line[at] for at in order] for line in [header, *lines]]
    path.write_text("\n".join(map(";".join, text)) + "\n", encoding="utf-8")
    return path


def columns_of(path: Path) -> dict[str, str]:
    return tomllib.loads(propose(path).toml)["columns"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("lines", [1, 4])
def test_the_customer_is_the_user_and_the_article_the_item(tmp_path, header, lines):
    names = header.split(";")
    order = random.Random(header).sample(range(5), 5)
    path = write(tmp_path / "export.csv", names, rows(lines=lines), tuple(order))
    found = columns_of(path)
    assert (found["user"], found["item"]) == (names[1], names[2])
    assert not [note for note in propose(path).notes if "guessed" in note or "hardly" in note]


@pytest.mark.parametrize("lines", [1, 4])
@pytest.mark.parametrize("order", [each for each in itertools.permutations(range(3)) if each.index(1) < each.index(2)])
def test_a_column_that_numbers_orders_is_neither_user_nor_item(tmp_path, order, lines):
    names = ["Vbn", "Kd", "Mat", "m", "time"]
    path = write(tmp_path / "export.csv", names, rows(lines=lines), (*order, 3, 4))
    found = columns_of(path)
    assert (found["user"], found["item"]) == ("Kd", "Mat")


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_a_catalog_next_to_it_says_which_column_has_the_items(tmp_path, order):
    names = ["Vbn", "Kd", "Mat", "m", "time"]
    path = write(tmp_path / "export.csv", names, rows(), (*order, 3, 4))
    articles = "".join(f"A{n:02d};thing {n}\n" for n in range(30))
    (tmp_path / "Artikel.csv").write_text(f"Mat;Bezeichnung\n{articles}")
    customers = "".join(f"K{n:03d};person {n}\n" for n in range(40))
    (tmp_path / "Kunden.csv").write_text(f"Kd;Name\n{customers}")
    toml = tomllib.loads(propose(path).toml)
    assert (toml["columns"]["user"], toml["columns"]["item"]) == ("Kd", "Mat")
    assert (toml["items"]["id"], toml["items"]["title"]) == ("Mat", "Bezeichnung")


def test_a_column_that_follows_from_the_customer_is_not_the_item(tmp_path):
    lines = [[row[0], row[1], f"F{int(row[1][1:]) % 5}", row[2], row[4]] for row in rows()]
    path = write(tmp_path / "export.csv", ["Vbn", "Kd", "Fil", "Mat", "time"], lines, (0, 1, 2, 3, 4))
    found = columns_of(path)
    assert (found["user"], found["item"]) == ("Kd", "Mat")


def test_users_with_one_row_each_are_a_doubt(tmp_path):
    lines = [[str(n), f"A{n % 30:02d}"] for n in range(0, 400, 2)]
    (tmp_path / "export.csv").write_text("vbn;mat\n" + "".join(";".join(line) + "\n" for line in lines))
    assert any("hardly a value of 'vbn'" in note for note in propose(tmp_path / "export.csv").notes)
    (tmp_path / "users.csv").write_text("user;item\n" + "".join(";".join(line) + "\n" for line in lines))
    assert not any("hardly" in note for note in propose(tmp_path / "users.csv").notes)


@pytest.mark.parametrize(
    ("decimal", "thousands"), [(",", "."), (",", " "), (",", ""), (".", ","), (".", "'"), (".", "")]
)
def test_a_catalog_has_numbers_as_it_writes_them(tmp_path, decimal, thousands):
    names = ["Auftragsnr.", "Kunde", "Artikel", "Menge", "Bestelldatum"]
    path = write(tmp_path / "export.csv", names, rows(), (0, 1, 2, 3, 4))
    prices = {f"A{n:02d}": n * 171.25 + 0.5 for n in range(30)}
    marks = str.maketrans({",": thousands, ".": decimal})
    lines = [
        f"{item};Ding {item};{f'{price:,.2f}'.translate(marks)};{n % 3};0{n};01.02.2026"
        for n, (item, price) in enumerate(prices.items())
    ]
    header = "Artikel;Bezeichnung;Preis;Bestand;Fach;Seit"
    (tmp_path / "Artikel.csv").write_text("\n".join([header, *lines, ""]))
    toml = tomllib.loads(propose(path).toml)
    items = Dataset.model_validate(toml).items
    assert items and (items.decimal, items.thousands, items.title) == (decimal, thousands, "Bezeichnung")
    assert "Bestand" in propose(path).toml.partition("[export]")[2]
    catalog, _, _ = read_items(tmp_path, ["Artikel.csv"], items, tmp_path)
    types = attributes.write_items(tmp_path, catalog, NumberFormat(items.decimal, items.thousands))
    assert types == {"Preis": "DOUBLE", "Bestand": "BIGINT", "Fach": "VARCHAR", "Seit": "VARCHAR"}
    assert dict(attributes.read_columns(tmp_path)["item_id", "Preis"].iter_rows()) == prices


@pytest.mark.parametrize("name", ["Warengruppe", "Kundengruppe", "Preis", "Bestelldatum", "conto", "", "Nr.", "€"])
def test_other_names_say_nothing(name):
    assert not any(says(name, nouns) for nouns in (USERS, ITEMS, ORDERS))


@pytest.mark.parametrize("usual", ["bezahlt", ""])
def test_rows_without_a_status_are_no_cancelled_rows(tmp_path, usual):
    status = ["storniert" if at % 9 == 0 else "" if at % 3 == 0 else usual for at in range(200)]
    lines = [[*row, word] for row, word in zip(rows(), status, strict=True)]
    header = ["Auftragsnr.", "Kunde", "Artikel", "Menge", "Datum", "Storno"]
    found = propose(write(tmp_path / "export.csv", header, lines, tuple(range(6))))
    assert sum("of 23 of 200 rows 'storniert'" in note for note in found.notes) == 1
    rule = tomllib.loads(found.toml.replace("# keep_if", "keep_if"))["feedback"]["keep_if"]
    frame = pl.DataFrame({"Storno": [word or None for word in status]})
    assert expressions.passing(expressions.parse(rule, "keep_if"), frame).to_list() == [at % 9 > 0 for at in range(200)]


@pytest.mark.parametrize("word", ["storniert", "Cancelled", "annulée", "devuelto", "reso", "geannuleerd", "RETURNED"])
def test_rows_that_were_cancelled_are_named_with_the_rule_that_leaves_them_out(tmp_path, word):
    lines = [[*row, word if at % 9 == 0 else "ok"] for at, row in enumerate(rows())]
    header = ["Auftragsnr.", "Kunde", "Artikel", "Menge", "Datum", "Order's State"]
    path = write(tmp_path / "export.csv", header, lines, (0, 1, 2, 3, 4, 5))
    found = propose(path)
    assert sum(f"of 23 of 200 rows {word!r}" in note for note in found.notes) == 1
    feedback = tomllib.loads(found.toml.replace("# keep_if", "keep_if"))["feedback"]
    with warehouse.scratch() as con:
        kept = con.sql(f"select count(*) from read_csv('{path}', all_varchar = true) where {feedback['keep_if']}")
        assert kept.fetchall() == [(177,)]


def test_rows_with_another_status_are_not_named(tmp_path):
    lines = [[*row, "new" if at % 9 == 0 else "ok"] for at, row in enumerate(rows())]
    path = write(
        tmp_path / "export.csv", ["Order", "Customer", "Article", "Qty", "Date", "Status"], lines, tuple(range(6))
    )
    assert "keep_if" not in propose(path).toml
