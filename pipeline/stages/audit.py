"""Builds the night's database next to the live one and audits it; only a file that passes goes on to publish."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.core.fault_injection import fault
from pipeline.evaluation import impressions, realised
from pipeline.preparation.seen import hiding_condition
from pipeline.publishing import (
    active_users,
    business_rules,
    checks,
    churn,
    database,
    explore,
    holdback,
    item_conditions,
    wanted_lists,
)
from pipeline.publishing.logical_hash import hash_tables
from pipeline.schemas import tables
from pipeline.sources import model_attributes
from pipeline.storage import expressions, journal, warehouse
from pipeline.storage.generations import live_run_id


def audit_tables(run: Run, raw: Path, encoded: Path, lists: Path, champion: str) -> Path:
    """The audited file of this night, not yet live. Raises Refused, with the checks that failed."""
    with journal.stage(run, "audit"), database.building(run) as (path, con):
        fault("audit:before_fill")
        realised.measure_earlier_lists(run, raw, encoded)
        impressions.measure(run)
        database.fill(con, run, raw, lists)
        fault("audit:after_fill")
        churn.compare(con, run, live_run_id(run.home, run.dataset))
        database.copy_journal(con, run, tables.CHURN)
        failed = _check(con, run, raw, encoded, lists)
        fault("audit:after_checks")
        if failed:
            reasons = "the audit found bad rows: " + "; ".join(failed.reasons)
            raise Refused(f"{reasons}. The published tables are as they were.", failed.ids)
        database.copy_journal(con, run, tables.CHECKS)
        database.copy_runs(con, run, champion, hash_tables(con, run.run_id))
        database.create_views(con)
    return path


def _check(con: warehouse.Connection, run: Run, raw: Path, encoded: Path, lists: Path) -> checks.Failed:
    """Run all checks and journal them; returns the failed ones."""
    con.execute(
        f"CREATE TEMP VIEW source_rows AS SELECT * FROM read_parquet({warehouse.literal(raw / 'interactions.parquet')})"
    )
    hides = hiding_condition(run.settings)
    con.execute(f"CREATE TEMP VIEW masking_rows AS SELECT * FROM source_rows WHERE {hides}")
    fit, of_held = encoded / "items.parquet", lists / checks.LISTABLE_OF_HELD
    ranked, servable = (lists / name if (lists / name).exists() else fit for name in (checks.LISTABLE, checks.SERVABLE))
    for view, path in (("ranked_items", ranked), ("held_items", of_held if of_held.exists() else ranked)):
        con.execute(f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet({warehouse.literal(path)})")
    allowed = lists / checks.ALLOWED if (lists / checks.ALLOWED).exists() else fit
    con.execute(
        f"CREATE TEMP VIEW banned_items AS SELECT item_id FROM read_parquet({warehouse.literal(fit)}) AS fit "
        f"ANTI JOIN read_parquet({warehouse.literal(allowed)}) AS allowed USING (item_id)"
    )
    export = run.settings.export
    con.execute(
        "CREATE TEMP TABLE wanted AS "
        "SELECT $n AS top_n, $exact AS exact, $explored AS explored, $by_n AS by_n, $by_values AS by_values, "
        "$by::VARCHAR AS by_attribute",
        {
            "n": export.top_n,
            "exact": not export.max_per_attribute,
            "explored": explore.places(export.explore, export.top_n),
            "by_n": export.by.top_n if export.by else 0,
            "by_values": export.by.values if export.by else 0,
            "by": export.by.attribute if export.by else None,
        },
    )
    active_users.create_view(con, export)
    holdback.create_view(con, export)
    night = item_conditions.of_published(
        con, run.settings.dataset.items, expressions.night_date(run.as_of, run.started_at)
    )
    checks.temporary(con, "excluded_items", item_conditions.excluding(export, night))
    checks.temporary(con, "promotable_items", business_rules.promotable(run, export, night))
    checks.temporary(con, "explorable_items", explore.explorable_of_night(run, export, night, encoded))
    checks.temporary(con, "placed_items", model_attributes.described_items(encoded))
    wanted_lists.create_tables(con, run, night, encoded, servable)
    con.execute("CREATE TEMP TABLE tonight AS SELECT $run_id AS run_id", {"run_id": run.run_id})
    checks.bounds(con, run)
    realised.create_deciding(con, run)
    failed = checks.run_checks(con, run, "output")
    wanted_lists.drop_tables(con)
    con.execute(
        "DROP VIEW masking_rows; DROP VIEW source_rows; DROP VIEW ranked_items; DROP VIEW held_items; "
        "DROP VIEW banned_items; "
        "DROP VIEW active_users; DROP VIEW held_users"
    )
    con.execute("DROP TABLE placed_items")
    con.execute(
        "DROP TABLE wanted; DROP TABLE tonight; DROP TABLE bounds; "
        "DROP TABLE excluded_items; DROP TABLE promotable_items; DROP TABLE explorable_items; DROP TABLE deciding"
    )
    return failed
