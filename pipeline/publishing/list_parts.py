"""The lists of all users as files of bounded size, made here or in ranges elsewhere, and what they are made of."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.filesystem import temporary_name
from pipeline.models.serialization import load
from pipeline.publishing import (
    active_users,
    attribute_values,
    cold_users,
    explore,
    holdback,
    item_conditions,
    item_tables,
    listed_users,
    user_lists,
    wanted_lists,
)
from pipeline.publishing.holdback import Serving
from pipeline.publishing.listed_users import Range
from pipeline.publishing.rule_files import Listed
from pipeline.ranking.servable import servable
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, journal_entries, lake
from pipeline.storage.expressions import night_date
from pipeline.training.device import resolve_device, set_threads
from pipeline.training.encoded_rows import Wanted, in_blocks, interactions_of
from pipeline.training.interactions import Interactions

OF_THE_NIGHT = ("run_id", "generated_at", "list_id")
"""Columns that are added when tables are published, so that equal nights share the folder of the export."""


@dataclass(frozen=True)
class Source:
    """Results of the lake that lists are made of."""

    raw: Path
    encoded: Path
    champion: Path
    """The refit on all rows."""
    runner_up: Path | None
    """That of the model for `[export.holdback]`."""


@dataclass(frozen=True)
class Inputs:
    """What lists are made of, in memory."""

    run: Run
    encoded: Path
    rows: pl.DataFrame
    """The source's."""
    ids: pl.Series
    """(I,) of the fit's items."""
    items: pl.DataFrame
    """tables.ITEMS"""
    others: pl.DataFrame
    """Items that the fit does not have, as conditions see them."""
    newest: object
    """Time of the newest interaction of the fit's items."""
    allowed: Tensor | None
    """(I,) bool: items that the champion can score; None: all."""
    wanted: list[user_lists.Wanted]
    serving: Serving
    """The champion."""
    other: Serving | None
    """The model for `[export.holdback]`."""

    @property
    def known(self) -> Interactions:
        """The interactions of the fit."""
        return self.serving.fitted.known

    @classmethod
    def of(cls, run: Run, source: Source, listed: dict[str, Listed]) -> "Inputs":
        """Read them; notes what rules do. Raises Refused if the conditions of `[export]` leave no item."""
        raw, encoded, device = source.raw, source.encoded, resolve_device(run.settings.device)
        model, label = load(source.champion, device), lake.info(source.champion)["label"]
        rows = pl.read_parquet(raw / "interactions.parquet")
        shape = lake.info(encoded)
        n_users, n_items = shape["n_users"], shape["n_items"]
        blocks = in_blocks([pl.scan_parquet(encoded / "interactions.parquet")], n_users)
        ids_only = not run.settings.attributes.used  # which tell the age of new items
        known = interactions_of(blocks, (n_users, n_items), device, Wanted(run.settings.recency, ids_only))
        ids = pl.read_parquet(encoded / "items.parquet")["item_id"]
        attributes = item_tables.read_catalog(raw)
        items = item_tables.items(rows, attributes)
        night = night_date(run.as_of, run.started_at)
        known_items = ids.to_frame().join(items, on="item_id", how="left", maintain_order="left")
        described = item_conditions.of_raw(raw, known_items, run.settings.dataset.items, night)
        unknown = items.filter(~pl.col("item_id").is_in(ids.implode()))
        others = item_conditions.of_raw(raw, unknown, run.settings.dataset.items, night)
        newest = described["last_seen"].max()
        clock = explore.Clock(items["last_seen"].max(), newest, night)
        basis = wanted_lists.Basis(run, explore.Frames(described, others, attributes), clock, rows)
        wanted, allowed = wanted_lists.wanted(basis, listed), servable(model, known, encoded)
        wanted_lists.limit_to(allowed, wanted)
        cold = _cold_users(run, raw, encoded, known)
        serving = Serving(user_lists.Fitted(model, known, cold, _by_attribute(run, raw, ids)), label)
        other = None
        if source.runner_up:
            second = user_lists.Fitted(load(source.runner_up, device), known, cold)
            other = Serving(second, lake.info(source.runner_up)["label"])
        if run.settings.export.holdback:
            other = other or holdback.popularity(serving.fitted)
        return cls(run, encoded, rows, ids, items, others, newest, allowed, wanted, serving, other)


