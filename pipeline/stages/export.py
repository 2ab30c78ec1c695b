"""Turns the champion into tables with the source's ids: top-N for every user, similar and popular items, vectors."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation import eval_task
from pipeline.models import Recommender
from pipeline.models.serialization import load
from pipeline.preparation.events import target_rows
from pipeline.preparation.filters import mark
from pipeline.preparation.row_names import RowNames
from pipeline.publishing import (
    attribute_values,
    audiences,
    business_rules,
    checks,
    cold_users,
    item_conditions,
    item_tables,
    list_parts,
    listed_users,
    rule_files,
    similar_items,
    trending,
    user_lists,
    wanted_lists,
)
from pipeline.ranking.servable import both, servable
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, lake
from pipeline.training.device import resolve_device, set_threads

VERSION = 2
VECTORS_PER_PART = 1 << 18
"""Users whose vectors are in one file."""


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
    earlier = len(journal.notes(run.home, run.dataset, run.run_id))
    said: list[str] = []
    """What was noted while the tables were made; nothing where they are in the lake."""

    def write(folder: Path) -> lake.StageResult:
        set_threads(run.settings.threads)
        eval_task.release()
        export, device = run.settings.export, resolve_device(run.settings.device)
        source = list_parts.Source(raw, encoded, champion, models.runner_up)
        inputs = list_parts.Inputs.of(run, source, all_listed)
        wanted, serving, known, ids, rows = inputs.wanted, inputs.serving, inputs.known, inputs.ids, inputs.rows
        rules, allowed, model, label = wanted[0].rules, inputs.allowed, serving.fitted.model, serving.label
        for text, examples in rule_files.unknown_items(listed, inputs.items["item_id"]):
            journal.note(run, f"warning: {text}", examples)
        unlisted = pl.concat([rules.out(ids), business_rules.excluded_of(export, listed, inputs.others, inputs.newest)])
        listable = rows.filter(~pl.col("item_id").is_in(unlisted.implode())) if len(unlisted) else rows
        _write_items(folder / checks.LISTABLE, ids, rules.listable)
        _write_items(folder / checks.SERVABLE, ids, allowed)
        _write_items(folder / checks.ALLOWED, ids, rules.allowed)
        unknown = ids.head(0) if allowed is None else ids.filter(~pl.Series(allowed.numpy()))
        if inputs.other and export.holdback:
            theirs = both(rules.listable, servable(inputs.other.fitted.model, known, encoded))
            _write_items(folder / checks.LISTABLE_OF_HELD, ids, theirs)
        write_table = partial(_write_table, folder)
        # Tables of all rows and users come first: the lists and what follows keep more memory.
        counted, newest = positive_rows(run, listable), rows["timestamp"].max()
        write_table(
            tables.POPULAR_ITEMS,
            item_tables.popular_items(counted, export.popular_windows, export.popular_items, newest),
        )
        del counted
        write_table(tables.USERS, item_tables.users(rows))
        write_table(tables.ITEMS, inputs.items)
        write_table(tables.INTERACTIONS_SUMMARY, item_tables.summary(rows))
        write_table(
            tables.ITEM_VECTORS,
            item_tables.vectors(encoded, label, "item", model.item_vectors()).filter(
                ~pl.col("id").is_in(unknown.implode())
            ),
        )
        _write_user_vectors(folder, encoded, label, model.user_vectors())
        write_table(tables.BIASES, _biases(encoded, (model, label), fitted, device))
        write_table(tables.PREDICTIONS, item_tables.predictions(encoded, measured))
        written = list_parts.write_all(inputs, source, folder)
        if (explorer := wanted[0].explorer) is not None:
            explorer.filled = written.drawn  # held-back users have other places than in the champion's lists
        _note_lists(run, wanted, written.lists, written.further)
        cold = serving.fitted.cold
        write_table(tables.SUPPRESSED, user_lists.suppressed_table(wanted[0].suppressed))
        write_table(
            tables.SIMILAR_ITEMS,
            similar_items.similar_items(model, label, known.pairs(), ids, export.similar_items, rules.listable).filter(
                ~pl.col("item_id").is_in(unknown.implode())
            ),
        )
        others = {
            **_trending(run, raw, rows, unlisted),
            **_audiences(run, serving.fitted, raw, encoded, rules.listable),
        }
        if cold:
            others[tables.FALLBACK_ITEMS] = cold_users.fallback_items(cold, ids, rules, export.top_n)
        for table, content in others.items():
            write_table(table, content)
        said.extend(journal.notes(run.home, run.dataset, run.run_id)[earlier:])
        return lake.StageResult(rows_in=rows.height, rows_out=written.lists, info={"champion": label, "notes": said})

    folder = lake.build(run, spec(run, raw, encoded, models), write)
    for text in lake.info(folder).get("notes", []) if not said else []:
        journal.note(run, text)
    return folder


def _write_table(folder: Path, table: Table, content: pl.DataFrame) -> None:
    """Write a table at once, so that memory holds one of them."""
    list_parts.write_table(folder / f"{table.name}.parquet", table, content)


def _write_items(path: Path, ids: pl.Series, kept: Tensor | None) -> None:
    """Write the ids that are kept, (I,) bool, for the audit; nothing where all are."""
    if kept is not None:
        ids.filter(pl.Series(kept.numpy())).to_frame().write_parquet(path)


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
    values = attribute_values.values_of(raw, config.by) if config.by else None
    found, problems = trending.trending(positive_rows(run, rows), unlisted, config, values, rows["timestamp"].max())
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
    values = {name: attribute_values.Values.read(raw, name, items["item_id"]) for name in config.attributes}
    found = audiences.Audiences(fitted.model, config.top_n, allowed, values)
    rows = pl.read_parquet(raw / "interactions.parquet")
    found.collect(listed_users.users_of(run, fitted.known, rows, encoded, items))
    of_items, of_values = found.of_items(items["item_id"]), found.of_values()
    count = of_items["item_id"].n_unique()
    journal.note(run, f"audiences: {of_items.height:,} rows of {count:,} items, {of_values.height:,} rows of values")
    return {tables.AUDIENCES: of_items, tables.ATTRIBUTE_AUDIENCES: of_values}


def spec(run: Run, raw: Path, encoded: Path, models: Models) -> lake.Spec:
    """Key of `export_tables`. Raises NotYetKnown where the champion is not fitted."""
    listed, export = wanted_lists.read_all(run), run.settings.export
    return lake.Spec(
        call=StageCall(StageName.EXPORT),
        layer="7_recommendations",
        version=VERSION,
        settings={
            **item_conditions.key_settings(run),
            "rules": rule_files.fingerprint(listed[wanted_lists.DEFAULT]),
            **wanted_lists.key_settings(run, listed),
            **({"popular": "positive"} if run.settings.dataset.feedback.positive_if else {}),
            **({"popular_rows": "kept"} if run.settings.dataset.feedback.keep_if else {}),
            **({"folded_in": "latest"} if _judges_rows(run) else {}),
            **({"trending_prior": "mixture"} if run.settings.export.trending else {}),
            **({"explore_below_promotions": True} if _explores_and_promotes(run) else {}),
            **({"fallback_limits": True} if export.fallback_by and export.max_per_attribute else {}),
            **({"popular_events": "target"} if run.settings.dataset.events else {}),
            **({"windows_end": "newest row"} if _leaves_out_rows(run) else {}),
            **({"audience_scores": "listable"} if export.audiences and _leaves_out_items(run) else {}),
        },
        parents=(raw, encoded, *models.folders),
        head=lake.info(models.champion)["label"],
    )


def _judges_rows(run: Run) -> bool:
    """Whether the latest row of a pair need not be the latest positive one."""
    feedback = run.settings.dataset.feedback
    return not run.settings.dataset.is_weighted and bool(feedback.positive_if or feedback.keep_if)


def _leaves_out_rows(run: Run) -> bool:
    """Whether the newest row may be none that makes an item popular."""
    feedback, events = run.settings.dataset.feedback, run.settings.dataset.events
    return _excludes(run) or bool(feedback.positive_if or feedback.keep_if or events)


def _leaves_out_items(run: Run) -> bool:
    """Whether items of the fit may be in no list."""
    return _excludes(run) or run.settings.export.fresh_days is not None or run.settings.attributes.used


def _excludes(run: Run) -> bool:
    export = run.settings.export
    return any((export.exclude_items, export.only_items, export.exclude_where, export.only_where))


def _explores_and_promotes(run: Run) -> bool:
    return any(each.explore and each.promote for each in wanted_lists.exports_of(run.settings).values())


def positive_rows(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The raw rows that make an item popular: votes against it don't, nor rows that `keep_if` leaves out, nor, with
    event types, those of other types than the target's, such as views."""
    feedback, events = run.settings.dataset.feedback, run.settings.dataset.events
    if feedback.positive_if is not None or feedback.keep_if is not None:
        rows = mark(rows, feedback, RowNames.of(run).learnt(rows, feedback)).filter("kept", "positive")
    return rows if events is None else target_rows(rows, events, feedback)


