"""Mult-VAE: its loss by hand, annealing, and users it never saw."""

import pytest
import torch

from pipeline.models import multvae
from pipeline.models.conformance import checkerboard
from pipeline.models.multvae import MultVae, MultVaeConfig
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions

SMALL = {"hidden_dim": 12, "embedding_dim": 4, "epochs": 30, "learning_rate": 0.01, "batch_size": 10}


def losses_of(config: MultVaeConfig, train: Interactions, monkeypatch: pytest.MonkeyPatch) -> tuple[MultVae, list]:
    """An unfitted but started model, and its loss function asked at given steps."""
    kept = []
    monkeypatch.setattr(multvae, "fit_by_gradient", lambda model, n, loss, *rest: kept.append((n, loss)))
    model = MultVae(config, train.n_users, train.n_items)
    model.fit(train, FitContext())
    return model, kept


def test_the_divergence_climbs_to_beta_and_stays(monkeypatch):
    train = checkerboard()
    model, kept = losses_of(MultVaeConfig(**SMALL, anneal_steps=4, beta=0.5, dropout=0.0), train, monkeypatch)
    n, loss = kept[0]
    assert n == train.n_users
    model.eval()
    batch = torch.arange(n)

    def at(step: int) -> float:
        model.steps.fill_(step - 1)  # the loss counts its own step
        with torch.no_grad():
            return loss(batch, torch.Generator().manual_seed(3)).item()

    with torch.no_grad():
        mean, log_variance = model._encode(train.history().distinct())
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean().item() / 2
    first, second, fourth, later = at(1), at(2), at(4), at(50)
    assert second - first == pytest.approx(0.5 * divergence / 4, abs=1e-3)
    assert fourth - first == pytest.approx(0.5 * divergence * 3 / 4, abs=1e-3)
    assert later == pytest.approx(fourth, abs=1e-6)


def test_steps_are_counted_and_restart_with_every_fit():
    model = MultVae(MultVaeConfig(**{**SMALL, "epochs": 3}), 40, 20)
    model.fit(checkerboard(), FitContext())
    assert model.steps.item() == 3 * 4
    model.fit(checkerboard(), FitContext())
    assert model.steps.item() == 3 * 4


def test_loss_by_hand_without_noise(monkeypatch):
    """Multinomial log-likelihood of eq. 2 per user, where the latent vector has no variance and β is 0."""
    train = checkerboard()
    model, kept = losses_of(MultVaeConfig(**SMALL, beta=0.0, dropout=0.0), train, monkeypatch)
    dim = model.config.embedding_dim
    model.to_latent.weight.data[dim:] = 0
    model.to_latent.bias.data[dim:] = -100  # log variance
    users = torch.tensor([2, 5, 7])
    with torch.no_grad():
        got = kept[0][1](users, torch.Generator()).item()
        logits = model.score(users, train.history()[users])
    x = train.history().dense()[users]
    expected = -(x * torch.log_softmax(logits, 1)).sum(1).mean().item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_an_encoder_of_bags_is_the_dense_one():
    model = MultVae(MultVaeConfig(**SMALL), 3, 6).eval()
    torch.nn.init.normal_(model.into.weight)
    history = History.of_lists([[0, 2, 5], [1], []], 6)
    unit = torch.nn.functional.normalize(history.dense(), dim=1)  # (3, 6)
    hidden = torch.tanh(unit @ model.into.weight + model.into_bias)
    with torch.no_grad():
        torch.testing.assert_close(model._encode(history)[0], model.to_latent(hidden)[:, :4])


def test_a_new_user_is_served_as_a_user_of_the_fit_with_that_history():
    train = checkerboard()
    model = MultVae(MultVaeConfig(**SMALL), train.n_users, train.n_items)
    model.fit(train, FitContext())
    model.eval()
    history = train.history()[torch.tensor([4])]
    with torch.no_grad():
        known, unknown = (model.score(torch.tensor([user]), history) for user in (4, -1))
        doubled = History.of_lists([history.items.tolist() * 2], train.n_items)
        again = model.score(torch.tensor([-1]), doubled)
    assert torch.equal(known, unknown)
    torch.testing.assert_close(again, known), "an item twice counts once"


def test_nobody_with_a_history():
    train = Interactions(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), 2, 3)
    with pytest.raises(NotServable, match="no user of train has one"):
        MultVae(MultVaeConfig(**SMALL), 2, 3).fit(train, FitContext())
