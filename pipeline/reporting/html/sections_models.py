"""The sections of the page after the gate: training, exposure, churn, stages, lineage."""

import json
from itertools import accumulate
from typing import Any

import polars as pl

from pipeline.evaluation.impressions import wilson
from pipeline.reporting.formatting import SEGMENTS, labels, number, percent, plural, rounded, seconds
from pipeline.reporting.html import charts
from pipeline.reporting.html.sections_data import Drawn, drawn
from pipeline.reporting.night import Fit, Night, Search
from pipeline.schemas import tables
from pipeline.schemas.click_tables import REALISED_CLICKS

MOST_PARAMETERS = 4


def training(night: Night) -> list[dict[str, Any]]:
    """For every fitted family: its settings, curves, and the results of the rate finder and of the search."""
    searches = {search.info["label"]: search for search in night.searches}
    metric = night.settings.get("select", {}).get("metric", "metric")
    return [
        {"fit": fit, "config": fit.info.get("config") or {}, "seconds": fit.info.get("seconds"),
         "best_epoch": fit.info.get("best_epoch"), "search": searches.get(fit.label) and searches[fit.label].info,
         "charts": [*_curves(fit, metric), *_sweep(fit), *_trials(searches.get(fit.label))]}
        for fit in night.fits
    ]  # fmt: skip


def _curves(fit: Fit, metric: str) -> list[Drawn]:
    history, made = fit.info.get("history") or [], []
    for name in dict.fromkeys(name for epoch in history for name in epoch if name != "epoch"):
        points = [{"epoch": e["epoch"], "value": e[name]} for e in history if e.get(name) is not None]
        if len(points) < 2:
            continue
        if (
            name == "valid" and max(point["value"] for point in points) < 0
        ):  # less is better: it was negated for the fit
            points = [{**point, "value": -point["value"]} for point in points]
        title = {"loss": "loss on train", "valid": f"{metric} on valid"}.get(name, name.replace("_", " "))
        kept = fit.info.get("best_epoch")
        description = f"{fit.label}: {title} from {rounded(points[0]['value'])} to {rounded(points[-1]['value'])}"
        more = f"Kept: epoch {kept}." if kept else ""
        made.append(drawn(f"{fit.label}: {title}", charts.curve(points, title, kept, description), more))
    return made


def _sweep(fit: Fit) -> list[Drawn]:
    found = fit.info.get("finder") or {}
    if len(found.get("rates") or []) < 2:
        return []
    suggested = found["suggestion"]
    result = (
        "no suggestion" if suggested is None else f"suggested {suggested:.3g}" + (", used" if found["used"] else "")
    )
    spec = charts.sweep(found["rates"], found["losses"], suggested, f"{fit.label}: learning-rate finder, {result}")
    more = f"{result.capitalize()}." + (f" {found['note']}" if found.get("note") else "")
    return [drawn(f"{fit.label}: learning-rate finder", spec, more)]


def _trials(search: Search | None) -> list[Drawn]:
    if search is None or not search.info["best"]:
        return []
    info, made = search.info, []
    for name in info["searched"][:MOST_PARAMETERS]:
        rows = [
            {"at": t["params"][name], "value": t["value"], "number": t["number"],
             "state": "best" if t["number"] == info["best"]["number"] else t["state"]}
            for t in search.trials if t["value"] is not None and name in t["params"]
        ]  # fmt: skip
        label = f"{info['metric']} on valid"
        description = f"{info['label']}: {label} of {len(rows)} trials by {name}; best {rounded(info['best']['value'])}"
        spec = charts.trials(rows, name, name in info["log"], label, description)
        best = _short(info["best"]["params"].get(name))
        made.append(drawn(f"{info['label']}: search, {name}", spec, f"Best at {best}."))
    return made


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def exposure(published: dict[str, Any] | None) -> dict[str, Any] | None:
    """How much of the catalog is shown, and whether popular items have more than their share."""
    if published is None:
        return None
    head = published["by_decile"][0]
    description = f"The most popular {plural(head['items'], 'item')}: {percent(head['interactions'])} of the "
    description += f"interactions and {percent(head['share'])} of the lists"
    points = published["exposure"]
    items = (
        f"{number(len(points))} items: popularity in the source against the share of users who have them in their list"
    )
    shown = [
        drawn(
            "Lists by popularity of the items", charts.deciles(published["by_decile"], description), f"{description}."
        ),
        drawn(
            "Each item: popularity and exposure", charts.exposure(points, items), "Hover over an item to see its title."
        ),
    ]
    return {**published["coverage"], "charts": shown, "most_shown": published["most_shown"],
            "suppressed": published["suppressed"], "head": head}  # fmt: skip


