"""Losses of unchanging shapes, which CUDA replays as graphs, are those of compact batches; shown on the CPU."""

import warnings
from pathlib import Path

import pytest
import torch

from pipeline.config.settings import Finder
from pipeline.models import MODELS, multvae, recvae
from pipeline.models.conformance import checkerboard
from pipeline.models.multvae import DenseRows
from pipeline.models.ops.sequences import Pieces
from pipeline.models.pmf import Pmf, PmfConfig
from pipeline.models.recvae import Encoder
from pipeline.models.sasrec import SasRec, SasRecConfig
from pipeline.training.context import FitContext
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Stepper, Steps, TrainingConfig
from pipeline.training.lr_finder import RateFinder

HISTORY = History.of_lists([[0, 2, 5], [1], [3, 4, 0, 1], []], 6)


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("batch", [[0, 1, 2, 3], [2, 2], [3]])
def test_dense_rows_are_the_histories(batch: list[int]):
    at = torch.tensor(batch)
    dense = DenseRows.of(HISTORY)(at)
    assert torch.equal(dense.x, HISTORY[at].dense()) and torch.equal(dense.lengths, HISTORY[at].lengths)
    logits = torch.randn(len(batch), 6, generator=draw())
    torch.testing.assert_close(multvae.log_likelihood(logits, dense), multvae.log_likelihood(logits, HISTORY[at]))
    kept = multvae.thinned(dense, 0.5, draw())
    assert kept.shape == dense.x.shape and set(kept.unique().tolist()) <= {0.0, 2.0}


def test_an_encoder_reads_dense_rows_as_it_reads_histories():
    encoder = Encoder(6, 12, 4)
    encoder.reset_parameters()
    with torch.no_grad():
        torch.testing.assert_close(encoder(DenseRows.of(HISTORY)(torch.arange(4))), encoder(HISTORY))


@pytest.mark.parametrize("family", ["multvae", "recvae"])
def test_autoencoders_learn_from_dense_rows(family: str, monkeypatch: pytest.MonkeyPatch):
    """Without what is drawn at random, the losses of the epochs are those of histories."""
    module = {"multvae": multvae, "recvae": recvae}[family]
    kind = {"multvae": multvae.MultVae, "recvae": recvae.RecVae}[family]
    monkeypatch.setattr(module, "drawn", lambda mean, log_variance, generator: mean)
    config = kind.Config(hidden_dim=12, embedding_dim=4, epochs=3, dropout=0.0, batch_size=10)

    def losses() -> list[float]:
        logged: list[float] = []
        model = kind(config, 40, 20)
        model.fit(checkerboard(), FitContext(log=lambda epoch, values: logged.append(values["loss"])))
        return logged

    compact = losses()
    monkeypatch.setattr(module, "batches", lambda history, *_: (DenseRows.of(history), True))
    assert losses() == pytest.approx(compact, rel=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_padding_adds_nothing_to_the_loss_of_sasrec(loss: str):
    torch.manual_seed(0)
    model = SasRec(SasRecConfig(loss=loss, dropout=0.0, max_length=3, n_negatives=4), 4, 6)
    pieces = Pieces.of(HISTORY, 3)
    inputs, targets, real = pieces.batch(torch.arange(len(pieces)))
    assert not real.all()
    compact = model._loss(model._states(inputs, real), targets[real], draw())
    padded = model._loss(model._states(inputs, real, padded=True), targets.flatten(), draw(), real.flatten())
    torch.testing.assert_close(padded, compact)
    ours, theirs = (torch.autograd.grad(of, list(model.parameters())) for of in (padded, compact))
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "keys", [{}, {"user_bias": False}, {"global_bias": False, "item_bias": False}, {"l2": 0.0}, {"l2_bias": 0.3}]
)
def test_the_loss_and_gradients_of_pmf_in_few_kernels(keys: dict):
    torch.manual_seed(0)
    train = checkerboard(rated=True)
    model = Pmf(PmfConfig(**keys), train.n_users, train.n_items)
    assert train.ratings is not None
    expected = (train.ratings - model._raw(train.users, train.items)).square()
    for table, of_user, l2 in model._priors(train):
        index = train.users if of_user else train.items
        expected = expected + l2[index] * table(index).square().sum(1)
    of_bias = model.config.l2 if model.config.l2_bias is None else model.config.l2_bias
    l2 = torch.tensor([model.config.l2, model.config.l2, of_bias, of_bias])
    got = model._loss_in_few_kernels(train.users, train.items, train.ratings, l2)
    torch.testing.assert_close(got, expected.mean())
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(3 * of, parameters) for of in (got, expected.mean()))
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-6)


