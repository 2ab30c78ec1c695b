"""Charts of a night as Vega-Lite, made with Altair; page.js sets colours, fonts and dark mode."""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

Rows = list[dict[str, Any]]
ROUND = 2
CHAMPION = ("other models", "champion")
LOSING = ["ingest", "clean", "catalog", "users", "impressions"]
"""Stages that leave rows out."""
FEW = 6
"""Number of distinct values up to which a hyperparameter is drawn on a categorical axis."""


def chart(spec: Any, height: int, description: str) -> dict[str, Any]:
    """A specification that fills its container; `description` is for screen readers."""
    made = spec.properties(width="container", height=height, description=description).to_dict(validate=False)
    made.pop("config", None)
    return made


def _of(rows: Iterable[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _tips(**of: str) -> list[alt.Tooltip]:
    """Tooltip lines: title (underscores become spaces) to field."""
    return [alt.Tooltip(field, title=title.replace("_", " ")) for title, field in of.items()]


def _coloured(field: str, there: Iterable[str], known: list[str], shown: str | None = "top") -> alt.Color:
    """Colours that do not depend on which values occur; a legend where more than one does."""
    values = [value for value in known if value in set(there)]
    legend = alt.Legend(orient="top", values=values) if shown is None or len(values) > 1 else None
    return alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=known), legend=legend)


def _nights_axis(rows: Rows, title: str | None = None) -> alt.X:
    """The nights in the order of the rows: their labels, sorted as texts, would put `01 Dec` before `30 Nov`."""
    axis = alt.Axis(labelAngle=-40, labelOverlap="greedy")
    return alt.X("when:O", title=title, sort=list(dict.fromkeys(row["when"] for row in rows)), axis=axis)


def leaderboard(rows: Rows, metric: str, champion: str | None, description: str) -> dict[str, Any]:
    """Values with their intervals, best first: rows have model, name, value, ci_low, ci_high, n."""
    order = [row["name"] for row in rows]
    rows = [{**row, "who": CHAMPION[row["model"] == champion]} for row in rows]
    base = _of(rows).encode(
        y=alt.Y("name:N", sort=order, title=None),
        color=alt.Color("who:N", scale=alt.Scale(domain=CHAMPION), legend=None),
        tooltip=_tips(model="name:N", value="value:Q", low="ci_low:Q", high="ci_high:Q", n="n:Q"),
    )
    scale = alt.Scale(zero=False, nice=True)
    ends = (
        base.transform_filter("datum.ci_low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("ci_low:Q", title=metric, scale=scale), x2="ci_high:Q")
    )
    return chart(
        ends + base.mark_circle(size=90, opacity=1).encode(x=alt.X("value:Q", title=metric, scale=scale)),
        30 * len(rows) + 20,
        description,
    )


def segments(rows: Rows, metric: str, description: str) -> dict[str, Any]:
    """The champion's metric by activity decile: rows have decile, value, ci_low, ci_high, n."""
    base = _of(rows).encode(
        x=alt.X("decile:O", title="users by activity, 1: least active", axis=alt.Axis(labelAngle=0))
    )
    tips = _tips(decile="decile:O", value="value:Q", low="ci_low:Q", high="ci_high:Q", users="n:Q")
    ends = base.mark_rule(strokeWidth=2).encode(y=alt.Y("ci_low:Q", title=metric), y2="ci_high:Q")
    return chart(ends + base.mark_circle(size=80, opacity=1).encode(y="value:Q", tooltip=tips), 190, description)


def differences(rows: Rows, description: str) -> dict[str, Any]:
    """Differences of the gate with their intervals, and zero: rows have what, value, ci_low, ci_high, n."""
    base = _of(rows).encode(y=alt.Y("what:N", sort=[row["what"] for row in rows], title=None))
    tips = _tips(compared="what:N", difference="value:Q", low="ci_low:Q", high="ci_high:Q", users="n:Q")
    ends = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("ci_low:Q", title="difference, right of 0: better", scale=alt.Scale(padding=12)), x2="ci_high:Q"
    )
    points = base.mark_circle(size=90, opacity=1).encode(x="value:Q", tooltip=tips)
    zero = _of([{"at": 0.0, "line": "no difference"}]).mark_rule(strokeDash=[4, 3], strokeWidth=2).encode(
        x="at:Q", color=alt.Color("line:N", legend=None, scale=alt.Scale(domain=["points", "no difference"]))
    )  # fmt: skip
    return chart(zero + ends + points, 30 * len(rows) + 20, description)


