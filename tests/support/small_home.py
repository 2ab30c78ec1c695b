"""A small published home with refused and crashed nights, made without training, and a search of it."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flows.cli import main
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.sources import incremental, parquet_writer
from pipeline.sources.file_reader import FileResult
from pipeline.storage import journal, warehouse
from pipeline.storage.generations import go_live

NIGHTS = [f"2026010{n}T000000.000Z-aaaa" for n in (1, 2, 3, 4)]


OLD, REFUSED, CRASHED, PUBLISHED = NIGHTS


AUDIENCES = "CREATE TABLE audiences (item_id VARCHAR, rank INTEGER, user_id VARCHAR, hint VARCHAR)"


@dataclass
class Small:
    """A home with two generations, a refused and a crashed night, what incremental sources read, and Prefect's logs."""

    home: Home
    user: str
    others: list[str]
    delimiter: str = ","
    quote: str = '"'

    def line(self, user: str) -> str:
        """A source line that can't be read."""
        needed = self.quote and (self.delimiter in user or self.quote in user)
        field = self.quote + user.replace(self.quote, self.quote * 2) + self.quote if needed else user
        return self.delimiter.join([field, "i1", "not a number"])

    def build(self, lines: list[str]) -> "Small":
        """Write it; `lines`: rejected ones, all of which name the user."""
        raws = [*lines, self.line(self.user), *map(self.line, self.others)]
        for run_id in NIGHTS:
            self.night(run_id, raws)
        self.generation(OLD, raws)
        self.generation(PUBLISHED, raws)
        go_live(self.home, "tiny", OLD)
        go_live(self.home, "tiny", PUBLISHED)
        live = self.home.live("tiny")
        live.with_name(f"{live.name}.wal.stray-before-{PUBLISHED}").write_bytes(b"\0\1" + self.user.encode())
        self.part(raws)
        self.prefect()
        return self

    def night(self, run_id: str, raws: list[str]) -> None:
        source = {"files": ["*.csv"], "delimiter": self.delimiter, "quote": self.quote}
        tree = {"dataset": {"name": "tiny", "source": source}, "models": {"popularity": {}}}
        run = Run(run_id=run_id, home_root=self.home.root, data=self.home.root.parent, started_at=utcnow(),
                  settings=Settings.model_validate(tree))  # fmt: skip
        journal.open_run(run)
        at, user, raw = journal.folder(run), self.user, raws[0]
        rejects(raws).write_parquet(at / parquet_writer.REJECTED)
        journal.note(run, "warning: seen: 1 bad row", {"user_id": [user], "item_id": ["i1"], "raw": [raw[:80]]})
        (at / "notes.txt").write_text(
            f"warning: nothing_seen: 1 bad row, e.g. user_id {user}, item_id i1 (wanted: x)\n"
        )
        (at / "trials.jsonl").write_text(json.dumps({"number": 1, "reason": f"user_id {user} is odd"}) + '\n{"torn": "')
        outcome = "crashed" if run_id == CRASHED else "published"
        old = f"x: 1 bad row, e.g. user_id {user}, item_id i1 (wanted: y); a.csv line 3 (too_few_fields): {raw[:80]!r}"
        if run_id == REFUSED:
            journal.close_run(run, "refused", "seen: 1 bad row", {"user_id": [user, *self.others], "raw": [raw]})
        else:
            journal.close_run(run, outcome, old if run_id != PUBLISHED else None)
        (at / "errors.txt").write_text(f"Traceback\nValueError: could not read {user!r} of {raw!r}\n")

    def generation(self, run_id: str, raws: list[str]) -> None:
        path = self.home.generation("tiny", run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        users = [self.user, *self.others]
        with warehouse.connect(path) as con:
            for table in (
                tables.USERS,
                tables.ITEMS,
                tables.BIASES,
                tables.USER_VECTORS,
                tables.RUNS,
                tables.REJECTED_ROWS,
            ):
                con.execute(table.ddl)
            con.execute("CREATE TABLE recommendations (user_id VARCHAR, item_id VARCHAR, rank INTEGER)")
            con.execute(AUDIENCES)
            for number, user in enumerate(users):
                con.execute("INSERT INTO users VALUES ($u, $n, NULL, NULL)", {"u": user, "n": number})
                con.execute("INSERT INTO biases VALUES ('mf', 'user', $u, 0.5), ('mf', 'item', $i, 0.5)",
                            {"u": user, "i": f"i{number}"})  # fmt: skip
                con.execute("INSERT INTO user_vectors VALUES ($u, 'mf', [0.5])", {"u": user})
                con.execute("INSERT INTO recommendations VALUES ($u, 'i1', 1), ($u, 'i2', 2)", {"u": user})
                con.execute("INSERT INTO audiences VALUES ('i1', $n, $u, NULL)", {"n": number, "u": user})
            con.execute("INSERT INTO items VALUES ('i1', 'A title', 3, NULL, NULL)")
            warehouse.insert(con, "rejected_rows", rejects(raws))
            warehouse.insert(con, "runs", journal.read(self.home, "tiny", tables.RUNS))

    def part(self, raws: list[str]) -> None:
        at = incremental.folder(self.home.lake("tiny") / "1_raw") / "0123456789abcdef"
        at.mkdir(parents=True)
        with parquet_writer.PartWriter(at, "a.csv") as part:
            for user in [self.user, *self.others]:
                part.keep((user, "i1", 3.0, None))
            for number, raw in enumerate(raws):
                part.reject(number, None, Reason.RATING_NOT_A_NUMBER, raw)
        incremental.complete(at, FileResult(dict(part.ledger), None))

    def prefect(self) -> None:
        """A log that names the user, in a row and in free pages."""
        path = self.home.prefect / "prefect.db"
        path.parent.mkdir()
        with closing(sqlite3.connect(path)) as con:
            con.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, message TEXT)")
            con.execute("INSERT INTO log (message) VALUES (?)", (f"warning: e.g. user_id {self.user}, item_id i1",))
            con.executemany("INSERT INTO log (message) VALUES (?)", [(f"gone {self.user} " * 50,)] * 40)
            con.commit()
            con.execute("DELETE FROM log WHERE message LIKE 'gone%'")
            con.commit()

    def rows_of_others(self) -> list:
        """All rows of other users, of every published file and part."""
        found = []
        for path in [self.home.live("tiny"), *sorted(self.home.generations("tiny").glob("*.duckdb"))]:
            with warehouse.connect(path, read_only=True) as con:
                for table, column in OF_USERS.items():
                    where = f"list_contains($others, {column})"
                    query = f"SELECT * FROM {table} WHERE {where} ORDER BY ALL"
                    found.append((path.name, table, con.sql(query, params={"others": self.others}).fetchall()))
        for path in sorted(self.home.lake("tiny").glob(f"1_raw/files/*/{parquet_writer.INTERACTIONS}")):
            frame = pl.read_parquet(path).with_columns(pl.col("user_id", "item_id").cast(pl.String))
            found.append((path.name, frame.filter(pl.col("user_id").is_in(self.others)).rows()))
        return found


