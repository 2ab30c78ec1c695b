"""The training loop: what it stops at, what it puts back, and that a seed fixes all of it."""

import math
import time

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.training.context import FitContext, NotServable
from pipeline.training.loop import Diverged, Stepper, fit_by_gradient, seeded
from pipeline.training.optimizers import TrainingConfig, learning_rate, optimizers
from pipeline.training.warm import PreviousFit

X = torch.linspace(-1, 1, 64)  # (N,)
Y = 3 * X - 1  # (N,)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return (self.slope * X[rows] + self.offset - Y[rows]).square().mean()


def config(**keys) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 60, "batch_size": 16, "learning_rate": 0.05, **keys})


def fitted(context: FitContext | None = None, **keys) -> tuple[Line, int]:
    model = Line()
    return model, fit_by_gradient(model, len(X), model.loss, config(**keys), context or FitContext())


@pytest.mark.long
@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "adagrad", "learning_rate": 0.5},
        {"optimizer": "sgd", "learning_rate": 0.2},
        {"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.9, "dampening": 0.9},
        {"schedule": "cosine"},
        {"schedule": "one_cycle", "learning_rate": 0.1},
        {"schedule": "step", "steps": [[40, 0.1], [20, 0.01]]},
        {"clip_norm": 1.0},
        {"batch_size": 0, "epochs": 300},
    ],
    ids=str,
)
def test_every_optimizer_and_schedule_finds_the_line(keys: dict):
    model, _ = fitted(**keys)
    assert model.slope.item() == pytest.approx(3, abs=0.05) and model.offset.item() == pytest.approx(-1, abs=0.05)


def test_momentum_with_dampening_is_the_running_mean():
    keys = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.8,
        "dampening": 0.8,
        "batch_size": 0,
        "epochs": 3,
    }
    model, _ = fitted(**keys)
    slope, velocity, square = 0.0, 0.0, (X * X).mean().item()
    for _ in range(3):  # the slope alone: X has mean 0, so the offset is another problem
        gradient = 2 * square * (slope - 3)
        velocity = 0.8 * velocity + 0.2 * gradient
        slope -= 0.1 * velocity
    assert model.slope.item() == pytest.approx(slope, rel=1e-5)


def test_weight_decay_shrinks():
    assert fitted(weight_decay=1.0)[0].slope < fitted()[0].slope - 0.3


def test_same_seed_same_state_another_seed_another():
    first, again, other = fitted(epochs=2)[0], fitted(epochs=2)[0], fitted(FitContext(seed=7), epochs=2)[0]
    assert torch.equal(first.slope, again.slope) and not torch.equal(first.slope, other.slope)


def test_early_stopping_puts_the_best_state_back():
    metrics = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    seen = []

    def validate(model: Line) -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(model.slope.item())
        return next(metrics)

    logged = []
    context = FitContext(validate=validate, log=lambda epoch, values: logged.append((epoch, values)))
    model, best_epoch = fitted(context, patience=3)
    assert best_epoch == 2 and model.slope.item() == seen[1] and not model.training
    assert [epoch for epoch, _ in logged] == [1, 2, 3, 4, 5]
    assert [values["valid"] for _, values in logged] == [0.1, 0.5, 0.4, 0.3, 0.2]
    assert logged[0][1]["loss"] > logged[4][1]["loss"] > 0


@pytest.mark.parametrize("sign", [1, -1])  # an error is negated
def test_small_improvements_are_kept_but_the_fit_does_not_go_on_for_them(sign: int):
    values = [0.500, 0.600, 0.604, 0.608, 0.9] if sign > 0 else [-0.900, -0.800, -0.796, -0.793, -0.1]
    for least, best, ends in ((0.0, 5, 5), (0.02, 4, 4), (0.006, 5, 5)):
        metrics, logged = iter(values), {}
        context = FitContext(validate=lambda model, left=metrics: next(left), log=logged.__setitem__)
        _, best_epoch = fitted(context, patience=2, epochs=5, min_improvement=least)
        assert (best_epoch, max(logged)) == (best, ends)


