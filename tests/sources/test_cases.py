"""Files as they are met: read rightly, or named and refused."""

import datetime as dt
import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import main
from pipeline.config.dataset import Dataset, Items
from pipeline.core.errors import UnreadableInput
from pipeline.preparation.published_split import read_pairs
from pipeline.sources import source_files
from pipeline.sources.catalog_reader import read_items
from pipeline.sources.sniffing.interactions import sniff
from tests.support.reading import by_itself, read_as, read_sniffed

CASES = Path(__file__).parent / "cases"
ROWS, USERS, ITEMS = 180, 30, 20
FIRST, LAST = dt.datetime(2023, 11, 15), dt.datetime(2024, 6, 2)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("name", "timed", "settings"),
    [
        ("json-lines.json", True, {}),
        ("comment-lines.txt", True, {"comment": "%", "header": False}),
        ("comment-lines-header.csv", True, {"comment": "#", "header": True}),
        ("zip.zip", True, {"delimiter": ","}),
        ("ns-utc.parquet", True, {}),
        ("newlines-in-quotes.csv", True, {"delimiter": ",", "quote": '"', "escape": ""}),
        ("backslash-escapes.csv", False, {"delimiter": ";", "escape": "\\"}),
        ("sep-line.csv", False, {"delimiter": ";", "skip_lines": 1}),
        ("returns-only.csv", True, {"delimiter": ","}),
        ("windows-1252.csv", False, {"encoding": "cp1252"}),
    ],
)
def test_files_that_were_read_wrongly_are_read(tmp_path, name, timed, settings, exact):
    found = read_sniffed(by_itself(CASES / name, tmp_path), tmp_path, exact)
    assert found.dataset.source.model_dump().items() >= settings.items()
    assert len(found.rows) == ROWS and not found.rejects
    assert len({row[0] for row in found.rows}) == USERS and len({row[1] for row in found.rows}) == ITEMS
    times = [row[3] for row in found.rows]
    assert all(FIRST <= time < LAST for time in times) if timed else set(times) == {None}


def test_windows_1252_is_said_to_be_a_guess(tmp_path):
    found = read_sniffed(by_itself(CASES / "windows-1252.csv", tmp_path), tmp_path)
    assert found.rows[0][1] == "Hero’s “Tale” 7 – €7"
    (note,) = found.notes
    assert "its encoding is a guess: cp1252" in note and "Hero’s" in note


def test_comment_lines_are_counted_and_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("# made by the shop\n\n# again\nuser,item,rating\n1,2,3\n# page 2\n1,3\n1,4,5\n\n1,5,4\n")
    for exact in (False, True):
        found = read_sniffed(path, tmp_path, exact)
        assert found.rejects == [(7, "too_few_fields"), (9, "empty_line")]
        assert found.ledger == {"kept": 3, "comment": 4, "too_few_fields": 1, "empty_line": 1}


