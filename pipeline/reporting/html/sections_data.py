"""The sections of the page up to the gate: data, drift, leaderboards, comparison with the incumbent."""

from typing import Any

import polars as pl

from pipeline.evaluation import ranking_metrics
from pipeline.publishing.drift import MEASURES
from pipeline.reporting.formatting import (
    SEGMENTS,
    cost,
    interval,
    labels,
    moment,
    named,
    number,
    percent,
    plural,
    reason,
    rounded,
)
from pipeline.reporting.html import charts
from pipeline.reporting.night import Night
from pipeline.schemas import tables
from pipeline.schemas.tables import metric_name

Drawn = dict[str, Any]
ACCURACY = ("ndcg", "recall", "hit_rate", "precision", "map", "mrr", "rmse", "mae", "rmse_scaled", "mae_scaled")
SHARES = ("users_new", "users_lost", "users_active", "items_new", "items_lost")
"""Measures of the chart of drift."""
LIKE_THE_BEST, BETTER = "≈", "▲"
BEYOND = ("coverage", "gini", "novelty", "diversity", "hit_rate_debiased")
"""Columns of a leaderboard's two tables, as far as they were measured."""


def drawn(title: str, spec: dict[str, Any], more: str = "") -> Drawn:
    """A chart with its title and the text below it."""
    return {"title": title, "spec": spec, "more": more}


def data(night: Night) -> dict[str, Any]:
    """Volumes over the nights, shapes, distributions, and where the rows went."""
    ledger = night.table(tables.ROW_LEDGER)
    lost = ledger.filter((pl.col("reason") != "kept") & (pl.col("rows") > 0)).sort("rows", descending=True)
    rows = [{"reason": reason(r["reason"]), "stage": r["stage"], "rows": r["rows"]} for r in lost.to_dicts()]
    kept = ledger.filter(reason="kept").select("stage", "rows").to_dicts()
    charts_made = _volumes(night)
    if rows:
        description = "; ".join(f"{r['reason']} at {r['stage']}: {number(r['rows'])}" for r in rows)
        charts_made.append(drawn("Rows left out, by reason", charts.reasons(rows, f"Rows left out: {description}")))
    if night.profile:
        charts_made += _distributions(night.profile)
    return {
        "shapes": [("in the source", night.profile["shapes"]["raw"]), ("in use", night.profile["shapes"]["clean"])]
        if night.profile else [],
        "parts": night.profile["rows"] if night.profile else {},
        "events": funnel(night.profile.get("events") if night.profile else None),
        "lost": rows, "kept": kept, "charts": charts_made, "split": night.record.get("split_kind"),
    }  # fmt: skip


def funnel(events: dict[str, Any] | None) -> dict[str, Any] | None:
    """Event types, most frequent first, with their share of the rows, and sentences about pairs; None without types."""
    if not events:
        return None
    rows = max(1, events["rows"])
    types = [
        {**kind, "share": kind["rows"] / rows,
         "role": "target" if kind["target"] else "withdraws" if kind["withdraws"] else ""}
        for kind in sorted(events["types"], key=lambda kind: -kind["rows"])
    ]  # fmt: skip
    texts = [
        f"{plural(events['pairs_of_several_types'], 'pair')} of user and item of {number(events['pairs'])} "
        "with more than one event type"
    ]
    if any(kind["withdraws"] for kind in events["types"]):
        texts.append(
            f"contradictions: {plural(events['pairs_withdrawn_and_target'], 'pair')} with both a withdrawal and the "
            f"target, {plural(events['withdrawals_of_nothing'], 'withdrawal')} of nothing"
        )
    if events["unknown_rows"]:
        named = ", ".join(f"{kind} {number(count)}" for kind, count in events["unknown"].items())
        texts.append(f"{plural(events['unknown_rows'], 'row')} of unknown event types: {named}")
    return {"types": types, "text": "; ".join(texts).capitalize() + "."}


