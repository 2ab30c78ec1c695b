"""Models on what users do until the next night: the lists that each would have given, as a backtest compares them.

Unlike the test split, this needs no holdout: models are fitted on all that the night knows, and the interactions of
two nights don't overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.run import Run
from pipeline.evaluation import realised
from pipeline.evaluation.realised import Lists
from pipeline.models.serialization import load
from pipeline.ranking.ranks import top_k
from pipeline.ranking.servable import both, servable
from pipeline.schemas.tables import metric_name
from pipeline.storage import warehouse
from pipeline.training.device import resolve_device
from pipeline.training.interactions import History, Interactions

PUBLISHED, POPULAR = "published lists", "popular items"
"""Lists that are no model's of the recipe; labels have no blanks."""


@dataclass(frozen=True)
class Until:
    """A night's encoded rows, and what its users did until the next night."""

    run: Run
    encoded: Path
    allowed: Tensor | None
    """Items that the night's rules allow, (I,) bool; None: all."""
    events: pl.DataFrame
    """Rows of 4_realised for users in the fit: user_id, item_id, rank, popularity_rank; ordered by user."""
    known: pl.DataFrame
    """user_idx, item_idx of the interactions before that keep an item out of the user's lists."""

    @cached_property
    def rows(self) -> Interactions:
        """The rows that the models are fitted on."""
        users, items = (pl.read_parquet(self.encoded / f"{name}.parquet").height for name in ("users", "items"))
        frame = pl.read_parquet(self.encoded / "interactions.parquet")
        settings = self.run.settings
        return Interactions.of_frame(frame, users, items, resolve_device(settings.device), settings.recency)

    @cached_property
    def users(self) -> pl.DataFrame:
        """Users with events, (U,): user_id, user_idx."""
        ids = self.events.select("user_id").unique(maintain_order=True)
        return ids.join(_ids(self.encoded, "user"), on="user_id", maintain_order="left")

    def ranks_of(self, fit: Path) -> pl.Series:
        """Rank of every event in the lists of a model that was fitted on all rows; null: not listed.

        The lists are as the model ranks: items that the rules exclude are out, but there are no caps, boosts and
        promotions.
        """
        device = self.rows.users.device
        index = torch.from_numpy(self.users["user_idx"].cast(pl.Int64).to_numpy(writable=True)).to(device)  # (U,)
        users, items = (_tensor(self.known[name]) for name in ("user_idx", "item_idx"))
        masked = History.of(users, items, *self._shape)
        model, k = load(fit, device), min(self.run.settings.export.top_n, self._shape[1])
        allowed = both(self.allowed, servable(model, self.rows, self.encoded))  # (I,) or None
        lists = top_k(
            model, index, self.rows.history()[index], masked.to(device)[index], k,
            allowed=None if allowed is None else allowed.to(device), fallback=self.rows.fallback_counts(),
        )  # fmt: skip
        items = lists.items.cpu()  # (U, K); -1: no item
        rows, places = torch.nonzero(items >= 0, as_tuple=True)
        ids = _ids(self.encoded, "item")["item_id"]
        listed = pl.DataFrame(
            {"user_id": self.users["user_id"].gather(rows.numpy()),
             "item_id": ids.gather(items[rows, places].numpy()),
             "place": (places + 1).numpy()}
        )  # fmt: skip
        return self.events.join(listed, on=["user_id", "item_id"], how="left", maintain_order="left")["place"]

    @property
    def _shape(self) -> tuple[int, int]:
        return self.rows.n_users, self.rows.n_items


def until(run: Run, con: warehouse.Connection, lists: Lists, encoded: Path, listable: Path) -> Until | None:
    """What users did in the time of `lists`; None: nobody did anything.

    `listable`: file of `export` with the items that the rules allow, if it is there.

    `con` has the views of `realised.facts`, over interactions that go on after the night's.
    """
    events, _ = realised.events_of(con, lists)
    events = events.join(_ids(encoded, "user"), on="user_id", how="semi", maintain_order="left")
    if events.is_empty():
        return None
    con.register("_active", events.select(pl.col("user_id").unique()).to_arrow())
    rows = con.sql(
        "SELECT DISTINCT user_id, item_id FROM source_rows SEMI JOIN _active USING (user_id) "
        "WHERE masks AND timestamp <= $after",
        params={"after": lists.data_end},
    ).pl()
    con.unregister("_active")
    known = rows.join(_ids(encoded, "user"), on="user_id").join(_ids(encoded, "item"), on="item_id")
    items, allowed = _ids(encoded, "item")["item_id"], None
    if listable.exists():
        allowed = torch.from_numpy(items.is_in(pl.read_parquet(listable)["item_id"].implode()).to_numpy(writable=True))
    return Until(run, encoded, allowed, events, known.sort("user_idx", "item_idx"))


def values_by_user(of: Until, ranks: dict[str, pl.Series]) -> pl.DataFrame:
    """The deciding metric of every user: user_id, model, metric, cutoff, value. `ranks`: of the events, by label."""
    select = of.run.settings.select
    metric, cutoff = realised.deciding(select), select.cutoff
    events = of.events.with_columns(**ranks)
    columns = {PUBLISHED: "rank", POPULAR: "popularity_rank", **{label: label for label in ranks}}
    values = realised.by_user(events, [*columns.values()], metric, cutoff)  # (U, M)
    users = of.users["user_id"]
    parts = [
        pl.DataFrame({"user_id": users, "value": values[:, at].numpy()}).with_columns(model=pl.lit(label))
        for at, label in enumerate(columns)
    ]
    frame = pl.concat(parts).with_columns(metric=pl.lit(metric), cutoff=pl.lit(cutoff, pl.Int32))
    return frame.select("user_id", "model", "metric", "cutoff", "value")


def described(values: pl.DataFrame) -> Iterator[str]:
    """Means by model, best first, as texts such as `ease ndcg@10 0.123`."""
    means = values.group_by("model", "metric", "cutoff").agg(pl.col("value").mean())
    for row in means.sort("value", "model", descending=[True, False]).to_dicts():
        yield f"{row['model']} {metric_name(row['metric'], row['cutoff'])} {row['value']:.4f}"


def _ids(encoded: Path, kind: str) -> pl.DataFrame:
    """user_id, user_idx (or item_id, item_idx) of an encoded folder, in order of the index; ids as text."""
    return pl.read_parquet(encoded / f"{kind}s.parquet").with_columns(pl.col(f"{kind}_id").cast(pl.String))


def _tensor(indices: pl.Series) -> Tensor:
    return torch.from_numpy(indices.cast(pl.Int64).to_numpy(writable=True))