def _write_user_vectors(folder: Path, encoded: Path, label: str, values: Tensor | None) -> None:
    """Write tables.USER_VECTORS, (U, D), in several files if it is large."""
    if values is None or len(values) <= VECTORS_PER_PART:
        return _write_table(folder, tables.USER_VECTORS, item_tables.vectors(encoded, label, "user", values))
    for number, start in enumerate(range(0, len(values), VECTORS_PER_PART)):
        some = range(start, min(start + VECTORS_PER_PART, len(values)))
        part = item_tables.vectors(encoded, label, "user", values[some.start : some.stop], some)
        path = folder / f"{tables.USER_VECTORS.name}-{number:04d}.parquet"
        list_parts.write_table(path, tables.USER_VECTORS, part)


def _biases(encoded: Path, champion: tuple[Recommender, str], fitted: list[Path], device: torch.device) -> pl.DataFrame:
    """Biases of the champion as refitted on all rows, and of the other families as fitted on train."""
    model, label = champion
    parts = [tables.BIASES.empty()]

    def add(model: Recommender, name: str) -> None:
        parts.append(item_tables.biases(encoded, name, "user", model.user_biases()))
        parts.append(item_tables.biases(encoded, name, "item", model.item_biases()))

    add(model, label)
    for folder in fitted:
        if (name := lake.info(folder)["label"]) != label:
            add(load(folder, device), name)
    return pl.concat(parts)