@dataclass
class Counts:
    """What was written."""

    lists: int = 0
    """Rows of the default list."""
    drawn: int = 0
    """Of them, those of new items."""
    further: Counter[str] = field(default_factory=Counter[str])
    """Rows of further lists by name."""
    suppressed: list[user_lists.Suppressed] = field(default_factory=list[user_lists.Suppressed])
    """Of each wanted list."""
    filled: list[int] = field(default_factory=list[int])
    """Places of each wanted list with new items."""

    def add(self, other: "Counts") -> None:
        """Add what another part wrote."""
        self.lists += other.lists
        self.drawn += other.drawn
        self.further.update(other.further)
        for own, more in zip(self.suppressed, other.suppressed, strict=True):
            own.update(more)
        self.filled = [own + more for own, more in zip(self.filled, other.filled, strict=True)]


def write_all(inputs: Inputs, source: Source, folder: Path) -> Counts:
    """Write the lists of all users, with the engine's help if they are several files. Returns what was written, which
    the wanted lists then count too."""
    per_part = listed_users.USERS_PER_PART
    active = active_users.count(inputs.rows, inputs.run.settings.export)
    ranges = [Range(part, part + 1, per_part) for part in range(-(-active // per_part))]
    if len(ranges) < 2 or not spread.engine().is_elsewhere:
        return write(inputs, folder)
    calls = [(inputs.run, source, folder, places) for places in ranges]
    counts = Counts(suppressed=[Counter() for _ in inputs.wanted], filled=[0] * len(inputs.wanted))
    for each in spread.engine().each(write_range, calls):
        counts.add(each)
    for unfinished in folder.glob(".*"):  # of a process that died
        unfinished.unlink()
    for wanted, suppressed, filled in zip(inputs.wanted, counts.suppressed, counts.filled, strict=True):
        wanted.suppressed.update(suppressed)
        if wanted.explorer is not None:
            wanted.explorer.filled = filled
    return counts


def write_range(run: Run, source: Source, folder: Path, places: Range) -> Counts:
    """Write a part of the lists, in another process. What rules do was noted already."""
    set_threads(run.settings.threads)
    with journal_entries.aside():
        inputs = Inputs.of(run, source, wanted_lists.read_all(run))
    return write(inputs, folder, places)


def write(inputs: Inputs, folder: Path, places: Range | None = None) -> Counts:
    """Write the lists of all users, or of those at these places."""
    counts, wanted, first = Counts(), inputs.wanted, places.first if places else 0
    models = (inputs.serving, inputs.other)
    parts = holdback.with_holdback(inputs.run, inputs.rows, inputs.encoded, wanted, models, places)
    for number, part in enumerate(parts, start=first):
        counts.lists += part.lists.height
        counts.drawn += part.lists.filter(source=explore.NAME).height
        counts.further.update(_write_part(folder, number, part, inputs.serving.label))
    counts.suppressed = [each.suppressed for each in wanted]
    counts.filled = [each.explorer.filled if each.explorer else 0 for each in wanted]
    return counts


def _write_part(folder: Path, number: int, part: user_lists.Part, label: str) -> dict[str, int]:
    """Write a part of the lists; returns the rows of further lists by name."""
    name = f"{number:04d}.parquet"
    write_table(folder / f"recommendations-{name}", tables.RECOMMENDATIONS, part.lists)
    write_table(folder / f"reasons-{name}", tables.REASONS, part.reasons)
    if part.by is not None:
        write_table(folder / f"recommendations_by-{name}", tables.RECOMMENDATIONS_BY, part.by)
    if part.named is None:
        return {}
    named = part.named.with_columns(model=pl.lit(label))
    write_table(folder / f"recommendations_in-{name}", tables.RECOMMENDATIONS_IN, named)
    return dict(part.named.group_by("list").len().iter_rows())


def write_table(path: Path, table: Table, frame: pl.DataFrame) -> None:
    """Write a table's file, or a part of it, by a rename: a part may be written by two processes at once."""
    temporary = temporary_name(path)
    table.without(*OF_THE_NIGHT).check(frame).write_parquet(temporary)
    temporary.replace(path)


def _cold_users(run: Run, raw: Path, encoded: Path, known: Interactions) -> cold_users.ColdUsers | None:
    """The fallback by an attribute of users; None without `export.fallback_by`."""
    if (name := run.settings.export.fallback_by) is None:
        return None
    held = known.held_out()
    users = pl.read_parquet(encoded / "users.parquet")["user_id"]
    return cold_users.ColdUsers.of(raw, name, held.users, held.items, cold_users.Known(users, known.n_items))


def _by_attribute(run: Run, raw: Path, ids: pl.Series) -> tuple[attribute_values.Values, ByAttribute] | None:
    """The values of the attribute of `export.by`; None without it."""
    if (by := run.settings.export.by) is None:
        return None
    values = attribute_values.Values.read(raw, by.attribute, ids)
    text = f"recommendations_by: {by.attribute} has {len(values.names):,} values; each user gets lists of at most "
    journal.note(run, f"{text}{by.values} of them, those with the best items (export.by.values)")
    return values, by
