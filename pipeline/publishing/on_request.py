"""The list of a user who has none in the published tables, computed from the results that these were made from."""

from functools import partial

import polars as pl
import torch
from torch import Tensor

from pipeline.preparation.events import masking_rows
from pipeline.publishing import business_rules, user_lists, wanted_lists
from pipeline.publishing.boosts import Boosted, boosted
from pipeline.publishing.cold_users import ColdUsers, Known
from pipeline.publishing.explanation import Night, history_of, popularity, rules_of
from pipeline.training.interactions import History


@torch.no_grad()
def list_of(night: Night, user_id: str, name: str = wanted_lists.DEFAULT) -> pl.DataFrame:
    """Rank, item_id, score and source of the user's list, as the night would have made it, without drawn items.

    The user has rows in the night's source. The rules of `[export]` are those of the night, with the same mask; a user
    whom the model can't serve gets popular items. `name`: of a list of `[lists]`.
    """
    items = pl.read_parquet(night.encoded / "items.parquet")["item_id"]
    own = pl.scan_parquet(night.raw / "interactions.parquet").filter(user_id=user_id).collect()
    own = own.cast({"user_id": pl.String, "item_id": pl.String})  # ids may be kept as categories
    events = night.settings.dataset.events
    masked = own.filter(masking_rows(own, pl.int_range(own.height, eager=True), events)) if events else own
    at = items.is_in(masked["item_id"].unique().implode()).arg_true().to_list()
    export = wanted_lists.exports_of(night.settings)[name]
    rules = rules_of(night, items, export)
    user, history = history_of(night, user_id, own, items)
    model, popular = night.model, popularity(night, len(items))
    if export.fallback_by is not None:
        popular = _popular_by(night, user_id, len(items), export.fallback_by, popular)
    if rules.boost is not None:
        model, popular = Boosted(model, rules.boost), boosted(popular, rules.boost)
    mask = History.of_lists([at], len(items))
    make = partial(user_lists.ranked, model, torch.tensor([user]), history, mask, popular)
    k = min(export.top_n, len(items))
    ruled = business_rules.apply(rules, make, k, len(items))
    source = user_lists.FALLBACK if bool(ruled.lists.from_fallback[0]) else user_lists.MODEL
    sources = [user_lists.PROMOTED if placed else source for placed in ruled.promoted[0].tolist()]
    listed = pl.DataFrame({"at": ruled.lists.items[0].tolist(), "score": ruled.lists.scores[0].tolist(),
                           "source": sources}).filter(pl.col("at") >= 0)  # fmt: skip
    return listed.select(
        pl.int_range(1, pl.len() + 1).alias("rank"), items.gather(listed["at"]).alias("item_id"), "score", "source"
    )


def _popular_by(night: Night, user_id: str, n_items: int, attribute: str, popular: Tensor) -> Tensor:
    """What the fallback ranks by for the user, (I,): by the user's value of the attribute, if there is one."""
    rows = pl.scan_parquet(night.rows).filter("positive")
    rows = rows.filter("target") if night.settings.dataset.is_weighted else rows
    pairs = rows.select(pl.col("user_idx", "item_idx").cast(pl.Int64)).collect()
    users = pl.read_parquet(night.encoded / "users.parquet")["user_id"]
    cold = ColdUsers.of(
        night.raw, attribute, pairs["user_idx"].to_torch(), pairs["item_idx"].to_torch(), Known(users, n_items)
    )
    groups = cold.groups(pl.Series([user_id]), torch.tensor([0]))
    return next((cold.scores(value) for value, _ in groups), popular)
