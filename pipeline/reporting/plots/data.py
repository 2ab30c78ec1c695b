"""Plots of a data set, from the output of stage `profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.plots.figure import MAIN, QUIET, SECOND, picture, plain

if TYPE_CHECKING:
    from pipeline.reporting.plots.figure import Axes

Described = dict[str, Any]


def shape(described: Described, path: Path) -> Path:
    """A sample of rows, the columns, and rows, users, items and density before and after cleaning, as tables."""
    shapes = described["shapes"]
    before_after = [
        [name, f"{shapes['raw'][name]:,}", f"{shapes['clean'][name]:,}"] for name in ("rows", "users", "items")
    ]
    before_after.append(["density", *(f"{100 * shapes[at]['density']:.3g} %" for at in ("raw", "clean"))])
    parts = ", ".join(f"{name} {rows:,}" for name, rows in described["rows"].items())
    columns = [
        [c["column"], f"{c['distinct']:,}", f"{c['nulls']:,} ({100 * c['null_share']:.3g} %)"]
        for c in described["columns"]
    ]
    empty = {c["column"] for c in described["columns"] if c["null_share"] == 1}
    shown = [name for name in ("user", "item", "title", "rating", "timestamp") if name not in empty]
    sample = [[_cell(row[name]) for name in shown] for row in described["sample"]]
    with picture(path, f"{described['dataset']}: the data", 3, (4, 2.2)) as axes:
        _table(axes[0], "source, and rows in use", ["", "source", "in use"], before_after, parts)
        _table(axes[1], "columns of the source", ["", "distinct", "nulls"], columns)
        _table(axes[2], "some rows", shown, sample)
    return path


def ratings(described: Described, path: Path) -> Path:
    """Distribution of ratings or weights: of the source, and of train on the scale that families are fitted on."""
    raw, fit, kind = described["ratings"]["raw"], described["ratings"]["fit"], described["normalize"]
    panels = [("as in the source", raw, "rating or weight, source's unit", MAIN)]
    if fit and kind != "none":
        panels.append((f"train, normalised ({kind})", fit, "on the scale of the fit", SECOND))
    with picture(path, f"{described['dataset']}: ratings", len(panels), (5, 3.4)) as axes:
        for axis, (title, spread, label, colour) in zip(axes, panels, strict=True):
            _histogram(axis, spread, colour)
            axis.set(title=title, xlabel=label + (" (log scale)" if spread["log"] else ""), ylabel="rows")
            if "edges" in spread:
                _mark(axis, spread)
    return path


def activity(described: Described, path: Path) -> Path:
    """Rows per user and per item, in the source and in use, and how unevenly they are spread."""
    with picture(path, f"{described['dataset']}: activity of users, popularity of items", 2, (5, 3.4)) as axes:
        for axis, (name, of) in zip(axes, (("activity", "user"), ("popularity", "item")), strict=True):
            for at, colour, label in (("raw", QUIET, "source"), ("clean", MAIN, "in use")):
                spread = described[name][at]
                share = 100 * spread["share_of_top"]["0.1"]
                median = spread["quantiles"]["0.5"]
                text = f"{label}: median {median:,.0f}, the top 10 % have {share:.0f} % of the rows"
                _histogram(axis, spread, colour, step=at == "raw", label=text)
            log = any(described[name][at]["log"] for at in ("raw", "clean"))
            axis.set(xlabel=f"rows of one {of}" + (" (log scale)" if log else ""), ylabel=f"{of}s (log scale)")
            axis.set_yscale("log")
            axis.set_ylim(bottom=0.5, top=axis.get_ylim()[1] * 4)  # room for the legend
            axis.legend(frameon=False, fontsize=7.5, loc="upper right")
    return path


def _histogram(axis: Axes, spread: Described, colour: str, step: bool = False, label: str | None = None) -> None:
    """Bars for few values, else bins; `step`: only the outline."""
    if "at" in spread:
        width = 0.8 * min((b - a for a, b in zip(spread["at"], spread["at"][1:], strict=False)), default=1.0)
        style: dict[str, Any] = {"fill": False, "edgecolor": colour} if step else {"color": colour}
        axis.bar(spread["at"], spread["counts"], width, label=label, **style)
        axis.set_xticks(spread["at"] if len(spread["at"]) <= 12 else spread["at"][::2])
    else:
        style = {"color": colour, "linewidth": 1.2} if step else {"color": colour, "fill": True, "alpha": 0.85}
        axis.stairs(spread["counts"], spread["edges"], label=label, **style)
    if spread["log"]:
        axis.set_xscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _mark(axis: Axes, spread: Described) -> None:
    """Mark median and mean, which are far apart where a few values are huge."""
    for value, name, style in ((spread["quantiles"]["0.5"], "median", "-"), (spread["mean"], "mean", ":")):
        axis.axvline(value, color="black", linewidth=1, linestyle=style, label=f"{name} {value:,.3g}")
    axis.plot([], [], " ", label=f"max {spread['max']:,.6g}")
    axis.legend(frameon=False, fontsize=8)


def _table(axis: Axes, title: str, header: list[str], rows: list[list[str]], below: str = "") -> None:
    axis.axis("off")
    axis.set_title(title, fontsize=10, loc="left")
    table = axis.table([*rows], colLabels=header, loc="upper left", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(header))))
    axis.text(0.0, 0.0, below, transform=axis.transAxes, fontsize=8, color=QUIET)


def _cell(value: object) -> str:
    text = f"{value:,.6g}" if isinstance(value, float) else str(value or "")[:19]
    return plain(text)
