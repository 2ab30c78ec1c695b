"""Top-N lists of every user of the source, in parts of bounded size, with the business rules applied."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.run import Run
from pipeline.models import Recommender
from pipeline.preparation.events import codes, masking_rows
from pipeline.preparation.filters import mark, take_part
from pipeline.preparation.ids import codes_of
from pipeline.preparation.row_names import RowNames
from pipeline.publishing import business_rules, reasons
from pipeline.publishing.boosts import Boosted, boosted
from pipeline.ranking.ranks import top_k
from pipeline.ranking.recommend import Lists, ServeInputs
from pipeline.schemas import tables
from pipeline.training.interactions import DAY, Facts, History, Interactions

USERS_PER_PART = 50_000
MODEL, FALLBACK, PROMOTED = "model", "fallback", "promoted"
Suppressed = Counter[tuple[str, str, str]]
"""Users by item, rule and reason: those whose list the rule kept the item out of."""


@dataclass(frozen=True)
class Fitted:
    """A model, and the interactions that it was fitted on."""

    model: Recommender
    known: Interactions


@dataclass(frozen=True)
class Part:
    """Lists of some users, and the reasons of their items (tables.RECOMMENDATIONS and tables.REASONS, in part)."""

    lists: pl.DataFrame
    reasons: pl.DataFrame


def recommend(
    run: Run, fitted: Fitted, rows: pl.DataFrame, encoded: Path, rules: business_rules.Rules, suppressed: Suppressed
) -> Iterator[Part]:
    """Lists of every user with a valid row, ordered by user id, in parts of at most USERS_PER_PART users.

    A user of the fit is served with the history that the fit saw; a user whom the filters left out by fold-in of their
    positive rows, where the family supports it; all others by popular items. No list has an item of the user's source
    rows (of event types, of those that mask), nor one that a rule holds back: `suppressed` then counts the user. Scores
    include the boosts of the rules; reasons are those of the model's own scores.
    """
    model, known, per_item = fitted.model, fitted.known, run.settings.export.reasons
    explain = model.explainer() if per_item else None
    popular = known.fallback_counts()
    if rules.boost is not None:
        model, popular = Boosted(model, rules.boost.to(known.users.device)), boosted(popular, rules.boost)
    device = known.users.device
    k = min(run.settings.export.top_n, known.n_items)
    items = pl.read_parquet(encoded / "items.parquet")
    all_users, pairs = _source_pairs(rows, encoded, items)
    dataset = run.settings.dataset
    filtered_out = _pairs_of_filtered_out_users(rows, pairs, all_users, run)
    masking = pairs.filter(masking_rows(rows, pairs["row"], dataset.events)) if dataset.events else pairs
    seen = _history(masking, all_users.height, items.height)
    own_history = known.history()
    filtered_out_history = _history(filtered_out, all_users.height, items.height)
    if own_history.facts is not None:
        newest = rows["timestamp"].max() if own_history.facts.ages is not None else None
        filtered_out_history = replace(filtered_out_history, facts=facts_of(filtered_out, newest))  # type: ignore
    for start in range(0, all_users.height, USERS_PER_PART):
        users = all_users[start : start + USERS_PER_PART]
        index = torch.from_numpy(users["user_idx"].cast(pl.Int64).fill_null(-1).to_numpy(writable=True)).to(device)
        at = torch.arange(start, start + users.height)
        history = _first_known(own_history, filtered_out_history[at].to(device), index)
        masked = seen[at].to(device)

        make = partial(_lists, model, ServeInputs(index, history, masked, popular), rules.servable)
        ruled = business_rules.apply(rules, make, k, known.n_items)
        lists = ruled.lists
        for (item, rule, reason), count in ruled.held.items():
            suppressed[items["item_id"][item], rule, reason] += count
        flat = pl.DataFrame(
            {
                "row": torch.arange(users.height).repeat_interleave(k).numpy(),
                "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(users.height).numpy(),
                "item": lists.items.flatten().cpu().numpy(),
                "score": lists.scores.flatten().double().cpu().numpy(),
                "promoted": ruled.promoted.flatten().cpu().numpy(),
                "fallback": lists.from_fallback.repeat_interleave(k).cpu().numpy(),
            }
        ).filter(pl.col("item") >= 0)
        frame = flat.select(
            users["user_id"].gather(flat["row"]).alias("user_id"),
            "rank",
            items["item_id"].gather(flat["item"]).alias("item_id"),
            "score",
            pl.when("promoted")
            .then(pl.lit(PROMOTED))
            .when("fallback")
            .then(pl.lit(FALLBACK))
            .otherwise(pl.lit(MODEL))
            .alias("source"),
        )
        why = tables.REASONS.empty()
        if explain is not None:
            by_model = lists.items.masked_fill(lists.from_fallback[:, None] | ruled.promoted, -1)  # (B, K)
            learnt = fitted.model.weighed(history).unrepeated()
            found = reasons.reasons(explain, index, learnt, by_model, per_item)
            why = reasons.frame(found, users["user_id"], items["item_id"])
        yield Part(frame, why)


def suppressed_table(suppressed: Suppressed) -> pl.DataFrame:
    """The counts as rows of tables.SUPPRESSED."""
    records = [(item, rule, reason or None, users) for (item, rule, reason), users in sorted(suppressed.items())]
    return pl.DataFrame(records, schema=tables.SUPPRESSED.schema, orient="row")


def _lists(model: Recommender, inputs: ServeInputs, servable: Tensor | None, k: int, allowed: Tensor | None) -> Lists:
    """Top-k lists of the items that are `allowed` and `servable`, (I,) each; None: of all."""
    if servable is not None:
        allowed = servable if allowed is None else allowed & servable
    allowed = None if allowed is None else allowed.to(inputs.device)
    return top_k(model, inputs.users, inputs.history, inputs.mask, k, allowed=allowed, fallback=inputs.fallback)


def _source_pairs(rows: pl.DataFrame, encoded: Path, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All users, by id, with their index in the fit or null; and `row`, `user_row`, `item_idx` of the source rows.

    Rows of items that are not in the fit are left out of the pairs.
    """
    user_row, user_ids = codes_of(rows["user_id"])
    item_code, item_ids = codes_of(rows["item_id"])
    known = pl.read_parquet(encoded / "users.parquet")
    all_users = user_ids.alias("user_id").to_frame().join(known, on="user_id", how="left", maintain_order="left")
    index = (
        item_ids.alias("item_id").to_frame().join(items, on="item_id", how="left", maintain_order="left")["item_idx"]
    )
    pairs = pl.DataFrame({"user_row": user_row, "item_idx": index.gather(item_code)}).with_row_index("row")
    return all_users, pairs.drop_nulls("item_idx")


