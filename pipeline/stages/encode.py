"""Replaces source ids by dense indices and sorts the rows into the order that every later stage relies on."""

from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation.encoding import encode_rows
from pipeline.preparation.ids import ENCODED_PARQUET
from pipeline.schemas import tables
from pipeline.storage import lake

VERSION = 1


def encode_ids(run: Run, clean: Path) -> Path:
    """Write interactions.parquet (contract `encoded`), users.parquet and items.parquet (dense index, id)."""

    def write(folder: Path) -> lake.StageResult:
        source = pl.read_parquet(clean / "interactions.parquet")
        rows, users, items = encode_rows(source, run.settings.seed, _kinds(run))
        rows = tables.encoded(rows).check(rows, unique=False)  # the codes are one to one, and `clean` is unique
        rows.write_parquet(folder / "interactions.parquet", **ENCODED_PARQUET)
        users.write_parquet(folder / "users.parquet")
        items.write_parquet(folder / "items.parquet")
        info = {**lake.info(clean), "n_users": users.height, "n_items": items.height}
        return lake.StageResult(rows_in=rows.height, rows_out=rows.height, ledger={"kept": rows.height}, info=info)

    return lake.build(run, spec(run, clean), write)


def spec(run: Run, clean: Path) -> lake.Spec:
    """Key of `encode_ids`."""
    kinds = _kinds(run)
    settings = {"seed": run.settings.seed, **({"events": kinds} if kinds else {})}
    return lake.Spec(StageCall(StageName.ENCODE), "3_encoded", VERSION, settings, parents=(clean,))


def _kinds(run: Run) -> list[str]:
    events = run.settings.dataset.events
    return events.kinds if events else []
