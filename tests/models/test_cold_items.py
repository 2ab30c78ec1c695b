"""Items without events on Amazon Sports: a tenth of the items withheld whole, three seeds.

Each seed withholds 10 % of the items with all their events, and of the events of the others 10 % at random. Models are
fitted on the rest. recall@10 of users with a history: among the withheld items only (cold), over their withheld events;
and over the held-out events of the other items, in lists of all items that the model may list (warm), with and without
the withheld ones. Attributes are categories and brands. `pytest -m slow -s` prints the figures. A fit of ease takes 4 GB and minutes.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from pipeline.models import MODELS, FitContext, Recommender
from pipeline.models.ops.attribute_map import place_new_items
from pipeline.ranking.ranks import holdout_ranks
from pipeline.training.attributes import ItemAttributes, NewItems
from pipeline.training.interactions import History, Interactions
from tests.support.data_sets import data_set

pytestmark = pytest.mark.slow
K, SEEDS, MIN_ITEMS = 10, (0, 1, 2), 2
MODELS_MEASURED = {
    "ials": {"embedding_dim": 64, "epochs": 6, "l2": 0.002, "unobserved_weight": 0.1},
    "ials with attribute_prior": {
        "embedding_dim": 64, "epochs": 6, "l2": 0.002, "unobserved_weight": 0.1, "attribute_prior": True,
    },
    "ease": {"l2": 400.0, "attribute_weight": 1.0},  # chosen on the 4,000 most popular items and another seed
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One seed."""

    train: Interactions
    attributes: ItemAttributes
    cold: History  # (U rows) withheld events
    warm: History  # (U rows) held-out events of the other items

    @property
    def new(self) -> Tensor:
        """(I,) bool."""
        return NewItems.of(self.train, self.attributes).unseen


def read() -> tuple[Tensor, Tensor, ItemAttributes]:
    """Users and items of all events, (N,) each, and the attributes of the items."""
    folder = data_set("amazon-sports")
    rows = pl.read_csv(folder / "interactions.csv.gz").select(pl.col("user_id", "item_id") - 1)
    listed = pl.read_csv(folder / "items.csv.gz", schema_overrides={"attributes": pl.String})
    listed = listed.select(item_idx=pl.col("item_id") - 1, value=pl.col("attributes").str.split("|")).explode("value")
    values = listed.group_by("value").len().filter(pl.col("len") >= MIN_ITEMS).sort("value").with_row_index("value_idx")
    users, items = (torch.from_numpy(rows[name].to_numpy(writable=True)) for name in rows.columns)
    return users, items, ItemAttributes.of_frame(listed.join(values, on="value"), int(items.max()) + 1)


def case_of(seed: int, users: Tensor, items: Tensor, attributes: ItemAttributes) -> Case:
    """Withhold a tenth of the items, and a tenth of the other events."""
    rng, n_users, n_items = np.random.default_rng(seed), int(users.max()) + 1, attributes.n_items
    withheld = torch.zeros(n_items, dtype=torch.bool)
    withheld[torch.from_numpy(rng.permutation(n_items)[: n_items // 10])] = True
    is_cold, is_held = withheld[items], torch.from_numpy(rng.random(len(items)) < 0.1)  # (N,) each
    kept = ~is_cold & ~is_held

    def events(chosen: Tensor) -> History:
        return History.of(users[chosen], items[chosen], n_users, n_items)

    train = Interactions(users[kept], items[kept], n_users, n_items)
    return Case(train, attributes, events(is_cold), events(~is_cold & is_held))


def recall(model: Recommender, case: Case, holdout: History, allowed: Tensor) -> float:
    """Mean over the users with a history and holdout."""
    history = case.train.history()
    users = ((holdout.lengths > 0) & (history.lengths > 0)).nonzero().squeeze(1)
    held, own = holdout[users], history[users]
    ranks = holdout_ranks(model, users, own, own, held, K, allowed=allowed, leak_checked=True)
    hits = torch.zeros(len(users)).index_add_(0, held.rows, (ranks.ranks > 0).float())
    return float((hits / held.lengths).mean())


class ByAttributes(Recommender):
    """Ranks items by the mean popularity of their attributes: what the model has to beat."""

    Config = MODELS["popularity"].Config
    serves_everyone = reads_history = True

    def __init__(self, case: Case):
        super().__init__(self.Config(), case.train.n_users, case.train.n_items)
        values, counts = case.attributes.values, case.train.item_counts()
        known = (counts > 0)[values.rows]  # (E,)
        sums, n = (torch.zeros(values.n_items) for _ in range(2))  # (A,) each
        sums.index_add_(0, values.items[known], counts[values.rows[known]])
        n.index_add_(0, values.items[known], torch.ones(int(known.sum())))
        means = (sums / n.clamp(min=1))[values.items]  # (E,)
        self.scores = torch.zeros(self.n_items).index_add_(0, values.rows, means) / values.lengths.clamp(min=1)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """It counts when it is made."""

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        scores = self.scores.expand(len(users), -1)
        return scores if items is None else scores.gather(1, items)


def measure(case: Case, name: str) -> dict[str, float]:
    """recall@10 among cold items; of warm ones in lists without and with cold items; and of cold ones in those."""
    kind = MODELS[name.split(" ")[0]]
    model = kind(kind.Config.model_validate(MODELS_MEASURED[name]), case.train.n_users, case.train.n_items)
    context, everything = FitContext(attributes=case.attributes), torch.ones_like(case.new)
    model.fit(case.train, context)
    alone = recall(model, case, case.warm, ~case.new)
    if model.learnt_of_items():  # else it has read the attributes itself
        place_new_items(model, case.train, context)
    return {
        "cold among cold": recall(model, case, case.cold, case.new),
        "warm alone": alone,
        "warm among all": recall(model, case, case.warm, everything),
        "cold among all": recall(model, case, case.cold, everything),
    }


@pytest.mark.parametrize("name", MODELS_MEASURED)
def test_cold_items_are_found_and_warm_ones_keep_their_places(name: str):
    users, items, attributes = read()
    found: list[dict[str, float]] = []
    for seed in SEEDS:
        case = case_of(seed, users, items, attributes)
        simple = recall(ByAttributes(case), case, case.cold, case.new)
        found.append({"random": K / int(case.new.sum()), "by attributes": simple, **measure(case, name)})
    means = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
    deviations = {key: np.std([each[key] for each in found], ddof=1) for key in means}
    print(name, {key: f"{mean:.4f} ± {deviations[key]:.4f}" for key, mean in means.items()})
    assert means["cold among cold"] >= 5 * means["random"]
    assert means["cold among cold"] >= 2 * means["by attributes"]
    assert means["warm among all"] > 0.99 * means["warm alone"]
