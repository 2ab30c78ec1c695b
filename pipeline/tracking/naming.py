"""Descriptions of nights for MLflow, and MLflow names of metrics and settings."""

import json
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.config.settings import Select
from pipeline.schemas.tables import metric_name

REALISED_LISTS = (("all", "published"), ("all", "popularity"), ("holdback", "published"))
"""Segment and list_source of the realised metrics that are logged."""
ABOUT = """The nights of **{dataset}**: one run per night, named by its start (UTC) and its champion, with a child run
for every model.

- only nights: ``tags.`nightrecs.kind` = 'night'``; one model over the nights: `attributes.run_name = 'ease'`
- useful columns: `test_full_ndcg_at_10` with its interval `…_ci_low` and `…_ci_high`, `data_raw_rows`, the
  tags `nightrecs.outcome` and `nightrecs.champion`
- a night's description is its digest; its artifact `report.html` is the full report"""
ABOUT_MODEL = """The model that makes the lists of **{dataset}**. The alias `champion` is the published night's model,
`previous` the champion before it.

```python
champion = mlflow.pyfunc.load_model("models:/{dataset}@champion")
champion.predict(pandas.DataFrame({{"user_id": ["42"]}}), params={{"top_n": 10}})
```

The published tables are authoritative. They also serve users whom the filters left out, and follow the rules of
`[export]`, which the model does not know: it may list an item that a rule excludes."""


def about(run: Run, info: dict[str, Any], metrics: pl.DataFrame | None) -> str:
    """A family's run in one line: what was fitted, and the deciding metric."""
    select = run.settings.select
    parts = [f"`{info['family']}` of night {run.run_id}, fitted on train in {info.get('seconds') or 0:.1f} s"]
    if metrics is None:
        return parts[0]
    wanted = {"segment": "all", "metric": select.metric, "protocol": select.protocol}
    for row in metrics.filter(pl.col("cutoff").is_in([0, select.cutoff]), **wanted).to_dicts():
        ends = f" [{row['ci_low']:.4f}, {row['ci_high']:.4f}]" if row["ci_low"] is not None else ""
        name = metric_name(row["metric"], row["cutoff"])
        parts.append(f"{row['split']} {name} {row['value']:.4f}{ends}")
    return "; ".join(parts)


def shapes(shapes: dict[str, dict[str, float]]) -> dict[str, float]:
    """`data_raw_density`, `data_clean_users`, …"""
    return {f"data_{at}_{name}": value for at, shape in shapes.items() for name, value in shape.items()}


def named(metrics: pl.DataFrame, select: Select) -> dict[str, float]:
    """`test_full_ndcg_at_10` (MLflow allows no @) to value; at the deciding cutoff also `…_ci_low`, `…_ci_high`.

    The deciding metric comes first, and test before valid, since the UI lists them in this order.
    """

    def place(row: dict[str, Any]) -> tuple[str, bool]:
        decides = (row["protocol"], row["metric"]) == (select.protocol, select.metric)
        return row["split"], not (decides and row["cutoff"] in (0, select.cutoff))

    named = {}
    for row in sorted(metrics.filter(pl.col("segment") == "all").to_dicts(), key=place):
        name = metric_name(row["metric"], row["cutoff"]).replace("@", "_at_")
        name = f"{row['split']}_{row['protocol']}_{name}"
        named[name] = row["value"]
        if row["cutoff"] in (0, select.cutoff):
            named |= {f"{name}_{end}": row[end] for end in ("ci_low", "ci_high")}
    return named


def realised(rows: pl.DataFrame) -> dict[str, float]:
    """`realised_7d_published_ndcg_at_10` to value, of tables.REALISED: published, popularity, and the holdback."""
    named: dict[str, float] = {}
    for row in rows.to_dicts():
        lists = "holdback" if row["segment"] == "holdback" else row["list_source"]
        if (row["segment"], row["list_source"]) in REALISED_LISTS:
            name = metric_name(row["metric"], row["cutoff"]).replace("@", "_at_")
            named[f"realised_{row['horizon_days']}d_{lists}_{name}"] = row["value"]
    return named


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, such as `dataset.columns.user`; lists as JSON, without those that are None."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            leaves[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return leaves