def _pairs_of_filtered_out_users(
    rows: pl.DataFrame, pairs: pl.DataFrame, all_users: pl.DataFrame, run: Run
) -> pl.DataFrame:
    """Positive pairs of the users whom the filters left out, in time order; of event types, as `clean` has them."""
    out = all_users.with_row_index("user_row").filter(pl.col("user_idx").is_null())["user_row"]
    theirs = pairs.filter(pl.col("user_row").is_in(out.implode()))
    dataset = run.settings.dataset
    names = RowNames.of(run).learnt(rows, dataset.feedback)
    if dataset.is_weighted:
        taken = take_part(rows[theirs["row"]].hstack(theirs), dataset.feedback, dataset.events, names)
        ordered = taken.filter("positive").sort("user_row", "timestamp", "item_idx", "event", "quantity")
        return ordered.with_columns(event=codes(ordered, dataset.events))
    marked = mark(rows[theirs["row"]].hstack(theirs), dataset.feedback, names).filter("kept", "positive")
    ordered = marked.sort("user_row", "timestamp", "item_idx")
    return ordered.unique(["user_row", "item_idx"], keep="last", maintain_order=True)


def _history(pairs: pl.DataFrame, n_users: int, n_items: int) -> History:
    users = torch.from_numpy(pairs["user_row"].cast(pl.Int64).to_numpy(writable=True))
    items = torch.from_numpy(pairs["item_idx"].cast(pl.Int64).to_numpy(writable=True))
    return History.of(users, items, n_users, n_items)


def facts_of(rows: pl.DataFrame, newest: dt.datetime | None) -> Facts:
    """Facts of events as encoded (`event`, `quantity`, if they are there); ages count from `newest`; None: no ages."""
    is_weighted, ages = "event" in rows.columns, None
    if newest is not None and not rows["timestamp"].null_count():
        since = (pl.lit(newest, tables.TIME) - pl.col("timestamp")).dt.total_microseconds() / DAY
        ages = torch.from_numpy(rows.select(since.clip(lower_bound=0)).to_series().to_numpy(writable=True)).float()
    return Facts(
        kinds=torch.from_numpy(rows["event"].cast(pl.Int64).to_numpy(writable=True)) if is_weighted else None,
        quantities=torch.from_numpy(rows["quantity"].to_numpy(writable=True)).float() if is_weighted else None,
        ages=ages,
    )


def _first_known(own: History, filtered_out: History, index: Tensor) -> History:
    """Row b: the history of user index[b] that the fit saw, or, for an index of -1, row b of `filtered_out`."""
    known = index >= 0
    both = History(
        torch.cat([own.offsets, own.offsets[-1] + filtered_out.offsets[1:]]),
        torch.cat([own.items, filtered_out.items]),
        own.n_items,
        None if own.facts is None or filtered_out.facts is None else own.facts.followed_by(filtered_out.facts),
    )
    rows = torch.where(known, index, len(own) + torch.arange(len(index), device=index.device))
    return both[rows]