def test_a_warm_fit_ends_where_no_epoch_is_better_than_its_start_but_keeps_one_for_what_is_new():
    start = PreviousFit(Line().state_dict(), torch.tensor([]), torch.tensor([]))
    for values, best, ends in (
        ([0.5, 0.4, 0.9], 1, 1),  # the first is worse than the start
        ([0.5, 0.6, 0.7, 0.6, 0.9], 2, 3),
        ([0.5, 0.5, 0.9], 1, 1),
    ):
        metrics, logged = iter(values), {}
        context = FitContext(validate=lambda model, left=metrics: next(left), log=logged.__setitem__, previous=start)
        _, best_epoch = fitted(context, patience=1)
        assert (best_epoch, max(logged)) == (best, ends)


def test_a_warm_fit_has_a_tenth_of_the_learning_rate_that_of_a_schedule_too():
    start = PreviousFit(Line().state_dict(), torch.tensor([]), torch.tensor([]))
    keys = {"optimizer": "sgd", "batch_size": 0, "patience": 1}
    for own in ({"learning_rate": 0.1}, {"schedule": "step", "steps": [(20, 0.1)]}):
        warm, _ = fitted(FitContext(previous=start), **{**keys, **own, "epochs": 4})
        cold, _ = fitted(FitContext(), **{**keys, **own, "epochs": 1})
        assert warm.slope.item() == pytest.approx(cold.slope.item() / 10)


def test_validates_every_so_many_epochs_and_after_the_last():
    calls, logged = [], {}

    def validate(model: Line) -> float:
        calls.append(len(logged) + 1)
        return len(calls)

    _, best_epoch = fitted(FitContext(validate=validate, log=logged.__setitem__), epochs=8, validate_every=3)
    assert calls == [3, 6, 8] and best_epoch == 8 and "valid" not in logged[4]


def test_a_validation_of_nan_is_never_the_best():
    metrics = iter([math.nan, 0.2, math.nan])
    assert fitted(FitContext(validate=lambda model: next(metrics)), epochs=3)[1] == 2


def test_a_fixed_number_of_epochs_repeats_the_first_of_the_search():
    def validate(model: Line) -> float:
        raise AssertionError("a refit has no valid")

    states = {}
    model = Line()
    log = lambda epoch, values: states.update({epoch: model.slope.item()})  # noqa: E731
    fit_by_gradient(model, len(X), model.loss, config(schedule="cosine", epochs=9), FitContext(log=log))
    refit, best_epoch = fitted(FitContext(epochs=4, validate=validate), schedule="cosine", epochs=9)
    assert best_epoch == 4 and refit.slope.item() == states[4] and len(states) == 9
    assert not refit.training


def test_the_deadline_ends_the_fit_after_the_epoch(capsys: pytest.CaptureFixture[str]):
    epochs = []
    context = FitContext(deadline=time.monotonic() - 1, log=lambda epoch, values: epochs.append(epoch))
    assert fitted(context)[1] == 1 and epochs == [1]
    assert "deadline" in capsys.readouterr().err


def test_divergence_says_epoch_and_rate():
    with pytest.raises(Diverged, match=r"epoch \d+ is (inf|nan) at learning rate 50"):
        fitted(optimizer="sgd", learning_rate=50.0)
    assert issubclass(Diverged, NotServable)


def test_parameters_that_overflow_in_the_last_step_are_noticed():
    with pytest.raises(Diverged, match="slope is no longer finite"):
        fitted(optimizer="sgd", learning_rate=3e38, epochs=1, batch_size=0)


def test_nothing_to_learn_from():
    model = Line()
    with pytest.raises(NotServable, match="no row"):
        fit_by_gradient(model, 0, model.loss, config(), FitContext())


def test_an_epoch_sees_every_row_once_in_another_order():
    model, batches = Line(), []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        batches.append(rows)
        return model.loss(rows, generator)

    fit_by_gradient(model, len(X), loss, config(epochs=2, batch_size=30), FitContext())
    assert [len(rows) for rows in batches] == [30, 30, 4] * 2
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert first.sort().values.equal(torch.arange(64)) and second.sort().values.equal(torch.arange(64))
    assert not first.equal(second)