OF_USERS = {
    "users": "user_id",
    "recommendations": "user_id",
    "audiences": "user_id",
    "user_vectors": "id",
    "biases": "id",
}


def rejects(raws: list[str]) -> pl.DataFrame:
    rows = [("", "a.csv", n, None, "rating_not_a_number", raw) for n, raw in enumerate(raws)]
    return pl.DataFrame(rows, schema=tables.REJECTED_ROWS.schema, orient="row")


def everything_in(path: Path) -> list[str]:
    """Each text of a file, decoded, whatever it is; and its bytes, for ids that stand there as they are."""
    content = path.read_bytes()
    texts = [content.decode("utf-8", "replace"), content.decode("unicode_escape", "replace")]
    if content[8:12] == b"DUCK":
        with warehouse.connect(path, read_only=True) as con:
            for (table,) in con.sql("SELECT table_name FROM duckdb_tables()").fetchall():
                texts += [str(cell) for row in con.sql(f"FROM {table}").fetchall() for cell in row]
    elif content.startswith(b"PAR1"):
        texts += [str(cell) for row in pl.read_parquet(path).rows() for cell in row]
    elif path.suffix in (".json", ".jsonl"):
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            try:
                stack = [json.loads(line)] if line else []
            except ValueError:
                continue
            while stack:
                value = stack.pop()
                if isinstance(value, dict):
                    stack += [*value, *value.values()]
                elif isinstance(value, list):
                    stack += value
                else:
                    texts.append(str(value))
    return texts


def still_names(small: Small) -> list[str]:
    """Files that have the id; where it begins another id, that one does not count."""
    longer = [other for other in small.others if small.user in other]
    found = []
    for path in sorted(small.home.root.rglob("*")):
        if not path.is_file():
            continue
        for text in everything_in(path):
            for other in longer:
                for spelt in {other, repr(other)[1:-1], json.dumps(other)[1:-1], other.replace('"', '""')}:
                    text = text.replace(spelt, "")
            if small.user in text:
                found.append(f"{path.name}: {text[max(0, text.index(small.user) - 60) :][:160]!r}")
                break
    return found


USER = "somebody-with-a-long-id"


def command(small: Small, *words: str) -> int:
    return main(["--home", str(small.home.root), *words])
