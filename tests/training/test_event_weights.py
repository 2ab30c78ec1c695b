"""Weights by type, quantity and age: computed by hand, and the same in every family that weighs interactions."""

from functools import cache

import polars as pl
import pytest
import torch
from torch import Tensor

from pipeline.config.dataset import Dataset
from pipeline.experiments.families import weighed_by_data
from pipeline.experiments.space import read_space, usual_point
from pipeline.models import MODELS, FitContext, NotServable, Recommender
from pipeline.training.event_weights import WeightsConfig, history_of, weighed
from pipeline.training.interactions import Facts, History, Interactions
from pipeline.training.optimizers import TrainingConfig

WEIGHTS = {"cart": 0.5, "purchase": 1.0, "view": 0.1}  # codes 0, 1, 2
FAMILIES = sorted(
    name for name, family in MODELS.items() if issubclass(family.Config, WeightsConfig) and not family.only_own_items
)  # `repeats` counts a user's own events: their scale is part of its scores, and it has a half-life without times
DAYS = 86_400_000_000


def rows_of(*records: tuple, n_users: int = 3, n_items: int = 4) -> Interactions:
    """Interactions from (user, item, code, quantity, day)."""
    names = ("user_idx", "item_idx", "event", "quantity", "day")
    frame = pl.DataFrame(records, schema=names, orient="row").with_columns(
        rating=pl.lit(None, pl.Float32), positive=pl.lit(True), target=pl.col("event") == 1, masks=pl.col("event") == 1,
        timestamp=(pl.col("day") * DAYS).cast(pl.Datetime("us")),
    )  # fmt: skip
    return Interactions.of_frame(frame.sort("user_idx", "timestamp"), n_users, n_items)


def shop(n_users: int = 40, n_items: int = 24) -> Interactions:
    """Two groups buy their half of the items and look at the other half."""
    drawn = torch.Generator().manual_seed(3)
    own = torch.arange(n_users)[:, None] % 2 == torch.arange(n_items) % 2  # (U, I)
    bought = own & (torch.rand(own.shape, generator=drawn) < 0.5)
    viewed = ~own & (torch.rand(own.shape, generator=drawn) < 0.9)
    records = [(u, i, 1, 1.0, 5) for u, i in bought.nonzero().tolist()]
    records += [(u, i, 2, 1.0, 1) for u, i in viewed.nonzero().tolist()]
    return rows_of(*records, n_users=n_users, n_items=n_items)


def config(family: str, **keys) -> WeightsConfig:
    small = {
        "embedding_dim": 8,
        "epochs": 10,
        "batch_size": 40,
        "learning_rate": 0.05,
        "beta": 0.01,
        "neighbors": 10,
        "hidden_dim": 16,
        "l1": 0.1,
        "l2": 1.0,
    }
    kind = MODELS[family].Config
    known = {k: v for k, v in small.items() if k in kind.model_fields and not (k == "l2" and family in ("ials", "mf"))}
    return kind.model_validate({**known, **keys})  # type: ignore[return-value]


def fitted(family: str, train: Interactions, **keys) -> Recommender:
    model = MODELS[family](config(family, **keys), train.n_users, train.n_items)
    model.fit(train, FitContext(seed=1))
    return model.eval()


def scores(model: Recommender, train: Interactions) -> Tensor:
    with torch.no_grad():
        return model.score(torch.arange(train.n_users), train.history())


@cache
def unweighed_scores(family: str) -> Tensor:
    """(U, I) of a model that weighs all interactions of `shop` alike."""
    return scores(fitted(family, shop()), shop())


def test_weights_by_hand():
    history = rows_of((0, 3, 2, 4.0, 0), (0, 1, 1, 1.0, 5), (0, 3, 0, 1.0, 10), (1, 2, 2, 9.0, 10)).history()
    of = WeightsConfig(use_weights=True, event_weights=WEIGHTS, quantity_exponent=0.5)
    found = weighed(history, of)
    assert found.items.tolist() == [1, 3, 2] and found.lengths.tolist() == [2, 1, 0]
    assert found.weights is not None
    torch.testing.assert_close(found.weights, torch.tensor([1.0, 0.1 * 2 + 0.5, 0.1 * 3]))
    halved = weighed(history, of.model_copy(update={"half_life_days": 5.0, "quantity_exponent": 0.0})).weights
    torch.testing.assert_close(halved, torch.tensor([0.5, 0.1 / 4 + 0.5, 0.1]))
    torch.testing.assert_close(found.dense(), found.transposed().dense().T)
    assert weighed(found, of) is found and weighed(history, WeightsConfig()).weights is None
    assert weighed(history, of.model_copy(update={"event_weights": {**WEIGHTS, "view": 0.0}})).items.tolist() == [1, 3]