def nights(rows: Rows, value: str, title: str, description: str, form: str = "~s") -> dict[str, Any]:
    """Bars over the nights, tonight in the second colour: rows have when, tonight and the value."""
    bars = _of({**row, "who": "tonight" if row["tonight"] else "earlier nights"} for row in rows)
    bars = bars.mark_bar(cornerRadiusEnd=ROUND, width=alt.ExprRef("min(40, bandwidth('x'))"))
    return chart(
        bars.encode(
            x=_nights_axis(rows),
            y=alt.Y(f"{value}:Q", title=title, axis=alt.Axis(format=form, tickCount=4)),
            color=alt.Color("who:N", scale=alt.Scale(domain=["earlier nights", "tonight"]), legend=None),
            tooltip=_tips(night="when:N", value=f"{value}:Q"),
        ),
        170,
        description,
    )


def quality(rows: Rows, metric: str, description: str) -> dict[str, Any]:
    """The champions' metric on test over the nights, with intervals."""
    base = _of(rows).encode(x=_nights_axis(rows))
    y = alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    tips = _tips(night="when:N", champion="champion:N", value="value:Q", low="ci_low:Q", high="ci_high:Q")
    ends = (
        base.transform_filter("datum.ci_low !== null")
        .mark_rule()
        .encode(y=alt.Y("ci_low:Q", title=metric, scale=alt.Scale(zero=False)), y2="ci_high:Q")
    )
    return chart(
        ends + base.mark_line().encode(y=y) + base.mark_circle(size=60, opacity=1).encode(y=y, tooltip=tips),
        170,
        description,
    )


def distribution(of: dict[str, Any], title: str, counted: str, description: str) -> dict[str, Any]:
    """A histogram from `data_profile.distribution`: one bar per value, or bins that may grow with the value."""
    y = alt.Y("count:Q", title=counted, axis=alt.Axis(format="~s", tickCount=4))
    if "at" in of:
        rows = [{"at": f"{at:g}", "count": n} for at, n in zip(of["at"], of["counts"], strict=True)]
        x = alt.X("at:O", title=title, sort=None, axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
        bars = _of(rows).mark_bar(cornerRadiusEnd=ROUND).encode(x=x, y=y, tooltip=_tips(value="at:N", count="count:Q"))
        return chart(bars, 170, description)
    edges = of["edges"]
    rows = [{"low": a, "high": b, "count": n} for a, b, n in zip(edges, edges[1:], of["counts"], strict=False)]
    scale = alt.Scale(type="log", nice=False) if of["log"] else alt.Scale(zero=False, nice=False)
    x = alt.X("low:Q", title=title, scale=scale, axis=alt.Axis(format="~s", tickCount=5, grid=False))
    tips = _tips(at_least="low:Q", below="high:Q", count="count:Q")
    bars = _of(rows).mark_bar(binSpacing=0, stroke=None).encode(x=x, x2="high:Q", y=y, y2=alt.datum(0), tooltip=tips)
    return chart(bars, 170, description)


def reasons(rows: Rows, description: str) -> dict[str, Any]:
    """Rows that were left out, by reason: rows have reason, stage, rows."""
    bars = _of(rows).mark_bar(cornerRadiusEnd=ROUND).encode(
        y=alt.Y("reason:N", sort=[row["reason"] for row in rows], title=None),
        x=alt.X("rows:Q", title="rows", axis=alt.Axis(format="~s", tickCount=4)),
        color=_coloured("stage", [row["stage"] for row in rows], LOSING),
        tooltip=_tips(reason="reason:N", stage="stage:N", rows="rows:Q"),
    )  # fmt: skip
    return chart(bars, 24 * len(rows) + 20, description)


def curve(rows: Rows, title: str, kept: int | None, description: str) -> dict[str, Any]:
    """A metric by epoch, with the epoch that was kept: rows have epoch, value."""
    base = _of(rows).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d", grid=False)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        tooltip=_tips(epoch="epoch:Q", value="value:Q"),
    )
    layers = base.mark_line() + base.mark_circle(size=36, opacity=1)
    if kept:
        best = [row for row in rows if row["epoch"] == kept]
        layers += _of(best).mark_circle(size=110, opacity=1).encode(
            x="epoch:Q", y="value:Q", color=alt.Color("kept:N", legend=None, scale=alt.Scale(domain=["curve", "kept"])),
            tooltip=_tips(kept_epoch="epoch:Q", value="value:Q"),
        ).transform_calculate(kept="'kept'")  # fmt: skip
    return chart(layers, 160, description)


