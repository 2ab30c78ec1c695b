"""One function per question. Each opens the live tables of a data set; `home` is as for the command's `--home`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flows import frames
from flows.conductor import conduct
from flows.frames import Setting
from flows.notebook import Published
from flows.prepare import discard, prepare

Place = str | Path | None


def run(
    dataset: str = "sample",
    recipe: str = "nightly",
    *,
    data: str | Path | None = None,
    home: Place = None,
    settings: Mapping[str, Setting] | None = None,
) -> Published:
    """A night in this process; returns its published tables.

    `dataset`, `recipe`: shipped names, or paths of TOML files. `data`: the folder of the source files. `settings`:
    dotted keys, e.g. {"models.mf.epochs": 5}. Raises SettingsError and UnreadableInput before anything is computed,
    Refused if a check refuses to publish, Locked if another night of the data set runs.
    """
    chosen = frames.overrides(settings or {})
    night = prepare(dataset, recipe, str(data) if data else None, str(home) if home else None, chosen)
    try:
        conduct(night, overrides=chosen)
    finally:
        discard(night)
    return Published(night.dataset, night.home.root)


def run_frame(
    interactions: Any,
    name: str,
    *,
    items: Any = None,
    columns: Mapping[str, str] | None = None,
    recipe: str = "nightly",
    home: Place = None,
    settings: Mapping[str, Setting] | None = None,
) -> Published:
    """A night on a frame instead of files; returns its published tables.

    `interactions` and the optional catalog `items`: frames of Polars, pandas or Arrow, or dicts of columns. `name`:
    the data set's. `columns`: role (user, item, rating, timestamp) to column; without it the columns are recognised,
    and what was guessed is logged. Otherwise as `run`. ValueError for frames that have no such columns or no rows.
    """
    given = frames.Frames(interactions, items, columns or {})
    return frames.publish(given, name, recipe, home, settings)


def recommend(dataset: str, users: str | Sequence[str], top_n: int = 10, *, home: Place = None) -> pl.DataFrame:
    """The published lists of users: user_id, rank, item_id, title, score, source. See `Published.recommend`."""
    return Published(dataset, home).recommend(users, top_n)


def similar(dataset: str, items: str | Sequence[str], top_n: int = 10, *, home: Place = None) -> pl.DataFrame:
    """The published neighbours of items. See `Published.similar`."""
    return Published(dataset, home).similar(items, top_n)


def audience(
    dataset: str, item: str | None = None, *, attribute: str = "", value: str = "",
    top_n: int = 100, home: Place = None,
) -> pl.DataFrame:  # fmt: skip
    """The users who would like an item, or the items of an attribute's value, most. See `Published.audience`."""
    return Published(dataset, home).audience(item, attribute=attribute, value=value, top_n=top_n)


def reasons(dataset: str, user: str, *, home: Place = None) -> pl.DataFrame:
    """Where a user's recommendations come from. See `Published.reasons`."""
    return Published(dataset, home).reasons(user)


def evaluate(
    dataset: str, lists: Any, split: str = "valid", cutoffs: Sequence[int] = (10,), *, home: Place = None
) -> pl.DataFrame:
    """Metrics of your own lists, by the protocol of the models. See `Published.evaluate`."""
    return Published(dataset, home).evaluate(lists, split, cutoffs)


def compare(dataset: str, model: str, other: str, split: str = "valid", *, home: Place = None) -> dict[str, float]:
    """The paired difference of two models of the night. See `Published.compare`."""
    return Published(dataset, home).compare(model, other, split)


def table(dataset: str, name: str, *, home: Place = None) -> pl.DataFrame:
    """A whole table or view."""
    return Published(dataset, home).table(name)


def sql(dataset: str, query: str, *, home: Place = None, **params: Any) -> pl.DataFrame:
    """Rows of a query; `$name` is bound to the argument of that name."""
    return Published(dataset, home).sql(query, **params)
