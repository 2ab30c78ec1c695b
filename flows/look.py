"""The commands that only look: what there is, and what was published."""

import json
import sys
from typing import Any

import polars as pl

from flows import exports
from pipeline import layers, paths, warehouse
from pipeline.contracts import UnreadableInput
from pipeline.paths import Home

LEAFED_THROUGH = 100_000  # ids compared with one that is unknown


def datasets(options: Any) -> None:
    """The shipped data sets."""
    files = sorted(paths.DATASETS.glob("*.toml"))
    show([{"name": f.stem, "description": layers.read_toml(f).get("description", "")} for f in files], options)


def recipes(options: Any) -> None:
    """The shipped recipes."""
    files = sorted(paths.RECIPES.glob("*.toml"))
    show(
        [{"name": f.stem, "models": ", ".join(layers.read_toml(f)["models"]), "file": str(f)} for f in files],
        options,
    )


def models(options: Any) -> None:
    """The families and their hyperparameters."""
    from pipeline.models import MODELS

    records = [
        {"family": name, "hyperparameter": key, "default": field.default, "meaning": field.description}
        for name, family in MODELS.items()
        for key, field in family.Config.model_fields.items()
    ]
    show(records, options)


def recommend(options: Any) -> None:
    """A user's list, with titles."""
    found = query(
        options,
        "select rank, item_id, title, score, source, model from recommendations_titled "
        "where user_id = $user and rank <= $n order by rank",
        {"user": options.user, "n": options.n},
    )
    if found.is_empty():
        require(options, "user")
    show(found, options)


def similar(options: Any) -> None:
    """An item's nearest items, with titles."""
    found = query(
        options,
        "select rank, similar_item_id, similar_title, score, model from similar_items_titled "
        "where item_id = $item and rank <= $n order by rank",
        {"item": options.item, "n": options.n},
    )
    if found.is_empty():
        require(options, "item")
        print(f"the model knows no items similar to {options.item!r}", file=sys.stderr)
    show(found, options)


def leaderboard(options: Any) -> None:
    """Models side by side, the best first; metrics as columns."""
    long = query(options, "select * from leaderboard where split = $split", {"split": options.split})
    if options.all:
        show(long, options)
        return
    names = pl.concat_str(
        "metric",
        pl.when(pl.col("cutoff") > 0).then(pl.concat_str(pl.lit("@"), "cutoff")).otherwise(pl.lit("")),
    )
    against = compared(long)
    wide = (
        long.filter(pl.col("cutoff").is_in([0, 10]))
        .with_columns(names.alias("name"), pl.col("value").round(4))
        .pivot("name", index=["model", "champion", "split", "protocol", "n"], values="value")
    )
    by = next((name for name in ("ndcg@10", "rmse") if name in wide.columns), "model")
    wide = wide.join(against, on=["model", "protocol"], how="left", maintain_order="left")
    show(wide.sort("protocol", by, descending=[False, by == "ndcg@10"]), options)
    if against.height and not options.json:
        best = against.filter(against_best="best")["model"].item()
        print(f"against_best: paired by user with {best}, the best on valid; like: not told apart", file=sys.stderr)


def compared(long: pl.DataFrame) -> pl.DataFrame:
    """model, protocol, against_best (best, like, worse or better) of what was compared; empty for older nights."""
    if "compared_with" not in long.columns:
        return pl.DataFrame(schema={"model": pl.String, "protocol": pl.String, "against_best": pl.String})
    rows = long.drop_nulls("compared_with")
    real = pl.when(pl.col("difference") < 0).then(pl.lit("worse")).otherwise(pl.lit("better"))
    word = pl.when("is_real").then(real).otherwise(pl.lit("like"))
    best = rows.select("protocol", model="compared_with", against_best=pl.lit("best")).unique()
    return pl.concat(
        [best.select("model", "protocol", "against_best"), rows.select("model", "protocol", against_best=word)]
    )


def sql(options: Any) -> None:
    """Whatever one asks; the connection can't write, read files or change its settings."""
    found = query(options, options.query, {})
    if options.form or options.output:
        exports.write(found, options.form, options.output)
    else:
        show(found, options)


def query(options: Any, text: str, params: dict[str, Any]) -> pl.DataFrame:
    """Run a query on the live tables."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    live = home.live(dataset)
    if not live.exists():
        raise UnreadableInput(unknown_dataset(home, dataset))
    with warehouse.connect(live, read_only=True) as con:
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        try:
            relation = con.sql(text, params=params or None)
            return relation.pl() if relation is not None else pl.DataFrame()
        except warehouse.DatabaseError as error:
            raise UnreadableInput(f"the query failed: {error}") from None
        except pl.exceptions.PolarsError as error:  # an interval, say, which Polars has no type for
            raise UnreadableInput(f"a column can't be shown, cast it to text: {error}") from None


def require(options: Any, kind: str) -> None:
    """UnreadableInput, with the nearest ids, where the published tables don't know the user (or item) asked for."""
    wanted = getattr(options, kind)
    if query(options, f"select 1 from {kind}s where {kind}_id = $id limit 1", {"id": wanted}).height:
        return
    near = query(
        options,
        f"select id from (select {kind}_id as id from {kind}s limit {LEAFED_THROUGH}) "
        "where levenshtein(lower(id), lower($id)) <= greatest(1, length($id) // 3) "
        "order by levenshtein(lower(id), lower($id)), id limit 3",
        {"id": wanted},
    )["id"]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if len(near) else "."
    raise UnreadableInput(
        f"{kind} {wanted!r} is not in the published tables of {options.dataset}{hint}"
        f' Ids are as in the source: nightrecs sql {options.dataset} "select {kind}_id from {kind}s limit 10"'
    )


def unknown_dataset(home: Home, dataset: str) -> str:
    """What to say where nothing is published under a name."""
    published = sorted(path.stem for path in home.warehouse.glob("*.duckdb"))
    shipped = {path.stem for path in paths.DATASETS.glob("*.toml")}
    text = f"nothing is published for {dataset!r} in {home.warehouse}{layers.nearest(dataset, published)}"
    if published:
        text += f"; there are: {', '.join(published)}"
    elif dataset not in shipped:
        text += layers.nearest(dataset, shipped)
    return text + (f"; try `nightrecs run {dataset}`" if dataset in shipped else "")


def dataset_name(dataset: str) -> str:
    """The name under which a data set, given by name or TOML, is published."""
    if not dataset.endswith(".toml"):
        return dataset
    path = layers.find_toml(dataset, paths.DATASETS, "data set")
    name = layers.read_toml(path).get("name")
    if not isinstance(name, str):
        raise layers.SettingsError(f"{path}: name: is missing")
    return name


def show(data: pl.DataFrame | list[dict[str, Any]], options: Any) -> None:
    """To stdout: JSON, or a table as wide as it needs to be."""
    records = data.to_dicts() if isinstance(data, pl.DataFrame) else data
    if options.json:
        json.dump(records, sys.stdout, default=str, ensure_ascii=False, indent=1)
        print()
        return
    if not records:
        print("(no rows)", file=sys.stderr)
        return
    cells = [list(map(str, records[0])), *([_cell(v) for v in record.values()] for record in records)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    numeric = [all(isinstance(r[key], int | float) or r[key] is None for r in records) for key in records[0]]
    for row in cells:
        line = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True))
        print("  ".join(line).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