def sweep(rates: Sequence[float], losses: Sequence[float], suggested: float | None, description: str) -> dict[str, Any]:
    """Smoothed loss by learning rate, and the suggested rate."""
    rows = [{"rate": rate, "loss": loss} for rate, loss in zip(rates, losses, strict=True)]
    low, start = min(losses), losses[0]
    top = start + 0.5 * (start - low) + 1e-9  # the divergence at the end would flatten the rest
    line = _of(rows).mark_line(clip=True).encode(
        x=alt.X("rate:Q", title="learning rate, rising from step to step", scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~e", tickCount=6, grid=False)),
        y=alt.Y("loss:Q", title="smoothed loss", axis=alt.Axis(tickCount=4),
                scale=alt.Scale(domain=[low - 0.1 * (start - low) - 1e-9, top])),
        tooltip=_tips(rate="rate:Q", loss="loss:Q"),
    )  # fmt: skip
    if suggested is None:
        return chart(line, 160, description)
    rule = _of([{"rate": suggested, "what": "suggested"}]).mark_rule(strokeDash=[4, 3], strokeWidth=2)
    colour = alt.Color("what:N", legend=None, scale=alt.Scale(domain=["curve", "suggested"]))
    return chart(line + rule.encode(x="rate:Q", color=colour, tooltip=_tips(suggested="rate:Q")), 160, description)


def trials(rows: Rows, name: str, log: bool, metric: str, description: str) -> dict[str, Any]:
    """A search's metric by one hyperparameter: rows have at, value, state, number."""
    states, known = {row["state"] for row in rows}, ["complete", "best", "pruned"]
    numeric = all(isinstance(row["at"], int | float) and not isinstance(row["at"], bool) for row in rows)
    numeric = numeric and (log or len({row["at"] for row in rows}) > FEW)
    order = list(dict.fromkeys(str(row["at"]) for row in sorted(rows, key=lambda r: (str(type(r["at"])), r["at"]))))
    rows = rows if numeric else [{**row, "at": str(row["at"])} for row in rows]
    scale = alt.Scale(type="log", nice=False, padding=8) if log and numeric else alt.Scale(zero=False, padding=8)
    axis = alt.Axis(format="~g", tickCount=4, grid=False) if numeric else alt.Axis(labelAngle=0)
    x = (
        alt.X("at:Q", title=name, scale=scale, axis=axis)
        if numeric
        else alt.X("at:N", title=name, axis=axis, sort=order)
    )
    points = _of(rows).mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        color=_coloured("state", states, known, shown=None),
        shape=alt.Shape("state:N", title=None, scale=alt.Scale(domain=known, range=["circle", "diamond", "cross"]),
                        legend=alt.Legend(orient="top", values=[state for state in known if state in states])),
        tooltip=_tips(trial="number:Q", value="value:Q", state="state:N", **{name.replace(" ", "_"): "at:N"}),
    )  # fmt: skip
    return chart(points, 170, description)


