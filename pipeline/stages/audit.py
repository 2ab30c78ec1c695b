"""Builds the night's database beside the live one and audits it; only a file that passes goes on to publish."""

from pathlib import Path

import polars as pl

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.core import paths
from pipeline.core.errors import Refused
from pipeline.core.fault_injection import fault
from pipeline.publishing import checks, churn
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, warehouse
from pipeline.storage.generations import OLDEST_READABLE, live_run_id

OF_THE_PAST = (tables.COMPARISONS, tables.RUNS, tables.STAGES, tables.CHECKS, tables.CHURN)
"""Tables that the clock or earlier nights have a part in; of comparisons, by whom the gate lets take part."""


def audit_tables(run: Run, raw: Path, encoded: Path, lists: Path, champion: str) -> Path:
    """The audited file of this night, not yet live. Raises Refused, with the checks that failed."""
    with journal.stage(run, "audit"):
        return _build_and_check(run, raw, encoded, lists, champion)


def _build_and_check(run: Run, raw: Path, encoded: Path, lists: Path, champion: str) -> Path:
    building = run.home.generations(run.dataset) / f".{run.run_id}.building"
    building.parent.mkdir(parents=True, exist_ok=True)
    for leftover in building.parent.glob(".*.building*"):  # the lock is ours: whoever made them is gone
        leftover.unlink()
    con = warehouse.connect(
        threads=run.settings.threads,
        memory_limit=run.settings.memory_limit,
        temporary=building.with_suffix(".tmp"),
    )
    try:
        con.execute(f"ATTACH {warehouse.literal(building)} AS night (STORAGE_VERSION '{OLDEST_READABLE}')")
        con.execute("USE night")
        fault("audit:before_fill")
        _fill(con, run, raw, lists)
        fault("audit:after_fill")
        churn.compare(con, run, live_run_id(run.home, run.dataset))
        _embed(con, run, tables.CHURN)
        failed = _check(con, run, raw, encoded, lists)
        fault("audit:after_checks")
        if failed:
            said = "the audit found bad rows: " + "; ".join(failed.said)
            raise Refused(f"{said}. The published tables are as they were.", failed.ids)
        _embed(con, run, tables.CHECKS)
        digest = logical_hash(con, run.run_id)
        _embed_run(con, run, champion, digest)
        for view in sorted((paths.SQL / "views").glob("*.sql")):
            warehouse.create_view(con, view)
        con.execute("USE memory")
        con.execute("DETACH night")
    except BaseException:
        con.close()
        building.unlink(missing_ok=True)
        raise
    con.close()
    return building


def _fill(con: warehouse.Connection, run: Run, raw: Path, lists: Path) -> None:
    """Create every published table; the data from the lake, the rest from the journal."""
    generated_at = utcnow()
    journal.update_run(run, generated_at=generated_at.isoformat())
    of_the_night = {"run_id": run.run_id, "generated_at": generated_at}
    for table in tables.PUBLISHED:
        con.execute(table.ddl)
        files = lists / f"{table.name}*.parquet" if table is not tables.REJECTED_ROWS else raw / "rejected_rows.parquet"
        if table in (tables.CHURN, tables.CHECKS, tables.RUNS):
            continue  # known only later
        if list(files.parent.glob(files.name)):
            own = {name: of_the_night[name] for name in of_the_night if name in table.columns}
            columns = ", ".join(f"${name} AS {name}" if name in own else f'"{name}"' for name in table.columns)
            order = ", ".join(f'"{name}"' for name in table.key if name not in own) or "1"
            source = warehouse.literal(files)
            con.execute(
                f"INSERT INTO {table.name} SELECT {columns} FROM read_parquet({source}) ORDER BY {order}",
                own or None,
            )
        else:
            _embed(con, run, table)


def _embed(con: warehouse.Connection, run: Run, table: Table) -> None:
    """Copy a journal table, of all nights, into the database."""
    warehouse.insert(con, table.name, journal.read(run.home, run.dataset, table))


def _check(con: warehouse.Connection, run: Run, raw: Path, encoded: Path, lists: Path) -> checks.Failed:
    """Run all checks and journal them; returns the failed ones."""
    con.execute(
        f"CREATE TEMP VIEW source_rows AS SELECT * FROM read_parquet({warehouse.literal(raw / 'interactions.parquet')})"
    )
    ranked = lists / "listable.parquet" if (lists / "listable.parquet").exists() else encoded / "items.parquet"
    con.execute(f"CREATE TEMP VIEW ranked_items AS SELECT * FROM read_parquet({warehouse.literal(ranked)})")
    export = run.settings.export
    con.execute(
        "CREATE TEMP TABLE wanted AS SELECT $n AS top_n, $exact AS exact",
        {"n": export.top_n, "exact": not export.max_per_attribute},
    )
    con.execute("CREATE TEMP TABLE tonight AS SELECT $run_id AS run_id", {"run_id": run.run_id})
    checks.bounds(con, run)
    failed = checks.run_checks(con, run, "output")
    con.execute("DROP VIEW source_rows; DROP VIEW ranked_items")
    con.execute("DROP TABLE wanted; DROP TABLE tonight; DROP TABLE bounds")
    return failed


def _embed_run(con: warehouse.Connection, run: Run, champion: str, digest: str) -> None:
    """All nights, this one as it will stand once its file is live."""
    journal.update_run(run, logical_hash=digest, champion=champion)
    nights = journal.read(run.home, run.dataset, tables.RUNS).with_columns(
        outcome=pl.when(pl.col("run_id") == run.run_id).then(pl.lit("published")).otherwise("outcome"),
        finished_at=pl.when(pl.col("run_id") == run.run_id).then(pl.lit(utcnow())).otherwise("finished_at"),
    )
    warehouse.insert(con, tables.RUNS.name, nights)


def logical_hash(con: warehouse.Connection, run_id: str) -> str:
    """Hash of all that this night publishes; equal for equal data, settings, code and device kind.

    Rows count in any order; run ids, times and MLflow ids do not, and floats to 6 significant digits. Nor does what
    depends on earlier nights (OF_THE_PAST, and figures of those whom the gate lets take part beside the recipe's
    models): a night hashes as it would in a fresh home, unless the gate keeps an incumbent that is not the best.
    """
    digests = []
    for table in tables.PUBLISHED:
        if table in OF_THE_PAST:
            continue
        columns = [name for name in table.columns if name not in table.volatile]
        texts = ", ".join(f"coalesce({_as_text(name, table)}, chr(0))" for name in columns)
        where = "WHERE run_id = $run_id" if "run_id" in table.columns else "WHERE true"
        if table in (tables.METRICS, tables.BIASES):
            where += f" AND model NOT IN ('{INCUMBENT}', '{BASELINE}')"
        query = f"""SELECT count(*), coalesce(sum(md5_number_lower(concat_ws(chr(31), {texts}))), 0)
                    FROM {table.name} {where}"""
        params = {"run_id": run_id} if "run_id" in table.columns else None
        digests.append(f"{table.name}:{con.sql(query, params=params).fetchall()[0]}")
    return str(con.sql("SELECT sha256($text)", params={"text": "\n".join(digests)}).fetchall()[0][0])


def _as_text(name: str, table: Table) -> str:
    dtype = table.columns[name].dtype
    if dtype == tables.FLOAT:
        return f"format('{{:.5e}}', \"{name}\" + 0.0)"
    if dtype == tables.VECTOR:
        return f"array_to_string(list_transform(\"{name}\", lambda x: format('{{:.5e}}', x + 0.0)), ',')"
    return f'CAST("{name}" AS VARCHAR)'
