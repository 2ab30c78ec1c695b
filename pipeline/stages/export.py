"""Turns the champion into tables with the source's ids: top-N for every user, similar and popular items, vectors."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.models.serialization import load
from pipeline.preparation.events import target_rows
from pipeline.preparation.filters import mark
from pipeline.preparation.row_names import RowNames
from pipeline.publishing import (
    audiences,
    business_rules,
    cold_users,
    explore,
    holdback,
    item_conditions,
    item_tables,
    listed_users,
    lists_by_attribute,
    rule_files,
    similar_items,
    trending,
    user_lists,
    wanted_lists,
)
from pipeline.ranking.servable import servable
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, lake
from pipeline.storage.expressions import night_date
from pipeline.training.device import resolve_device, set_threads
from pipeline.training.interactions import Interactions

VERSION = 2
OF_THE_NIGHT = ("run_id", "generated_at", "list_id")  # added when published, so that equal nights share this folder


@dataclass(frozen=True)
class Models:
    """Results of the night's models."""

    champion: Path
    """The refit on all rows."""
    fitted: list[Path]
    """The night's models, as fitted on train."""
    measured: list[Path]
    """Their evaluations."""
    runner_up: Path | None = None
    """Refit on all rows of the model for `[export.holdback]`."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them, as parents in the lake."""
        return (self.champion, *self.fitted, *self.measured, *([self.runner_up] if self.runner_up else []))


def export_tables(run: Run, raw: Path, encoded: Path, models: Models) -> Path:
    """Write every published data table as Parquet. Raises Refused if the conditions of `[export]` leave no item."""
    champion, fitted, measured = models.champion, models.fitted, models.measured
    all_listed = wanted_lists.read_all(run)
    listed = all_listed[wanted_lists.DEFAULT]

    def write(folder: Path) -> lake.StageResult:
        set_threads(run.settings.threads)
        export, device = run.settings.export, resolve_device(run.settings.device)
        model, label = load(champion, device), lake.info(champion)["label"]
        rows = pl.read_parquet(raw / "interactions.parquet")
        shape = lake.info(encoded)
        frame = pl.read_parquet(encoded / "interactions.parquet")
        recency = run.settings.recency
        known = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device, recency)
        ids = pl.read_parquet(encoded / "items.parquet")["item_id"]
        attributes = item_tables.read_catalog(raw)
        items = item_tables.items(rows, attributes)
        known_items = ids.to_frame().join(items, on="item_id", how="left", maintain_order="left")
        night = night_date(run.as_of, run.started_at)
        described = item_conditions.of_raw(raw, known_items, run.settings.dataset.items, night)
        for text, examples in rule_files.unknown_items(listed, items["item_id"]):
            journal.note(run, f"warning: {text}", examples)
        others = item_conditions.of_raw(
            raw, items.filter(~pl.col("item_id").is_in(ids.implode())), run.settings.dataset.items, night
        )
        clock = explore.Clock(items["last_seen"].max(), described["last_seen"].max(), night)
        basis = wanted_lists.Basis(run, explore.Frames(described, others, attributes), clock, rows)
        wanted = wanted_lists.wanted(basis, all_listed)
        rules, allowed = wanted[0].rules, servable(model, known, encoded)
        wanted_lists.limit_to(allowed, wanted)
        out = rules.out(ids)
        unlisted = pl.concat([out, business_rules.excluded_of(export, listed, others, described["last_seen"].max())])
        listable = rows.filter(~pl.col("item_id").is_in(unlisted.implode())) if len(unlisted) else rows
        if rules.listable is not None:  # for the audit
            ids.filter(pl.Series(rules.listable.numpy())).to_frame().write_parquet(folder / "listable.parquet")
        unknown = ids.head(0) if allowed is None else ids.filter(~pl.Series(allowed.numpy()))

        cold, by = _cold_users(run, raw, encoded, known), _by_attribute(run, raw, ids)
        serving = holdback.Serving(user_lists.Fitted(model, known, cold, by), label)
        lists, further, second = 0, Counter[str](), models.runner_up
        other = None
        if second:
            fitted_other = user_lists.Fitted(load(second, device), known, cold)
            other = holdback.Serving(fitted_other, lake.info(second)["label"])
        for number, part in enumerate(holdback.with_holdback(run, rows, encoded, wanted, (serving, other))):
            lists += part.lists.height
            further.update(_write_part(folder, number, part, label))
        _note_lists(run, wanted, lists, further)
        other_tables = {
            tables.SUPPRESSED: user_lists.suppressed_table(wanted[0].suppressed),
            tables.SIMILAR_ITEMS: similar_items.similar_items(
                model, label, known.pairs(), ids, export.similar_items, rules.listable
            ).filter(~pl.col("item_id").is_in(unknown.implode())),
            tables.POPULAR_ITEMS: item_tables.popular_items(
                positive_rows(run, listable), export.popular_windows, export.popular_items
            ),
            tables.USERS: item_tables.users(rows),
            tables.ITEMS: items,
            tables.INTERACTIONS_SUMMARY: item_tables.summary(rows),
            tables.USER_VECTORS: item_tables.vectors(encoded, label, "user", model.user_vectors()),
            tables.ITEM_VECTORS: item_tables.vectors(encoded, label, "item", model.item_vectors()).filter(
                ~pl.col("id").is_in(unknown.implode())
            ),
            tables.BIASES: _biases(encoded, champion, fitted, device),
            tables.PREDICTIONS: item_tables.predictions(encoded, measured),
            **_trending(run, raw, rows, unlisted),
            **_audiences(run, serving.fitted, raw, encoded, rules.listable),
            **({tables.FALLBACK_ITEMS: cold_users.fallback_items(cold, ids, rules, export.top_n)} if cold else {}),
        }
        for table, content in other_tables.items():
            _write(folder / f"{table.name}.parquet", table, content)
        return lake.StageResult(rows_in=rows.height, rows_out=lists, info={"champion": label})

    return lake.build(run, spec(run, raw, encoded, models), write)


