"""ials in several processes, each with some of the users, learns what one process learns."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models import ials_share
from pipeline.models.ials import Ials
from pipeline.models.ials_config import IalsConfig
from pipeline.training import checkpoint
from pipeline.training.attributes import ItemAttributes
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import Facts, History, Interactions
from pipeline.training.warm import PreviousFit
from tests.support.threads_together import ThreadGroup, together

USERS, ITEMS, DIM = 60, 24, 6
RANGES = {1: [0, 60], 2: [0, 23, 60], 3: [0, 23, 23, 60], 4: [0, 7, 31, 58, 60]}
"""Borders of users; of three processes the second has none."""


def log_of(rated: bool = False, **more: Any) -> Interactions:
    """Users of three tastes; the last user has no row."""
    random = torch.Generator().manual_seed(3)
    users, items = torch.arange(USERS)[:, None], torch.arange(ITEMS)
    likely = torch.where((users + items) % 3 == 0, 0.6, 0.08)  # (U, I)
    likely[-1] = 0
    users, items = (torch.rand(USERS, ITEMS, generator=random) < likely).nonzero().T
    ratings = torch.randint(1, 6, (len(users),), generator=random).float() if rated else None
    return Interactions(users, items, USERS, ITEMS, ratings=ratings, **more)


def attributes() -> ItemAttributes:
    """Item i is of kind i % 3."""
    return ItemAttributes(History(torch.arange(ITEMS + 1), torch.arange(ITEMS) % 3, 3))


def fit(world: ThreadGroup | None, train: Interactions, config: IalsConfig, **context: Any) -> tuple[Ials, list[Any]]:
    """The model and what was logged, in one of several processes, or alone."""
    model, logged = Ials(config, USERS, ITEMS), []
    given = FitContext(seed=5, log=lambda *values: logged.append(values), **context)
    if world is not None:
        given.world = world
        given.users = range(*RANGES[world.size][world.rank : world.rank + 2])
        train = train.select((train.users >= given.users.start) & (train.users < given.users.stop))
        if given.validate is not None:
            whole = given.validate
            given.validate = lambda model: world.broadcast(whole(model) if world.rank == 0 else 0.0)
    model.fit(train, given)
    return model, logged


def state_of(model: Ials) -> dict[str, Tensor]:
    """Copies of all that it learnt."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def ndcg_like(model: Any) -> float:
    """Any metric of all users: how much higher the items of a user's taste score."""
    assert len(model.users) == USERS
    scores = model.users @ model.items.T  # (U, I)
    taste = (torch.arange(USERS)[:, None] + torch.arange(ITEMS)) % 3 == 0
    return float(scores[taste].mean() - scores[~taste].mean())


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gradients": ({}, {}, {}),
    "exact": ({"solver": "exact"}, {}, {}),
    "by valid": ({"epochs": 9, "patience": 1}, {"validate": ndcg_like}, {}),
    "fixed epochs": ({}, {"epochs": 3}, {}),
    "ratings": ({"use_weights": True}, {}, {"rated": True}),
    "prior": ({"attribute_prior": True}, {"attributes": attributes()}, {}),
}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_several_learn_what_one_learns(case: str, size: int) -> None:
    keys, context, of_log = CASES[case]
    config, train = IalsConfig(embedding_dim=DIM, **keys), log_of(**of_log)
    alone, logged = fit(None, train, config, **context)
    both = together(size, lambda world: fit(world, train, config, **context))
    whole, first_log = both[0]
    assert len(whole.users) == USERS and torch.equal(whole.fingerprints, alone.fingerprints)
    scores, wanted = whole.users @ whole.items.T, alone.users @ alone.items.T  # (U, I)
    torch.testing.assert_close(scores, wanted, atol=2e-4, rtol=1e-3)
    assert torch.equal(scores.topk(5).indices[:-1], wanted.topk(5).indices[:-1])
    torch.testing.assert_close(whole.mean_weight, alone.mean_weight)
    assert whole.best_epoch == alone.best_epoch
    for (epoch, values), (other, expected) in zip(first_log, logged, strict=True):
        assert epoch == other and values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for other, _ in both[1:]:
        assert torch.equal(other.items, whole.items) and other.best_epoch == whole.best_epoch


