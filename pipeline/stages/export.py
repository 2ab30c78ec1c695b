"""Turns the champion into tables in the source's ids: top-N for every user, similar and popular items, vectors."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.dataset import Feedback
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.models import Recommender
from pipeline.models.serialization import load
from pipeline.preparation.filters import mark
from pipeline.preparation.ids import codes_of
from pipeline.publishing import business_rules, item_tables, similar_items
from pipeline.ranking.ranks import top_k
from pipeline.ranking.recommend import Lists
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.storage import journal, lake
from pipeline.training.device import resolve_device, set_threads
from pipeline.training.interactions import History, Interactions

VERSION = 2
USERS_PER_PART = 50_000
OF_THE_NIGHT = ("run_id", "generated_at")  # added when published, so that equal nights share this folder


def export_tables(run: Run, raw: Path, encoded: Path, champion: Path, fitted: list[Path], measured: list[Path]) -> Path:
    """Write every published data table as Parquet.

    `champion` is the refit on all rows, `fitted` are the night's models, `measured` what was measured of them.
    """
    listed = business_rules.read_lists(run.settings.export, run.data, run.started_at.date())

    def write(folder: Path) -> lake.StageResult:
        set_threads(run.settings.threads)
        export, device = run.settings.export, resolve_device(run.settings.device)
        model, label = load(champion, device), lake.info(champion)["label"]
        rows = pl.read_parquet(raw / "interactions.parquet")
        shape = lake.info(encoded)
        frame = pl.read_parquet(encoded / "interactions.parquet")
        known = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device)
        ids = pl.read_parquet(encoded / "items.parquet")["item_id"]
        attributes = item_tables.read_catalog(raw)
        items = item_tables.items(rows, attributes)
        last_seen = ids.to_frame().join(items, on="item_id", how="left", maintain_order="left")["last_seen"]
        in_force = business_rules.rules_of(export, listed, ids, last_seen, attributes)
        for said, ids_said in business_rules.strangers(listed, items["item_id"]):
            journal.note(run, f"warning: {said}", ids_said)
        allowed, out = in_force.allowed, in_force.out(ids)
        listable = rows.filter(~pl.col("item_id").is_in(out.implode())) if len(out) else rows
        if len(out):  # for the audit
            ids.filter(~ids.is_in(out.implode())).to_frame().write_parquet(folder / "listable.parquet")

        lists, held = 0, Counter[tuple[str, str, str]]()
        for number, part in enumerate(_recommendations(run, model, rows, encoded, known, in_force, held)):
            lists += part.height
            part = part.with_columns(model=pl.lit(label))
            _write(folder / f"recommendations-{number:04d}.parquet", tables.RECOMMENDATIONS, part)
        tables_of_items = {
            tables.SUPPRESSED: _suppressed(held),
            tables.SIMILAR_ITEMS: similar_items.similar_items(
                model, label, known.history(), ids, export.similar_items, allowed
            ),
            tables.POPULAR_ITEMS: item_tables.popular_items(listable, export.popular_windows, export.popular_items),
            tables.USERS: item_tables.users(rows),
            tables.ITEMS: items,
            tables.INTERACTIONS_SUMMARY: item_tables.summary(rows),
            tables.USER_VECTORS: item_tables.vectors(encoded, label, "user", model.user_vectors()),
            tables.ITEM_VECTORS: item_tables.vectors(encoded, label, "item", model.item_vectors()),
            tables.BIASES: _biases(encoded, champion, fitted, device),
            tables.PREDICTIONS: item_tables.predictions(encoded, measured),
        }
        for table, content in tables_of_items.items():
            _write(folder / f"{table.name}.parquet", table, content)
        return lake.StageResult(rows_in=rows.height, rows_out=lists, info={"champion": label})

    return lake.build(run, spec(run, raw, encoded, champion, fitted, measured), write)


def spec(run: Run, raw: Path, encoded: Path, champion: Path, fitted: list[Path], measured: list[Path]) -> lake.Spec:
    """Key of `export_tables`. Raises NotYetKnown where the champion is not fitted."""
    listed = business_rules.read_lists(run.settings.export, run.data, run.started_at.date())
    return lake.Spec(
        call=StageCall(StageName.EXPORT),
        layer="7_recommendations",
        version=VERSION,
        settings={**run.settings.export.model_dump(), "rules": business_rules.fingerprint(listed)},
        parents=(raw, encoded, champion, *fitted, *measured),
        head=lake.info(champion)["label"],
    )


def _recommendations(
    run: Run,
    model: Recommender,
    rows: pl.DataFrame,
    encoded: Path,
    known: Interactions,
    in_force: business_rules.Rules,
    held: Counter[tuple[str, str, str]],
) -> Iterator[pl.DataFrame]:
    """Lists of every user with a valid row, ordered by user id, in parts of bounded size.

    A user of the fit is served with the history that the fit saw; one whom the filters left out by fold-in of their
    positive rows, where the family can; the rest by popular items. Nobody gets an item of their source rows, nor
    one that a rule holds back: `held` then counts, by item, rule and reason, the users who would have had it.
    """
    device = known.users.device
    k = min(run.settings.export.top_n, known.n_items)
    items = pl.read_parquet(encoded / "items.parquet")
    everyone, pairs = _source_pairs(rows, encoded, items)
    strangers = _strangers(rows, pairs, everyone, run.settings.dataset.feedback)
    seen = _history(pairs, everyone.height, items.height)
    stranger_history = _history(strangers, everyone.height, items.height)
    own_history, popular = known.history(), known.item_counts()
    for start in range(0, everyone.height, USERS_PER_PART):
        users = everyone[start : start + USERS_PER_PART]
        index = torch.from_numpy(users["user_idx"].cast(pl.Int64).fill_null(-1).to_numpy(writable=True)).to(device)
        at = torch.arange(start, start + users.height)
        history = _first_known(own_history, stranger_history[at].to(device), index)
        masked = seen[at].to(device)

        make = partial(_lists, model, index, history, masked, popular)
        lists, kept_back = business_rules.apply(in_force, make, k, known.n_items)
        for (item, rule, reason), count in kept_back.items():
            held[items["item_id"][item], rule, reason] += count
        flat = pl.DataFrame(
            {
                "row": torch.arange(users.height).repeat_interleave(k).numpy(),
                "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(users.height).numpy(),
                "item": lists.items.flatten().cpu().numpy(),
                "score": lists.scores.flatten().double().cpu().numpy(),
                "fallback": lists.from_fallback.repeat_interleave(k).cpu().numpy(),
            }
        ).filter(pl.col("item") >= 0)
        yield flat.select(
            users["user_id"].gather(flat["row"]).alias("user_id"),
            "rank",
            items["item_id"].gather(flat["item"]).alias("item_id"),
            "score",
            pl.when("fallback").then(pl.lit("fallback")).otherwise(pl.lit("model")).alias("source"),
        )


def _lists(
    model: Recommender, users: Tensor, history: History, mask: History, popular: Tensor, k: int, allowed: Tensor | None
) -> Lists:
    """Of items that are `allowed`, (I,); None: all."""
    allowed = None if allowed is None else allowed.to(users.device)
    return top_k(model, users, history, mask, k, allowed=allowed, fallback=popular)


def _suppressed(held: Counter[tuple[str, str, str]]) -> pl.DataFrame:
    records = [(item, rule, reason or None, users) for (item, rule, reason), users in sorted(held.items())]
    return pl.DataFrame(records, schema=tables.SUPPRESSED.schema, orient="row")


def _source_pairs(rows: pl.DataFrame, encoded: Path, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All users, by id, with their index in the fit or null; and `row`, `user_row`, `item_idx` of the source rows.

    Rows of items that take no part are left out of the pairs.
    """
    user_row, user_ids = codes_of(rows["user_id"])
    item_code, item_ids = codes_of(rows["item_id"])
    known = pl.read_parquet(encoded / "users.parquet")
    everyone = user_ids.alias("user_id").to_frame().join(known, on="user_id", how="left", maintain_order="left")
    index = (
        item_ids.alias("item_id").to_frame().join(items, on="item_id", how="left", maintain_order="left")["item_idx"]
    )
    pairs = pl.DataFrame({"user_row": user_row, "item_idx": index.gather(item_code)}).with_row_index("row")
    return everyone, pairs.drop_nulls("item_idx")


