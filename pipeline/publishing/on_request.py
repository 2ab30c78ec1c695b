"""The list of a user who has none in the published tables, computed from the results that these were made from."""

from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

from pipeline.core.errors import UnreadableInput
from pipeline.models import Recommender
from pipeline.models.serialization import load
from pipeline.preparation.seen import hidden
from pipeline.publishing import business_rules, holdback, user_lists, wanted_lists
from pipeline.publishing.boosts import Boosted, boosted
from pipeline.publishing.explanation import Night, history_of, popularity, rules_of, servable_by
from pipeline.ranking.ranks import Lists
from pipeline.ranking.servable import both
from pipeline.storage import lake
from pipeline.training.interactions import History


@dataclass(frozen=True)
class Served:
    """One user as models are asked for lists, and the rules of the list."""

    index: int
    """In the fit; -1: the user is not in it."""
    history: History
    mask: History
    rules: business_rules.Rules
    popular: Tensor  # (I,): what the fallback ranks by
    top_n: int


@torch.no_grad()
def list_of(night: Night, user_id: str, name: str = wanted_lists.DEFAULT) -> pl.DataFrame:
    """Rank, item_id, score, source and model of the user's list, as the night would have made it, without drawn items.

    The user has rows in the night's source. The rules of `[export]` are those of the night, with the same mask; a user
    whom the model can't serve gets popular items, and a held-back user the default list of the runner-up. `name`: of a
    list of `[lists]`. Raises UnreadableInput if the runner-up is gone.
    """
    items = pl.read_parquet(night.encoded / "items.parquet")["item_id"]
    own = pl.scan_parquet(night.raw / "interactions.parquet").filter(user_id=user_id).collect()
    own = own.cast({"user_id": pl.String, "item_id": pl.String})  # ids may be kept as categories
    newest = pl.scan_parquet(night.raw / "interactions.parquet").select(pl.col("timestamp").max()).collect().item()
    masked = own.filter(hidden(own, pl.int_range(own.height, eager=True), night.settings, newest))
    at = items.is_in(masked["item_id"].unique().implode()).arg_true().to_list()
    export = wanted_lists.exports_of(night.settings)[name]
    rules = rules_of(night, items, export)
    user, history = history_of(night, user_id, own, items)
    popular = popularity(night, user_id, items, export)
    mask = History.of_lists([at], len(items))
    served = Served(user, history, mask, rules, popular, min(export.top_n, len(items)))
    listed, by_model = _list_by(night, night.model, served, items)
    listed = listed.with_columns(model=pl.lit(night.label))
    if not (by_model and name == wanted_lists.DEFAULT and is_held_back(night, user_id)):
        return listed
    model, label = _other_model(night)
    listed, _ = _list_by(night, model, served, items)
    source = pl.when(source=user_lists.PROMOTED).then("source").otherwise(pl.lit(holdback.NAME))
    return listed.with_columns(source=source, model=pl.lit(label))


def is_held_back(night: Night, user_id: str) -> bool:
    """Whether `[export.holdback]` of the night gives this user the lists of another model."""
    settings = night.settings.export.holdback
    return settings is not None and len(holdback.held_users(pl.Series([user_id]), settings)) > 0


def _other_model(night: Night) -> tuple[Recommender, str]:
    """The model of held-back users and its label: the runner-up, or popularity where the night has none.

    Raises UnreadableInput if the runner-up is not known or gone.
    """
    if not night.says_runner_up or (night.runner_up is not None and not lake.is_complete(night.runner_up)):
        why = f"{night.runner_up} is gone or damaged" if night.runner_up else "its journal does not say which it was"
        raise UnreadableInput(
            "export.holdback gives this user the lists of the runner-up of the published night, but "
            f"{why}; the next night makes it again"
        )
    if night.runner_up is not None:
        return load(night.runner_up), lake.info(night.runner_up)["label"]
    serving = holdback.popularity(user_lists.Fitted(night.model, night.known))
    return serving.fitted.model, serving.label


def _list_by(night: Night, model: Recommender, served: Served, items: pl.Series) -> tuple[pl.DataFrame, bool]:
    """Rank, item_id, score and source of the list by this model, and whether the model serves the user."""
    can_list = servable_by(night, model)
    rules, popular = replace(served.rules, servable=can_list), served.popular
    if rules.boost is not None:
        model, popular = Boosted(model, rules.boost), boosted(popular, rules.boost)

    def make(k: int, allowed: Tensor | None) -> Lists:
        user = torch.tensor([served.index])
        return user_lists.ranked(model, user, served.history, served.mask, popular, k, both(allowed, can_list))

    ruled = business_rules.apply(rules, make, served.top_n, len(items))
    by_model = not bool(ruled.lists.from_fallback[0])
    source = user_lists.MODEL if by_model else user_lists.FALLBACK
    sources = [user_lists.PROMOTED if placed else source for placed in ruled.promoted[0].tolist()]
    listed = pl.DataFrame({"at": ruled.lists.items[0].tolist(), "score": ruled.lists.scores[0].tolist(),
                           "source": sources}).filter(pl.col("at") >= 0)  # fmt: skip
    ranks = pl.int_range(1, pl.len() + 1).alias("rank")
    return listed.select(ranks, items.gather(listed["at"]).alias("item_id"), "score", "source"), by_model
