"""RecVAE: its prior and loss by hand, whose turn a step is, and what a checkpoint keeps of that."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from pipeline.models import multvae, recvae
from pipeline.models.conformance import checkerboard
from pipeline.models.recvae import Encoder, RecVae, RecVaeConfig, log_normal, log_prior
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Stepper

SMALL = {"hidden_dim": 12, "embedding_dim": 4, "epochs": 6, "learning_rate": 0.01, "batch_size": 10}  # 4 steps an epoch


def started(monkeypatch: pytest.MonkeyPatch, train: Interactions | None = None, **keys) -> tuple[RecVae, Stepper]:
    """An unfitted but started model, and what takes its steps."""
    train = train or checkerboard()
    kept = []
    monkeypatch.setattr(recvae, "fit_by_gradient", lambda *given: kept.append(Stepper(*given)))
    model = RecVae(RecVaeConfig(**{**SMALL, **keys}), train.n_users, train.n_items)
    model.fit(train, FitContext())
    return model, kept[0]


def copied(model: RecVae) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: RecVae, before: dict[str, Tensor]) -> set[str]:
    """The parts of the model that are no longer what they were."""
    return {
        name.partition(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }


def test_the_composite_prior_by_hand():
    got = log_prior(torch.tensor([[0.5]]), torch.tensor([[2.0]]), torch.tensor([[math.log(0.25)]])).item()
    standard = math.exp(-0.125) / math.sqrt(2 * math.pi)
    old = math.exp(-(1.5**2) / (2 * 0.25)) / math.sqrt(2 * math.pi * 0.25)
    wide = math.exp(-0.25 / (2 * math.exp(10))) / math.sqrt(2 * math.pi * math.exp(10))
    assert got == pytest.approx(math.log(0.15 * standard + 0.75 * old + 0.1 * wide), rel=1e-5)


def test_densities_are_those_of_torch():
    latent, mean, log_variance = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    spread = (log_variance / 2).exp()
    torch.testing.assert_close(log_normal(latent, mean, log_variance), Normal(mean, spread).log_prob(latent))
    means = torch.stack([torch.zeros_like(mean), mean, torch.zeros_like(mean)], -1)
    spreads = torch.stack([torch.ones_like(mean), spread, torch.full_like(mean, math.exp(5))], -1)
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.15, 0.75, 0.1])), Normal(means, spreads))
    torch.testing.assert_close(log_prior(latent, mean, log_variance), mixture.log_prob(latent))


def test_the_encoder_by_hand():
    """Five dense layers of swish and layer norm, each of which sees the sum of all before it."""
    encoder = Encoder(6, 12, 4)
    encoder.reset_parameters()
    torch.nn.init.normal_(encoder.into_bias)
    history = History.of_lists([[0, 2, 5], [1], []], 6)
    unit = torch.nn.functional.normalize(history.dense(), dim=1)  # (3, 6)

    def normed(x: Tensor) -> Tensor:
        x = x * torch.sigmoid(x)
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 0.1).sqrt()

    h = [normed(unit @ encoder.into.weight + encoder.into_bias)]
    for layer in encoder.layers:
        h.append(normed(layer(h[-1]) + sum(h)))
    assert len(h) == 5
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(encoder(history), 1), encoder.to_latent(h[-1]))


def test_divergence_weighs_as_much_as_the_history_is_long(monkeypatch):
    """β(u) = γ |history of u|: what γ adds to a user's loss is γ, length and divergence multiplied."""
    history = [[0, 1, 2, 3, 4, 5], [6, 7]]
    pairs = [(user, item) for user, items in enumerate(history) for item in items]
    users, items = (torch.tensor(side) for side in zip(*pairs, strict=True))
    train = Interactions(users, items, 2, 8)
    model, _ = started(monkeypatch, train, gamma=0.5, dropout=0.0)
    old = copy.deepcopy(model.encoder)
    old.to_latent.weight.data.mul_(3)  # so that the prior is not the posterior
    rows = train.history()
    kept = []
    monkeypatch.setattr(recvae, "drawn", lambda *given: kept.append(multvae.drawn(*given)) or kept[-1])

    def of(gamma: float, user: int) -> float:
        model.config = RecVaeConfig(**{**SMALL, "gamma": gamma, "dropout": 0.0})
        with torch.no_grad():
            return model._encoder_loss(rows[torch.tensor([user])], old, torch.Generator().manual_seed(1)).item()

    for user, length in ((0, 6), (1, 2)):
        got = of(0.5, user) - of(0.0, user)
        with torch.no_grad():
            row = rows[torch.tensor([user])]
            posterior, prior = log_normal(kept[-1], *model.encoder(row)), log_prior(kept[-1], *old(row))
        assert got == pytest.approx(0.5 * length * (posterior - prior).sum().item(), rel=1e-3)
        likelihood = of(0.0, user)
        log_p = torch.log_softmax(model.decoder(kept[-1]), 1)[0, history[user]]
        assert likelihood == pytest.approx(-log_p.sum().item(), rel=1e-4), "without γ the likelihood is left"


