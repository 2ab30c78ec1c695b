"""What every row stands on: a folder of its own with small sources, a home, nights, and the one promise."""

import csv
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.filesystem import sha256
from pipeline.core.paths import Home
from pipeline.publishing.logical_hash import hash_tables
from pipeline.storage import journal, lake, warehouse
from pipeline.storage.generations import live_run_id

from .child import Ended, Night

DATASET = "tiny"
HEADER = ("user", "item", "rating", "t")
TOML = """name = "tiny"
[source]
files = ["*.csv"]
{source}
[columns]
user = "user"
item = "item"
rating = "rating"
timestamp = "t"
{rest}
"""
CHEAP = '[split]\nkind = "leave_one_out"\n[models.popularity]\n[models.ease]\n'
WITH_GRADIENT = CHEAP + "[models.mf]\nepochs = 4\nembedding_dim = 4\n"
WITH_SEARCH = WITH_GRADIENT + '[models.ease.search]\nl2 = [5.0, 50.0]\n[search]\nsampler = "grid"\n'
STAMPED = ("recommendations", "similar_items", "popular_items")
"""Tables whose every row names its night."""
WHOLE: set[tuple[str, str]] = set()
"""Digests of published files that were found whole, and the night they were checked for."""


def rows(n_users: int = 40, n_items: int = 25, start: int = 1_000_000) -> list[tuple[str, str, int, int]]:
    """User, item, rating, time: a few rows a user, all times different."""
    return [
        (f"u{u}", f"i{(u * 7 + i * 3) % n_items}", 1 + (u * i) % 5, start + u * 50 + i)
        for u in range(n_users)
        for i in range(u % 6 + 4)
    ]


class Ground:
    """A row's folder."""

    def __init__(self, root: Path, recipe: str = CHEAP, source: str = "", rest: str = ""):
        self.root, self.source, self.home = root, root / "source", Home(root / "home")
        self.source.mkdir(parents=True, exist_ok=True)
        (root / "tiny.toml").write_text(TOML.format(source=source, rest=rest))
        (root / "recipe.toml").write_text(recipe)
        self.logs = 0

    def write(
        self, records: Iterable[tuple], name: str = "a.csv", header: tuple = HEADER, delimiter: str = ","
    ) -> Path:
        """Put a CSV of records into the source."""
        path = self.source / name
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            writer.writerows([header, *records])
        return path

    def start(self, *overrides: str, words: Iterable[str] = (), prefect: bool = False, **limits: Any) -> Night:
        """Begin a night; `limits` as Night takes them."""
        self.logs += 1
        sets = [word for override in ("threads=1", *overrides) for word in ("--set", override)]
        mode = [] if prefect else ["--no-prefect"]
        arguments = ["--home", str(self.home.root), "run", str(self.root / "tiny.toml"), *mode, *words, *sets]
        arguments += ["--recipe", str(self.root / "recipe.toml"), "--data", str(self.source)]
        return Night(arguments, self.root / f"night-{self.logs}.log", **limits)

    def night(self, *overrides: str, code: int | None = 0, says: str = "", **limits: Any) -> Ended:
        """A night to its end; AssertionError where it doesn't end with `code`, doesn't say `says`, or never comes to what
        was planted. Without `code` it may end in any way, also before that."""
        ended = self.start(*overrides, **limits).end(met=False)
        assert code is None or ended.code == code, f"exit {ended.code}, not {code}: {ended.output[-900:]}"
        assert says in ended.output, f"didn't say {says!r}: {ended.output[-900:]}"
        assert "Traceback" not in ended.output, ended.output[-1500:]
        return ended if code is None else ended.met()

    def run_ids(self) -> list[str]:
        """All nights, oldest first."""
        return journal.run_ids(self.home, DATASET)

    def record(self, number: int = -1) -> dict[str, Any]:
        """run.json of a night, by its place."""
        return journal.read_run(self.home, DATASET, self.run_ids()[number])

    def notes(self, number: int = -1) -> str:
        """What a night noted."""
        return "\n".join(journal.notes(self.home, DATASET, self.run_ids()[number]))

    def ask(self, query: str, **params: Any) -> list[tuple]:
        """Rows of the live tables."""
        with warehouse.connect(self.home.live(DATASET), read_only=True) as con:
            return con.sql(query, params=params or None).fetchall()

    def skipped(self, number: int = -1) -> dict[str, bool]:
        """Stage to whether it was there already, of a night."""
        path = self.home.journal(DATASET) / self.run_ids()[number]
        lines = (path / "stages.jsonl").read_text().splitlines() if (path / "stages.jsonl").exists() else []
        return {r["stage"]: r["skipped"] for r in map(json.loads, filter(None, lines))}

    def copy_of(self, other: "Ground") -> "Ground":
        """Take over another's sources and home, hard links within it kept."""
        for path in ("source", "home"):
            subprocess.run(["rm", "-rf", str(self.root / path)], check=True)
            subprocess.run(["cp", "-a", str(other.root / path), str(self.root / path)], check=True)
        for path in ("tiny.toml", "recipe.toml"):
            (self.root / path).write_text((other.root / path).read_text())
        return self

    def prepared(self) -> Run:
        """A night that is conducted in this process."""
        toml, recipe = str(self.root / "tiny.toml"), str(self.root / "recipe.toml")
        return prepare(toml, recipe, str(self.source), str(self.home.root), ["threads=1"])

    def promise(self) -> str | None:
        """Check the one promise and return the night that is live; None where nothing is published yet.

        The live file opens, is one of the generations, all its rows are of that one night, and their hash is the
        one that the audit wrote; no final name stands for anything partial; every journal can be read.
        """
        for run_id in self.run_ids():
            assert journal.read_run(self.home, DATASET, run_id)["outcome"], run_id
        for folder in self.home.lake(DATASET).glob("[1-7]_*/[!.]*-" + "[0-9a-f]" * 16):
            assert lake.is_complete(folder), f"{folder.name} stands under its final name and is not whole"
        for generation in self.home.generations(DATASET).glob("[!.]*.duckdb"):
            self._whole(generation, generation.stem)
        live = self.home.live(DATASET)
        if not live.exists():
            return None
        run_id = live_run_id(self.home, DATASET)
        assert run_id, "the live file is no generation"
        self._whole(live, run_id)
        return run_id

    def _whole(self, path: Path, run_id: str) -> None:
        content = (sha256(path), run_id)  # a live file and its generation, or a home and its copy, have the same bytes
        if content in WHOLE:
            return
        with warehouse.scratch() as con, warehouse.attached(con, path, "checked"):
            con.execute("USE checked")
            try:
                for table in STAMPED:
                    found = con.sql(f"select distinct run_id from {table}").fetchall()
                    assert found in ([(run_id,)], []), f"{path.name}: rows of {found} in {table}"
                output = con.sql("select logical_hash from runs where run_id = $id", params={"id": run_id}).fetchall()
                assert output == [(hash_tables(con, run_id),)], f"{path.name}: not as it was audited"
            finally:
                con.execute("USE memory")
        WHOLE.add(content)


def refused(ground: Ground, live: str | None, **how: Any) -> str:
    """A night that has to exit 3 and leave `live` as it was; the reason it gave."""
    ground.night(code=3, **how)
    assert ground.promise() == live, "a refused night changed what is live"
    record = ground.record()
    assert record["outcome"] == "refused" and record["reason"], record
    return str(record["reason"])
