"""Reasons: shares are those of the contributions, whatever the tiles."""

import pytest
import torch

from pipeline.models import registry
from pipeline.models.blend import Blend, BlendConfig
from pipeline.publishing import reasons as module
from pipeline.publishing.reasons import REST, reasons
from pipeline.training.context import FitContext
from pipeline.training.interactions import History, Interactions

USERS, ITEMS, LISTED = 30, 20, 4
FAMILIES = ["ease", "graph_filter", "ials", "item_knn", "rp3beta", "slim"]


def interactions() -> Interactions:
    drawn = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    drawn[0] = False  # a user without a history
    users, items = drawn.nonzero().unbind(1)
    return Interactions(users, items, USERS, ITEMS)


@pytest.fixture(scope="module")
def fitted():
    models = {}
    for name in FAMILIES:
        family = registry.find(name)
        options = {"ials": {"embedding_dim": 8}, "ease": {"l2": 5.0}, "slim": {"l1": 0.1, "l2": 1.0}}.get(name, {})
        models[name] = family(family.Config(**options), USERS, ITEMS)
        models[name].fit(interactions(), FitContext())
    return models


def lists() -> torch.Tensor:
    return torch.randint(ITEMS, (USERS, LISTED), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_an_explainer_agrees_with_contributions(fitted, name):
    model, history, items = fitted[name], interactions().history().distinct(), lists()
    added = model.explainer()(torch.arange(USERS), history, items)
    assert added.shape == (len(history.items), LISTED)
    for user in (1, 5, 9):
        one = history[torch.tensor([user])]
        for k in range(LISTED):
            expected = model.contributions(user, one, int(items[user, k]))
            torch.testing.assert_close(added[history.rows == user, k], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_blend_explains_by_its_members(fitted):
    pair = {name: fitted[name] for name in ("ease", "item_knn")}
    blend = Blend.of(BlendConfig(weights={"ease": 0.7, "item_knn": 0.3}), pair)
    blend.fit(interactions(), FitContext())
    users, history, items = torch.arange(USERS), interactions().history().distinct(), lists()
    added = blend.explainer()(users, history, items)
    summed = torch.zeros(USERS, LISTED).index_add_(0, history.rows, added)
    scores = blend.score(users, history)
    constant = sum(
        w * pair[name].score(users, history).mean(1) / pair[name].score(users, history).std(1, correction=0).clamp(1e-9)
        for name, w in (("ease", 0.7), ("item_knn", 0.3))
    )
    torch.testing.assert_close(summed[1:], (scores.gather(1, items) + constant[:, None])[1:], atol=1e-4, rtol=1e-4)


def test_a_blend_with_a_member_that_cannot_explain_has_no_reasons(fitted):
    family = registry.find("popularity")
    other = family(family.Config(), USERS, ITEMS)
    other.fit(interactions(), FitContext())
    blend = Blend.of(
        BlendConfig(weights={"ease": 0.5, "popularity": 0.5}), {"ease": fitted["ease"], "popularity": other}
    )
    assert blend.explainer() is None


def found(
    explain, history: History, items: torch.Tensor, most: int
) -> dict[tuple[int, int], list[tuple[int, int, float]]]:
    """(user, place) to (because_rank, item, share)."""
    out: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for part in reasons(explain, torch.arange(len(items)), history, items, most):
        for row, k, rank, item, share in zip(*(values.tolist() for values in part), strict=True):
            out.setdefault((row, k), []).append((rank, item, share))
    return out


@pytest.mark.parametrize("most", [1, 3, 99])
@pytest.mark.parametrize("tile", [1, 500, 1 << 22])
def test_shares_are_of_what_adds_and_sum_to_one(monkeypatch, most, tile):
    monkeypatch.setattr(module, "TILE", tile)
    history, items = interactions().history().distinct(), lists()
    items[2, 1] = -1
    values = torch.randn(len(history.items), ITEMS, generator=torch.Generator().manual_seed(5))
    values[history.rows == 7] = -1.0  # nothing adds
    events = {(r, i): n for n, (r, i) in enumerate(zip(history.rows.tolist(), history.items.tolist(), strict=True))}

    def explain(users, part, listed):
        at = [events[int(users[r]), i] for r, i in zip(part.rows.tolist(), part.items.tolist(), strict=True)]
        return values[torch.tensor(at)[:, None], listed[part.rows]]

    got = found(explain, history, items, most)
    for user in range(USERS):
        for k in range(LISTED):
            own = {i: values[n, items[user, k]].item() for (r, i), n in events.items() if r == user}
            adds = {i: v for i, v in own.items() if v > 0} if items[user, k] >= 0 else {}
            rows = got.get((user, k), [])
            if not adds:
                assert not rows
                continue
            best = sorted(adds, key=lambda i: -adds[i])[:most]
            assert [item for rank, item, _ in sorted(rows) if rank != REST] == best
            assert [share for rank, _, share in sorted(rows) if rank != REST] == pytest.approx(
                [adds[i] / sum(adds.values()) for i in best], rel=1e-5
            )
            assert sum(share for *_, share in rows) == pytest.approx(1)
            assert any(rank == REST for rank, *_ in rows) == (len(adds) > most)
