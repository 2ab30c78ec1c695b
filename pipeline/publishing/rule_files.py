"""The CSV files of rules: lists of items that are excluded, allowed or promoted, with dates."""

import datetime as dt
import hashlib
import json
from pathlib import Path

import polars as pl

from pipeline.config.publishing import Export
from pipeline.core.errors import Ids, SettingsError, UnreadableInput

Listed = dict[str, dict[str, str]]
"""Lists in force today by rule: of `exclude_items` and `only_items`, item ids to their reason; of `promote[0]` and so
on, item ids to their place."""


def read_list(folder: Path, name: str, today: dt.date) -> dict[str, str]:
    """Item ids of a rule's CSV to their reason, for the rows that are in force today.

    Columns: item_id; optional: reason, from and until (ISO dates; from is included, until is not).
    """
    rows = _in_force(folder, name, today)
    return dict(zip(rows["item_id"], rows["reason"].fill_null(""), strict=True))


def read_promotion(folder: Path, name: str, place: int, today: dt.date) -> dict[str, str]:
    """Item ids of a promotion's CSV to their place, as text, for the rows that are in force today.

    Columns as in `read_list`, and optional `place`, which is `place` where it is absent or empty.
    """
    rows = _in_force(folder, name, today)
    places = rows["place"].str.strip_chars().fill_null(str(place))
    if (wrong := places.filter(~places.str.contains(r"^[1-9][0-9]{0,5}$"))).len():
        raise UnreadableInput(f"{folder / name}: place is a number from 1, not {wrong[0]!r}")
    return dict(zip(rows["item_id"], places, strict=True))


def _in_force(folder: Path, name: str, today: dt.date) -> pl.DataFrame:
    """Rows of a rule's CSV that are in force today: item_id, reason, place, from, until."""
    path = folder / Path(name).expanduser()
    if not path.is_file():
        raise UnreadableInput(
            f"there is no rule file {path}; export.exclude_items, only_items or promote in the recipe names it"
        )
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UnreadableInput(f"the rule file {path} can't be read: {str(error).splitlines()[0]}") from None
    if "item_id" not in frame.columns:
        raise UnreadableInput(f"the rule file {path} has no column item_id; it has {', '.join(frame.columns)}")
    optional = ("reason", "place", "from", "until")
    frame = frame.select("item_id", *(column for column in optional if column in frame.columns)).with_columns(
        pl.lit(None, pl.String).alias(name) for name in optional if name not in frame.columns
    )
    try:
        dates = frame.with_columns(pl.col("from", "until").str.strip_chars().str.to_date("%Y-%m-%d"))
    except pl.exceptions.PolarsError as error:
        raise UnreadableInput(
            f"{path}: from and until are dates like 2026-11-30: {str(error).splitlines()[0]}"
        ) from None
    holds = (pl.col("from").is_null() | (pl.col("from") <= today)) & (
        pl.col("until").is_null() | (pl.col("until") > today)
    )
    return dates.filter(holds, pl.col("item_id").is_not_null())


def read_lists(export: Export, folder: Path, today: dt.date) -> Listed:
    """The lists that the recipe names, as `read_list` and `read_promotion` return them.

    Raises SettingsError if a file gives a place that is beyond `top_n` or that another promotion has.
    """
    named = {"exclude_items": export.exclude_items, "only_items": export.only_items}
    listed = {rule: read_list(folder, name, today) for rule, name in named.items() if name}
    owners = {promotion.place: f"promote[{n}]" for n, promotion in enumerate(export.promote) if promotion.where}
    for n, promotion in enumerate(export.promote):
        if promotion.items:
            key = f"promote[{n}]"
            listed[key] = read_promotion(folder, promotion.items, promotion.place, today)
            for place in {int(place) for place in listed[key].values()}:
                if place > export.top_n or owners.setdefault(place, key) != key:
                    why = f"beyond top_n = {export.top_n}" if place > export.top_n else f"that of {owners[place]}, too"
                    raise SettingsError(f"export.{key}: place {place} of {promotion.items} is {why}")
    return listed


def fingerprint(listed: Listed) -> str | None:
    """Hash of the rules' files, which the lake's key needs in addition to the settings. None without lists."""
    both: list[object] = [listed.get(rule) for rule in ("exclude_items", "only_items")]
    both += [(rule, items) for rule, items in sorted(listed.items()) if rule.startswith("promote")]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()[:16] if listed else None


def unknown_items(listed: Listed, source: pl.Series) -> list[tuple[str, Ids]]:
    """A warning, and the first ids, for every list with items that the source does not have."""
    warnings = []
    for rule, items in listed.items():
        ids = pl.Series(list(items), dtype=pl.String)
        unknown = ids.filter(~ids.is_in(source.implode()))
        if len(unknown):
            text = f"export.{rule}: {len(unknown):,} of {len(ids):,} items are not in the source"
            warnings.append((text, {"item_id": unknown.head(3).to_list()}))
    return warnings
