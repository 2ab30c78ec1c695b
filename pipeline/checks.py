"""Runs the audits of `sql/checks`: each file returns the rows that should not be, none means passed."""

import re

import polars as pl

from pipeline import journal, paths, tables, warehouse
from pipeline.run import Run

EXAMPLES = 3
WARN_AGE_DAYS = 30.0


def run_checks(con: warehouse.Connection, run: Run, kind: str) -> list[str]:
    """Run `sql/checks/<kind>`, `input` or `output`, and journal the results; returns what to say of failed errors.

    A file states `-- severity: error` (it refuses the night) or `warn` (it only tells, as a note), `-- reads:` its
    tables, what should hold, and, where a setting can let a night pass, `-- remedy:` how.
    """
    failed, records = [], []
    for path in sorted((paths.SQL / "checks" / kind).glob("*.sql")):
        text = warehouse.read_sql(path)
        severity = header(text, "severity")
        if severity not in ("error", "warn"):
            raise ValueError(f"{path} states no severity: error or warn")
        bad = con.sql(f"SELECT *, count(*) OVER () AS bad_rows FROM ({text}) LIMIT {EXAMPLES}").pl()
        n = bad["bad_rows"][0] if bad.height else 0
        records.append({"check_name": path.stem, "severity": severity, "bad_rows": n, "passed": n == 0})
        if n:
            said = f"{path.stem}: {n:,} bad row{'s' * (n > 1)}, e.g. {example(bad)} (wanted: {wanted(text)})"
            if remedy := header(text, "remedy"):
                said += f" [{remedy}]"
            failed.append(said) if severity == "error" else journal.note(run, f"warning: {said}")
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


def example(bad: pl.DataFrame) -> str:
    """The first bad row, for people."""
    row = bad.drop("bad_rows").row(0, named=True)
    return ", ".join(f"{name} {_readable(value)}" for name, value in row.items())


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def bounds(con: warehouse.Connection, run: Run) -> None:
    """The one-row temporary table `bounds`: what the settings say to the checks; null: no bound."""
    limits, churn = run.settings.checks, run.settings.churn
    values = {
        "started_at": run.as_of or run.started_at, "max_shrink": limits.max_shrink, "max_age_days": limits.max_age_days,
        "warn_age_days": None if run.settings.dataset.source.static else WARN_AGE_DAYS,
        "max_future_days": limits.max_future_days, "min_coverage": limits.min_coverage,
        "warn_change": churn.warn_change, "max_change": None if churn.accept else churn.max_change,
    }  # fmt: skip
    schema = {name: tables.TIME if name == "started_at" else tables.FLOAT for name in values}
    temporary(con, "bounds", pl.DataFrame([values], schema=schema, orient="row"))


def temporary(con: warehouse.Connection, name: str, frame: pl.DataFrame) -> None:
    """A frame as a temporary table, for the checks of one connection."""
    con.register("_frame", frame.to_arrow())
    con.execute(f"CREATE OR REPLACE TEMP TABLE {warehouse.identifier(name)} AS SELECT * FROM _frame")
    con.unregister("_frame")