def test_lines_before_the_header_are_skipped_and_counted(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("Sales report\nMade on: 2024-01-02\n\nuser,item,rating\n" + "a,x,3\nb,y\na,y,4\n" * 3)
    found = read_sniffed(path, tmp_path)
    assert found.dataset.source.skip_lines == 3 and found.ledger["comment"] == 3 and len(found.rows) == 6
    assert [line for line, _ in found.rejects] == [6, 9, 12]
    as_is = Dataset.model_validate({"name": "x", "source": {"files": ["log.csv"]}, "columns": {"rating": "rating"}})
    with pytest.raises(UnreadableInput, match="are in line 4, not in line 1; set skip_lines = 3"):
        read_as(path, as_is, tmp_path)


def test_a_header_may_begin_with_a_comment_mark_or_follow_comments(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("#user\titem\n" + "a\tx\nb\ty\n" * 3)
    found = read_sniffed(path, tmp_path)
    assert not found.dataset.source.comment and found.rows[0][:2] == ("a", "x") and len(found.rows) == 6
    path.write_text("% kind: bipartite\n% item user rating\n" + "1 2 3\n4 5 4\n" * 3)
    found = read_sniffed(path, tmp_path)
    assert found.dataset.columns.user == "user" and found.rows[0][:3] == ("2", "1", 3.0)


def test_a_header_without_a_name_for_row_numbers(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('"user","item","rating"\n' + "".join(f'"{n}","u{n}","i{n % 3}",{n % 5}\n' for n in range(9)))
    found = read_sniffed(path, tmp_path)
    assert found.rows[1][:3] == ("u1", "i1", 1.0) and len(found.rows) == 9 and found.notes


def binary(folder: Path, name: str) -> Path:
    """A file of a kind that is no text."""
    path, rows = folder / name, {"user": ["a"] * 50, "item": ["x"] * 50}
    match name:
        case "rows.xlsx":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("xl/workbook.xml", "<workbook/>")
        case "rows.db":
            with sqlite3.connect(path) as con:
                con.execute("create table t (user text)")
            con.close()
        case "rows.pkl":
            path.write_bytes(pickle.dumps(rows))
        case "rows.npz":
            np.savez(path, a=np.arange(50))
        case "rows.npy":
            np.save(path, np.arange(50))
        case "rows.feather":
            pl.DataFrame(rows).write_ipc(path)
        case "rows.tar":
            with tarfile.open(path, "w") as archive:
                archive.add(CASES / "zip.zip", "zip.zip")
        case "two.zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.csv", "user,item\n")
                archive.writestr("b.csv", "user,item\n")
        case "noise.bin":
            path.write_bytes(np.random.default_rng(0).integers(0, 32, 5000, dtype=np.uint8).tobytes())
    return path


TEXTS: dict[str, tuple[str, str]] = {
    "array.json": (json.dumps([{"user": "a", "item": "x"}] * 5), "one JSON document"),
    "pretty.json": (json.dumps({"rows": [{"user": "a"}] * 5}, indent=2), "one JSON document"),
    "literal.json": ("{'user': 'a', 'item': u'x'}\n" * 5, "Python literals"),
    "page.csv": ("\n<html>\n<body>Not found, sorry</body></html>\n", "an HTML page"),
    "rows.xml": ("<?xml version='1.0'?>\n<rows><row user='a'/></rows>\n", "an XML document"),
    "matrix.csv": (
        "user," + ",".join(f"m{n}" for n in range(30)) + "\n"
        + "".join(f"u{u}," + ",".join("" if (u + n) % 3 else str(n % 5 + 1) for n in range(30)) + "\n" for u in range(9)),
        "looks like a matrix",
    ),
    "ids.csv": (
        "," + ",".join(str(n) for n in range(1, 21)) + "\n"
        + "".join(f"{u}," + ",".join(str((u * n) % 2) for n in range(20)) + "\n" for u in range(9)),
        "looks like a matrix",
    ),
    "uneven.txt": (
        "".join(f"{u} " + " ".join(str((u * 7 + n * 3) % 40) for n in range(u % 9 + 1)) + "\n" for u in range(40)),
        "looks like an adjacency list",
    ),
    "baskets.csv": (
        "order,products\n" + "".join(f"{n},p{n % 7}|p{n % 5 + 7}|p{n % 3 + 20}\n" for n in range(30)),
        "looks like a basket list",
    ),
    "groceries.csv": (
        "".join(",".join(("milk", "bread", "eggs", "tea", "jam")[n % 3 : n % 3 + n % 4 + 1]) + "\n" for n in range(60)),
        "looks like a basket list",
    ),
    "behaviors.tsv": (
        "".join(f"{n}\tU{n % 9}\t2019-11-1{n % 9} 10:00:00\tN{n} N{n + 1}\tN{n}-0 N{n + 2}-1\n" for n in range(30)),
        "a log of impressions",
    ),
    "playlists.json": (json.dumps({"playlists": [{"tracks": ["x"]}] * 5}), "one JSON document"),
    "dump.sql": ("-- dump\nCREATE TABLE r (u int);\n" + "INSERT INTO r VALUES (1,2,3);\n" * 9, "an SQL dump"),
    "matrix.mtx": ("%%MatrixMarket matrix coordinate real general\n3 2 2\n1 1 5\n3 2 4\n", "a Matrix Market file"),
    "netflix.txt": ("1:\n7,3,2005-09-06\n8,5,2005-05-13\n" * 9, "Netflix Prize"),
    "aligned.txt": ("".join(f"u{n:<7}i{n % 7:<9}{n % 5}\n" for n in range(40)), "aligned by blanks"),
    "app.log": ("".join(f'10:00:0{n % 9} INFO {{"user": "u{n}", "item": "x"}}\n' for n in range(40)), "log lines with JSON"),
    "train.libsvm": ("".join(f"{n % 5} {n}:1 {n % 7 + 90}:1\n" for n in range(40)), "LIBSVM form"),
    "prose.txt": ("Films.\n\n" + "".join(f"The films {'and, more ' * (n % 9)}of shops. See below.\n" for n in range(40)), "no table"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rows.xlsx", "an Excel workbook"), ("rows.db", "an SQLite database"), ("rows.pkl", "a Python pickle"),
        ("rows.npz", "NumPy arrays"), ("rows.npy", "a NumPy array"), ("rows.feather", "an Arrow file"),
        ("rows.tar", "a tar archive"), ("two.zip", "a ZIP archive of 2 files"), ("noise.bin", "a binary file"),
        *((name, what) for name, (_, what) in TEXTS.items()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_interaction_file_is_named_and_no_toml_is_written(tmp_path, name, what, packed):
    if name in TEXTS:
        (tmp_path / name).write_text(TEXTS[name][0])
    else:
        binary(tmp_path, name)
    path = tmp_path / name
    if packed and not zipfile.is_zipfile(path):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    with pytest.raises(UnreadableInput, match=what) as error:
        sniff(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", ["html-page.csv", "bzip2.csv.bz2", "adjacency-list.txt"])
def test_init_exits_with_2_and_writes_nothing(tmp_path, name, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["init", str(CASES / name)]))
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["page.csv", "array.json", "rows.db", "rows.xlsx", "rows.pkl"])
def test_a_night_on_such_a_file_names_it_too(tmp_path, name):
    path = binary(tmp_path, name)
    if name in TEXTS:
        path.write_text(TEXTS[name][0])
    dataset = Dataset.model_validate({"name": "x", "source": {"files": [name], "delimiter": ","}})
    with pytest.raises(UnreadableInput, match=f"{name} is "):
        read_as(path, dataset, tmp_path)


def explode_settings(text: str, **source) -> Dataset:
    return Dataset.model_validate({"name": "x", "source": {"files": ["a"], **source}, "columns": {"item": text}})


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_line_of_several_items_is_kept_whole_or_rejected(tmp_path, kind):
    cells = [("a", "x|y"), ("b", f"x|{'9' * 1100}|z"), ("c", "w")]
    path = tmp_path / f"items.{kind}"
    frame = pl.DataFrame(cells, schema=["user", "item"], orient="row")
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](path)
    found = read_as(path, explode_settings("item", explode="|"), tmp_path)
    assert [user + item for user, item, *_ in found.rows] == ["ax", "ay", "cw"]
    assert found.ledger == {"kept": 3, "id_too_long": 1}


@pytest.mark.parametrize(
    ("content", "source", "pairs", "ledger"),
    [
        ("user,item\na,x|y\nb,|z|\nc,\n", {"explode": "|"}, ["ax", "ay", "bz"], {"kept": 3, "empty_item": 1}),
        ("1 2 3\n4\n5 6\n", {"explode": " ", "delimiter": " ", "header": False, "column_names": ["user", "item"]},
         ["12", "13", "56"], {"kept": 3, "too_few_fields": 1}),
        ("user;item\na;['x', 'y']\nb;[]\n", {"explode": ","}, ["ax", "ay"], {"kept": 2, "empty_item": 1}),
        ('{"user": "a", "item": ["x", 2]}\n{"user": "b", "item": []}\n', {"explode": ","}, ["ax", "a2"],
         {"kept": 2, "empty_item": 1}),
    ],
)  # fmt: skip
def test_explode_makes_a_row_of_each_item(tmp_path, content, source, pairs, ledger):
    path = tmp_path / "a"
    path.write_text(content)
    found = read_as(path, explode_settings("item", **source), tmp_path)
    assert [user + item for user, item, *_ in found.rows] == pairs and found.ledger == ledger


def test_the_adjacency_list_is_read_as_the_message_says(tmp_path):
    path = CASES / "adjacency-list.txt"
    settings = {"header": False, "column_names": ["user", "item"], "delimiter": " ", "explode": " "}
    found = read_as(path, explode_settings("item", **settings), tmp_path)
    assert len(found.rows) == ROWS and found.rows[0][:2] == ("1", "3")


def test_json_lines_are_rows_or_rejects(tmp_path):
    lines = [
        '{"user": {"id": 7}, "item": "x", "stars": 4.50, "at": 1700000000}', "", "{not json}", '["a"]', "\xff",
        '{"user": {"id": "8"}, "item": ["x"], "stars": 1, "at": 1}', '{"user": {"id": 8}, "stars": 1, "at": 1}',
        '{"user": {"id": 12345678901234567890}, "item": 1.0, "stars": NaN, "at": 1}',
        '{"user": {"id": 12345678901234567890}, "item": 1.0, "stars": 3, "at": 1700000000}',
        r'{"user": {"id": "a\ud83d"}, "item": "x", "stars": 3, "at": 1}', r'{"user": {"id": 1}, "\uDE00": "x"}',
        r'{"user": {"id": "\ud83d\ude00"}, "item": "\\ud83d", "stars": 3, "at": 1}',
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    columns = {"user": "user.id", "item": "item", "rating": "stars", "timestamp": "at"}
    dataset = Dataset.model_validate({"name": "x", "source": {"files": ["a.jsonl"]}, "columns": columns})
    found = read_as(path, dataset, tmp_path)
    kept = [("7", "x", 4.5), ("12345678901234567890", "1.0", 3.0), ("\U0001f600", "\\ud83d", 3.0)]
    assert [row[:3] for row in found.rows] == kept
    reasons = ["empty_line", "bad_json", "bad_json", "bad_encoding", "nested_value", "empty_item", "bad_json"]
    halves = [(10, "bad_encoding"), (11, "bad_encoding")]  # of surrogate pairs
    assert found.rejects == [*enumerate(reasons, start=2), *halves]
    wrong = dataset.model_copy(update={"columns": dataset.columns.model_copy(update={"user": "usr.id"})})
    with pytest.raises(UnreadableInput, match=r"no column 'usr\.id'"):
        read_as(path, wrong, tmp_path)


NOON = dt.datetime(2024, 3, 9, 12, 0, 1)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([NOON] * 3, pa.timestamp("ns", "UTC")), pa.array([NOON] * 3, pa.timestamp("ns")),
        pa.array([NOON] * 3, pa.timestamp("ms", "Europe/Berlin")), pa.array([NOON] * 3, pa.timestamp("s")),
        pa.array([str(NOON)] * 3).dictionary_encode(),
    ],
    ids=["ns utc", "ns", "ms berlin", "s", "dictionary"],
)  # fmt: skip
@pytest.mark.parametrize("exact", [False, True])
def test_parquet_times_of_every_type(tmp_path, times, exact):
    table = pa.table({
        "user": pa.array([Decimal(12345678901234567890)] * 3, pa.decimal128(20, 0)),
        "item": pa.array(["é".encode(), b"b", b"c"]),
        "rating": pa.array([Decimal("4.50")] * 3), "timestamp": times,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    found = read_sniffed(tmp_path / "log.parquet", tmp_path, exact)
    assert found.rows == [("12345678901234567890", item, 4.5, NOON) for item in "ébc"]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([["x", "y"]] * 3), r"'item' \(columns.item\) has the type VARCHAR\[\].*unnest"),
        (pa.array([{"id": 1}] * 3), r"'item' \(columns.item\) has the type STRUCT.*column of its own"),
    ],
)
def test_nested_parquet_columns_are_named_with_their_type(tmp_path, column, kind):
    pq.write_table(pa.table({"user": ["a", "b", "c"], "item": column}), tmp_path / "log.parquet")
    dataset = Dataset.model_validate({"name": "x", "source": {"files": ["log.parquet"]}})
    with pytest.raises(UnreadableInput, match=kind):
        read_as(tmp_path / "log.parquet", dataset, tmp_path)
    with pytest.raises(UnreadableInput, match=r"'item' \(columns.item\) has the type (list|struct)<"):
        sniff(tmp_path / "log.parquet")


def test_times_beyond_the_calendar_do_not_stop_init(tmp_path):
    times = pa.array([2**62, *(1_700_000_000_000_000 + day * 86_400_000_000 for day in range(20))], pa.timestamp("us"))
    table = pa.table({"user": list("ab") * 10 + ["c"], "item": ["x"] * 21, "at": times})
    pq.write_table(table, tmp_path / "log.parquet")
    found = read_sniffed(tmp_path / "log.parquet", tmp_path)
    assert found.dataset.columns.timestamp == "at" and found.ledger["kept"] == 20
    assert found.rejects == [(1, "timestamp_unreadable")]


@pytest.mark.parametrize("exact", [True, False])
def test_not_a_number_in_a_parquet_id_is_a_missing_id(tmp_path, exact):
    users = pa.array([1.0, float("nan"), None, 2.5], pa.float64())  # as pandas stores whole numbers with gaps
    pq.write_table(pa.table({"user": users, "item": ["a", "b", "c", "nan"]}), tmp_path / "log.parquet")
    dataset = Dataset.model_validate({"name": "x", "source": {"files": ["log.parquet"]}})
    found = read_as(tmp_path / "log.parquet", dataset, tmp_path, exact)
    assert [row[:2] for row in found.rows] == [("1.0", "a"), ("2.5", "nan")]
    assert found.ledger == {"kept": 2, "empty_user": 2}


def test_only_a_damaged_parquet_file_is_called_damaged(tmp_path):
    content = (CASES / "ns-utc.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(content[:40] + b"\0" * 200 + content[240:])
    dataset = Dataset.model_validate(
        {"name": "x", "source": {"files": ["log.parquet"]}, "columns": {"user": "user_id", "item": "item_id"}}
    )
    with pytest.raises(UnreadableInput, match="damaged"):
        read_as(tmp_path / "log.parquet", dataset, tmp_path)


def test_a_parquet_or_gzip_file_is_known_without_its_suffix(tmp_path):
    (tmp_path / "events.csv").write_bytes((CASES / "ns-utc.parquet").read_bytes())
    assert len(read_sniffed(tmp_path / "events.csv", tmp_path).rows) == ROWS
    (tmp_path / "packed.csv").write_bytes(gzip.compress((CASES / "sep-line.csv").read_bytes()))
    assert len(read_sniffed(tmp_path / "packed.csv", tmp_path).rows) == ROWS


def test_a_zip_of_one_file_and_its_rubbish(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data/log.csv", (CASES / "comment-lines-header.csv").read_bytes())
        archive.writestr("__MACOSX/data/._log.csv", b"\0\1")
        archive.writestr("data/.DS_Store", b"\0\1")
    (tmp_path / "log.zip").write_bytes(packed.getvalue())
    assert len(read_sniffed(tmp_path / "log.zip", tmp_path).rows) == ROWS


WORDS: dict[str, str] = {
    "latin-1": "Señor|Año nuevo|El niño|Corazón|Mañana", "cp1252": "Hero’s “Tale” – €|L’été|Œuvres|Noël",
    "cp1250": "Łódź|Miś|Człowiek z żelaza|Nóż w wodzie|Rękopis", "iso8859-2": "Žert|Pelíšky|Příběhy obyčejného šílenství",
    "cp1251": "Война и мир|Анна Каренина|Сталкер|Солярис", "koi8-r": "Война и мир|Анна Каренина|Сталкер|Солярис",
    "cp1253": "Ο Θίασος|Το λιβάδι που δακρύζει|Κυνόδοντας", "cp1254": "Kış Uykusu|Uzak|Üç Maymun|Ağrı|Eşkıya",
    "cp1255": "ואלס עם באשיר|הערת שוליים|לבנון", "cp1256": "سواق الأتوبيس|الأرض|باب الحديد",
    "cp932": "千と千尋の神隠し|七人の侍|となりのトトロ|君の名は。", "euc_jp": "千と千尋の神隠し|七人の侍|となりのトトロ|君の名は。",
    "gb18030": "卧虎藏龙|霸王别姬|英雄|大红灯笼高高挂", "big5": "悲情城市|牯嶺街少年殺人事件|飲食男女", "cp949": "기생충|올드보이|살인의 추억|괴물",
    "mac-roman": "Señor|Garçon|être et avoir|Größe|Noël", "cp850": "Señor|Garçon|être et avoir|Größe|Noël",
    "utf-16": "Señor|Война|英雄", "utf-16-le": "Señor rojo|Mañana", "utf-32": "Señor|英雄",
}  # fmt: skip


@pytest.mark.parametrize("encoding", WORDS)
def test_ids_are_never_mojibake(tmp_path, encoding):
    words = WORDS[encoding].split("|")
    path = tmp_path / "log.csv"
    path.write_bytes("".join(["user,item\n", *(f"u{n},{words[n % len(words)]}\n" for n in range(60))]).encode(encoding))
    found = read_sniffed(path, tmp_path)
    assert [row[1] for row in found.rows] == [words[n % len(words)] for n in range(60)]
    assert found.notes or encoding.startswith("utf-")


def test_quotes_and_currencies_after_many_umlauts_are_read(tmp_path):
    path = tmp_path / "log.csv"
    words = [*(f"Gerät für Größe {n}" for n in range(2000)), "Löwe „groß“ – 5 €"]
    path.write_bytes("".join(["user,item\n", *(f"u{n % 9},{word}\n" for n, word in enumerate(words))]).encode("cp1252"))
    found = read_sniffed(path, tmp_path)
    assert found.dataset.source.encoding == "cp1252" and [row[1] for row in found.rows] == words


def test_a_line_in_another_encoding_is_rejected_not_the_others(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item\nu1,Señor\nu2,Größe\n".encode() + "u3,Año\n".encode("latin-1") + b"u4,x\n")
    found = read_sniffed(path, tmp_path)
    assert found.dataset.source.encoding == "utf-8" and found.rejects == [(4, "bad_encoding")]
    assert [row[1] for row in found.rows] == ["Señor", "Größe", "x"] and "1 of the first lines" in found.notes[0]


@pytest.mark.parametrize(
    ("encoding", "bad"), [("cp1252", b"\x81"), ("gb18030", b"\xff"), ("utf-16-le", b"\x00\xd8x\x00")]
)
def test_bytes_that_an_encoding_lacks_reject_their_line_only(tmp_path, encoding, bad):
    path = tmp_path / "log.csv"
    good = "u1,é\n".encode(encoding)
    path.write_bytes(
        "user,item\n".encode(encoding) + good + "u2,".encode(encoding) + bad + "\n".encode(encoding) + good
    )
    dataset = Dataset.model_validate({"name": "x", "source": {"files": ["log.csv"], "encoding": encoding}})
    found = read_as(path, dataset, tmp_path)
    assert [row[:2] for row in found.rows] == [("u1", "é")] * 2 and found.rejects == [(3, "bad_encoding")]


@pytest.mark.parametrize("encoding", ["klingon", "base64", "idna"])
def test_an_encoding_that_is_none_is_refused(encoding):
    with pytest.raises(ValueError, match="encoding"):
        Dataset.model_validate({"name": "x", "source": {"encoding": encoding}})


@pytest.mark.parametrize(("given", "kept"), [("UTF8", "utf-8"), ("latin1", "latin-1"), ("Windows-1252", "cp1252")])
def test_encodings_have_one_name(given, kept):
    assert Dataset.model_validate({"name": "x", "source": {"encoding": given}}).source.encoding == kept


def test_escapes_outside_quotes_and_before_other_characters(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('user;item\na\\;b;"x\\"y"\n"C:\\dir";"""q"""\nu;"\\\\"\n')
    source = {"files": ["log.csv"], "delimiter": ";", "escape": "\\"}
    found = read_as(path, Dataset.model_validate({"name": "x", "source": source}), tmp_path)
    assert [row[:2] for row in found.rows] == [("a;b", 'x"y'), ("C:\\dir", '"q"'), ("u", "\\")]


def test_large_files_with_comments_are_read_fast_and_exactly(tmp_path):
    """Only the blocks that need it are read line by line, and both readers agree."""
    path = tmp_path / "log.csv"
    lines = [f"u{n % 99},i{n % 77},{n % 5}\n" for n in range(60_000)]
    lines[50_000:50_000] = ["# page 2\n"]
    path.write_text("# page 1\n\nuser,item,rating\n" + "".join(lines))
    fast, exact = read_sniffed(path, tmp_path), read_sniffed(path, tmp_path, exact=True)
    assert fast.rows == exact.rows and fast.ledger == exact.ledger == {"kept": 60_000, "comment": 3}


def test_settings_of_layouts_enter_a_lake_key_only_where_they_are_set():
    usual = source_files.layout_settings(Dataset.model_validate({"name": "x"}))
    assert set(usual["layout"]) == {"delimiter", "header", "column_names", "encoding", "quote"}
    for key, value in {"escape": "\\", "comment": "#", "skip_lines": 1, "explode": "|"}.items():
        changed = source_files.layout_settings(Dataset.model_validate({"name": "x", "source": {key: value}}))
        assert changed["layout"] == usual["layout"] | {key: value}


def test_a_published_split_may_be_an_adjacency_list(tmp_path):
    (tmp_path / "test.txt").write_text("1 2 3\n4 5\n")
    settings = {"header": False, "column_names": ["user", "item"], "delimiter": " ", "explode": " "}
    pairs = read_pairs(tmp_path, "test.txt", explode_settings("item", **settings), tmp_path)
    assert pairs.rows() == [("1", "2"), ("1", "3"), ("4", "5")]


def test_a_catalog_may_be_json_lines_with_lists(tmp_path):
    (tmp_path / "meta.json").write_text(
        '{"id": 1, "title": "Heat", "genres": ["Crime", "Drama"], "extra": {"a": 1}}\n{"id": null}\n'
    )
    items = Items(files=["meta.json"], id="id", title="title", attributes={"genres": "|"}, columns=[])
    catalog, counts, rejects = read_items(tmp_path, items.files, items, tmp_path)
    assert catalog.rows() == [("1", "Heat", '{"genres": ["Crime", "Drama"]}')] and counts["skipped"] == 1
    assert rejects.select("line", "reason").rows() == [(2, "empty_item")]
