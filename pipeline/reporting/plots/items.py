"""Plots of a model's items: biases with titles, and a map of the embeddings."""

from pathlib import Path

import numpy as np
import polars as pl

from pipeline.reporting.plots.figure import MAIN, QUIET, SECOND, picture, plain

N_SHOWN = 15
N_LABELLED = 40
DOTS = 5_000  # more would be one blot


def item_biases(items: pl.DataFrame, label: str, path: Path) -> Path:
    """The items with the highest and the lowest bias. `items`: title, n_interactions, bias."""
    ranked = items.sort("bias", descending=True)
    n = min(N_SHOWN, ranked.height // 2)
    ends = (("highest", ranked.head(n), MAIN), ("lowest", ranked.tail(n).reverse(), SECOND))
    with picture(path, f"{label}: items by bias", 2, (5.6, 0.24 * n + 1.3)) as axes:
        for axis, (name, shown, colour) in zip(axes, ends, strict=True):
            names = [f"{_short(title)}  ({count:,})" for title, count in shown.select("title", "n_interactions").rows()]
            axis.barh(range(n), shown["bias"].to_list(), color=colour)
            axis.set_yticks(range(n), names, fontsize=8)
            axis.invert_yaxis()
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set(title=f"{name} (in brackets: rows of the item)", xlabel="bias, on the scale of the fit")
    return path


def dots_of(items: pl.DataFrame, vectors: np.ndarray) -> tuple[pl.DataFrame, list[float]]:
    """The most popular `items` (title, n_interactions) with coordinates x and y, and each axis' share of the variance.

    Coordinates are the first two principal components of the vectors (I, D), which are in the order of the items.
    """
    points, explained = principal_components(vectors)  # (I, 2), (2,)
    placed = items.with_columns(x=points[:, 0], y=points[:, 1])
    return placed.sort("n_interactions", descending=True, maintain_order=True).head(DOTS), explained.tolist()


def embedding_map(dots: pl.DataFrame, explained: list[float], label: str, path: Path) -> Path:
    """A map of items at the coordinates of `dots_of`, with the most popular titles. Colour and size: popularity."""
    points = dots.select("x", "y").to_numpy()  # (N, 2)
    counts = dots["n_interactions"].to_numpy().clip(min=1)  # (N,)
    with picture(path, f"{label}: item embeddings", 1, (9, 7)) as (axis,):
        sizes = 4 + 60 * counts / counts.max()  # (N,)
        drawn = axis.scatter(*points.T, s=sizes, c=counts, norm="log", cmap="viridis_r", alpha=0.6, linewidths=0)
        bar = axis.figure.colorbar(drawn, ax=axis, label="rows of the item", shrink=0.6)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        bar.ax.yaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0f}"[0] in "25" else "")
        axis.axhline(0, color=QUIET, linewidth=0.4)
        axis.axvline(0, color=QUIET, linewidth=0.4)
        axis.set(
            xlabel=f"first principal component ({explained[0]:.0%} of the variance)",
            ylabel=f"second ({explained[1]:.0%})",
        )
        _write_apart(axis, points, dots["title"].to_list())
    return path


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(I, D) -> coordinates (I, 2) along the two directions of most variance, and their shares of it (2,).

    The largest weight of each direction is positive, so that equal vectors give equal plots.
    """
    centred = vectors - vectors.mean(0)  # (I, D)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # (D,), (D, D), rising
    top = directions[:, ::-1][:, :2]  # (D, 2)
    top = top * np.sign(top[np.abs(top).argmax(0), range(top.shape[1])])
    points = np.zeros((len(vectors), 2))
    points[:, : top.shape[1]] = centred @ top
    shares = np.zeros(2)
    shares[: top.shape[1]] = variances[::-1][:2] / max(variances.sum(), 1e-12)
    return points, shares


def _write_apart(axis, points: np.ndarray, titles: list[str | None]) -> None:
    """Write the titles of the first points that have one, but for those that would overlap an earlier one."""
    axis.figure.draw_without_rendering()  # positions are final from here on
    axis.figure.set_layout_engine("none")  # else they are computed twice more, for the same result
    taken = []
    for point, title in zip(points[: 4 * N_LABELLED], titles, strict=False):
        if not title or len(taken) == N_LABELLED:
            continue
        for side, shift in (("left", 4), ("right", -4)):
            place = {"xytext": (shift, 3), "textcoords": "offset points", "ha": side}
            text = axis.annotate(_short(title, 24), point, fontsize=7.5, **place)
            text.set_in_layout(False)
            box = text.get_window_extent()
            if axis.bbox.containsx(box.x0) and axis.bbox.containsx(box.x1) and not any(map(box.overlaps, taken)):
                taken.append(box)
                break
            text.remove()


def _short(title: str | None, width: int = 34) -> str:
    return plain(title if len(title or "") <= width else f"{(title or '')[: width - 1]}…") if title else "(no title)"