def drift(night: Night) -> dict[str, Any] | None:
    """How users, items and activity differ from the live tables, with the usual range, and over the nights."""
    rows = night.table(tables.DRIFT).sort("measure").to_dicts()
    if not rows:
        return None
    past = night.drift_of_nights.filter(pl.col("measure").is_in(SHARES)).sort("run_id", "measure")
    shown = []
    if past["run_id"].n_unique() > 1:
        of_night = labels(night.nights)
        points = [
            {"when": of_night[r["run_id"]], "measure": r["measure"].replace("_", " "), "value": r["value"],
             "unusual": r["unusual"]}
            for r in past.to_dicts()
        ]  # fmt: skip
        description = "; ".join(f"{r['measure']} tonight {percent(r['value'])}" for r in rows if r["measure"] in SHARES)
        shown.append(drawn("New, lost and active users and items", charts.drift(points, f"Drift: {description}")))
    of = next((row["compared_with"] for row in rows if row["compared_with"]), None)
    for row in rows:
        shape = rounded if row["measure"] in ("rows_per_user", "rating_mean") else percent
        row |= {"meaning": MEASURES[row["measure"]], "shown": shape(row["value"]), "usual": ""}
        if row["usual_low"] is not None:
            row["usual"] = f"{shape(row['usual_low'])} to {shape(row['usual_high'])}"
    return {"rows": rows, "charts": shown, "of": of}


def _volumes(night: Night) -> list[Drawn]:
    known = night.nights.drop_nulls("rows")
    if known.height < 2:
        return []
    of_night = labels(night.nights)
    rows = [
        {"when": of_night[r["run_id"]], "rows": r["rows"], "rejected": r["rejected"],
         "tonight": r["run_id"] == night.run_id}
        for r in known.to_dicts()
    ]  # fmt: skip
    description = f"from {number(rows[0]['rows'])} to {number(rows[-1]['rows'])} rows in {len(rows)} nights"
    volumes = drawn("Valid rows by night", charts.nights(rows, "rows", "rows", f"Valid rows: {description}"))
    if not any(row["rejected"] for row in rows):
        return [volumes]
    description = f"Rejected lines of {len(rows)} nights; tonight {number(rows[-1]['rejected'])}"
    return [volumes, drawn("Rejected lines by night", charts.nights(rows, "rejected", "lines", description))]


def _distributions(profile: dict[str, Any]) -> list[Drawn]:
    made = []
    for key, title, axis, counted in (
        ("activity", "How active users are", "interactions of a user", "users"),
        ("popularity", "How popular items are", "interactions of an item", "items"),
    ):
        if of := profile[key]["clean"]:
            tops = ", ".join(f"top {percent(float(k))} have {percent(v)}" for k, v in of["share_of_top"].items())
            median = f"median {rounded(of['quantiles']['0.5'])}, most {number(of['max'])}"
            more = f"{median.capitalize()}. Of all interactions the {tops}."
            made.append(drawn(title, charts.distribution(of, axis, counted, f"{title}: {median}"), more))
    if of := profile["ratings"]["raw"]:
        description = f"mean {rounded(of['mean'])}, from {rounded(of['min'])} to {rounded(of['max'])}"
        made.append(
            drawn(
                "Ratings",
                charts.distribution(of, "rating", "rows", f"Ratings: {description}"),
                f"{description.capitalize()}.",
            )
        )
    return made


def leaderboards(night: Night) -> list[dict[str, Any]]:
    """One for every split and protocol, test first; metrics of two protocols are never in one table."""
    everyone = night.metrics.filter(segment="all")
    protocol, _, cutoff = night.selection_metric
    found = []
    for split in ("test", "valid"):
        for name in sorted(everyone.filter(split=split)["protocol"].unique(), key=lambda p: (p != protocol, p)):
            rows = everyone.filter(pl.col("cutoff").is_in([0, cutoff or 10]), split=split, protocol=name)
            if rows.height:
                found.append(_leaderboard(night, split, name, rows))
    return found


