"""SASRec: pieces, losses and attention by hand, and an order that only a model of order can learn."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.models.ops.attention import Dropout, GatedBlock
from pipeline.models.ops.sequences import Pieces, latest, moments_of
from pipeline.models.sasrec import SasRec, SasRecConfig
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions

DAY = 86_400_000_000  # microseconds


def rows(*histories: list[int], n_items: int, times: list[list[int]] | None = None) -> Interactions:
    """Interactions of users with these items, a day apart unless `times` says otherwise."""
    users = [user for user, history in enumerate(histories) for _ in history]
    days = times or [list(range(len(history))) for history in histories]
    return Interactions(
        torch.tensor(users),
        torch.tensor([item for history in histories for item in history]),
        len(histories),
        n_items,
        timestamps=torch.tensor([day for own in days for day in own]) * DAY,
    )


def ring(n_users: int, n_items: int, length: int) -> Interactions:
    """Users walk round a ring of items, each from a place of their own."""
    walks = [[(user * 3 + step) % n_items for step in range(length)] for user in range(n_users)]
    return rows(*walks, n_items=n_items)


def test_pieces_are_cut_from_the_end_and_every_event_but_the_first_is_a_target_once():
    history = History.of_lists([[0, 1, 2, 3, 4, 5], [7], [], [8, 9]], 10)
    pieces = Pieces.of(history, 3)
    assert len(pieces) == 3
    inputs, targets, real = pieces.batch(torch.arange(3))
    assert inputs[real.any(1)].shape == (3, 3)
    assert [row[keep].tolist() for row, keep in zip(inputs, real, strict=True)] == [[0, 1], [2, 3, 4], [8]]
    assert [row[keep].tolist() for row, keep in zip(targets, real, strict=True)] == [[1, 2], [3, 4, 5], [9]]
    assert real.tolist() == [[True, True, False], [True, True, True], [True, False, False]]


def test_no_pairs_no_pieces():
    assert len(Pieces.of(History.of_lists([[1], []], 3), 5)) == 0
    with pytest.raises(NotServable, match="no user of train has two"):
        SasRec(SasRecConfig(), 2, 3).fit(rows([1], [2], n_items=3), FitContext())


def test_without_times_it_can_not_be_used():
    untimed = Interactions(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2)
    with pytest.raises(NotServable, match="order of events"):
        SasRec(SasRecConfig(), 1, 2).fit(untimed, FitContext())


def test_heads_divide_the_vectors():
    with pytest.raises(NotServable, match="heads = 3"):
        SasRec(SasRecConfig(embedding_dim=64, heads=3), 1, 2)


def test_the_latest_events_are_read():
    history = History.of_lists([[0, 1, 2, 3], [5], []], 6)
    events, length = latest(history, 3)
    assert events.tolist() == [[1, 2, 3], [5, 0, 0], [0, 0, 0]] and length.tolist() == [3, 1, 0]
    events, length = latest(History.of_lists([[], []], 6), 3)
    assert events.shape == (2, 1) and length.tolist() == [0, 0]


def test_moments_tell_equal_times_of_one_user():
    tied = rows([4, 5, 6], [1, 2], n_items=7, times=[[0, 0, 1], [1, 1]])
    moments = moments_of(tied)
    assert moments is not None and moments.tolist() == [0, 0, 1, 2, 2]
    assert moments_of(rows([4, 5], [1], n_items=7)) is None, "nothing is tied"


def test_events_of_one_moment_come_in_any_order_and_no_others():
    tied = rows([0, 1, 2, 3, 4], [7, 8], n_items=9, times=[[0, 1, 1, 1, 2], [3, 4]])
    pieces = Pieces.of(tied.history(), 10, moments_of(tied))
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        inputs, targets, real = pieces.batch(torch.tensor([0, 1]), generator)
        whole = [*inputs[0][real[0]].tolist(), targets[0][real[0]][-1].item()]
        assert targets[0][real[0]].tolist() == whole[1:]
        assert whole[0] == 0 and whole[4] == 4 and sorted(whole) == [0, 1, 2, 3, 4]
        assert inputs[1][real[1]].tolist() == [7] and targets[1][real[1]].tolist() == [8]
        seen.add(tuple(whole))
    assert len(seen) == 6
    assert pieces.batch(torch.tensor([0]))[0].tolist() == [[0, 1, 2, 3]], "without a generator as it is"


@pytest.mark.parametrize("block", ["plain", "ligr"])
def test_the_next_item_of_a_ring_wins(block):
    train = ring(n_users=40, n_items=12, length=9)
    config = SasRecConfig(
        embedding_dim=16, epochs=40 if block == "plain" else 15, batch_size=16, learning_rate=0.01, block=block
    )
    model = SasRec(config, 40, 12)
    model.fit(train, FitContext())
    model.eval()
    with torch.no_grad():
        best = model.score(torch.arange(40), train.history()).argmax(1)
        unknown = model.score(torch.tensor([-1]), History.of_lists([[5, 6, 7]], 12)).argmax(1)
    expected = (train.history().items.view(40, 9)[:, -1] + 1) % 12
    assert (best == expected).float().mean() > 0.9
    assert unknown.tolist() == [8]


@pytest.mark.parametrize("block", ["plain", "ligr"])
def test_the_future_is_not_seen_and_padding_does_not_matter(block):
    model = SasRec(SasRecConfig(embedding_dim=8, max_length=5, block=block), 1, 9).eval()
    torch.nn.init.normal_(model.item.weight)
    places = torch.arange(4)
    short, longer = torch.tensor([[3, 4, 0, 0]]), torch.tensor([[3, 4, 8, 1]])
    with torch.no_grad():
        of_short = model._states(short, places[None] < 2)  # (2, D)
        of_longer = model._states(longer, places[None] < 4)  # (4, D)
        together = model._states(torch.cat([short, longer]), places < torch.tensor([[2], [4]]))  # (6, D)
        everywhere = model._states(longer, places[None] < 4, padded=True)  # (4, D)
    torch.testing.assert_close(of_short, of_longer[:2])
    torch.testing.assert_close(together, torch.cat([of_short, of_longer]))
    torch.testing.assert_close(everywhere, of_longer)


def test_a_gated_block_by_hand():
    """The same numbers in numpy, a place and a head at a time, from the formulas alone."""
    dim, heads, length = 4, 2, 3
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        block = GatedBlock(dim, heads, dropout=0.5).eval()
        for weight in block.parameters():
            torch.nn.init.normal_(weight)
        states = torch.randn(length, dim)
    of = {name: weight.detach().double().numpy() for name, weight in block.named_parameters()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return of[f"{name}.weight"] @ x + of.get(f"{name}.bias", 0.0)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * of[f"{name}.weight"] + of[f"{name}.bias"]

    rows = states.double().numpy()
    query, key, value = np.split(np.stack([linear("to_qkv", norm("before_attention", x)) for x in rows]), 3, axis=1)
    expected = []
    for place, x in enumerate(rows):
        mixed = []
        for part in np.split(np.arange(dim), heads):
            chances = np.exp(key[: place + 1, part] @ query[place, part] / math.sqrt(dim / heads))
            mixed.append(chances / chances.sum() @ value[: place + 1, part])
        y = x + sigmoid(linear("attention_gate", x)) * linear("from_heads", np.concatenate(mixed))
        switch, other = np.split(linear("to_hidden", norm("before_layers", y)), 2)
        layered = linear("from_hidden", switch * sigmoid(switch) * other)
        expected.append(y + sigmoid(linear("layers_gate", y)) * layered)
    with torch.no_grad():
        got = block(states, torch.arange(length), torch.Size([1, length]))
    np.testing.assert_allclose(got.numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_kind_of_block_is_written_down_only_where_it_is_set():
    assert "block" not in SasRecConfig().model_dump() and "block" not in SasRecConfig(block="plain").model_dump()
    written = SasRecConfig(block="ligr").model_dump()
    assert written["block"] == "ligr" and SasRecConfig(**written).block == "ligr"
    assert set(written) - {"block"} == set(SasRecConfig().model_dump())


def with_vectors(loss: str, **more) -> tuple[SasRec, torch.Tensor, torch.Tensor]:
    model = SasRec(SasRecConfig(embedding_dim=2, heads=1, loss=loss, **more), 1, 4)
    model.item.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, 1.0]])
    return model, torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 3])


def test_softmax_by_hand():
    model, states, targets = with_vectors("softmax")
    logits = [[2.0, 1.0, 1.5, -1.0], [0.0, 3.0, 1.5, 3.0]]
    expected = [math.log(sum(map(math.exp, row))) - row[t] for row, t in zip(logits, [0, 3], strict=True)]
    assert model._loss(states, targets, torch.Generator()).item() == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
def test_sampled_losses_by_hand(loss):
    model, states, targets = with_vectors(loss, n_negatives=3, calibration=0.5)
    drawn = torch.randint(4, (3,), generator=torch.Generator().manual_seed(5)).tolist()
    rate = 3 / 3  # of the four items but the target, three are drawn
    beta = rate * (0.5 * (1 - 1 / rate) + 1 / rate)
    expected = 0.0
    for state, target in zip(states, [0, 3], strict=True):
        score = (model.item.weight @ state).tolist()
        others = [score[item] for item in drawn if item != target]
        if loss == "sampled_softmax":
            expected += math.log(sum(map(math.exp, [score[target], *others]))) - score[target]
        else:
            expected += beta * math.log1p(math.exp(-score[target])) + sum(math.log1p(math.exp(s)) for s in others)
    got = model._loss(states, targets, torch.Generator().manual_seed(5)).item()
    assert got == pytest.approx(expected / 2, rel=1e-5)


def test_gbce_undoes_the_sampling():
    """Eq. 12: t = 0 is binary cross-entropy, t = 1 weighs the positive by the share of negatives drawn."""
    states, targets = torch.tensor([[2.0, 1.0]]), torch.tensor([0])

    def loss(t: float) -> float:
        model = SasRec(SasRecConfig(embedding_dim=2, heads=1, loss="gbce", n_negatives=2, calibration=t), 1, 9)
        model.item.weight.data = torch.full((9, 2), -50.0)  # negatives cost nothing
        model.item.weight.data[0] = torch.tensor([0.5, 0.0])
        return model._loss(states, targets, torch.Generator().manual_seed(1)).item()

    positive = F.softplus(torch.tensor(-1.0)).item()
    assert loss(0.0) == pytest.approx(positive, rel=1e-5)
    assert loss(1.0) == pytest.approx(positive * 2 / 8, rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
def test_sampled_losses_learn_the_ring(loss):
    train = ring(n_users=40, n_items=12, length=9)
    config = SasRecConfig(embedding_dim=16, epochs=100, batch_size=16, learning_rate=0.01, loss=loss, n_negatives=6)
    model = SasRec(config, 40, 12)
    model.fit(train, FitContext())
    with torch.no_grad():
        best = model.eval().score(torch.arange(40), train.history()).argmax(1)
    assert (best == (train.history().items.view(40, 9)[:, -1] + 1) % 12).float().mean() > 0.9


def test_dropout_drops_its_share_and_keeps_the_mean():
    drop, x = Dropout(0.3), torch.ones(300, 1001, requires_grad=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        out = drop(x)
    gone = (out == 0).float()
    assert gone.mean().item() == pytest.approx(0.3, abs=0.005)
    assert gone.mean(0).std().item() == pytest.approx(math.sqrt(0.21 / 300), rel=0.1), "independent"
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(out.detach().unique(), torch.tensor([0.0, 65536 / (65536 - round(0.3 * 65536))]))
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach())
    assert drop.eval()(x) is x or torch.equal(drop(x), x)