def _write_part(folder: Path, number: int, part: user_lists.Part, label: str) -> dict[str, int]:
    """Write a part of the lists; returns the rows of further lists by name."""
    name = f"{number:04d}.parquet"
    _write(folder / f"recommendations-{name}", tables.RECOMMENDATIONS, part.lists)
    _write(folder / f"reasons-{name}", tables.REASONS, part.reasons)
    if part.by is not None:
        _write(folder / f"recommendations_by-{name}", tables.RECOMMENDATIONS_BY, part.by)
    if part.named is None:
        return {}
    named = part.named.with_columns(model=pl.lit(label))
    _write(folder / f"recommendations_in-{name}", tables.RECOMMENDATIONS_IN, named)
    return dict(part.named.group_by("list").len().iter_rows())


def _note_lists(run: Run, wanted: list[user_lists.Wanted], rows: int, further: Counter[str]) -> None:
    """Note the rows of further lists by name, and the places that were drawn; `rows`: of the default list."""
    if len(wanted) > 1:
        journal.note(run, wanted_lists.summary(further, wanted))
    for each in wanted:
        if each.explorer is not None:
            journal.note(run, each.explorer.summary(each.name, further[each.name] if each.name else rows))


def _trending(run: Run, raw: Path, rows: pl.DataFrame, unlisted: pl.Series) -> dict[Table, pl.DataFrame]:
    """tables.TRENDING_ITEMS, without the items `unlisted`; nothing without `export.trending`."""
    if (config := run.settings.export.trending) is None:
        return {}
    values = lists_by_attribute.values_of(raw, config.by) if config.by else None
    found, problems = trending.trending(positive_rows(run, rows), unlisted, config, values)
    for problem in problems:
        journal.note(run, f"warning: {problem}")
    return {tables.TRENDING_ITEMS: found}


