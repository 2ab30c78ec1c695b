"""Top-N lists of every user of the source, in parts of bounded size, with the business rules applied."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.config.run import Run
from pipeline.models import Recommender
from pipeline.preparation.events import codes
from pipeline.preparation.filters import mark, take_part
from pipeline.preparation.ids import codes_of
from pipeline.preparation.row_names import RowNames
from pipeline.preparation.seen import hidden
from pipeline.publishing import active_users, business_rules, explore, lists_by_attribute, reasons
from pipeline.publishing.boosts import Boosted, boosted
from pipeline.publishing.cold_users import ColdUsers
from pipeline.publishing.explore import Explorer
from pipeline.publishing.lists_by_attribute import Values
from pipeline.publishing.promotions import MakeLists
from pipeline.publishing.shared_lists import SharedLists
from pipeline.ranking.ranks import top_k
from pipeline.ranking.recommend import Lists, ServeInputs
from pipeline.ranking.servable import both, servable
from pipeline.schemas import tables
from pipeline.training.interactions import DAY, Facts, History, Interactions

USERS_PER_PART = 50_000
MODEL, FALLBACK, PROMOTED, EXPLORE = "model", "fallback", "promoted", explore.NAME
SOURCES = (MODEL, FALLBACK, PROMOTED, EXPLORE)
Suppressed = Counter[tuple[str, str, str]]
"""Users by item, rule and reason: those whose list the rule kept the item out of."""


@dataclass(frozen=True)
class Fitted:
    """A model, and the interactions that it was fitted on."""

    model: Recommender
    known: Interactions
    cold: ColdUsers | None = None
    """The fallback by an attribute of users."""
    by: tuple[Values, ByAttribute] | None = None
    """What the lists by attribute are made of."""
    servable: Tensor | None = None
    """(I,) bool, see ranking/servable.py; None: all."""

    @cached_property
    def popular(self) -> Tensor:
        """What the fallback ranks by, (I,)."""
        return self.known.fallback_counts()


@dataclass
class Wanted:
    """One of the lists that every active user gets."""

    rules: business_rules.Rules
    top_n: int
    explorer: Explorer | None = None
    name: str = ""
    """Of a list of `[lists]`; empty for the default one."""
    suppressed: Suppressed = field(default_factory=Counter)
    """Counted while lists are made."""


@dataclass(frozen=True)
class Part:
    """Lists of some users, the reasons of their items (tables.RECOMMENDATIONS and tables.REASONS, in part), and their
    further lists (tables.RECOMMENDATIONS_IN, in part)."""

    lists: pl.DataFrame
    reasons: pl.DataFrame
    named: pl.DataFrame | None = None
    by: pl.DataFrame | None = None
    """tables.RECOMMENDATIONS_BY"""


@dataclass(frozen=True)
class Users:
    """Some users: their ids, their index in the fit or -1, what the model may read, and what must not be listed."""

    ids: pl.Series
    index: Tensor  # (B,)
    history: History  # B rows
    mask: History  # B rows

    def some(self, rows: Tensor) -> "Users":
        """Those at `rows` (R,)."""
        return Users(self.ids.gather(rows.cpu().numpy()), self.index[rows], self.history[rows], self.mask[rows])


class Makers:
    """What makes the lists of some users, by boost; from one pass for each where there are several `longest` lists."""

    def __init__(self, fitted: Fitted, users: Users, longest: int | None):
        self.fitted, self.users, self.longest = fitted, users, longest
        self.made: dict[bytes, MakeLists] = {}

    def of(self, boost: Tensor | None) -> MakeLists:
        """`boost` (I,), or None."""
        key = b"" if boost is None else boost.cpu().numpy().tobytes()
        if key not in self.made:
            self.made[key] = self._make(boost)
        return self.made[key]

    def _make(self, boost: Tensor | None) -> MakeLists:
        model, popular, users = self.fitted.model, self.fitted.popular, self.users
        if boost is not None:
            boost = boost.to(users.index.device)
            model, popular = Boosted(model, boost), boosted(popular, boost)

        def some(rows: Tensor | None, k: int, allowed: Tensor | None) -> Lists:
            own = users if rows is None else users.some(rows)
            allowed = both(None if allowed is None else allowed.to(users.index.device), self.fitted.servable)
            lists = ranked(model, own.index, own.history, own.mask, popular, k, allowed)
            if (cold := self.fitted.cold) is not None:
                for value, at in cold.groups(own.ids, lists.from_fallback.nonzero().squeeze(1)):
                    scores = cold.scores(value).to(own.index.device)
                    scores = scores if boost is None else boosted(scores, boost)
                    few = own.some(at)
                    better = ranked(model, few.index, few.history, few.mask, scores, k, allowed)
                    lists.items[at], lists.scores[at] = better.items, better.scores
            return lists

        return (
            partial(some, None) if self.longest is None else SharedLists(some, self.longest, self.fitted.known.n_items)
        )


def recommend(
    run: Run,
    fitted: Fitted,
    rows: pl.DataFrame,
    encoded: Path,
    wanted: Sequence[Wanted],
    among: pl.Series | None = None,
) -> Iterator[Part]:
    """Lists of every active user, ordered by user id, in parts of at most USERS_PER_PART users.

    Active are all users with a valid row, or those of the last `[export] active_days`; `among`: only these ids of them.
    A user of the fit is served with the history that the fit saw; a user whom the filters left out by fold-in of their
    positive rows, where the family supports it; all others by popular items. No list has an item of the user's source
    rows (of event types, of those that mask; with `seen = "allow"`, of those of the last `hide_days`), nor one that a
    rule holds back: `suppressed` then counts the user. Scores include the boosts of the rules; reasons are those of the
    model's own scores. The first of the `wanted` lists is the default one; all are made from one scoring pass, but for
    each set of boosts, and for users whose best items a rule excludes.
    """
    known, per_item = fitted.known, run.settings.export.reasons
    fitted = replace(fitted, servable=both(servable(fitted.model, known, encoded), wanted[0].rules.servable))
    explain = fitted.model.explainer() if per_item else None
    items = pl.read_parquet(encoded / "items.parquet")
    ids = items["item_id"]
    for users in users_of(run, known, rows, encoded, items, among):
        makers = Makers(fitted, users, max(each.top_n for each in wanted) if len(wanted) > 1 else None)
        default, *others = wanted
        lists, source = _lists(makers, default, ids)
        frame = _frame(lists, source, users.ids, listable_ids(default, ids))
        named = []
        for each in others:
            made = _frame(*_lists(makers, each, ids), users.ids, listable_ids(each, ids))
            named.append(made.select(pl.lit(each.name).alias("list"), pl.all()))
        why = tables.REASONS.empty()
        if explain is not None:
            by_model = lists.items.masked_fill(source > 0, -1)  # (B, K)
            learnt = fitted.model.weighed(users.history).unrepeated()
            found = reasons.reasons(explain, users.index, learnt, by_model, per_item)
            why = reasons.frame(found, users.ids, ids)
        yield Part(frame, why, pl.concat(named) if named else None, _lists_by(makers, default.rules, ids))


def listable_ids(wanted: Wanted, ids: pl.Series) -> pl.Series:
    """Ids of the fit's items `ids` (I,), and of the new ones that it does not have."""
    return ids if wanted.explorer is None else pl.concat([ids, wanted.explorer.added_ids])


