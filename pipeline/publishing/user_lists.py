"""Top-N lists of every user of the source, in parts of bounded size, with the business rules applied."""

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
from pipeline.publishing import business_rules, explore, lists_by_attribute, reasons
from pipeline.publishing.attribute_values import Values
from pipeline.publishing.boosts import Boosted, boosted
from pipeline.publishing.cold_users import ColdUsers
from pipeline.publishing.explore import Explorer
from pipeline.publishing.listed_users import Range, Users, users_of
from pipeline.publishing.promotions import MakeLists
from pipeline.publishing.shared_lists import DEEPER, SharedLists
from pipeline.ranking.ranks import top_k
from pipeline.ranking.recommend import Lists, ServeInputs, served
from pipeline.ranking.servable import both, servable
from pipeline.schemas import tables
from pipeline.training.interactions import History, Interactions

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
    parts: Range | None = None,
) -> Iterator[Part]:
    """Lists of every active user, ordered by user id, in parts of at most `listed_users.USERS_PER_PART` users.

    `parts`: only these parts of all.

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
    for users in users_of(run, known, rows, encoded, items, among, parts):
        makers = Makers(fitted, users, longest(fitted, wanted))
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


def longest(fitted: Fitted, wanted: Sequence[Wanted]) -> int | None:
    """How long lists from one scoring pass are, for lists by attribute too; None: there is only one list."""
    by = lists_by_attribute.depth(fitted.by[1]) if fitted.by else 0
    if len(wanted) == 1 and not by:
        return None
    return max(-(-by // DEEPER), *(each.top_n for each in wanted))


def listable_ids(wanted: Wanted, ids: pl.Series) -> pl.Series:
    """Ids of the fit's items `ids` (I,), and of the new ones that it does not have."""
    return ids if wanted.explorer is None else pl.concat([ids, wanted.explorer.added_ids])


def _lists_by(makers: Makers, rules: business_rules.Rules, ids: pl.Series) -> pl.DataFrame | None:
    """Lists by attribute, by the rules of the default list; None if none are wanted."""
    if makers.fitted.by is None:
        return None
    (values, config), users = makers.fitted.by, makers.users
    device, model = users.index.device, makers.fitted.model
    boost = None if rules.boost is None else rules.boost.to(device)
    allowed = both(None if rules.allowed is None else rules.allowed.to(device), makers.fitted.servable)
    values, parts = values.to(device), []
    make, depth = makers.of(rules.boost), lists_by_attribute.depth(config)
    is_deep = isinstance(make, SharedLists) and make.depth >= min(depth, make.n_items)
    deep = make.deep if depth and is_deep else None
    for at, popular in _by_fallback(makers.fitted, users):
        few = users if at is None else users.some(at)
        if boost is not None:
            popular = boosted(popular, boost)
        inputs = ServeInputs(few.index, few.history, few.mask, popular)
        own = deep if deep is None or at is None else deep[at]
        of_few = lists_by_attribute.lists_by(
            model if boost is None else Boosted(model, boost), inputs, allowed, values, config, own
        )
        parts.append(lists_by_attribute.frame(of_few, config.attribute, values.names, few.ids, ids))
    return pl.concat(parts)


def _by_fallback(fitted: Fitted, users: Users) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Rows (R,) of the users, None for all, in groups by what the fallback ranks by, (I,)."""
    if fitted.cold is None:
        yield None, fitted.popular
        return
    device = users.index.device
    others = torch.ones(len(users.index), dtype=torch.bool, device=device)  # (B,)
    unserved = (~served(fitted.model, users.index, users.history)).nonzero().squeeze(1)
    for value, at in fitted.cold.groups(users.ids, unserved):
        others[at] = False
        yield at, fitted.cold.scores(value).to(device)
    yield None if bool(others.all()) else others.nonzero().squeeze(1), fitted.popular


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
    """Top-k lists of the items that are `allowed`, (I,) on the device of `users`; None: of all."""
    return top_k(model, users, history, mask, k, allowed=allowed, fallback=popular)