def _strangers(rows: pl.DataFrame, pairs: pl.DataFrame, everyone: pl.DataFrame, feedback: Feedback) -> pl.DataFrame:
    """Positive pairs of the users whom the filters left out, in time order."""
    out = everyone.with_row_index("user_row").filter(pl.col("user_idx").is_null())["user_row"]
    theirs = pairs.filter(pl.col("user_row").is_in(out.implode()))
    marked = mark(rows[theirs["row"]].hstack(theirs), feedback).filter("kept", "positive")
    ordered = marked.sort("user_row", "timestamp", "item_idx")
    return ordered.unique(["user_row", "item_idx"], keep="last", maintain_order=True)


def _history(pairs: pl.DataFrame, n_users: int, n_items: int) -> History:
    users = torch.from_numpy(pairs["user_row"].cast(pl.Int64).to_numpy(writable=True))
    items = torch.from_numpy(pairs["item_idx"].cast(pl.Int64).to_numpy(writable=True))
    return History.of(users, items, n_users, n_items)


def _first_known(own: History, strangers: History, index: Tensor) -> History:
    """Row b: the history of user index[b] that the fit saw, or, for an index of -1, row b of `strangers`."""
    known = index >= 0
    both = History(
        torch.cat([own.offsets, own.offsets[-1] + strangers.offsets[1:]]),
        torch.cat([own.items, strangers.items]),
        own.n_items,
    )
    rows = torch.where(known, index, len(own) + torch.arange(len(index), device=index.device))
    return both[rows]


def _biases(encoded: Path, champion: Path, fitted: list[Path], device: torch.device) -> pl.DataFrame:
    """Of the champion's refit, and of the fit on train of the other families."""
    label = lake.info(champion)["label"]
    parts = [tables.BIASES.empty()]
    for folder in [champion, *(f for f in fitted if lake.info(f)["label"] != label)]:
        model, name = load(folder, device), lake.info(folder)["label"]
        parts.append(item_tables.biases(encoded, name, "user", model.user_biases()))
        parts.append(item_tables.biases(encoded, name, "item", model.item_biases()))
    return pl.concat(parts)


def _write(path: Path, table: Table, frame: pl.DataFrame) -> None:
    table.without(*OF_THE_NIGHT).check(frame).write_parquet(path)
