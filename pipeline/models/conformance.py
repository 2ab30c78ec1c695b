"""The conformance suite: what every family must do, one function per property.

Families of this package are tested by tests/conformance. A family outside of the repository is named by its entry point
or dotted path:

    @pytest.mark.parametrize("check", conformance.CHECKS)
    def test_conformance(check):
        check("mypackage.counts:Counts")

Fits use the defaults of the family's Config; gradient families get batches of 128, `for_tiny_data`, and
30 epochs, 3 where nothing has to be learnt.
"""

import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.models import MODELS, ModelConfig, Recommender
from pipeline.models.blend import Blend, BlendConfig
from pipeline.models.ops.attribute_map import place_new_items
from pipeline.models.serialization import load, save
from pipeline.training.attributes import ItemAttributes
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import TrainingConfig

N_USERS = 40
BLENDED = ("ease", "item_knn")
DAY = 86_400_000_000  # microseconds
BRIEF = 3
"""Epochs where nothing has to be learnt."""


def checkerboard(n_items: int = 20, rated: bool = False) -> Interactions:
    """Even users like even items, odd users like odd items; each has rows with 70 % of the items that they like.

    With `rated`, these rows have rating 5, and as many rows with other items have rating 1 and are not positive.
    """
    rng = torch.Generator().manual_seed(0)
    users, items, ratings = [], [], []
    for user in range(N_USERS):
        for liked in (True, False) if rated else (True,):
            pool = torch.arange(user % 2 if liked else 1 - user % 2, n_items, 2)  # (I / 2,)
            chosen = pool[torch.randperm(len(pool), generator=rng)[: round(0.7 * len(pool))]]  # (7 I / 20,)
            users.append(torch.full_like(chosen, user))
            items.append(chosen)
            ratings.append(torch.full((len(chosen),), 5.0 if liked else 1.0))
    stars = torch.cat(ratings)  # (N,)
    return Interactions(
        torch.cat(users), torch.cat(items), N_USERS, n_items, ratings=stars,
        timestamps=torch.arange(len(stars)) * DAY, positive=stars > 3,
    )  # fmt: skip


def quick_config(family: str, epochs: int = 30) -> ModelConfig:
    """The family's defaults; a gradient family gets so many epochs, 30 of which are enough for tiny data."""
    config = MODELS[family].Config
    steps = {"epochs": epochs, "batch_size": 128, "learning_rate": 0.02} if issubclass(config, TrainingConfig) else {}
    return config.model_validate({**steps, **MODELS[family].for_tiny_data})


def fit(family: str, train: Interactions, epochs: int = 30, **context: Any) -> Recommender:
    """A model of the family, fitted and ready to score."""
    if MODELS[family].blends:
        where = {key: context[key] for key in ("device", "precision") if key in context}
        parts = {part: fit(part, train, **where) for part in BLENDED}
        config = quick_config(family)
        assert isinstance(config, BlendConfig)
        model: Recommender = Blend.of(config, parts)
    else:
        model = MODELS[family](quick_config(family, epochs), train.n_users, train.n_items)
    model.fit(train, FitContext(**context))
    return model.eval()


def scores(model: Recommender, train: Interactions, users: Tensor, items: Tensor | None = None) -> Tensor:
    """Scores of users with their history, (B, I) or (B, C)."""
    with torch.no_grad():
        return model.score(users, train.history()[users], items)


@cache
def _fitted(family: str, n_items: int = 20) -> tuple[Recommender, Interactions]:
    train = checkerboard(n_items, MODELS[family].needs_ratings)
    return fit(family, train), train


def check_finds_what_was_withheld(family: str) -> None:
    """Of the items without a row, liked ones score above others; also with fewer users than items."""
    if not MODELS[family].personal or MODELS[family].only_own_items:
        return
    for n_items in (20, 60):
        model, train = _fitted(family, n_items)
        got = scores(model, train, torch.arange(N_USERS))  # (U, I)
        known = torch.zeros(got.shape, dtype=torch.bool)
        known[train.users, train.items] = True
        liked = torch.arange(N_USERS)[:, None] % 2 == torch.arange(n_items) % 2  # (U, I)
        pairs = [got[u][liked[u] & ~known[u], None] > got[u][~liked[u] & ~known[u]] for u in range(N_USERS)]
        share = torch.cat([p.flatten() for p in pairs]).float().mean().item()
        assert share > 0.9, f"{share:.2f} of the pairs are in order with {n_items} items"