def _lists_by(makers: Makers, rules: business_rules.Rules, ids: pl.Series) -> pl.DataFrame | None:
    """Lists by attribute, by the rules of the default list; None if none are wanted."""
    if makers.fitted.by is None:
        return None
    (values, config), users = makers.fitted.by, makers.users
    device, model, popular = users.index.device, makers.fitted.model, makers.fitted.popular
    if rules.boost is not None:
        boost = rules.boost.to(device)
        model, popular = Boosted(model, boost), boosted(popular, boost)
    inputs = ServeInputs(users.index, users.history, users.mask, popular)
    allowed = both(None if rules.allowed is None else rules.allowed.to(device), makers.fitted.servable)
    lists = lists_by_attribute.lists_by(model, inputs, allowed, values.to(device), config)
    return lists_by_attribute.frame(lists, config.attribute, values.names, users.ids, ids)


def users_of(
    run: Run,
    known: Interactions,
    rows: pl.DataFrame,
    encoded: Path,
    items: pl.DataFrame,
    among: pl.Series | None = None,
) -> Iterator[Users]:
    """The users who get lists, ordered by id, at most USERS_PER_PART at once; `among`: only those of these ids."""
    device = known.users.device
    all_users, pairs = _source_pairs(rows, encoded, items)
    filtered_out = _pairs_of_filtered_out_users(rows, pairs, all_users, run)
    masking = pairs.filter(hidden(rows, pairs["row"], run.settings, rows["timestamp"].max()))
    seen = _history(masking, all_users.height, items.height)
    own_history = known.history()
    filtered_out_history = _history(filtered_out, all_users.height, items.height)
    if own_history.facts is not None:
        newest = rows["timestamp"].max() if own_history.facts.ages is not None else None
        filtered_out_history = replace(filtered_out_history, facts=facts_of(filtered_out, newest))  # type: ignore
    listed = active_users.places(all_users["user_id"], rows, run.settings.export)  # (A,)
    if among is not None:
        of = all_users["user_id"].cast(pl.String).is_in(among.implode())
        listed = listed[torch.from_numpy(of.to_numpy(writable=True))[listed]]
    for at in listed.split(USERS_PER_PART):
        users = all_users[at.numpy()]
        index = torch.from_numpy(users["user_idx"].cast(pl.Int64).fill_null(-1).to_numpy(writable=True)).to(device)
        history = _first_known(own_history, filtered_out_history[at].to(device), index)
        yield Users(users["user_id"], index, history, seen[at].to(device))


