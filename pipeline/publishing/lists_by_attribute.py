"""Lists of every user by the values of an item attribute, e.g. the best ten of each category, from one scoring pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.models import Recommender
from pipeline.models.ops.topk import largest
from pipeline.ranking.recommend import LOWEST, ServeInputs, in_tiles, refuse_non_finite, served
from pipeline.schemas import tables
from pipeline.sources import attributes

CELLS = 1 << 24
"""Scores that are held at once: 64 MB, and as much again for their copies by value."""


@dataclass(frozen=True)
class Values:
    """The values of an attribute among the items of a fit."""

    names: pl.Series
    """(V,) sorted."""
    items: Tensor
    """(E,) item indices by value, ascending within one."""
    of: Tensor
    """(E,) value of each."""

    @classmethod
    def read(cls, raw: Path, attribute: str, ids: pl.Series) -> "Values":
        """Of the items `ids` (I,) of a fit, from the attributes of the raw layer."""
        index = ids.alias("item_id").to_frame().with_row_index("item")
        listed = values_of(raw, attribute).join(index, on="item_id").sort("value", "item")
        names = listed["value"].unique().sort()
        of = listed["value"].rank("dense").cast(pl.Int64) - 1
        items = torch.from_numpy(listed["item"].cast(pl.Int64).to_numpy(writable=True))
        return cls(names, items, torch.from_numpy(of.to_numpy(writable=True)))

    def members(self, value: int) -> Tensor:
        """Items of a value, (I_v,)."""
        start, end = torch.searchsorted(self.of, torch.tensor([value, value + 1], device=self.of.device)).tolist()
        return self.items[start:end]

    def to(self, device: torch.device) -> "Values":
        """The same on another device."""
        return Values(self.names, self.items.to(device), self.of.to(device))


def values_of(raw: Path, attribute: str) -> pl.DataFrame:
    """Columns item_id and value of an attribute; an item with several values has a row for each."""
    return attributes.item_attributes(raw).filter(attribute=attribute).select("item_id", "value")


@torch.no_grad()
def lists_by(
    model: Recommender, inputs: ServeInputs, allowed: Tensor | None, values: Values, config: ByAttribute
) -> Iterator[tuple[Tensor, int, Tensor, Tensor]]:
    """Rows of users (R,), a value, and their best items (R, n) with scores, by tiles; -1 where a list ends.

    A user has lists of the `config.values` values whose best items have the highest scores, ties by name. Each list has
    the best items of its value that are `allowed` (I,) and not in the mask. Users that the model can't serve are ranked
    by the fallback.
    """
    assert inputs.fallback is not None
    by_model = served(model, inputs.users, inputs.history)
    size = max(1, CELLS // max(inputs.n_items, len(values.items)))
    for rows in in_tiles(by_model, size):
        yield from _of_tile(
            rows, model.score(inputs.users[rows], inputs.history[rows]), inputs, allowed, values, config
        )
    for rows in in_tiles(~by_model, size):
        scores = inputs.fallback.expand(len(rows), -1)
        yield from _of_tile(rows, scores, inputs, allowed, values, config)


def _of_tile(
    rows: Tensor, scores: Tensor, inputs: ServeInputs, allowed: Tensor | None, values: Values, config: ByAttribute
) -> Iterator[tuple[Tensor, int, Tensor, Tensor]]:
    refuse_non_finite(scores.amax(1), inputs.users[rows])
    kept = scores.float().clamp(min=LOWEST)  # (B, I)
    if allowed is not None:
        kept.masked_fill_(~allowed, -torch.inf)
    if inputs.mask is not None:
        masked = inputs.mask[rows]
        kept[masked.rows, masked.items] = -torch.inf
    best = kept.new_full((len(rows), len(values.names)), -torch.inf)  # (B, V)
    best.scatter_reduce_(1, values.of.expand(len(rows), -1), kept[:, values.items], "amax")
    top, chosen, _ = largest(best, min(config.values, len(values.names)))  # (B, m) each
    chosen = torch.where(top > -torch.inf, chosen, -1)
    for value in chosen.unique().tolist():
        if value < 0:
            continue
        users = (chosen == value).any(1).nonzero().squeeze(1)  # (R,)
        members = values.members(value)  # (I_v,)
        found, at, _ = largest(kept[users][:, members], min(config.top_n, len(members)))  # (R, n) each
        yield rows[users], value, torch.where(found > -torch.inf, members[at], -1), found


def frame(
    lists: Iterator[tuple[Tensor, int, Tensor, Tensor]],
    attribute: str,
    names: pl.Series,
    users: pl.Series,
    ids: pl.Series,
) -> pl.DataFrame:
    """Rows of tables.RECOMMENDATIONS_BY; users (N,) and ids (I,) are the source's."""
    parts = [tables.RECOMMENDATIONS_BY.empty()]
    for rows, value, items, scores in lists:
        n, k = items.shape
        flat = pl.DataFrame(
            {
                "row": rows.repeat_interleave(k).cpu().numpy(),
                "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(n).numpy(),
                "item": items.flatten().cpu().numpy(),
                "score": scores.flatten().double().cpu().numpy(),
            }
        ).filter(pl.col("item") >= 0)
        parts.append(
            flat.select(
                users.gather(flat["row"]).alias("user_id"),
                pl.lit(attribute).alias("attribute"),
                pl.lit(names[value]).alias("value"),
                "rank",
                ids.gather(flat["item"]).alias("item_id"),
                "score",
            )
        )
    return pl.concat(parts)