def test_a_turn_comes_before_each_step():
    """Once a step, whichever process takes it; the last batch, which is smaller, too."""
    model, turns, losses = torch.nn.Linear(1, 1), [], []

    def loss(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        losses.append(len(turns))
        return model(batch[:, None].float()).square().mean()

    stepper = Stepper(model, 10, loss, TrainingConfig(batch_size=4), FitContext(), Steps(turn=lambda: turns.append(1)))
    stepper.run_epoch(1)
    stepper.step(torch.arange(4), draw())
    assert losses == [1, 2, 3, 4]


def test_no_graphs_on_a_cpu():
    model = torch.nn.Linear(1, 1)
    stepper = Stepper(model, 4, lambda *_: model.bias.sum(), TrainingConfig(), FitContext(), Steps(static=True))
    assert stepper.graphs is None


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["mf", "ncf", "lightgcn", "pmf", "sasrec", "multvae", "recvae"])
def test_steps_never_wait_for_the_device(family: str, precision: str):
    """The same number of synchronisations in an epoch of many steps as in one of few: those of its end."""
    assert syncs_an_epoch(family, precision, 16) == syncs_an_epoch(family, precision, 4) <= 3


def syncs_an_epoch(family: str, precision: str, batch_size: int) -> int:
    """Of the last of six epochs, as torch reports them."""
    device, counts = torch.device("cuda"), []
    train = checkerboard(60, MODELS[family].needs_ratings).to(device)

    def log(epoch: int, values: dict[str, float]) -> None:
        counts.append(len(seen))
        seen.clear()

    config = MODELS[family].Config(epochs=6, batch_size=batch_size)
    model = MODELS[family](config, train.n_users, train.n_items)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model.fit(train, FitContext(device, precision, log=log))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return counts[-1]


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("family", ["mf", "ncf", "lightgcn", "pmf", "sasrec", "multvae", "recvae"])
def test_graphs_learn_what_single_launches_do(family: str, optimizer: str):
    """The same numbers are drawn; sums by atomic additions differ in rounding."""
    device = torch.device("cuda")
    train: Interactions = checkerboard(60, MODELS[family].needs_ratings).to(device)
    rate = 0.002 if optimizer == "sgd" else 0.005
    config = MODELS[family].Config(epochs=8, batch_size=16, learning_rate=rate, optimizer=optimizer, schedule="cosine")

    def fitted(graphs: bool) -> tuple[list[float], torch.Tensor]:
        logged: list[float] = []
        model = MODELS[family](config, train.n_users, train.n_items)
        context = FitContext(device, "fp32", graphs=graphs, log=lambda epoch, values: logged.append(values["loss"]))
        model.fit(train, context)
        users = torch.arange(train.n_users, device=device)
        with torch.no_grad():
            return logged, model.score(users, train.history())

    (with_graphs, scores), (without, expected) = fitted(True), fitted(False)
    assert with_graphs == pytest.approx(without, rel=1e-3)
    torch.testing.assert_close(scores, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("family", ["mf", "recvae"])
def test_a_fit_that_was_ended_goes_on_with_graphs(family: str, optimizer: str, tmp_path: Path):
    """From its checkpoint, to the state of a fit that nothing disturbed."""
    device, path = torch.device("cuda"), tmp_path / "checkpoint"
    train = checkerboard(60).to(device)
    config = MODELS[family].Config(epochs=8, batch_size=16, optimizer=optimizer, learning_rate=0.005)

    def fitted(last: int | None = None) -> list[float]:
        logged: list[float] = []

        def log(epoch: int, values: dict[str, float]) -> None:
            logged.append(values["loss"])
            if epoch == last:
                raise KeyboardInterrupt

        kept = None if last == 0 else path
        context = FitContext(device, "fp32", log=log, checkpoint=kept)
        MODELS[family](config, train.n_users, train.n_items).fit(train, context)
        return logged

    undisturbed = fitted(last=0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.training.checkpoint.SNAPSHOT_SECONDS", 0.0)
        patch.setattr("pipeline.training.checkpoint.SNAPSHOT_SHARE", 1e9)
        fitted(last=6)
    assert path.exists()
    assert fitted() == pytest.approx(undisturbed, rel=1e-3)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("use", [False, True])
def test_a_rate_is_found_before_graphs_are_captured(use: bool):
    """The sweep leaves model and optimizer as they were, and the rate is a tensor again."""
    device = torch.device("cuda")
    train = checkerboard(60).to(device)
    config = MODELS["mf"].Config(epochs=8, batch_size=16)

    def fitted(finder: RateFinder | None) -> list[float]:
        logged: list[float] = []
        context = FitContext(device, log=lambda epoch, values: logged.append(values["loss"]), finder=finder)
        MODELS["mf"](config, train.n_users, train.n_items).fit(train, context)
        return logged

    finder = RateFinder(Finder(use=use))
    found, plain = fitted(finder), fitted(None)
    assert finder.found.losses
    if finder.rate_used():
        assert found != pytest.approx(plain, rel=1e-3) and found[-1] < found[0]
    else:
        assert found == pytest.approx(plain, rel=1e-3)
