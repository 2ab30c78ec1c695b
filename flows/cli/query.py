"""Commands that only read: shipped data sets, recipes and models; published lists; SQL."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from flows.cli.output import show
from pipeline.config import toml_files
from pipeline.core import paths
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.datasets.names import dataset_name, unknown_dataset
from pipeline.storage import reader
from pipeline.storage.warehouse import Connection

if TYPE_CHECKING:
    import polars as pl

COMPARED_IDS = 100_000  # an unknown id is compared with at most so many


def datasets(options: Namespace) -> None:
    """The shipped data sets."""
    files = sorted(paths.DATASETS.glob("*.toml"))
    show([{"name": f.stem, "description": toml_files.read_toml(f).get("description", "")} for f in files], options)


def recipes(options: Namespace) -> None:
    """The shipped recipes."""
    files = sorted(paths.RECIPES.glob("*.toml"))
    show(
        [{"name": f.stem, "models": ", ".join(toml_files.read_toml(f)["models"]), "file": str(f)} for f in files],
        options,
    )


def models(options: Namespace) -> None:
    """The families and their hyperparameters."""
    from pipeline.models import describe  # imports torch

    if options.markdown:
        print(describe.markdown(), end="")
    else:
        show(describe.all_hyperparameters(), options)


def similar(options: Namespace) -> None:
    """The items most similar to an item, with titles."""
    found = records(
        options,
        "select rank, similar_item_id, similar_title, score, model from similar_items_titled "
        "where item_id = $item and rank <= $n order by rank",
        {"item": options.item, "n": options.n},
    )
    if not found:
        require(options, "item")
        print(f"the model has no items similar to {options.item!r}", file=sys.stderr)
    show(found, options)


def audience(options: Namespace) -> None:
    """The users who would like an item, or the items of an attribute's value, most."""
    if (options.item is None) == (options.attribute is None) or (options.attribute is None) != (options.value is None):
        raise SettingsError("audience needs either an item, or both --attribute and --value")
    if options.item is not None:
        where, params = "audiences where item_id = $item", {"item": options.item}
    else:
        where = "attribute_audiences where attribute = $attribute and value = $value"
        params = {"attribute": options.attribute, "value": options.value}
    text = f"select rank, user_id, score from {where} and rank <= $n order by rank"
    is_there = has_table(options, where.partition(" ")[0])
    found = records(options, text, {**params, "n": options.n}) if is_there else []
    if not found:
        print(no_audience(options), file=sys.stderr)
    show(found, options)


def no_audience(options: Namespace) -> str:
    """Why an item or a value has no audience. UnreadableInput if it is not known."""
    night = f"the published night of {options.dataset}"
    if options.item is not None:
        require(options, "item")
        if not has_table(options, "audiences") or not records(options, "select 1 from audiences limit 1", {}):
            return f"{night} has no audiences: [export.audiences] makes them, of a model that ranks items for each user"
        return f"{options.item!r} has no audience: a rule excludes it, the model can't score it, or all users have it"
    is_there = has_table(options, "attribute_audiences")
    there = records(options, "select distinct attribute, value from attribute_audiences", {}) if is_there else []
    if not there:
        return f"{night} has no audiences of values: [export.audiences] attributes makes them"
    values = [row["value"] for row in there if row["attribute"] == options.attribute]
    names = sorted({row["attribute"] for row in there})
    if not values:
        near = nearest(options.attribute, names)
        raise UnreadableInput(f"--attribute {options.attribute}: there are audiences of {', '.join(names)}{near}")
    near = nearest(options.value, values)
    raise UnreadableInput(f"--value {options.value!r}: no audience of this {options.attribute}{near}")


def sql(options: Namespace) -> None:
    """Run any query. The connection can't write, read files or change its settings."""
    if options.form or options.output:
        from flows.cli import result_files  # imports polars

        result_files.write(query(options, options.query, {}), options.form, options.output)
    else:
        show(records(options, options.query, {}), options)


def query(options: Namespace, text: str, params: dict[str, Any]) -> "pl.DataFrame":
    """A frame of a query on the live tables. UnreadableInput if there are none."""
    with opened(options) as con:
        return reader.ask(con, text, params)


def records(options: Namespace, text: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The same as dicts, which needs no polars."""
    with opened(options) as con:
        return reader.records(con, text, params)


def opened(options: Namespace) -> Connection:
    """A connection to the live tables. UnreadableInput if there are none."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    if not home.live(dataset).exists():
        raise UnreadableInput(unknown_dataset(home, dataset))
    return reader.open_live(home, dataset)


def has_table(options: Namespace, name: str) -> bool:
    """Whether the live tables have this one: a night of an earlier version lacks those that came later."""
    return bool(records(options, "select 1 from duckdb_tables() where table_name = $name", {"name": name}))


def require(options: Namespace, kind: str, advice: str = "") -> None:
    """Raise UnreadableInput, with the nearest ids, if the requested user (or item) is not in the published tables.

    `advice` ends its text.
    """
    wanted = getattr(options, kind)
    if records(options, f"select 1 from {kind}s where {kind}_id = $id limit 1", {"id": wanted}):
        return
    found = records(
        options,
        f"select id from (select {kind}_id as id from {kind}s limit {COMPARED_IDS}) "
        "where levenshtein(lower(id), lower($id)) <= greatest(1, length($id) // 3) "
        "order by levenshtein(lower(id), lower($id)), id limit 3",
        {"id": wanted},
    )
    near = [row["id"] for row in found]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    listing = f'nightrecs sql {options.dataset} "select {kind}_id from {kind}s limit 10"'
    raise UnreadableInput(
        f"{kind} {wanted!r} is not in the published tables of {options.dataset}{hint}"
        f" Ids are as in the source: {listing}{advice and f'. {advice}'}"
    )
