"""Fallback lists by an attribute of users: what is popular among those with the same value, before what all like."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.dataset import Dataset
from pipeline.config.publishing import Export
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.publishing.boosts import boosted
from pipeline.publishing.business_rules import Rules, keep_to_limits
from pipeline.ranking.recommend import Lists
from pipeline.schemas import tables
from pipeline.sources import attributes, catalog_reader, files

PRIOR = 100.0
"""Interactions that the popularity among all users counts as, within the popularity of a value."""
MOST_VALUES = 500
"""Values with a list of their own: those with the most users."""


def check(export: Export, dataset: Dataset, data: Path) -> None:
    """Raise SettingsError if the files of users lack the attribute."""
    name = export.fallback_by
    if name is None:
        return
    if dataset.users is None:
        raise SettingsError(
            f"export.fallback_by = {name!r}: the data set {dataset.name} has no [users], so no user has attributes"
        )
    if dataset.source.generator and not any(data.glob("*")):
        return
    users = attributes.as_items(dataset.users)
    known = [*users.attributes, *catalog_reader.other_columns(data, files.find_files(data, users.files), users)]
    if name not in known:
        raise SettingsError(
            f"export.fallback_by: the file of users has no attribute {name!r}{nearest(name, known)}; "
            f"there are: {', '.join(known) or 'none'}"
        )


@dataclass(frozen=True)
class ColdUsers:
    """Popularity of items by a value of users."""

    attribute: str
    names: pl.Series
    """(V,) values, those with the most users first."""
    value_of: pl.DataFrame
    """user_id, and `at`: place of the user's value in `names`."""
    values: Tensor
    """(E,) value of the user of each interaction, ascending."""
    items: Tensor
    """(E,) item of each."""
    popular: Tensor
    """(I,) interactions of all users."""

    @classmethod
    def of(cls, raw: Path, attribute: str, users: Tensor, items: Tensor, known: "Known") -> "ColdUsers":
        """From interactions of the fit, users (E,) and items (E,); of several values of a user the first counts."""
        listed = (
            attributes.user_attributes(raw).filter(attribute=attribute).group_by("user_id").agg(pl.col("value").min())
        )
        sizes = listed.group_by("value").len().sort(["len", "value"], descending=[True, False]).head(MOST_VALUES)
        places = sizes.select("value").with_row_index("at").with_columns(pl.col("at").cast(pl.Int64))
        value_of = listed.join(places, on="value").select("user_id", "at")
        by_index = (
            known.user_ids.alias("user_id").to_frame().join(value_of, on="user_id", how="left", maintain_order="left")
        )
        of_user = torch.from_numpy(by_index["at"].fill_null(-1).to_numpy(writable=True))  # (U,)
        of_row = of_user[users.cpu()]  # (E,)
        kept = (of_row >= 0).nonzero().squeeze(1)
        order = kept[of_row[kept].argsort(stable=True)]
        popular = torch.bincount(items.cpu(), minlength=known.n_items).float()
        return cls(attribute, places["value"], value_of, of_row[order], items.cpu()[order], popular)

    def scores(self, value: int) -> Tensor:
        """Interactions of a value's users per item, plus PRIOR interactions with the popularity of all, (I,)."""
        ends = torch.searchsorted(self.values, torch.tensor([value, value + 1])).tolist()
        own = torch.bincount(self.items[ends[0] : ends[1]], minlength=len(self.popular)).float()
        return own + PRIOR * self.popular / self.popular.sum().clamp(min=1)

    def groups(self, users: pl.Series, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each value of the users at `rows` (R,) of `users` (N,), ids, and the rows that have it."""
        own = users.gather(rows.cpu().numpy()).alias("user_id").to_frame()
        at = own.join(self.value_of, on="user_id", how="left", maintain_order="left")["at"].fill_null(-1)
        found = torch.from_numpy(at.to_numpy(writable=True)).to(rows.device)  # (R,)
        for value in found.unique().tolist():
            if value >= 0:
                yield value, rows[found == value]


@dataclass(frozen=True)
class Known:
    """The users of a fit by index, and its number of items."""

    user_ids: pl.Series
    n_items: int


def fallback_items(cold: ColdUsers, ids: pl.Series, rules: Rules, n: int) -> pl.DataFrame:
    """Rows of tables.FALLBACK_ITEMS: the list of each value, and that of all users, for users who are not known yet.

    They follow the rules of the default list but promotions.
    """
    parts = []
    for at in range(-1, len(cold.names)):
        scores = cold.popular if at < 0 else cold.scores(at)
        if rules.boost is not None:
            scores = boosted(scores, rules.boost)
        if rules.listable is not None:
            scores = torch.where(rules.listable, scores, -torch.inf)
        best = _best_within_limits(scores, rules, n)
        parts.append(
            pl.DataFrame(
                {
                    "attribute": [None if at < 0 else cold.attribute] * len(best),
                    "value": [None if at < 0 else cold.names[at]] * len(best),
                    "rank": range(1, len(best) + 1),
                    "item_id": ids.gather(best.numpy()),
                    "score": scores[best].double().numpy(),
                },
                schema=tables.FALLBACK_ITEMS.without("run_id").schema,
            )
        )
    return pl.concat(parts)


def _best_within_limits(scores: Tensor, rules: Rules, n: int) -> Tensor:
    """The best items of finite scores (I,), at most n of them, within the limits per attribute, (n',)."""
    top, order = scores.sort(descending=True, stable=True)
    order, depth = order[top > -torch.inf], n
    if not rules.groups:
        return order[:n]
    while True:
        some = order[:depth].unsqueeze(0)  # (1, depth)
        longer = Lists(some, scores[some], torch.zeros(1, dtype=torch.bool))
        lists, is_short = keep_to_limits(longer, rules.groups, n)
        if depth >= len(order) or not is_short:
            return lists.items[lists.items >= 0]
        depth *= 4