def test_out_of_memory_halves_the_batch_and_loses_no_row(capsys: pytest.CaptureFixture[str]):
    model, sizes = Line(), []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        if len(rows) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(rows))
        return model.loss(rows, generator)

    fit_by_gradient(model, len(X), loss, config(epochs=1, batch_size=40), FitContext())
    assert sizes == [20, 20, 20, 4] and "batch_size = 20" in capsys.readouterr().err
    sizes.clear()
    fit_by_gradient(model, len(X), loss, config(epochs=1, batch_size=60), FitContext())
    assert sizes == [15, 15, 15, 15, 4] and "batch_size = 30" in capsys.readouterr().err
    asked: list[int] = []

    def never(rows: Tensor, generator: torch.Generator) -> Tensor:
        asked.append(len(rows))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fit_by_gradient(model, len(X), never, config(epochs=1, batch_size=60), FitContext())
    assert asked == [60, 30, 15, 8, 4]


def test_rates_of_the_schedules():
    def rates(**keys) -> list[float]:
        return [
            round(learning_rate(config(epochs=10, learning_rate=1.0, **keys), at), 3) for at in (0, 3, 5, 9.999, 12)
        ]

    assert rates() == [1, 1, 1, 1, 1]
    assert rates(schedule="cosine") == [1, 0.794, 0.5, 0, 0]
    assert rates(schedule="one_cycle") == [0.04, 1, 0.812, 0, 0]
    assert rates(schedule="step", steps=[[3, 0.5], [2, 0.2], [1, 0.1]]) == [0.5, 0.2, 0.1, 0.1, 0.1]
    assert rates(schedule="step") == [1, 1, 1, 1, 1]


def test_the_rate_reaches_every_optimizer():
    model = nn.ModuleList([nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)])
    stepper = Stepper(
        model,
        4,
        lambda rows, generator: model[1](model[0](rows)).sum(),
        config(schedule="cosine"),
        FitContext(),
    )
    stepper.set_rate(30)
    assert len(stepper.optimizers) == 2
    assert [o.param_groups[0]["lr"] for o in stepper.optimizers] == pytest.approx([0.025, 0.025])


def test_sparse_tables_get_a_sparse_optimizer():
    table, layer = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)
    kinds = [type(o).__name__ for o in optimizers(nn.ModuleList([table, layer]), config())]
    assert kinds == ["Adam", "SparseAdam"]
    with pytest.raises(NotServable, match="need dense gradients"):
        optimizers(table, config(weight_decay=0.1))


def test_dropout_is_seeded_and_the_global_generator_left_alone():
    class Noisy(Line):
        def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
            return super().loss(rows, generator) * nn.functional.dropout(torch.ones(()), 0.5)

    before, results = torch.random.get_rng_state(), []
    for global_seed in (1, 2):
        with seeded(global_seed):
            model = Noisy()
            fit_by_gradient(model, len(X), model.loss, config(epochs=2), FitContext())
            results.append(model.slope.item())
    assert results[0] == results[1]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("auto", torch.float32)])
def test_the_precision_is_that_of_the_context(precision: str, dtype: torch.dtype):
    layer, seen = nn.Linear(1, 1), set()

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        out = layer(X[rows, None])  # (B, 1)
        seen.add(out.dtype)
        return (out.float().squeeze(1) - Y[rows]).square().mean()

    fit_by_gradient(layer, len(X), loss, config(epochs=1), FitContext(precision=precision))
    assert seen == {dtype} and layer.weight.dtype == torch.float32


def test_seeded_repeats():
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(first, torch.rand(2))


def test_unknown_and_impossible_keys_are_refused():
    for keys in ({"lr": 0.1}, {"epochs": 0}, {"momentum": 1.0}, {"optimizer": "lion"}, {"steps": [[0, 0.1]]}):
        with pytest.raises(ValidationError):
            config(**keys)


def test_a_first_epoch_that_passes_its_deadline_is_given_up(monkeypatch):
    model, now = Line(), iter(range(100, 10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))  # every look at the clock takes a second
    with pytest.raises(NotServable, match="the first epoch did not end within the 2 s"):
        fit_by_gradient(model, len(X), model.loss, config(batch_size=1), FitContext(deadline=105.0))


def test_no_epoch_is_begun_that_would_pass_the_deadline(monkeypatch):
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock, model, context = Clock(), Line(), FitContext(deadline=25.0)

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        clock.now += 10 / 4  # an epoch has four batches
        return model.loss(rows, generator)

    monkeypatch.setattr(time, "monotonic", clock)
    assert fit_by_gradient(model, len(X), loss, config(), context) == 2 and context.cut_short
    assert clock.now == 20
