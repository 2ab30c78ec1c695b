"""Plots as PNG files; `picture` is the context in which each one is drawn.

Matplotlib is imported when a plot is drawn, not when it is only listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
MAIN, SECOND, QUIET = "#2b6cb0", "#dd6b20", "#718096"
"""Colours: of the subject, of what it is compared with, of guide lines."""


@contextmanager
def picture(path: Path, title: str, panels: int = 1, size: tuple[float, float] = (4.5, 3.2)) -> Iterator[list[Axes]]:
    """Axes of `panels` side by side, each `size` inches large; the file is saved when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inches = size[0] * panels, size[1]
    figure = Figure(inches, DPI, layout="constrained")  # without pyplot, whose import is slow
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)
    figure.suptitle(title)  # now, so that places are final once drawn
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    yield list(axes[0])
    canvas.print_png(path)  # `savefig` draws twice, for formats that need it


def plain(text: str) -> str:
    """A title that matplotlib can draw: `$` is escaped, and characters that the font lacks become a box."""
    known = _characters()
    return "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in text).replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """The characters that the font has; to list them takes long, and a plot has hundreds of titles."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def training_curve(info: dict[str, Any], path: Path, valid: str = "metric") -> Path:
    """Loss and, where it was measured, the metric on valid (named `valid`), by epoch.

    `info`: of a model's folder. A metric of which less is better was negated for the fit, and is shown unnegated.
    """
    history = info["history"]
    names = list(dict.fromkeys(name for row in history for name in row if name != "epoch"))
    with picture(path, f"{info['label']} ({info['family']}): training", len(names)) as axes:
        for axis, name in zip(axes, names, strict=True):
            points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
            epochs, values = zip(*points, strict=True)
            negated = name == "valid" and max(values) < 0
            axis.plot(epochs, [-v for v in values] if negated else values, marker="o", markersize=3, color=MAIN)
            labels = {"loss": "loss on train, mean of the epoch", "valid": f"{valid} on valid"}
            axis.set(xlabel="epoch", ylabel=labels.get(name, name.replace("_", " ")))
            axis.locator_params(axis="x", integer=True)
            _rates(axis, info.get("config") or {}, epochs[-1])
            if info.get("best_epoch"):
                axis.axvline(info["best_epoch"], color=SECOND, linestyle=":", label=f"kept: epoch {info['best_epoch']}")
                axis.legend(frameon=False, fontsize=8)
    return path


def _rates(axis: Axes, config: dict[str, Any], last: int) -> None:
    """Mark where a stepped schedule changes the learning rate."""
    if config.get("schedule") != "step" or not config.get("steps"):
        return
    starts = accumulate((epochs for epochs, _ in config["steps"]), initial=0)
    for start, (_, rate) in zip(starts, config["steps"], strict=False):
        if start < last:
            axis.axvline(start + 0.5, color=QUIET, linewidth=0.5)
            place = {"xy": (start + 0.5, 1.0), "xycoords": axis.get_xaxis_transform()}
            axis.annotate(
                f"rate {rate:g}" if not start else f"{rate:g}",
                **place,
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                color=QUIET,
            )
