"""A night on frames instead of files: frames are written as Parquet into the home, where `forget` reaches them."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flows.conductor import conduct
from flows.notebook import Published
from flows.prepare import check_writable, prepare
from pipeline.config import toml_files
from pipeline.core.console import log
from pipeline.core.paths import Home
from pipeline.sources.sniffing.columns_section import quoted
from pipeline.sources.sniffing.interactions import Proposal, propose
from pipeline.storage import lake
from pipeline.storage.lock import lock

ROLES = ("user", "item", "rating", "timestamp")
FILE, CATALOG, PROBE = "interactions.parquet", "items.parquet", "probe.parquet"
Setting = str | bool | int | float | Sequence[str | bool | int | float]


@dataclass(frozen=True)
class Frames:
    """The input of a night. Frames of Polars, pandas or Arrow, or dicts of columns."""

    interactions: Any
    """One row per user and item, or per event."""
    items: Any = None
    """The catalog: an id, a title and any further columns."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, rating, timestamp) to column; empty: recognised, as `init` does."""


def publish(
    frames: Frames,
    name: str,
    recipe: str = "nightly",
    home: str | Path | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> Published:
    """Run a night on frames, without Prefect; returns its published tables.

    `settings`: dotted keys, as for `--set`, e.g. {"split.kind": "leave_one_out"}. The frames and a data set TOML stay
    in the home, below the lake of `name`, until the next night of that name replaces them or `forget` deletes them.
    Equal frames and settings find the results of the last night. Raises ValueError for frames without the named
    columns, and the errors of a night.
    """
    toml_files.check_name(name, "data set")
    place = Home.resolve(str(home) if home else None)
    check_writable(place)
    folder = place.lake(name) / lake.SOURCE
    with lock(place, name, "run_frame", kind="command"):
        toml = _write(frames, name, folder)
    run = prepare(str(toml), recipe, str(folder), str(place.root), overrides(settings or {}))
    conduct(run)
    return Published(name, place.root)


def overrides(settings: Mapping[str, Setting]) -> list[str]:
    """`key=value` of each setting, the value as TOML."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


def _write(frames: Frames, name: str, folder: Path) -> Path:
    """Write the frames and the data set TOML; returns its path."""
    interactions = as_frame(frames.interactions, "interactions")
    if unknown := set(frames.columns) - set(ROLES):
        raise ValueError(f"columns: there is no role {sorted(unknown)[0]!r}; roles are {', '.join(ROLES)}")
    if frames.columns and not {"user", "item"} <= set(frames.columns):
        raise ValueError("columns: name at least the columns of user and item")
    if missing := [column for column in frames.columns.values() if column not in interactions.columns]:
        raise ValueError(f"interactions have no column {missing[0]!r}; they have {', '.join(interactions.columns)}")
    folder.mkdir(parents=True, exist_ok=True)
    for old in (file := folder / FILE, catalog := folder / CATALOG, folder / PROBE):
        old.unlink(missing_ok=True)
    if frames.items is not None:
        as_frame(frames.items, "items").write_parquet(catalog)
    proposal = proposed(interactions, frames.columns, folder)
    interactions.write_parquet(file)
    if frames.items is not None and "items" not in tomllib.loads(proposal.toml):
        raise ValueError("items: no column has the ids of the interactions' items, or none is called title or name")
    for note in proposal.notes:
        log.info(f"check: {note}")
    toml = folder / "dataset.toml"
    toml.write_text(with_columns(proposal.toml, name, frames.columns), encoding="utf-8")
    return toml


def proposed(interactions: pl.DataFrame, columns: Mapping[str, str], folder: Path) -> Proposal:
    """What `init` proposes for the frame, whose columns it sees under the names of their roles."""
    probe = folder / PROBE
    chosen = [pl.col(column).alias(role) for role, column in columns.items()]
    (interactions.select(chosen) if chosen else interactions).write_parquet(probe)
    try:
        return propose(probe)
    finally:
        probe.unlink()


def with_columns(toml: str, name: str, columns: Mapping[str, str]) -> str:
    """The proposed TOML for the written file; a role's name becomes that of its column."""
    text = re.sub(r"(?m)^name = .*$", lambda _: f"name = {quoted(name)}", toml, count=1)
    text = text.replace(quoted(PROBE), quoted(FILE), 1)
    for role, column in columns.items():
        line = f"{role} = {quoted(column)}"
        text = re.sub(rf'(?m)^{role} = "{role}".*$', line.replace("\\", r"\\"), text, count=1)
    return text


def as_frame(data: Any, what: str) -> pl.DataFrame:
    """A Polars frame of any kind of frame. ValueError if it is none, or has no rows."""
    try:
        frame = data.collect() if isinstance(data, pl.LazyFrame) else pl.DataFrame(data)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{what}: not a frame: {str(error).splitlines()[0]}") from None
    if frame.is_empty():
        raise ValueError(f"{what}: no rows")
    return frame
