"""The lists that a recipe wants for every user: the default one of `[export]`, and those of `[lists]`."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from torch import Tensor

from pipeline.config.publishing import Export
from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.core.errors import Refused, SettingsError
from pipeline.publishing import active_users, business_rules, checks, cold_users, explore, item_conditions, rule_files
from pipeline.publishing.business_rules import Rules
from pipeline.publishing.explore import Clock, Frames
from pipeline.publishing.item_conditions import ItemConditions
from pipeline.publishing.rule_files import Listed
from pipeline.publishing.user_lists import Wanted
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse
from pipeline.storage.expressions import NIGHT_DATE

DEFAULT = ""
"""Name of the default list."""


def exports_of(settings: Settings) -> dict[str, Export]:
    """What each list is made by, the default one first."""
    return {DEFAULT: settings.export, **settings.named_lists}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let the message of a SettingsError name the section of the list."""
    try:
        yield
    except SettingsError as error:
        if name == DEFAULT:
            raise
        raise SettingsError(f"[lists.{name}], whose keys are [export]'s where it has none: {error}") from None


def check(settings: Settings, data: Path, today: dt.date) -> None:
    """Check the rules of all lists against the data set and its files. Raises SettingsError and UnreadableInput."""
    for name, export in exports_of(settings).items():
        with naming(name):
            rule_files.read_lists(export, data, today)  # so that an unreadable list fails now
            item_conditions.check(export, settings.dataset, data)
            active_users.check(export, settings.dataset)
            explore.check(export, settings.dataset)
            cold_users.check(export, settings.dataset, data)


def read_all(run: Run) -> dict[str, Listed]:
    """The files of rules of every list, as `rule_files.read_lists` reads them."""
    found = {}
    for name, export in exports_of(run.settings).items():
        with naming(name):
            found[name] = rule_files.read_lists(export, run.data, run.started_at.date())
    return found


def key_settings(run: Run, listed: dict[str, Listed]) -> dict[str, object]:
    """What the further lists add to the key of the export; nothing without them."""
    if not run.settings.lists:
        return {}
    lists = {
        name: {**item_conditions.key_settings(run, export), "files": rule_files.fingerprint(listed[name])}
        for name, export in run.settings.named_lists.items()
    }
    return {"lists": lists}


@dataclass(frozen=True)
class Basis:
    """What rules look at."""

    run: Run
    frames: Frames
    clock: Clock
    rows: pl.DataFrame
    """Raw rows of the source."""


def wanted(basis: Basis, listed: dict[str, Listed]) -> list[Wanted]:
    """All lists, the default one first; notes what their rules do. Raises Refused if conditions leave no item."""
    made = []
    for name, export in exports_of(basis.run.settings).items():
        with naming(name):
            frames = basis.frames
            rules = business_rules.rules_of(export, listed[name], frames.fit, frames.catalog)
            _note_rules(basis.run, rules, name)
            new = explore.explorable(export, listed[name], pl.concat([frames.fit, frames.others]), basis.clock)
            explorer = explore.explorer_of(basis.run, export, new, frames, basis.rows)
        made.append(Wanted(rules, export.top_n, explorer, name))
    _warn_of_delisted(basis, made)
    return made


def _warn_of_delisted(basis: Basis, made: list[Wanted]) -> None:
    """Warn once of items that have left the catalog and that a condition to exclude others lets be listed."""
    frame, catalog = basis.frames.fit, basis.frames.catalog
    own = {name.lower() for name in (*tables.ITEMS.columns, NIGHT_DATE)} - {"title"}
    unlisted = ~frame["item_id"].is_in(catalog["item_id"].implode())
    found: dict[str, int] = {}
    for each, export in zip(made, exports_of(basis.run.settings).values(), strict=True):
        excluding = ItemConditions.of(export).exclude_where
        if excluding and {name.lower() for name in excluding.names} - own:
            listable = unlisted if each.rules.allowed is None else unlisted & pl.Series(each.rules.allowed.numpy())
            if n := int(listable.sum()):
                found[f"lists.{each.name}" if each.name else "export"] = n
    if found and catalog.height:
        where, n = next(iter(found.items()))
        journal.note(
            basis.run,
            f"warning: export: {n:,} of {frame.height:,} items have rows but are not in the item catalog, so "
            f"{where}.exclude_where does not exclude them. If they can't be had any more, write the opposite condition "
            "as only_where: it leaves them out",
        )


