"""Neural collaborative filtering: its three variants, and scores by halves and blocks."""

import pytest
import torch
from pydantic import ValidationError
from real_data import hit_rate, leave_last_out
from torch import nn

from pipeline.context import FitContext
from pipeline.interactions import History
from pipeline.models import ncf
from pipeline.models.ncf import Ncf, NcfConfig
from pipeline.testing import checkerboard, scores

VARIANTS = ["gmf", "mlp", "neumf"]


def fitted(**keys) -> Ncf:
    train = checkerboard()
    model = Ncf(
        NcfConfig(**{"epochs": 30, "batch_size": 128, "learning_rate": 0.02, **keys}),
        train.n_users,
        train.n_items,
    )
    model.fit(train, FitContext())
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("negatives", ["fresh", "static"])
def test_every_variant_separates_the_blocks(variant: str, negatives: str):
    got = scores(fitted(variant=variant, negatives=negatives), checkerboard(), torch.arange(40))  # (U, I)
    liked = torch.arange(40)[:, None] % 2 == torch.arange(20) % 2  # (U, I)
    assert (got[liked] > got[~liked].mean()).float().mean() > 0.9 and got[liked].mean() > got[~liked].mean() + 1


def test_the_mlp_is_that_of_the_paper():
    """Concatenated embeddings 16 -> 64 -> 32 -> 1 with ReLU, written plainly."""
    torch.manual_seed(0)
    model = Ncf(NcfConfig(), 5, 7).eval()
    hidden, out = model.hidden[0], model.out
    plain = nn.Sequential(model.first, nn.ReLU(), hidden, nn.ReLU(), out)
    assert [tuple(layer.weight.shape) for layer in (model.first, hidden, out)] == [
        (64, 16),
        (32, 64),
        (1, 32),
    ]
    users, items = torch.arange(5).repeat_interleave(7), torch.arange(7).repeat(5)
    pairs = torch.cat([model.mlp_user(users), model.mlp_item(items)], 1)  # (U * I, 2 D)
    torch.testing.assert_close(scores(model, checkerboard(), torch.arange(5)), plain(pairs).view(5, 7))


def test_neumf_is_both_side_by_side():
    torch.manual_seed(0)
    model = Ncf(NcfConfig(variant="neumf", layers=[12, 6, 4], embedding_dim=3), 2, 3).eval()
    user, item = torch.tensor([1]), torch.tensor([2])
    x = torch.cat([model.mlp_user(user), model.mlp_item(item)], 1)  # (1, 2 D)
    for layer in (model.first, *model.hidden):
        x = torch.relu(layer(x))
    both = torch.cat([model.gmf_user(user) * model.gmf_item(item), x], 1)  # (1, D + H')
    torch.testing.assert_close(scores(model, checkerboard(), user)[:, 2:3], model.out(both))
    assert model.item_vectors().shape == (3, 6) and model.user_vectors().shape == (2, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_do_not_show(variant: str, monkeypatch: pytest.MonkeyPatch):
    model, train, users = Ncf(NcfConfig(variant=variant), 40, 20).eval(), checkerboard(), torch.arange(40)
    whole = scores(model, train, users)
    monkeypatch.setattr(ncf, "BLOCK", 64 * 40 * 3)  # three items at a time
    torch.testing.assert_close(scores(model, train, users), whole)
    monkeypatch.setattr(ncf, "BLOCK", 1)
    torch.testing.assert_close(scores(model, train, users), whole)


def test_negatives_of_a_user_who_knows_all_do_not_count():
    model = Ncf(NcfConfig(n_negatives=2), 2, 5).eval()
    users, real = torch.tensor([0, 1]), torch.tensor([True, False])
    items = torch.tensor([[3, 0, 1], [2, 4, 4]])
    logits = torch.stack(
        [model.score(users[:1], History.of_lists([[]], 5), items[:1, c : c + 1])[0, 0] for c in range(3)]
    )
    lonely = model.score(users[1:], History.of_lists([[]], 5), items[1:, :1])[0, 0]
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
    expected = nn.functional.binary_cross_entropy_with_logits(torch.cat([logits, lonely[None]]), labels)
    torch.testing.assert_close(model._loss(users, items, real), expected)


def test_dropout_is_off_when_scoring():
    model = fitted(dropout=0.5, epochs=1)
    first = scores(model, checkerboard(), torch.arange(40))
    assert torch.equal(first, scores(model, checkerboard(), torch.arange(40)))


def test_impossible_keys_are_refused():
    for keys in ({"layers": []}, {"variant": "mf"}, {"dropout": 1.0}, {"n_negatives": 0}, {"layers": [0]}):
        with pytest.raises(ValidationError):
            NcfConfig(**keys)


@pytest.mark.slow
def test_ml_100k_is_above_popularity():
    train, users, items = leave_last_out()
    model = Ncf(NcfConfig(variant="neumf", learning_rate=0.003), train.n_users, train.n_items)
    model.fit(train, FitContext())
    assert hit_rate(model, train, users, items) > 0.1  # popularity: 0.076
