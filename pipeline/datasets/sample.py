"""Writes the built-in sample, all synthetic: invented readers of invented books, and a few broken lines."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.core.seeding import generator
from pipeline.datasets.sample_reading import draw_sample
from pipeline.schemas.reasons import Reason

FAULTS: dict[Reason, tuple[str, ...]] = {
    Reason.RATING_NOT_A_NUMBER: tuple(f"{{user}},{{item}},{x},{{time}}" for x in ("great", "n/a", "four", "***")),
    Reason.RATING_NOT_FINITE: tuple(f"{{user}},{{item}},{x},{{time}}" for x in ("NaN", "nan", "inf")),
    Reason.EMPTY_USER: (",{item},{rating},{time}",) * 4,
    Reason.EMPTY_ITEM: ("{user},,{rating},{time}",) * 4,
    Reason.TOO_FEW_FIELDS: ("{user}", "{user},{item}", "{user},{item},{rating}"),
    Reason.TOO_MANY_FIELDS: tuple(f"{{user}},{{item}},{{rating}},{{time}},{x}" for x in ("web", "app", "app,2")),
    Reason.TIMESTAMP_UNREADABLE: tuple(f"{{user}},{{item}},{{rating}},{x}" for x in ("yesterday", "??", "31/03", "-")),
}
"""The broken lines by what is wrong with them; each has exactly one fault."""


def write_sample(folder: Path, seed: int = 42) -> list[tuple[int, Reason]]:
    """Write interactions.csv and items.csv; return the broken lines, (physical line, reason), in line order.

    The same seed gives the same bytes. Lines count from 1, the header too.
    """
    sample = draw_sample(seed)
    fields = pl.concat_str("user", "item", "rating", "timestamp", separator=",")
    lines = sample.interactions.select(fields).to_series().to_list()
    lines, broken = _break_some(lines, generator(seed, "sample", "broken"))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "interactions.csv", "\n".join(["user,item,rating,timestamp", *lines, ""]))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([sample.items.columns, *sample.items.rows()])
    _write(folder / "items.csv", text.getvalue())
    return broken


def _break_some(lines: list[str], rng: np.random.Generator) -> tuple[list[str], list[tuple[int, Reason]]]:
    """Put the broken lines in between; each is the line that follows it, spoilt."""
    faults = [(reason, form) for reason, forms in FAULTS.items() for form in forms]
    places = np.sort(rng.choice(len(lines), len(faults), replace=False))
    out: list[str] = []
    broken: list[tuple[int, Reason]] = []
    start = 0
    for place, which in zip(places, rng.permutation(len(faults)), strict=True):
        reason, form = faults[which]
        user, item, rating, time = lines[place].split(",")
        out += lines[start:place]
        out.append(form.format(user=user, item=item, rating=rating, time=time))
        broken.append((len(out) + 1, reason))  # + 1: the header
        start = place
    return out + lines[start:], broken


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(text.encode())
    os.replace(part, path)