def limit_to(servable: Tensor | None, lists: list[Wanted]) -> None:
    """List only items that the model can score, (I,) bool; None: all."""
    for each in lists:
        each.rules.servable = servable


def _note_rules(run: Run, rules: Rules, name: str) -> None:
    """Note how many items the rules exclude, boost and promote. Raises Refused if conditions leave no item."""
    where, key = (f"lists.{name}", f"rules of the list {name}") if name else ("export", "rules")
    counts, n_items = business_rules.excluded_counts(rules), len(rules.rule)
    found = [f"{rule} excludes {n:,} of {n_items:,} items" for rule, n in counts.items()]
    if counts.keys() & {"exclude_where", "only_where"} and sum(counts.values()) == n_items:
        raise Refused(f"the rules of [{where}] leave no item to recommend: {', '.join(found)}")
    if rules.boost is not None:
        found.append(f"boosts change {int((rules.boost != 1).sum()):,}")
    promotable = business_rules.promotable_counts(rules)
    found += [f"{n:,} may be promoted to place {place}" for place, (n, _) in promotable.items()]
    if found:
        journal.note(run, f"{key}: {', '.join(found)}")
    for place, (n, chosen) in promotable.items():
        if not n:
            why = (
                f"the other rules exclude all {chosen:,} items of its choice" if chosen else "no item is of its choice"
            )
            journal.note(run, f"warning: {where}.promote: no item can be promoted to place {place}: {why}")


def summary(named: dict[str, int], lists: list[Wanted]) -> str:
    """A note of the further lists; `named`: rows by name."""
    counted = [f"{each.name} {named.get(each.name, 0):,} rows (top {each.top_n})" for each in lists if each.name]
    return f"further lists: {', '.join(counted)}"


# ── audit ──
def create_tables(con: warehouse.Connection, run: Run, frame: pl.DataFrame, encoded: Path, servable: Path) -> None:
    """Temporary tables of the further lists, from the published items `frame` (item_conditions.of_published).

    `servable`: the file of the items that the model can score. `wanted_in` has a row per list, `ranked_in` the items
    that it may have; `promotable_in` and `explorable_in` as for the default list.
    """
    fit, scored = (pl.read_parquet(path).select("item_id") for path in (encoded / "items.parquet", servable))
    text = pl.String
    wanted = [pl.DataFrame(schema={"list": text, "top_n": pl.Int64, "exact": pl.Boolean, "explored": pl.Int64})]
    ranked = [pl.DataFrame(schema={"list": text, "item_id": text})]
    placed = [pl.DataFrame(schema={"list": text, "place": pl.Int64, "item_id": text})]
    explorable = [pl.DataFrame(schema={"list": text, "item_id": text})]
    of_fit = frame.join(fit, on="item_id", how="semi")
    for name, listed in read_all(run).items():
        if name == DEFAULT:
            continue
        export, own = run.settings.named_lists[name], pl.lit(name).alias("list")
        out = business_rules.excluded_of(export, listed, of_fit, of_fit["last_seen"].max())
        count = explore.places(export.explore, export.top_n)
        row = {"list": name, "top_n": export.top_n, "exact": not export.max_per_attribute, "explored": count}
        wanted.append(pl.DataFrame([row], schema=wanted[0].schema))
        ranked.append(scored.filter(~pl.col("item_id").is_in(out.implode())).select(own, "item_id"))
        placed.append(business_rules.promotable(run, export, frame).select(own, "place", "item_id"))
        explorable.append(explore.explorable_of_night(run, export, frame, encoded).select(own, "item_id"))
    for table, parts in (("wanted_in", wanted), ("ranked_in", ranked), ("promotable_in", placed),
                         ("explorable_in", explorable)):  # fmt: skip
        checks.temporary(con, table, pl.concat(parts))


def drop_tables(con: warehouse.Connection) -> None:
    """Drop what `create_tables` made."""
    con.execute("DROP TABLE wanted_in; DROP TABLE ranked_in; DROP TABLE promotable_in; DROP TABLE explorable_in")