def test_sums_have_the_size_of_the_catalog_not_of_the_users() -> None:
    config = IalsConfig(embedding_dim=DIM, epochs=2)

    def sent(world: ThreadGroup) -> int:
        fit(world, log_of(), config, epochs=2)
        return world.sent

    per_epoch = (2 + config.cg_steps) * ITEMS * DIM + DIM * DIM + DIM + 1
    assert max(together(2, sent)) <= 2 * per_epoch + 2 * ITEMS + 10


def test_events_with_weights_are_summed_as_they_are() -> None:
    train = log_of()
    kinds = torch.arange(len(train)) % 2
    train = replace(train, facts=Facts(kinds=kinds), target=kinds == 0, masks=kinds == 0)
    config = IalsConfig(embedding_dim=DIM, use_weights=True, event_weights={"buy": 1.0, "view": 0.2}, epochs=3)
    alone, _ = fit(None, train, config)
    (whole, _), _ = together(2, lambda world: fit(world, train, config))
    torch.testing.assert_close(whole.users @ whole.items.T, alone.users @ alone.items.T, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(whole.mean_weight, alone.mean_weight)


@pytest.mark.parametrize("validate", [None, ndcg_like])
def test_several_go_on_from_an_earlier_fit(validate: Any) -> None:
    train, config = log_of(), IalsConfig(embedding_dim=DIM)
    state = state_of(fit(None, train, config)[0])
    users, items = torch.arange(USERS), torch.arange(ITEMS)
    users[11], users[40], items[[3, 17]] = -1, -1, -1
    context = {"previous": PreviousFit(state, users, items), "validate": validate}
    alone, logged = fit(None, train, config, **context)
    both = together(3, lambda world: fit(world, train, config, **context))
    whole, first_log = both[0]
    torch.testing.assert_close(whole.users @ whole.items.T, alone.users @ alone.items.T, atol=2e-4, rtol=1e-3)
    assert [epoch for epoch, _ in first_log] == [epoch for epoch, _ in logged]
    assert whole.best_epoch == alone.best_epoch


class Killed(Exception):
    """Planted."""


def interrupted(world: ThreadGroup, config: IalsConfig, path: Path, **context: Any) -> Any:
    """A fit that loses its last process after the third epoch."""

    def validate(model: Any) -> float:
        calls.append(1)
        if len(calls) == 4 and world.rank == world.size - 1:
            raise Killed
        return float(len(calls)) if "validate" not in context else context["validate"](model)

    calls: list[int] = []
    given = FitContext(seed=5, world=world, checkpoint=path, attributes=context.get("attributes"))
    given.users = range(*RANGES[world.size][world.rank : world.rank + 2])
    given.validate = lambda model: world.broadcast(validate(model))
    train = log_of()
    Ials(config, USERS, ITEMS).fit(
        train.select((train.users >= given.users.start) & (train.users < given.users.stop)), given
    )


@pytest.mark.parametrize("case", ["plain", "prior"])
def test_after_a_lost_process_all_go_on_from_the_checkpoint_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(ials_share, "CHECKPOINT_SECONDS", 0.0)
    config = IalsConfig(embedding_dim=DIM, epochs=7, patience=7, attribute_prior=case == "prior")
    context: dict[str, Any] = {"validate": ndcg_like, "attributes": attributes() if case == "prior" else None}

    def whole(world: ThreadGroup, path: Path | None) -> tuple[dict[str, Tensor], list[Any], int | None]:
        model, logged = fit(world, log_of(), config, checkpoint=path, **context)
        return state_of(model), logged, model.best_epoch

    uninterrupted = together(2, lambda world: whole(world, None))[0]
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        together(2, lambda world: interrupted(world, config, path, validate=ndcg_like_everywhere, **{
            name: value for name, value in context.items() if name != "validate"
        }))  # fmt: skip
    assert path.exists()
    before = path.read_bytes()
    resumed = together(2, lambda world: whole(world, path))[0]
    assert path.read_bytes() != before, "it goes on, and so do the checkpoints"
    assert all(torch.equal(tensor, uninterrupted[0][name]) for name, tensor in resumed[0].items())
    assert [epoch for epoch, _ in resumed[1]] == list(range(1, 8)) and resumed[2] == uninterrupted[2]
    assert resumed[1] == uninterrupted[1]


def ndcg_like_everywhere(model: Any) -> float:
    """`ndcg_like` in the first process, which has all users."""
    return ndcg_like(model) if len(model.users) == USERS else 0.0


@pytest.mark.parametrize("trouble", ["damaged", "of another fit", "not there for one"])
def test_a_checkpoint_that_not_all_can_read_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(ials_share, "CHECKPOINT_SECONDS", 0.0)
    config, path = IalsConfig(embedding_dim=DIM, epochs=4), tmp_path / "checkpoint.safetensors"
    wanted = together(2, lambda world: fit(world, log_of(), config))[0][0]
    together(2, lambda world: fit(world, log_of(), config, checkpoint=path))
    if trouble == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    if trouble == "of another fit":
        config = config.model_copy(update={"l2": 0.01})
        wanted = together(2, lambda world: fit(world, log_of(), config))[0][0]

    def once_more(world: ThreadGroup) -> Ials:
        own = tmp_path / "not there" if trouble == "not there for one" and world.rank else path
        return fit(world, log_of(), config, checkpoint=own)[0]

    found = together(2, once_more)[0]
    assert all(torch.equal(tensor, state_of(wanted)[name]) for name, tensor in state_of(found).items())


def test_a_full_disk_costs_the_checkpoint_and_not_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ials_share, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "write", full)
    path = tmp_path / "checkpoint.safetensors"
    model, _ = together(2, lambda world: fit(world, log_of(), IalsConfig(embedding_dim=DIM), checkpoint=path))[0]
    assert len(model.users) == USERS and not path.exists()


