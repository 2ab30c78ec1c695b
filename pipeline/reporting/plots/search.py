"""Plots of a learning-rate sweep and of a hyperparameter search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.reporting.plots.figure import MAIN, QUIET, SECOND, picture

if TYPE_CHECKING:
    from pipeline.reporting.plots.figure import Axes


def rate_sweep(info: dict[str, Any], path: Path) -> Path:
    """Smoothed loss by learning rate, and the suggested rate; `info`: of a model's folder, with `finder`."""
    found = info["finder"]
    with picture(path, f"{info['label']} ({info['family']}): learning-rate finder") as (axis,):
        axis.plot(found["rates"], found["losses"], color=MAIN)
        axis.set(xscale="log", xlabel="learning rate, rising from step to step", ylabel="smoothed loss of a mini-batch")
        if len(found["losses"]) > 1:  # the divergence at the end would flatten the rest
            low, high = min(found["losses"]), max(found["losses"][: max(len(found["losses"]) * 3 // 4, 2)])
            axis.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.3 * (high - low) + 1e-9)
        if found["suggestion"] is not None:
            label = f"suggested: {found['suggestion']:.3g}" + (", used" if found["used"] else "")
            axis.axvline(found["suggestion"], color=SECOND, linestyle=":", label=label)
            axis.legend(frameon=False)
    return path


def search(info: dict[str, Any], trials: pl.DataFrame, path: Path) -> Path:
    """The metric of every trial by each hyperparameter; with a line where only one was searched.

    `info` and `trials`: of a folder of the stage search. Hollow: pruned; crosses at the edge: failed.
    """
    rows = [{**row, "params": json.loads(row["params"])} for row in trials.iter_rows(named=True)]
    names = info["searched"]
    with picture(path, f"{info['label']} ({info['family']}): {len(rows)} trials", len(names), (3.6, 3.2)) as axes:
        for axis, name in zip(axes, names, strict=True):
            _by_one(axis, rows, name, info, line=len(names) == 1)
        axes[0].set_ylabel(f"{info['metric']} on valid")
    return path


def _by_one(axis: Axes, rows: list[dict[str, Any]], name: str, info: dict[str, Any], line: bool) -> None:
    values = [row["params"][name] for row in rows]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numeric:  # one position per choice, in order of appearance
        known = list(dict.fromkeys(map(json.dumps, values)))
        axis.set_xticks(range(len(known)), [text.strip('"') for text in known])
        places = [float(known.index(json.dumps(value))) for value in values]
    else:
        places = [float(value) for value in values]
        axis.set_xscale("log" if name in info["log"] else "linear")
        if name in info["log"] and max(places) >= 10 * min(places):
            axis.xaxis.set_minor_formatter("")  # powers of ten are labels enough
    of = {state: [(x, row["value"]) for x, row in zip(places, rows, strict=True) if row["state"] == state]
          for state in ("complete", "pruned", "failed")}  # fmt: skip
    if line:
        axis.plot(*_axes(sorted(of["complete"])), color=QUIET, linewidth=1)
    axis.scatter(*_axes(of["complete"]), color=MAIN, s=16)
    axis.scatter(*_axes([p for p in of["pruned"] if p[1] is not None]), facecolors="none", edgecolors=QUIET, s=16)
    if of["failed"]:
        edge = {"transform": axis.get_xaxis_transform(), "clip_on": False}
        axis.scatter([x for x, _ in of["failed"]], [0.0] * len(of["failed"]), marker="x", color=SECOND, s=16, **edge)
    if info["best"]:
        number = info["best"]["number"]
        axis.scatter(places[number], rows[number]["value"], marker="*", color=SECOND, s=90, zorder=3)
    axis.set_xlabel(name)


def _axes(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
