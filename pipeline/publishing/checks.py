"""Runs the audits of `sql/checks`: each file returns the offending rows; none means passed."""

import re
from dataclasses import dataclass, field

import polars as pl

from pipeline.config.run import Run
from pipeline.core import paths
from pipeline.core.errors import Ids
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse

LISTABLE, SERVABLE, LISTABLE_OF_HELD = "listable.parquet", "servable.parquet", "listable_of_held.parquet"
ALLOWED = "allowed.parquet"
"""Files of the export: items that the default list may have, that the champion can score, that held-back users may get,
and that the rules allow whatever the model. Where there is no file, these are all items of the fit."""
EXAMPLES = 3
WARN_AGE_DAYS = 30.0
NO_IDS = ("run_id", "night_before", "compared_with", "stage", "mode", "measure")
"""Text columns of bad rows that never hold an id of a user or an item."""


@dataclass
class Failed:
    """Failed checks of severity error: a reason for each, and separately the ids of the bad rows shown."""

    reasons: list[str] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def add(self, reason: str, ids: Ids) -> None:
        """Add a failed check."""
        self.reasons.append(reason)
        for column, values in ids.items():
            self.ids.setdefault(column, []).extend(values)


def run_checks(con: warehouse.Connection, run: Run, kind: str) -> Failed:
    """Run `sql/checks/<kind>`, `input` or `output`, and journal the results; returns the failed errors.

    A file states `-- severity: error` (the night is refused) or `warn` (a note is written), `-- reads:` its tables,
    what should hold, and, where a setting can let a night pass, `-- remedy:` which.
    """
    failed, records = Failed(), []
    for path in sorted((paths.SQL / "checks" / kind).glob("*.sql")):
        text = warehouse.read_sql(path)
        severity = header(text, "severity")
        if severity not in ("error", "warn"):
            raise ValueError(f"{path} states no severity: error or warn")
        con.execute(f"SELECT *, count(*) OVER () AS bad_rows FROM ({text}) LIMIT {EXAMPLES}")
        names, bad = [name for name, *_ in con.description or ()], con.fetchall()
        n = bad[0][-1] if bad else 0
        records.append({"check_name": path.stem, "severity": severity, "bad_rows": n, "passed": n == 0})
        if n:
            values, ids = example(dict(zip(names[:-1], bad[0], strict=False)))
            shown = f", e.g. {values}" if values else ""
            reason = f"{path.stem}: {n:,} bad row{'s' * (n > 1)}{shown} (wanted: {wanted(text)})"
            if remedy := header(text, "remedy"):
                reason += f" [{remedy}]"
            failed.add(reason, ids) if severity == "error" else journal.note(run, f"warning: {reason}", ids)
    journal.append(run, tables.CHECKS, records)
    return failed


def header(text: str, name: str) -> str | None:
    """The value of a line `-- name: value`."""
    found = re.search(rf"^-- {name}: (.*)$", text, re.MULTILINE)
    return found[1] if found else None


def wanted(text: str) -> str:
    """The sentences that say what should hold."""
    lines = [line.removeprefix("-- ") for line in text.splitlines() if line.startswith("-- ")]
    return " ".join(line for line in lines if not re.match(r"\w+: ", line)).rstrip(".")


def example(row: dict[str, object]) -> tuple[str, dict[str, list[str]]]:
    """A bad row: its values as text, and separately its ids (every text that isn't in NO_IDS)."""
    ids = {name: [value] for name, value in row.items() if isinstance(value, str) and name not in NO_IDS}
    return ", ".join(f"{name} {_readable(value)}" for name, value in row.items() if name not in ids), ids


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def bounds(con: warehouse.Connection, run: Run) -> None:
    """Create the one-row temporary table `bounds`: limits of the checks from the settings; null: no limit."""
    limits, churn = run.settings.checks, run.settings.churn
    values = {
        "started_at": run.as_of or run.started_at, "max_shrink": limits.max_shrink, "max_age_days": limits.max_age_days,
        "warn_age_days": None if run.settings.dataset.source.static else WARN_AGE_DAYS,
        "max_future_days": limits.max_future_days, "min_coverage": limits.min_coverage,
        "max_new_users": limits.max_new_users, "max_lost_users": limits.max_lost_users,
        "max_new_items": limits.max_new_items, "max_lost_items": limits.max_lost_items,
        "warn_change": churn.warn_change, "max_change": None if churn.accept else churn.max_change,
    }  # fmt: skip
    schema = {name: tables.TIME if name == "started_at" else tables.FLOAT for name in values}
    temporary(con, "bounds", pl.DataFrame([values], schema=schema, orient="row"))


def temporary(con: warehouse.Connection, name: str, frame: pl.DataFrame) -> None:
    """Create a temporary table from a frame, for the checks of one connection."""
    con.register("_frame", frame.to_arrow())
    con.execute(f"CREATE OR REPLACE TEMP TABLE {warehouse.identifier(name)} AS SELECT * FROM _frame")
    con.unregister("_frame")