def check_shape_and_type(family: str) -> None:
    """Scores are finite float32 of shape (B, I), also for zero users."""
    model, train = _fitted(family)
    got = scores(model, train, torch.tensor([3, 0, 3]))
    assert got.shape == (3, 20) and got.dtype == torch.float32 and torch.isfinite(got).all()
    torch.testing.assert_close(got[0], got[2])
    assert scores(model, train, torch.tensor([], dtype=torch.long)).shape == (0, 20)


def check_batch_is_single(family: str) -> None:
    """A user's scores don't depend on the other users of the batch."""
    model, train = _fitted(family)
    together = scores(model, train, torch.arange(N_USERS))
    for user in (0, 7, N_USERS - 1):
        torch.testing.assert_close(scores(model, train, torch.tensor([user]))[0], together[user])


def check_chosen_items(family: str) -> None:
    """Scores of chosen items equal those among all items; items may repeat, and be more than there are."""
    model, train = _fitted(family)
    users, some = torch.tensor([1, 5]), torch.tensor([[4, 4, 0], [19, 2, 7]])
    for items in (some, some.repeat(1, train.n_items)):
        expected = scores(model, train, users).gather(1, items)
        torch.testing.assert_close(scores(model, train, users, items), expected)


def check_same_seed_same_state(family: str) -> None:
    """Fits with one seed are bit-equal, whatever the state of the global generator; so is a second fit of a model."""
    train = checkerboard(rated=MODELS[family].needs_ratings)
    model = fit(family, train, BRIEF)
    torch.manual_seed(1)
    again = fit(family, train, BRIEF)
    assert set(again.state_dict()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = torch.random.get_rng_state()
    again.fit(train, FitContext())
    assert torch.equal(before, torch.random.get_rng_state()), "the fit changed the global generator"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), f"{name} differs after a second fit"


def check_round_trip(family: str) -> None:
    """A model that was saved and loaded has bit-equal scores."""
    model, train = _fitted(family)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        loaded = load(Path(folder))
    users = torch.arange(N_USERS)
    assert torch.equal(scores(loaded, train, users), scores(model, train, users))
    assert loaded.best_epoch == model.best_epoch and loaded.config == model.config and not loaded.training


def check_unknown_key(family: str) -> None:
    """An unknown key of the config is an error that names it."""
    try:
        MODELS[family].Config.model_validate({"embeding_dim": 8})
    except ValidationError as error:
        assert "embeding_dim" in str(error)
    else:
        raise AssertionError("accepted")


def check_every_key_has_a_doc(family: str) -> None:
    """Every hyperparameter has a docstring."""
    for name, key in MODELS[family].Config.model_fields.items():
        assert key.description, name


def check_unknown_users(family: str) -> None:
    """A family that reads the history serves users that the fit has not seen, with or without a history."""
    if not MODELS[family].reads_history:
        return
    model, train = _fitted(family)
    history = History.of_lists([[0, 2, 4, 6], [], [1, 3]], train.n_items)
    with torch.no_grad():
        got = model.score(torch.full((3,), -1), history)  # (3, I)
    assert got.shape == (3, 20) and torch.isfinite(got).all()
    if MODELS[family].only_own_items:
        assert got[0, :8:2].min() > got[0, 8:].max() and got[2, 1:4:2].min() > got[2, 4:].max()
    elif MODELS[family].personal:
        assert got[0, 8::2].mean() > got[0, 1::2].mean() and got[2, 5::2].mean() > got[2, 0::2].mean()


def check_ratings(family: str) -> None:
    """Families that need ratings predict them; predictions are finite."""
    model, train = _fitted(family)
    with torch.no_grad():
        got = model.predict(train.users, train.items)
    assert (got is not None) >= model.needs_ratings
    if got is not None:
        assert got.shape == (len(train),) and torch.isfinite(got).all()


def check_reports_a_deadline(family: str) -> None:
    """A gradient fit that a deadline ends sets `cut_short`, so that it is not stored as a complete one."""
    if not issubclass(MODELS[family].Config, TrainingConfig):
        return
    train = checkerboard(rated=MODELS[family].needs_ratings)
    context = FitContext(validate=lambda model: 0.0, deadline=time.monotonic() - 1)
    MODELS[family](quick_config(family), train.n_users, train.n_items).fit(train, context)
    assert context.cut_short, f"the deadline ended the fit of {family}, and cut_short is not set"


