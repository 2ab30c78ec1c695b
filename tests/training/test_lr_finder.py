"""The learning-rate finder: what it suggests on quadratics of known curvature, and that it leaves no trace."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.settings import Finder
from pipeline.models import MODELS
from pipeline.models.conformance import checkerboard
from pipeline.training.context import FitContext
from pipeline.training.loop import Stepper, fit_by_gradient
from pipeline.training.lr_finder import RateFinder, exploded_at, find_rate, rate_of, read_sweep, smoothed
from pipeline.training.optimizers import TrainingConfig


class Bowl(nn.Module):
    """h/2 · |x|²: gradient descent diverges above 2/h, and 1/h is the best rate."""

    def __init__(self, curvature: float):
        super().__init__()
        self.x = nn.Parameter(torch.full((5,), 3.0))
        self.register_buffer("seen", torch.zeros(()))
        self.curvature = curvature

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        self.seen += 1  # a buffer that a step changes
        return self.curvature / 2 * self.x.square().sum()


class Regression(nn.Module):
    """Noisy, of curvature 1."""

    X = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
    Y = X @ torch.arange(8.0) / 4 + torch.randn(4096, generator=torch.Generator().manual_seed(1))

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(8))

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return (self.X[rows] @ self.w - self.Y[rows]).square().mean() / 2


def stepper(model: nn.Module, n_rows: int = 64, **keys) -> Stepper:
    config = TrainingConfig.model_validate({"optimizer": "sgd", "batch_size": 8, "learning_rate": 0.01, **keys})
    return Stepper(model, n_rows, model.loss, config, FitContext())


@pytest.mark.parametrize("curvature", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("steps", [100, 200])
def test_the_best_region_of_a_quadratic(curvature: float, steps: int):
    found = find_rate(stepper(Bowl(curvature)), Finder(steps=steps))
    assert found.suggestion is not None and 0.1 / curvature < found.suggestion < 2 / curvature
    assert len(found.rates) == len(found.losses) < steps and found.rates[-1] > 2 / curvature  # ended as it exploded


def test_the_best_region_of_a_noisy_quadratic():
    found = find_rate(stepper(Regression(), 4096, batch_size=64), Finder())
    assert found.suggestion is not None and 0.02 < found.suggestion < 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_no_trace_is_left(optimizer: str):
    model = Bowl(3.0)
    of = stepper(model, optimizer=optimizer, momentum=0.9 * (optimizer == "sgd"))
    of.step(torch.arange(8), torch.Generator())  # so that the optimizer has a state
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = [str(each.state_dict()) for each in of.optimizers]
    random, training = torch.get_rng_state(), model.training
    assert find_rate(of, Finder()).suggestion
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [str(each.state_dict()) for each in of.optimizers] == states
    assert torch.equal(torch.get_rng_state(), random) and model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["mf", "pmf", "ncf"])
def test_a_shown_rate_changes_no_fit_and_a_used_one_does(family: str):
    train = checkerboard(rated=True)
    states, finders = [], [None, RateFinder(Finder()), RateFinder(Finder(use=True))]
    for finder in finders:
        model = MODELS[family](MODELS[family].Config(epochs=2, batch_size=64), train.n_users, train.n_items)
        torch.manual_seed(0)
        model.fit(train, FitContext(finder=finder))
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    shown, used = finders[1], finders[2]
    assert shown and used and shown.found.suggestion == used.found.suggestion
    assert not torch.equal(states[0], states[2])
    assert used.rate_used() == {"learning_rate": used.found.suggestion} and shown.rate_used() == {}


def test_a_used_rate_is_that_of_a_fit_configured_with_it():
    config = TrainingConfig(optimizer="sgd", batch_size=8, epochs=3)
    by_finder, finder = Bowl(3.0), RateFinder(Finder(use=True))
    fit_by_gradient(by_finder, 64, by_finder.loss, config, FitContext(finder=finder))
    configured = Bowl(3.0)
    own = config.model_copy(update=finder.rate_used())
    fit_by_gradient(configured, 64, configured.loss, own, FitContext())
    assert torch.equal(by_finder.x, configured.x)


def test_rates_rise_exponentially():
    settings = Finder(low=1e-4, high=1.0, steps=101)
    rates = [rate_of(settings, step) for step in (0, 25, 50, 100)]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1.0])


def test_smoothing_has_no_bias_to_zero():
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([1.0, 2.0], memory=0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 2) / 0.75])


def test_where_a_loss_explodes():
    assert exploded_at([1.0, 0.5, 0.4, 5.0, 0.3]) == 3
    assert exploded_at([1.0, 0.5, math.nan]) == 2
    assert exploded_at([-1.0, -2.0, -1.5]) == 3  # losses may be negative


@pytest.mark.parametrize(
    "losses, says",
    [
        ([math.nan] * 50, "not finite at learning rate 1e-06"),
        ([1.0 + step for step in range(50)], "never fell clearly below that at 1e-06"),
        ([50.0 - step for step in range(50)], "still falling at 10"),
    ],
    ids=["never finite", "only climbs", "only falls"],
)
def test_doubtful_sweeps_are_reported(losses: list[float], says: str):
    found = read_sweep(losses, Finder(steps=50))
    assert says in found.note
    assert (found.suggestion is None) == ("still falling" not in says)
    finder = RateFinder(Finder())
    finder.found = found
    assert says in finder.words(0.01)


def test_one_fit_goes_through_a_stepped_schedule():
    steps = [[3, 0.1], [3, 0.05], [3, 0.01], [3, 0.005], [3, 0.001]]
    config = TrainingConfig.model_validate(
        {"optimizer": "sgd", "batch_size": 64, "schedule": "step", "steps": steps, "epochs": 15, "patience": 15}
    )
    model, rates, printed = Regression(), [], []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        rates.append(of.optimizers[0].param_groups[0]["lr"])
        return model.loss(rows, generator)

    of = Stepper(model, 4096, loss, config, FitContext())
    losses = [of.run_epoch(epoch) for epoch in range(1, 16)]
    assert rates == [rate for epochs, rate in steps for _ in range(int(epochs) * 64)]
    again = Regression()
    context = FitContext(log=lambda epoch, values: printed.append((epoch, values["loss"])), validate=lambda m: 0.0)
    fit_by_gradient(again, 4096, again.loss, config, context)
    assert printed == list(enumerate(losses, start=1))  # one curve over all of it
    assert losses[-1] < losses[0] and torch.equal(again.w * 0, model.w * 0)