def test_encoder_and_decoder_learn_in_turns(monkeypatch):
    model, stepper = started(monkeypatch, encoder_steps=2, weight_decay=0.1, clip_norm=1.0)
    rows = torch.arange(10)
    stepper.step(rows, torch.Generator())  # copies the encoder into the prior
    seen = []
    for _ in range(3):  # the epoch has four steps
        before = copied(model)
        stepper.step(rows, torch.Generator())
        seen.append(changed(model, before) - {"_extra_state"})
    assert seen == [{"encoder"}, {"decoder"}, {"encoder"}]


def test_the_prior_is_the_encoder_of_the_start_of_the_epoch(monkeypatch):
    model, stepper = started(monkeypatch)
    loss, priors = model._encoder_loss, []
    monkeypatch.setattr(model, "_encoder_loss", lambda rows, old, draw: priors.append(old) or loss(rows, old, draw))
    for _ in range(3):
        before = copied(model)
        priors.clear()
        stepper.run_epoch(1)
        assert len(priors) == 3 and priors[0] is priors[2], "of four steps, the last is the decoder's"
        for name, tensor in priors[0].state_dict().items():
            assert torch.equal(tensor, before[f"encoder.{name}"])
        assert not torch.equal(priors[0].into.weight, model.encoder.into.weight)


def test_the_decoder_learns_from_whole_histories(monkeypatch):
    model, _ = started(monkeypatch)
    monkeypatch.setattr(recvae, "thinned", None)  # calling it would raise
    history = checkerboard().history()
    latent = []
    monkeypatch.setattr(recvae, "drawn", lambda mean, *_: latent.append(mean) or mean)
    loss = model._decoder_loss(history, torch.Generator())
    log_p = torch.log_softmax(model.score(torch.arange(40), history), 1)
    assert loss.item() == pytest.approx(-(history.dense() * log_p).sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("steps", [2, 3], ids="{} encoder steps".format)
def test_a_fit_that_was_ended_keeps_its_turn(tmp_path, monkeypatch, steps):
    """Turns and epochs don't fall together here; the whole state ends as undisturbed."""
    keys = {**SMALL, "encoder_steps": steps, "batch_size": 15}  # 3 steps an epoch
    train = checkerboard()

    def fitted(**context) -> RecVae:
        model = RecVae(RecVaeConfig(**keys), train.n_users, train.n_items)
        model.fit(train, FitContext(**context))
        return model

    def interrupt(epoch: int, values: dict) -> None:
        if epoch == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.checkpoint.SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.training.checkpoint.SNAPSHOT_SHARE", math.inf)
    undisturbed = fitted()
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(checkpoint=path, log=interrupt)
    assert path.exists()
    seen = []
    resumed = fitted(checkpoint=path, log=lambda epoch, values: seen.append(epoch))
    assert undisturbed.step == resumed.step == 6 * 3
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_refit_of_so_many_epochs_repeats_the_search():
    train = checkerboard()
    metrics = iter([0.1, 0.3, 0.2, 0.1, 0.1, 0.1])
    first, again = (RecVae(RecVaeConfig(**SMALL), train.n_users, train.n_items) for _ in range(2))
    first.fit(train, FitContext(validate=lambda model: next(metrics)))
    again.fit(train, FitContext(epochs=first.best_epoch))
    assert first.best_epoch == 2 and first.step == again.step == 2 * 4
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_batches_halved_on_the_way_still_learn(monkeypatch):
    model, stepper = started(monkeypatch)
    loss, asked = stepper.loss, []

    def once_too_large(rows: Tensor, generator: torch.Generator) -> Tensor:
        asked.append(len(rows))
        got = loss(rows, generator)
        if len(asked) == 2:
            raise torch.OutOfMemoryError
        return got

    stepper.loss = once_too_large
    before = copied(model)
    assert math.isfinite(stepper.run_epoch(1))
    assert asked == [10, 10, *[5] * 6] and changed(model, before) >= {"encoder", "decoder"}


def test_nobody_with_a_history():
    train = Interactions(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), 2, 3)
    with pytest.raises(NotServable, match="recvae learns from histories, and no user of train has one"):
        RecVae(RecVaeConfig(**SMALL), 2, 3).fit(train, FitContext())