def check_vectors(family: str) -> None:
    """Vectors, biases and factors have the documented shapes, and factors give the scores."""
    model, train = _fitted(family)
    for vectors, n in ((model.user_vectors(), N_USERS), (model.item_vectors(), 20)):
        assert vectors is None or (vectors.shape[0] == n and vectors.ndim == 2)
    for biases, n in ((model.user_biases(), N_USERS), (model.item_biases(), 20)):
        assert biases is None or biases.shape == (n,)
    if (factors := model.factors()) is not None:
        user, item, bias = factors
        product = user @ item.T + (0 if bias is None else bias)
        torch.testing.assert_close(product, scores(model, train, torch.arange(N_USERS)), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        similar = model.similar(torch.tensor([0, 5]))
    assert similar is None or (similar.shape == (2, 20) and torch.isfinite(similar).all())


def check_new_items(family: str) -> None:
    """A family that serves items without events scores those that a user's attributes fit above the others.

    Nobody has the last four of 24 items; evenness is an attribute of all but the last, whose state stays as it is.
    """
    known = checkerboard(20, MODELS[family].needs_ratings)
    train = replace(known, n_items=25)
    values = ItemAttributes(History.of_lists([[item % 2] for item in range(24)] + [[]], 2))
    context = FitContext(attributes=values)
    model = MODELS[family](quick_config(family), N_USERS, 25) if not MODELS[family].blends else None
    if model is None or not model.learnt_of_items():
        return
    model.fit(train, context)
    before = [table[[0, 24]].clone() for table in model.learnt_of_items()]
    assert place_new_items(model.eval(), train, context) == 4
    for table, kept in zip(model.learnt_of_items(), before, strict=True):
        assert torch.equal(table[[0, 24]], kept), "rows of other items have changed"
    got = scores(model, train, torch.arange(N_USERS))[:, 20:24]  # (U, 4)
    liked = torch.arange(N_USERS)[:, None] % 2 == torch.arange(20, 24) % 2  # (U, 4)
    share = (got[liked].view(-1, 2).amin(1) > got[~liked].view(-1, 2).amax(1)).float().mean().item()
    assert share > 0.9, f"{share:.2f} of the users have the new items in order"
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        assert torch.equal(scores(load(Path(folder)), train, torch.arange(N_USERS))[:, 20:24], got)


def check_small_catalogs(family: str) -> None:
    """Fits work with one user, one item, a user with all items, and users without rows; empty data may be refused."""
    cases = {
        "one user": ([0, 0], [0, 1], 1, 3),
        "one item": ([0, 1], [0, 0], 2, 1),
        "one of each": ([0], [0], 1, 1),
        "knows all": ([0, 0, 0, 1], [0, 1, 2, 0], 2, 3),
        "no row": ([0, 2], [1, 1], 4, 3),
        "nothing": ([], [], 2, 2),
    }
    for name, (users, items, n_users, n_items) in cases.items():
        rows = len(users)
        train = Interactions(
            torch.tensor(users, dtype=torch.long), torch.tensor(items, dtype=torch.long), n_users, n_items,
            ratings=torch.arange(rows).float(), timestamps=torch.arange(rows),
        )  # fmt: skip
        try:
            model = fit(family, train, BRIEF)
        except NotServable:
            alone = len(set(users)) == rows  # models of order need two events of one user
            assert name == "nothing" or (alone and MODELS[family].needs_time), name
            continue
        got = scores(model, train, torch.arange(n_users))
        assert got.shape == (n_users, n_items) and torch.isfinite(got).all(), name


def check_cuda_is_cpu(family: str, precision: str = "fp32", graphs: bool = True) -> None:
    """A fit on CUDA keeps its state there and gives scores like those of the CPU. Needs a CUDA device."""
    model, train = _fitted(family)
    device = torch.device("cuda")
    there = fit(family, train.to(device), device=device, precision=precision, graphs=graphs)
    assert all(t.device.type == "cuda" for t in there.state_dict().values())
    users = torch.arange(N_USERS)
    got, expected = scores(there, train.to(device), users.to(device)).cpu(), scores(model, train, users)
    if model.best_epoch is None:  # closed form
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    else:  # other random numbers: the same order of liked and other items
        agree = torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1]
        assert agree > 0.8, agree


CHECKS = [
    value for name, value in sorted(globals().items()) if name.startswith("check_") and name != "check_cuda_is_cpu"
]