def _audiences(
    run: Run, fitted: user_lists.Fitted, raw: Path, encoded: Path, allowed: Tensor | None
) -> dict[Table, pl.DataFrame]:
    """tables.AUDIENCES and tables.ATTRIBUTE_AUDIENCES; nothing without `export.audiences`."""
    if (config := run.settings.export.audiences) is None:
        return {}
    if not fitted.model.personal or fitted.model.only_own_items:
        why = "has the same scores for all users"
        if fitted.model.only_own_items:
            why = "lists only what users have already"
        journal.note(run, f"warning: export.audiences: there are none, since the published model {why}")
        return {}
    items = pl.read_parquet(encoded / "items.parquet")
    values = {name: lists_by_attribute.Values.read(raw, name, items["item_id"]) for name in config.attributes}
    found = audiences.Audiences(fitted.model, config.top_n, allowed, values)
    rows = pl.read_parquet(raw / "interactions.parquet")
    found.collect(listed_users.users_of(run, fitted.known, rows, encoded, items))
    of_items, of_values = found.of_items(items["item_id"]), found.of_values()
    count = of_items["item_id"].n_unique()
    journal.note(run, f"audiences: {of_items.height:,} rows of {count:,} items, {of_values.height:,} rows of values")
    return {tables.AUDIENCES: of_items, tables.ATTRIBUTE_AUDIENCES: of_values}


def _cold_users(run: Run, raw: Path, encoded: Path, known: Interactions) -> cold_users.ColdUsers | None:
    """The fallback by an attribute of users; None without `export.fallback_by`."""
    if (name := run.settings.export.fallback_by) is None:
        return None
    held = known.held_out()
    users = pl.read_parquet(encoded / "users.parquet")["user_id"]
    return cold_users.ColdUsers.of(raw, name, held.users, held.items, cold_users.Known(users, known.n_items))


def _by_attribute(run: Run, raw: Path, ids: pl.Series) -> tuple[lists_by_attribute.Values, ByAttribute] | None:
    """The values of the attribute of `export.by`; None without it."""
    if (by := run.settings.export.by) is None:
        return None
    values = lists_by_attribute.Values.read(raw, by.attribute, ids)
    text = f"recommendations_by: {by.attribute} has {len(values.names):,} values; each user gets lists of at most "
    journal.note(run, f"{text}{by.values} of them, those with the best items (export.by.values)")
    return values, by


def spec(run: Run, raw: Path, encoded: Path, models: Models) -> lake.Spec:
    """Key of `export_tables`. Raises NotYetKnown where the champion is not fitted."""
    listed = wanted_lists.read_all(run)
    return lake.Spec(
        call=StageCall(StageName.EXPORT),
        layer="7_recommendations",
        version=VERSION,
        settings={
            **item_conditions.key_settings(run),
            "rules": rule_files.fingerprint(listed[wanted_lists.DEFAULT]),
            **wanted_lists.key_settings(run, listed),
            **({"popular": "positive"} if run.settings.dataset.feedback.positive_if else {}),
            **({"popular_events": "target"} if run.settings.dataset.events else {}),
        },
        parents=(raw, encoded, *models.folders),
        head=lake.info(models.champion)["label"],
    )


def positive_rows(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The raw rows that make an item popular: votes against it don't, nor, with event types, those of other types than
    the target's, such as views."""
    feedback, events = run.settings.dataset.feedback, run.settings.dataset.events
    if feedback.positive_if is not None:
        rows = mark(rows, feedback, RowNames.of(run).learnt(rows, feedback)).filter("positive")
    return rows if events is None else target_rows(rows, events, feedback)


def _biases(encoded: Path, champion: Path, fitted: list[Path], device: torch.device) -> pl.DataFrame:
    """Biases of the champion as refitted on all rows, and of the other families as fitted on train."""
    label = lake.info(champion)["label"]
    parts = [tables.BIASES.empty()]
    for folder in [champion, *(f for f in fitted if lake.info(f)["label"] != label)]:
        model, name = load(folder, device), lake.info(folder)["label"]
        parts.append(item_tables.biases(encoded, name, "user", model.user_biases()))
        parts.append(item_tables.biases(encoded, name, "item", model.item_biases()))
    return pl.concat(parts)


def _write(path: Path, table: Table, frame: pl.DataFrame) -> None:
    table.without(*OF_THE_NIGHT).check(frame).write_parquet(path)