def _leaderboard(night: Night, split: str, protocol: str, rows: pl.DataFrame) -> dict[str, Any]:
    chosen, metric, _ = night.selection_metric
    there = [name for name in ACCURACY if name in set(rows["metric"])]
    metric = metric if protocol == chosen and metric in there else there[0]
    best_last = ranking_metrics.higher_is_better(metric)
    main = rows.filter(metric=metric).sort("value", "model", descending=[best_last, False])
    champion = night.record.get("champion")
    label = metric_name(metric, main["cutoff"][0])
    order = [{**row, "name": named(night, row["model"])} for row in main.to_dicts()]
    description = ", ".join(
        f"{r['name']} {rounded(r['value'])} {interval(r['ci_low'], r['ci_high'])}".strip() for r in order
    )
    spec = charts.leaderboard(order, label, champion, f"{label} on {split}, protocol {protocol}: {description}")
    marks, compared = _compared(night, split, protocol)
    shown = [_columns(names, rows, order, champion, marks) for names in (ACCURACY, BEYOND)]
    return {
        "split": split, "protocol": protocol, "counted": "rated rows" if protocol == "error" else "users",
        "charts": [drawn(f"{label} on {split}", spec)] if len(order) > 1 else [],
        "tables": [table for table in shown if table["columns"]], "compared": compared,
    }  # fmt: skip


def _compared(night: Night, split: str, protocol: str) -> tuple[dict[str, str], str]:
    """Marks by model, and the sentence that explains them; both empty where models were not compared."""
    rows = night.table(tables.COMPARISONS).filter(split=split, protocol=protocol).to_dicts()
    if not rows:
        return {}, ""
    marks = {r["model"]: LIKE_THE_BEST if not r["is_real"] else BETTER if r["difference"] > 0 else "" for r in rows}
    best, label = named(night, rows[0]["other"]), metric_name(rows[0]["metric"], rows[0]["cutoff"])
    confidence = (night.settings.get("gate") or {}).get("confidence", 0.95)
    text = f"{LIKE_THE_BEST}: not significantly different from {best}, the best on valid, by {label} of "
    text += f"{number(rows[0]['n'])} users"
    text += f" (paired bootstrap, {percent(confidence)}, Holm over {plural(len(rows), 'comparison')})"
    text += f"; {BETTER}: better than it" if BETTER in marks.values() else ""
    return marks, text + "; models without a mark are worse." if "" in marks.values() else f"{text}."


def _columns(
    names: tuple[str, ...], rows: pl.DataFrame, order: list[dict[str, Any]], champion: str | None, marks: dict[str, str]
) -> dict[str, Any]:
    """A table of these metrics, the models in `order`; each column also says whether higher is better."""
    there = [name for name in names if name in set(rows["metric"])]
    body = []
    for of in order:
        cells = {r["metric"]: r for r in rows.filter(model=of["model"]).to_dicts()}
        body.append({"model": of["name"], "champion": of["model"] == champion, "n": of["n"],
                     "mark": marks.get(of["model"], ""), "cells": [cells.get(name) for name in there]})  # fmt: skip
    columns = [
        (metric_name(name, rows.filter(metric=name)["cutoff"][0]), ranking_metrics.higher_is_better(name))
        for name in there
    ]
    return {"columns": columns, "rows": body}


def segments(night: Night) -> list[Drawn]:
    """The champion's metric on test by activity of the users."""
    protocol, metric, cutoff = night.selection_metric
    rows = night.metrics.filter(
        pl.col("segment").str.starts_with("activity_decile_"), model=str(night.record.get("champion")), split="test",
        protocol=protocol, metric=metric, cutoff=cutoff,
    )  # fmt: skip
    rows = rows.with_columns(decile=pl.col("segment").str.extract(r"(\d+)$").cast(pl.Int64)).sort("decile")
    if rows.height < 2:
        return []
    label, values = metric_name(metric, cutoff), rows["value"]
    description = f"{label} on test by activity decile: from {rounded(values[0])} to {rounded(values[-1])}"
    return [drawn(f"{label} on test, by activity", charts.segments(rows.to_dicts(), label, description))]


