"""A hash of the published data that does not depend on row order, run ids or times."""

from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import warehouse

LEFT_OUT = (
    tables.COMPARISONS, tables.RUNS, tables.STAGES, tables.CHECKS, tables.CHURN, tables.DRIFT, tables.REALISED,
    tables.REALISED_CLICKS, tables.ITEM_ATTRIBUTES,
)  # fmt: skip
"""Tables that depend on the clock, on earlier nights, or (comparisons) on the models that the gate adds; and
item_attributes, which counts by the columns that it adds to `items`."""
IF_FILLED = (
    tables.USER_ATTRIBUTES, tables.REASONS, tables.RECOMMENDATIONS_IN, tables.RECOMMENDATIONS_BY,
    tables.TRENDING_ITEMS, tables.FALLBACK_ITEMS, tables.AUDIENCES, tables.ATTRIBUTE_AUDIENCES,
)  # fmt: skip
"""Tables that are newer than the hash: they count only where they have rows, so that other hashes stay the same."""


def hash_tables(con: warehouse.Connection, run_id: str) -> str:
    """Hash of everything that this night publishes; equal for equal data, settings, code and device kind.

    Row order, run ids, times and MLflow ids do not count; floats count to 6 significant digits. What depends on
    earlier nights does not count either: the tables LEFT_OUT, and metrics of the models that the gate adds to those
    of the recipe. So a night has the hash that it would have in a new home, unless the gate keeps an incumbent that
    is not the best.
    """
    digests = []
    for table in tables.PUBLISHED:
        if table in LEFT_OUT:
            continue
        columns = [name for name in table.columns if name not in table.volatile]
        if table is tables.ITEMS:  # columns of the catalog come after the others
            columns += con.sql(f"FROM {table.name} LIMIT 0").columns[len(table.columns) :]
        texts = ", ".join(f"coalesce({_as_text(name, table)}, chr(0))" for name in columns)
        where = "WHERE run_id = $run_id" if "run_id" in table.columns else "WHERE true"
        if table in (tables.METRICS, tables.BIASES):
            where += f" AND model NOT IN ('{INCUMBENT}', '{BASELINE}')"
        if table is tables.ROW_LEDGER:
            where += " AND stage <> 'impressions'"  # of earlier nights' lists
        query = f"""SELECT count(*), coalesce(sum(md5_number_lower(concat_ws(chr(31), {texts}))), 0)
                    FROM {table.name} {where}"""
        params = {"run_id": run_id} if "run_id" in table.columns else None
        counted = con.execute(query, params).fetchall()[0]
        if counted[0] or table not in IF_FILLED:
            digests.append(f"{table.name}:{counted}")
    return str(con.sql("SELECT sha256($text)", params={"text": "\n".join(digests)}).fetchall()[0][0])


def _as_text(name: str, table: Table) -> str:
    if name not in table.columns:
        return f"CAST({warehouse.quoted(name)} AS VARCHAR)"
    dtype = table.columns[name].dtype
    if dtype == tables.FLOAT:
        return f"format('{{:.5e}}', \"{name}\" + 0.0)"
    if dtype == tables.VECTOR:
        return f"array_to_string(list_transform(\"{name}\", lambda x: format('{{:.5e}}', x + 0.0)), ',')"
    return f'CAST("{name}" AS VARCHAR)'
