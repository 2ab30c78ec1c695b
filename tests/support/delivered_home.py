"""A home whose nights are built from rows, without training, for tests of destinations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from pipeline.config.run import Run, moment_of, utcnow
from pipeline.config.settings import Settings
from pipeline.core.filesystem import sha256
from pipeline.core.paths import Home
from pipeline.publishing.database import create_views
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import checksums, home_identity, journal, warehouse
from pipeline.storage.generations import OLDEST_READABLE, go_live

USERS, ITEMS, TOP = 30, 12, 5


@dataclass
class DeliveredHome:
    """A home with the data set `shop`. `publish`: its section of the settings."""

    root: Path
    publish: dict[str, Any]

    @property
    def home(self) -> Home:
        """As the pipeline sees it."""
        return Home(self.root)

    def night(self, number: int, rows: dict[str, list[dict[str, Any]]] | None = None, live: bool = True) -> Run:
        """Publish night `number` of January 2026. All scores of it are `number`; `rows` replace those of a table."""
        run_id = f"202601{number:02d}T000000.000Z-aaaa"
        settings = {"dataset": {"name": "shop"}, "models": {"popularity": {}}, "publish": self.publish}
        run = Run(
            run_id=run_id, home_root=self.root, data=self.root, started_at=moment_of(run_id) or utcnow(),
            settings=Settings.model_validate(settings),
        )  # fmt: skip
        home_identity.settle(self.home)
        journal.open_run(run)
        path = self.home.generation("shop", run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        build(path, {**rows_of(run_id, number), **(rows or {})})
        checksums.record_generation(self.home, "shop", run_id, sha256(path))
        if live:
            go_live(self.home, "shop", run_id)
            journal.close_run(run, "published")
        return run


def rows_of(run_id: str, number: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of a night: lists of USERS with TOP items each."""
    when, score = utcnow(), float(number)
    seen = {"n_interactions": 3, "first_seen": when, "last_seen": when}
    return {
        "recommendations": [
            {"user_id": f"u{user:02d}", "rank": rank, "item_id": f"i{(user + rank) % ITEMS:02d}", "score": score,
             "source": "model", "model": "ease", "run_id": run_id, "generated_at": when, "list_id": f"l{user}"}
            for user in range(USERS) for rank in range(1, TOP + 1)
        ],
        "items": [{"item_id": f"i{item:02d}", "title": f"Title {item} of {number}", **seen} for item in range(ITEMS)],
        "users": [{"user_id": f"u{user:02d}", **seen} for user in range(USERS)],
        "biases": [{"model": "ease", "kind": "user", "id": "u01", "bias": 0.5},
                   {"model": "ease", "kind": "item", "id": "i02", "bias": -1.5}],
        "item_vectors": [{"id": f"i{item:02d}", "model": "ease", "vector": [0.1 * item, -1e-20]} for item in range(2)],
        "metrics": [
            {"run_id": run_id, "model": "ease", "split": split, "protocol": protocol, "metric": "ndcg", "cutoff": 10,
             "segment": "all", "value": 0.123456789, "ci_low": 0.1, "ci_high": 0.2, "n": 30}
            for split in ("valid", "test") for protocol in ("full", "sampled_99")
        ],
        "interactions_summary": [{"rows": 90, "users": USERS, "items": ITEMS, "density": 0.25,
                                  "first_timestamp": when, "last_timestamp": when}],
        "runs": [{"run_id": run_id, "dataset": "shop", "recipe": "nightly", "outcome": "published",
                  "started_at": when, "finished_at": when, "champion": "ease", "code_version": "1"}],
    }  # fmt: skip


def build(path: Path, rows: dict[str, list[dict[str, Any]]], changed: dict[str, Table] | None = None) -> None:
    """Write a published file with every table and view; `changed`: tables with other columns than usual."""
    if changed is None:
        path.write_bytes(empty_file())
    else:
        _create(path, changed)
    columns = {table.name: (changed or {}).get(table.name, table) for table in tables.PUBLISHED}
    with _attached(path) as con, warehouse.transaction(con):
        for name, found in rows.items():
            warehouse.insert(con, name, pl.DataFrame(found, schema=columns[name].schema, orient="row"))


@cache
def empty_file() -> bytes:
    """A published file without rows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.duckdb"
        _create(path, {})
        return path.read_bytes()


def _create(path: Path, changed: dict[str, Table]) -> None:
    with _attached(path) as con, warehouse.transaction(con):
        for table in tables.PUBLISHED:
            con.execute(changed.get(table.name, table).ddl)
    with _attached(path) as con:
        create_views(con)


@contextmanager
def _attached(path: Path) -> Iterator[warehouse.Connection]:
    with warehouse.connect() as con:
        con.execute(f"ATTACH {warehouse.literal(path)} AS night (STORAGE_VERSION '{OLDEST_READABLE}')")
        con.execute("USE night")
        yield con
        con.execute("USE memory")
        con.execute("DETACH night")