def test_facts_follow_their_events():
    history = rows_of((1, 0, 0, 1.0, 0), (0, 3, 2, 4.0, 0), (0, 1, 1, 2.0, 5)).history()
    turned = history[torch.tensor([1, 2, 0])].facts
    assert turned is not None and turned.kinds is not None and turned.quantities is not None
    assert turned.kinds.tolist() == [0, 2, 1] and turned.quantities.tolist() == [1, 4, 2]
    plain = Facts(ages=torch.tensor([1.0])).followed_by(Facts(ages=torch.tensor([2.0])))
    assert plain.ages is not None and plain.ages.tolist() == [1, 2] and plain.kinds is None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_bought_outweighs_what_is_viewed(family):
    train = shop()
    plain = unweighed_scores(family)
    model = fitted(family, train, use_weights=True, event_weights={**WEIGHTS, "view": 0.01}, quantity_exponent=0.0)
    found = scores(model, train)
    own = (torch.arange(40)[:, None] % 2 == torch.arange(24) % 2) & (train.history().dense() == 0)
    if MODELS[family].personal:  # an item of the own half that was not bought beats one that was only viewed
        viewed = torch.arange(40)[:, None] % 2 != torch.arange(24) % 2
        gap = [(s * own).sum() / own.sum() - (s * viewed).sum() / viewed.sum() for s in (found, plain)]
        assert gap[0] > gap[1] + 1e-3
    else:
        held = train.facts
        assert held is not None and not torch.equal(found, plain)
        torch.testing.assert_close(found[0].sum(), torch.tensor([0.5, 1.0, 0.01])[held.kinds].sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_weights_are_no_weights(family):
    """One event per pair, all of weight 1: the same as a data set without event types."""
    rows = shop()
    plain = Interactions(rows.users, rows.items, rows.n_users, rows.n_items, timestamps=rows.timestamps)
    equal = fitted(family, rows, use_weights=True, event_weights=dict.fromkeys(WEIGHTS, 1.0))
    torch.testing.assert_close(
        scores(equal, rows), scores(fitted(family, plain), plain), rtol=1e-3, atol=1e-3, check_dtype=False
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_half_life_needs_times_and_forgets(family):
    rows = shop()
    plain = Interactions(rows.users, rows.items, rows.n_users, rows.n_items)
    with pytest.raises(NotServable, match="no times"):
        fitted(family, plain, half_life_days=3)
    old = scores(fitted(family, rows, half_life_days=0.5), rows)
    assert old.isfinite().all() and not torch.equal(old, unweighed_scores(family))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("mf", "multvae", "popularity")])
def test_contributions_add_up_with_weights(family):
    train = shop()
    model = fitted(family, train, use_weights=True, event_weights=WEIGHTS)
    history = model.weighed(train.history()[torch.tensor([4])])
    parts = model.contributions(4, history, 7)
    assert parts is not None and len(parts) == len(history.items)
    with torch.no_grad():
        whole = model.score(torch.tensor([4]), history)[0, 7]
    torch.testing.assert_close(parts.sum(), whole, rtol=1e-3, atol=1e-4)


def test_one_row_of_a_batch_is_the_row_alone():
    train = shop()
    for family in FAMILIES:
        model = fitted(family, train, use_weights=True, event_weights=WEIGHTS)
        rows = torch.tensor([5])
        with torch.no_grad():
            alone = model.score(rows, train.history()[rows])
        torch.testing.assert_close(alone[0], scores(model, train)[5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_families_that_do_not_weigh_count_repeated_pairs_once(family):
    """No family fails on events, and their configurations have no new keys where none is set."""
    kind = MODELS[family].Config
    assert not set(WeightsConfig.added_later) - {"use_weights"} & set(kind().model_dump())
    if family not in ("ials",):
        assert "use_weights" not in kind().model_dump()


def test_the_data_set_completes_what_the_recipe_leaves_open():
    dataset = Dataset.model_validate({"name": "shop", "events": {"column": "kind", "weights": WEIGHTS}})
    ease = MODELS["ease"].Config
    found = weighed_by_data(ease(), dataset)
    assert isinstance(found, WeightsConfig) and found.use_weights and found.event_weights == WEIGHTS
    own = weighed_by_data(ease.model_validate({"event_weights.view": 0.3, "use_weights": False}), dataset)
    assert isinstance(own, WeightsConfig) and not own.use_weights and own.event_weights["view"] == 0.3
    assert type(own).model_validate(own.model_dump()) == own
    assert weighed_by_data(ease(), Dataset(name="plain")) == ease()
    assert weighed_by_data(TrainingConfig(), dataset) == TrainingConfig()


def test_a_type_is_a_hyperparameter():
    of = config("ease", use_weights=True, event_weights=WEIGHTS)
    space = read_space(
        {"event_weights.view": {"low": 0.01, "high": 1.0, "log": True}}, of, "here", "models.ease.search"
    )
    assert usual_point(space, of) == {"event_weights.view": 0.1}
    tried = type(of).model_validate({**of.model_dump(), "event_weights.view": 0.2})
    assert tried.event_weights == {**WEIGHTS, "view": 0.2}


def test_a_history_without_facts_counts_alike():
    train = shop()
    model = fitted("ease", train, use_weights=True, event_weights=WEIGHTS)
    bare = History.of_lists([[0, 2]], train.n_items)
    assert model.score(torch.tensor([-1]), bare).isfinite().all()
    assert history_of(train, model.config).weights is not None