def deciles(rows: Rows, description: str) -> dict[str, Any]:
    """Share of the lists by popularity decile, with a line at 10 %, an even share: rows have decile, share, items."""
    bars = _of(rows).mark_bar(cornerRadiusEnd=ROUND).encode(
        x=alt.X("decile:O", title="popularity decile, 1: most popular", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("share:Q", title="share of the lists", axis=alt.Axis(format="%", tickCount=4)),
        tooltip=[*_tips(decile="decile:O", items="items:Q"), alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    even = _of([{"at": 0.1, "line": "10 %"}]).mark_rule(strokeDash=[4, 3], strokeWidth=2)
    colour = alt.Color("line:N", legend=None, scale=alt.Scale(domain=["bars", "10 %"]))
    return chart(bars + even.encode(y="at:Q", color=colour), 190, description)


def exposure(rows: Rows, description: str) -> dict[str, Any]:
    """Items: popularity against the share of users who have them in their list."""
    points = _of(rows).mark_circle(size=28, opacity=0.55).encode(
        x=alt.X("n_interactions:Q", title="interactions in the source", scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~s", tickCount=4, grid=False)),
        y=alt.Y("share_of_users:Q", title="users with it in their list", axis=alt.Axis(format="%", tickCount=4)),
        tooltip=[*_tips(item="item_id:N", title="title:N", interactions="n_interactions:Q", lists="lists:Q")],
    )  # fmt: skip
    return chart(points, 190, description)


def churn(rows: Rows, description: str) -> dict[str, Any]:
    """Change of lists by segment: rows have segment, change, n."""
    bars = _of(rows).mark_bar(cornerRadiusEnd=ROUND).encode(
        y=alt.Y("segment:N", sort=None, title=None),
        x=alt.X("change:Q", title="1 - Jaccard", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5)),
        tooltip=[*_tips(users="segment:N", n="n:Q"), alt.Tooltip("change:Q", format=".1%")],
    )  # fmt: skip
    return chart(bars, 26 * len(rows) + 20, description)


def drift(rows: Rows, description: str) -> dict[str, Any]:
    """Shares over the nights, one line for each measure: rows have when, measure, value, unusual."""
    base = _of(rows).encode(
        x=_nights_axis(rows),
        y=alt.Y("value:Q", title="share", axis=alt.Axis(format="%", tickCount=4)),
        color=alt.Color("measure:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=[*_tips(night="when:N", measure="measure:N"), alt.Tooltip("value:Q", format=".2%"),
                 alt.Tooltip("unusual:N")],
    )  # fmt: skip
    points = base.mark_circle(opacity=1).encode(size=alt.condition("datum.unusual", alt.value(160), alt.value(30)))
    return chart(base.mark_line(strokeWidth=2) + points, 190, description)


def realised(rows: Rows, metric: str, description: str) -> dict[str, Any]:
    """Realised quality by night of the lists: rows have when, list_source, value, ci_low, ci_high, n."""
    base = _of(rows).encode(
        x=_nights_axis(rows, "night of the lists"),
        xOffset="list_source:N",
        color=_coloured("list_source", [row["list_source"] for row in rows], ["published", "popularity", "holdback"]),
        tooltip=_tips(
            night="when:N", lists="list_source:N", value="value:Q", low="ci_low:Q", high="ci_high:Q", n="n:Q"
        ),
    )
    ends = base.mark_rule(strokeWidth=2).encode(y=alt.Y("ci_low:Q", title=metric), y2="ci_high:Q")
    return chart(ends + base.mark_circle(size=70, opacity=1).encode(y="value:Q"), 190, description)


def clicks(rows: Rows, description: str) -> dict[str, Any]:
    """Click rates by place, a colour for each source: rows have place, source, rate, ci_low, ci_high, shown."""
    base = _of(rows).encode(
        x=alt.X("place:O", title="place in the list", axis=alt.Axis(labelAngle=0)),
        xOffset="source:N",
        color=alt.Color("source:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=_tips(place="place:O", source="source:N", rate="rate:Q", low="ci_low:Q", high="ci_high:Q", n="shown:Q"),
    )
    y = alt.Y("ci_low:Q", title="clicked", axis=alt.Axis(format="%", tickCount=4))
    ends = base.mark_rule(strokeWidth=2).encode(y=y, y2="ci_high:Q")
    return chart(ends + base.mark_circle(size=60, opacity=1).encode(y="rate:Q"), 190, description)


def over_nights(rows: Rows, metric: str, description: str) -> dict[str, Any]:
    """Means of all nights so far, a line for each model: rows have when, lists, value, mean, n."""
    base = _of(rows).encode(
        x=_nights_axis(rows, "night"),
        y=alt.Y("mean:Q", title=metric, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        color=alt.Color("lists:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=_tips(night="when:N", lists="lists:N", mean_so_far="mean:Q", of_the_night="value:Q", users="n:Q"),
    )
    return chart(base.mark_line(strokeWidth=2) + base.mark_circle(opacity=1, size=30), 240, description)


def timeline(rows: Rows, description: str) -> dict[str, Any]:
    """Stages one after another: rows have stage, start, end, seconds, state."""
    bars = _of(rows).mark_bar(cornerRadiusEnd=ROUND, minBandSize=2).encode(
        y=alt.Y("stage:N", sort=[row["stage"] for row in rows], title=None),
        x=alt.X("start:Q", title="seconds", axis=alt.Axis(tickCount=5)),
        x2="end:Q",
        color=_coloured("state", [row["state"] for row in rows], ["made", "reused"]),
        tooltip=_tips(stage="stage:N", seconds="seconds:Q", state="state:N", rows="rows:Q"),
    )  # fmt: skip
    return chart(bars, 20 * len(rows) + 30, description)
