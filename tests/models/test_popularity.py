"""Popularity: the window decides, weighed or not, and the whole history only breaks ties."""

import pytest
import torch

from pipeline.models import registry
from pipeline.models.popularity import DAY, Popularity, PopularityConfig
from pipeline.training.context import FitContext
from pipeline.training.event_weights import row_weights
from pipeline.training.interactions import Facts, Interactions

N_ITEMS = 12


def rows_of(seed: int) -> Interactions:
    """200 rows of 100 days, most of them old."""
    random = torch.Generator().manual_seed(seed)
    n = 200
    items = torch.randint(N_ITEMS, (n,), generator=random)
    days = (100 * torch.rand(n, generator=random).sqrt().sqrt()).long()
    days = days.sort().values
    facts = Facts(ages=(days.max() - days).float())
    return Interactions(torch.arange(n) % 50, items, 50, N_ITEMS, timestamps=days * DAY, facts=facts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("given", [{}, {"half_life_days": 3.0}, {"half_life_days": 400.0}], ids=str)
def test_no_older_row_outweighs_the_window(seed, given):
    config = PopularityConfig.model_validate({"window_days": 10, **given})
    rows = rows_of(seed)
    model = Popularity(config, rows.n_users, N_ITEMS)
    model.fit(rows, FitContext())
    weights = row_weights(rows, config)
    weights = torch.ones(len(rows)) if weights is None else weights
    assert rows.timestamps is not None
    late = rows.timestamps > rows.timestamps.max() - 10 * DAY
    window = torch.bincount(rows.items[late], weights[late].double(), minlength=N_ITEMS)
    whole = torch.bincount(rows.items, weights.double(), minlength=N_ITEMS)
    differs = window[:, None] > window + 1e-9  # (I, I)
    assert (model.counts[:, None] > model.counts)[differs].all()
    ties = (window[:, None] == window) & (whole[:, None] > whole + 1e-9)
    assert (model.counts[:, None] > model.counts)[ties].all()


def test_only_the_key_of_a_weighed_window_moved():
    versions = [
        registry.key_of(Popularity, None, PopularityConfig.model_validate(given))["version"]
        for given in ({}, {"window_days": 7}, {"half_life_days": 7}, {"window_days": 7, "half_life_days": 7})
    ]
    assert versions == [1, 1, 1, 2]