def gate(night: Night) -> dict[str, Any] | None:
    """The gate's verdict, and the differences that it is based on."""
    verdict = night.record.get("gate")
    if not verdict:
        return None
    overall, gain = verdict.get("against_incumbent"), verdict.get("gain")
    rows = [{"what": "against the incumbent", **overall}] if overall else []
    if overall and gain:
        rows.append({"what": "the same, as the gate tests it", **overall, **gain})
    rows += [
        {"what": SEGMENTS.get(segment["segment"], segment["segment"]), **segment}
        for segment in verdict.get("segments") or []
    ]
    if floor := verdict.get("against_floor"):
        rows.append({**floor, "what": f"against {verdict['floor']}"})
    rows = [row for row in rows if row.get("ci_low") is not None]
    description = "; ".join(f"{r['what']}: {rounded(r['value'])} {interval(r['ci_low'], r['ci_high'])}" for r in rows)
    shown = (
        [drawn("Differences on valid", charts.differences(rows, f"Paired differences: {description}"))] if rows else []
    )
    return {**verdict, "charts": shown, "rows": rows, "costs": cost(verdict)}


def over_nights(night: Night) -> dict[str, Any]:
    """Outcomes of the nights, newest first, and the champions' metric over them."""
    protocol, metric, cutoff = night.selection_metric
    label = metric_name(metric, cutoff)
    rows = night.nights.sort("run_id", descending=True).to_dicts()
    for row in rows:
        row["champion"] = row["champion"] and named(Night(night.home, night.dataset, row["run_id"]), row["champion"])
    of_night = labels(night.nights)
    known = [
        {**{key: row[key] for key in ("champion", "value", "ci_low", "ci_high")}, "when": of_night[row["run_id"]]}
        for row in reversed(rows) if row["value"] is not None and row["outcome"] == "published"
    ]  # fmt: skip
    shown = []
    if len(known) > 1:
        description = (
            f"{label} of {plural(len(known), 'night')}: {rounded(known[0]['value'])} to {rounded(known[-1]['value'])}"
        )
        shown = [drawn(f"{label} on test by night", charts.quality(known, label, description),
                       "Nights differ in their data, so small changes mean little.")]  # fmt: skip
    shown += _realised(night)
    return {"rows": [{**row, "when": moment(row["started_at"])} for row in rows[:12]], "label": label, "charts": shown,
            "protocol": protocol}  # fmt: skip


def _realised(night: Night) -> list[Drawn]:
    """Lists of earlier nights on what users did after them, for one horizon: 7 days, else 28, else 1."""
    _, metric, cutoff = night.selection_metric
    if not cutoff:
        return []
    of_metric = night.realised_of_nights.filter(metric=metric, cutoff=cutoff)
    known = of_metric.filter(pl.col("list_source").is_in(["published", "popularity"]), segment="all")
    held = of_metric.filter(list_source="published", segment="holdback").with_columns(list_source=pl.lit("holdback"))
    known = pl.concat([known, held])
    days = next((days for days in (7, 28, 1) if days in set(known["horizon_days"])), None)
    rows = known.filter(horizon_days=days).sort("run_id", "list_source").to_dicts() if days else []
    if not rows:
        return []
    of_night = labels(night.nights)
    keys = ("list_source", "value", "ci_low", "ci_high", "n")
    points = [{**{key: row[key] for key in keys}, "when": of_night[row["run_id"]]} for row in rows]
    label = metric_name(metric, cutoff)
    described = "; ".join(f"{row['list_source']} {rounded(row['value'])}" for row in rows[-3 if held.height else -2 :])
    return [drawn(f"{label} of published lists on what users did in the {days} days after",
                  charts.realised(points, label, f"Realised {label}: {described}"),
                  "Popularity lists of the same night, for the same users, are the baseline. Lists of the holdback are "
                  "of other users." if held.height else
                  "Popularity lists of the same night, for the same users, are the baseline.")]  # fmt: skip