def clicks(night: Night) -> list[Drawn]:
    """Click rates of the lists of all nights whose clicks were counted tonight, by place and source."""
    rows = night.table(REALISED_CLICKS).filter((pl.col("place") > 0) & (pl.col("source") != "all"), list="")
    if rows.is_empty():
        return []
    sums = rows.group_by("source", "place").agg(pl.col("shown", "clicked").sum()).sort("place", "source").to_dicts()
    for row in sums:
        row["rate"] = row["clicked"] / row["shown"]
        row["ci_low"], row["ci_high"] = wilson(row["clicked"], row["shown"])
    shown, clicked = (sum(row[name] for row in sums) for name in ("shown", "clicked"))
    description = f"{number(clicked)} of {number(shown)} shown items were clicked"
    return [drawn("Clicks on published lists, by place", charts.clicks(sums, description), f"{description}.")]


def churn(night: Night) -> dict[str, Any] | None:
    """How much the lists changed, by segment and over the nights."""
    rows = night.table(tables.CHURN).to_dicts() if night.record["outcome"] != "stopped" else []
    if not rows:
        return None
    order = list(SEGMENTS)
    rows.sort(key=lambda row: order.index(row["segment"]) if row["segment"] in order else len(order))
    bars = [
        {"segment": SEGMENTS.get(r["segment"], r["segment"]), "change": 1 - r["jaccard"], "n": r["n"]} for r in rows
    ]
    description = "; ".join(f"{bar['segment']} {percent(bar['change'])}" for bar in bars)
    shown = []
    if any(bar["change"] > 0 for bar in bars):
        shown.append(drawn("Change of the lists by segment", charts.churn(bars, f"Change of lists: {description}")))
    past = night.churn_of_nights.filter(segment="all").sort("run_id")
    if past.height > 1:
        of_night = labels(night.nights)
        series = [{"when": of_night[r["run_id"]], "change": 1 - r["jaccard"], "tonight": r["run_id"] == night.run_id}
                  for r in past.to_dicts()]  # fmt: skip
        spec = charts.nights(series, "change", "1 - Jaccard", f"Change of lists in {len(series)} nights", "%")
        shown.append(drawn("Change of the lists by night", spec))
    return {"rows": rows, "of": rows[0], "charts": shown, "names": SEGMENTS}


def stages(night: Night) -> dict[str, Any]:
    """The stages in order, with their durations."""
    rows = night.table(tables.STAGES).to_dicts()
    ends = list(accumulate(row["seconds"] for row in rows))
    bars = [
        {"stage": row["stage"], "start": end - row["seconds"], "end": end, "seconds": row["seconds"],
         "state": "reused" if row["skipped"] else "made", "rows": row["rows_out"]}
        for row, end in zip(rows, ends, strict=True)
    ]  # fmt: skip
    if not bars:
        return {"rows": [], "charts": [], "total": None}
    longest = max(bars, key=lambda bar: bar["seconds"])
    description = (
        f"{len(bars)} stages in {seconds(ends[-1])}; the longest is {longest['stage']}, {seconds(longest['seconds'])}"
    )
    return {
        "rows": rows,
        "total": ends[-1],
        "charts": [drawn("Stages, end to end", charts.timeline(bars, description), f"{description}.")],
    }


def lineage(night: Night, parts: dict[str, Any]) -> dict[str, Any]:
    """What determines the night: data, code, settings; and the folders of the lake with their parents."""
    record, settings = night.record, night.settings
    facts = [
        ("Night", night.run_id), ("Recipe", record.get("recipe")), ("Code version", record.get("code_version")),
        ("Data hash", record.get("data_hash") or night.source.get("data_hash")),
        ("Logical hash of the tables", record.get("logical_hash")),
        ("Split", record.get("split_kind")),
        ("Rows of train, valid, test", ", ".join(number(parts[name]) for name in parts)),
        ("Seed", settings.get("seed")), ("Device", settings.get("device")), ("MLflow run", record.get("mlflow_run_id")),
        ("Prefect flow run", record.get("flow_run_id")),
    ]  # fmt: skip
    return {
        "facts": [(name, value) for name, value in facts if value not in (None, "")],
        "sources": night.source.get("files") or {}, "folders": night.lineage,
        "settings": json.dumps(settings, indent=2, ensure_ascii=False),
    }  # fmt: skip
