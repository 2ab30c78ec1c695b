"""The report of a backtest: which model wins over the nights, the gates' decisions, and realised quality."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.reporting.html import charts, page
from pipeline.schemas.tables import metric_name


@dataclass(frozen=True)
class Facts:
    """What a backtest found; the frames are of the tables in schemas.backtest_tables."""

    dataset: str
    name: str
    recipe: str
    metric: str
    cutoff: int
    nights: pl.DataFrame
    values: pl.DataFrame
    models: pl.DataFrame
    realised: pl.DataFrame
    measured: pl.DataFrame
    """tables.REALISED of all nights."""

    @property
    def label(self) -> str:
        """The metric with its cutoff."""
        return metric_name(self.metric, self.cutoff)


def write(facts: Facts, target: Path, home: Home) -> Path:
    """Write the page; returns the file. It names no user."""
    write_atomically(target, page.rendered("backtest.html", content(facts), home))
    return target


def content(facts: Facts) -> dict[str, Any]:
    """Everything that the template shows."""
    return {
        "facts": facts, "about": headline(facts), "models": [_cells(row) for row in facts.models.to_dicts()],
        "realised": [_cells(row) for row in facts.realised.to_dicts()],
        "nights": [{**row, "change": _range(row["gain"], row["gain_low"], row["gain_high"], "+.4g")}
                   for row in facts.nights.to_dicts()],
        "charts": _charts(facts),
    }  # fmt: skip


def headline(facts: Facts) -> str:
    """The result in one sentence."""
    own = facts.models.filter(~pl.col("model").str.contains(" "))
    if own.is_empty():
        return "No user with a list did anything until the next night, so models can't be compared."
    best, others = own.row(0, named=True), own.slice(1)
    worse = others.filter("is_worse")["model"].to_list()
    alike = others.filter(~pl.col("is_worse"))["model"].to_list()
    text = f"{best['model']} is the best over {best['nights']} nights: {facts.label} {best['value']:.4f}"
    if worse:
        text += f"; significantly better than {', '.join(worse)}"
    return text + (f"; not significantly better than {', '.join(alike)}." if alike else ".")


def markdown(facts: Facts) -> str:
    """The result as Markdown: a sentence, and the tables of models and of realised quality."""
    lines = [headline(facts), "", f"| lists | {facts.label} | difference from the best | nights best | user-nights |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| {row['model']} | {row['value']:.4f} | {_cells(row)['change']} | {row['nights_best']} | {row['n']:,} |"
        for row in facts.models.to_dicts()
    ]
    lines += ["", f"| realised {facts.label} after | published | popularity | difference | nights |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for (days,), part in facts.realised.group_by("horizon_days", maintain_order=True):
        three = part.to_dicts()
        values = " | ".join(f"{row['value']:.4f}" for row in three[:2])
        lines.append(
            f"| {days} day{'s' * (days != 1)} | {values} | {_cells(three[2])['interval']} | {three[2]['nights']} |"
        )
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return row | {
        "interval": _range(row["value"], row["ci_low"], row["ci_high"], "+.4f"),
        "change": _range(row.get("difference"), row["ci_low"], row["ci_high"], "+.4f") if row.get("difference") else "",
    }


def _range(value: float | None, low: float | None, high: float | None, form: str) -> str:
    """`+0.012 [0.010, 0.014]`; without an interval where there is none."""
    if value is None:
        return ""
    form_of_ends = form.removeprefix("+")
    ends = "" if low is None or high is None else f" [{low:{form_of_ends}}, {high:{form_of_ends}}]"
    return f"{value:{form}}{ends}"


def _charts(facts: Facts) -> list[dict[str, Any]]:
    times = dict(facts.nights.select("run_id", "as_of").iter_rows())
    shown = []
    if facts.values.height:
        total = facts.values.sort("run_id").with_columns(
            weighted=(pl.col("value") * pl.col("n")).cum_sum().over("model") / pl.col("n").cum_sum().over("model")
        )
        rows = [
            {"when": f"{times[row['run_id']]:%Y-%m-%d %H:%M}", "lists": row["model"], "value": row["value"],
             "mean": row["weighted"], "n": row["n"]}
            for row in total.to_dicts()
        ]  # fmt: skip
        shown.append(
            {"title": f"{facts.label} until the next night, mean of all nights so far",
             "spec": charts.over_nights(rows, facts.label, headline(facts)), "more": ""}
        )  # fmt: skip
    known = facts.measured.filter(segment="all", metric=facts.metric, cutoff=facts.cutoff)
    for days in sorted(known["horizon_days"].unique()):
        part = known.filter(pl.col("list_source").is_in(["published", "popularity"]), horizon_days=days).sort("run_id")
        rows = [
            {"when": f"{times[row['run_id']]:%Y-%m-%d %H:%M}",
             **{key: row[key] for key in ("list_source", "value", "ci_low", "ci_high", "n")}}
            for row in part.to_dicts()
        ]  # fmt: skip
        title = f"Realised {facts.label} in the {days} day{'s' * (days > 1)} after"
        shown.append({"title": title, "spec": charts.realised(rows, facts.label, title), "more": ""})
    return shown