def _lists(makers: Makers, wanted: Wanted, ids: pl.Series) -> tuple[Lists, Tensor]:
    """Lists (B, k) by the rules, and the source of each place, (B, k) of SOURCES; ids (I,) of the fit's items."""
    n_items = makers.fitted.known.n_items
    make = makers.of(wanted.rules.boost)
    ruled = business_rules.apply(wanted.rules, make, min(wanted.top_n, n_items), n_items)
    explored = torch.zeros_like(ruled.promoted)
    if wanted.explorer is not None:
        ruled, explored = wanted.explorer.fill(ruled, makers.users.ids)
    for (item, rule, reason), count in ruled.held.items():
        wanted.suppressed[ids[item], rule, reason] += count
    source = ruled.lists.from_fallback.int().unsqueeze(1)  # (B, 1): SOURCES begin with the model and the fallback
    source = torch.where(ruled.promoted, SOURCES.index(PROMOTED), source)  # (B, k)
    return ruled.lists, torch.where(explored, SOURCES.index(EXPLORE), source)


def _frame(lists: Lists, source: Tensor, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """Rows of tables.RECOMMENDATIONS, in part; users (B,) and items (I',) are ids."""
    n, k = lists.items.shape
    flat = pl.DataFrame(
        {
            "row": torch.arange(n).repeat_interleave(k).numpy(),
            "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(n).numpy(),
            "item": lists.items.flatten().cpu().numpy(),
            "score": lists.scores.flatten().double().cpu().numpy(),
            "source": source.flatten().cpu().numpy(),
        }
    ).filter(pl.col("item") >= 0)
    return flat.select(
        users.gather(flat["row"]).alias("user_id"),
        "rank",
        items.gather(flat["item"]).alias("item_id"),
        "score",
        pl.Series(SOURCES).gather(flat["source"]).alias("source"),
    )


def suppressed_table(suppressed: Suppressed) -> pl.DataFrame:
    """The counts as rows of tables.SUPPRESSED."""
    records = [(item, rule, reason or None, users) for (item, rule, reason), users in sorted(suppressed.items())]
    return pl.DataFrame(records, schema=tables.SUPPRESSED.schema, orient="row")


def ranked(
    model: Recommender, users: Tensor, history: History, mask: History, popular: Tensor, k: int, allowed: Tensor | None
) -> Lists:
    """Top-k lists of the items that are `allowed`, (I,); None: of all."""
    allowed = None if allowed is None else allowed.to(users.device)
    return top_k(model, users, history, mask, k, allowed=allowed, fallback=popular)


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