@pytest.mark.parametrize(("takes", "epochs"), [(0.2, [2, 4, 6, 8, 10, 12]), (5.0, [2, 11])])
def test_a_checkpoint_is_due_after_ten_times_what_one_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float, epochs: list[int]
) -> None:
    """So a signal costs little of a fit, and the checkpoints of a large one cost a tenth of its time."""
    now, written = [0.0], []

    def write(path: Path, kept: Any) -> None:
        now[0] += takes
        written.append(state.progress.epoch)

    monkeypatch.setattr(ials_share, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoint, "write", write)
    world = SimpleNamespace(rank=0, size=2, broadcast=lambda value: value, joined=lambda rows: rows)
    share = ials_share.Share(world, range(3), 6)  # type: ignore[arg-type]
    checkpoints = ials_share.Checkpoints(share, FitContext(checkpoint=tmp_path / "checkpoint"), "a fit")
    state, factors = ials_share.State(), (torch.zeros(3, DIM), torch.zeros(ITEMS, DIM))
    for epoch in range(1, 13):
        now[0] += 6.0
        state.note(epoch, {}, factors)
        checkpoints.after_epoch(state, factors)
    assert written == epochs


def test_alone_no_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ials_share, "CHECKPOINT_SECONDS", 0.0)
    fit(None, log_of(), IalsConfig(embedding_dim=DIM), checkpoint=tmp_path / "checkpoint.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_first_one_decides_that_it_is_late() -> None:
    config = IalsConfig(embedding_dim=DIM, epochs=5)

    def late(world: ThreadGroup) -> int:
        return len(fit(world, log_of(), config, deadline=0.0 if world.rank == 0 else 1e12)[1])

    assert together(2, late) == [1, 1]


@pytest.mark.parametrize(("ratings", "words"), [(None, "needs a rating column"), (0.0, "ratings from 0 up")])
def test_all_refuse_what_one_refuses(ratings: float | None, words: str) -> None:
    train = log_of()
    if ratings is not None:
        train = replace(train, ratings=torch.full((len(train),), ratings))
    with pytest.raises(NotServable, match=words):
        together(3, lambda world: fit(world, train, IalsConfig(embedding_dim=DIM, use_weights=True)))
    empty = log_of().select(torch.zeros(0, dtype=torch.long))
    with pytest.raises(NotServable, match="no interaction to learn from"):
        together(2, lambda world: fit(world, empty, IalsConfig(embedding_dim=DIM)))
