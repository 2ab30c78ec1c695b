"""iALS: the half-steps against dense algebra, fold-in against the fit, and published results."""

import gzip
import time

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.core.seeding import generator
from pipeline.models.ials import Ials, IalsConfig
from pipeline.models.ops import least_squares
from pipeline.models.ops.attribute_map import place_new_items
from pipeline.models.ops.fingerprints import fingerprints
from pipeline.models.ops.least_squares import Rows, eigenbasis, products, solve_by_gradients, solve_exactly
from pipeline.models.serialization import restore
from pipeline.training.attributes import ItemAttributes
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from tests.support.data_sets import data_set
from tests.support.interactions import frame, random_interactions
from tests.support.models import fitted

A = 0.3  # unobserved weight


def problem(dim: int = 8) -> tuple[Rows, Tensor]:
    """Rows of random weights and penalties, one of them empty, and factors with a diagonal gramian."""
    history = random_interactions().history()
    random = torch.Generator().manual_seed(2)
    weights = 0.5 + torch.rand(len(history.items), generator=random)  # (E,)
    q = torch.randn(history.n_items, dim, generator=random)  # (I, D)
    return Rows(history, weights, 0.1 + torch.rand(len(history), generator=random)), q @ eigenbasis(q)


def normal_equations(rows: Rows, q: Tensor) -> tuple[Tensor, Tensor]:
    """A (B, D, D) and b (B, D), dense and in float64."""
    w = torch.zeros(len(rows.l2), len(q), dtype=torch.float64)  # (B, I)
    w.index_put_((rows.history.rows, rows.history.items), rows.weights.double(), accumulate=True)
    q = q.double()
    eye = torch.eye(q.shape[1], dtype=torch.float64)
    a = torch.einsum("bi,id,ie->bde", w + A, q, q) + rows.l2[:, None, None] * eye
    return a, w @ q


def full_loss(model: Ials, train: Interactions) -> float:
    """Eq. 1 of Rendle et al., over every cell of the matrix."""
    history, c = train.history(), model.config
    known = history.dense().double()  # (U, I)
    users, items = model.users.double(), model.items.double()
    scores = users @ items.T  # (U, I)
    user_l2 = c.l2 * (known.sum(1) + c.unobserved_weight * train.n_items) ** c.frequency_exponent
    item_l2 = c.l2 * (known.sum(0) + c.unobserved_weight * train.n_users) ** c.frequency_exponent
    loss = (known * (1 - scores) ** 2).sum() + c.unobserved_weight * (scores**2).sum()
    return float(loss + user_l2 @ (users**2).sum(1) + item_l2 @ (items**2).sum(1))


def test_one_cell_by_hand():
    """D = 1, q = 2, a = .5, l2 = 3, w = 1: x = 2 / (4 + 2 + 3) = 2/9, loss = 1 - x b = 5/9."""
    rows = Rows(History.of_lists([[0]], 1), torch.ones(1), torch.tensor([3.0]))
    q = torch.tensor([[2.0]])
    for x, loss in (
        solve_exactly(rows, q, 0.5),
        solve_by_gradients(rows, torch.zeros(1, 1), q, 0.5, 1),
    ):
        assert x.item() == pytest.approx(2 / 9) and loss == pytest.approx(5 / 9)


def test_exact_solution_satisfies_the_normal_equations():
    rows, q = problem()
    a, b = normal_equations(rows, q)
    x, loss = solve_exactly(rows, q, A)
    torch.testing.assert_close(torch.einsum("bde,be->bd", a, x.double()), b, rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(float(rows.weights.sum() - (x * b).sum()), rel=1e-5)
    assert not x[-1].any(), "a row without entries is 0"


def test_gradients_converge_to_the_exact_solution():
    rows, q = problem()
    exact, exact_loss = solve_exactly(rows, q, A)
    start = torch.randn(exact.shape, generator=torch.Generator().manual_seed(3))
    errors, losses = [], []
    for steps in (1, 2, 4, 8):
        x, loss = solve_by_gradients(rows, start, q, A, steps)
        errors.append(float((x - exact).norm()))
        losses.append(loss)
    assert errors == sorted(errors, reverse=True) and losses == sorted(losses, reverse=True)
    assert errors[-1] < 1e-4 and losses[-1] == pytest.approx(exact_loss, abs=1e-3)


def test_the_loss_of_unfinished_gradients_is_that_of_their_solution():
    rows, q = problem()
    x, loss = solve_by_gradients(rows, torch.ones(len(rows.l2), q.shape[1]), q, A, 1)
    a, b = normal_equations(rows, q)
    quadratic = torch.einsum("bd,bde,be->", x.double(), a, x.double()) - 2 * (x * b).sum() + rows.weights.sum()
    assert loss == pytest.approx(float(quadratic), rel=1e-5)


def test_tolerance_holds_for_every_row():
    rows, q = problem()
    x, _ = solve_by_gradients(rows, torch.zeros(len(rows.l2), q.shape[1]), q, A, 100, 1e-3)
    a, b = normal_equations(rows, q)
    residual = (b - torch.einsum("bde,be->bd", a, x.double())).norm(dim=1)
    assert bool((residual <= 1.1e-3 * b.norm(dim=1)).all()) and residual.max() > 1e-6, "stopped, not run out"


@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_tiles_change_nothing(solver: str, monkeypatch: pytest.MonkeyPatch):
    rows, q = problem()

    def solve() -> tuple[Tensor, float]:
        start = torch.zeros(len(rows.l2), q.shape[1])
        return solve_exactly(rows, q, A) if solver == "exact" else solve_by_gradients(rows, start, q, A, 3)

    whole, whole_loss = solve()
    monkeypatch.setattr(least_squares, "TILE", 100)  # 12 rows of 8 numbers; 3 entries at a time
    tiled, tiled_loss = solve()
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)
    assert tiled_loss == pytest.approx(whole_loss, rel=1e-5)


def test_eigenbasis_keeps_the_products():
    q = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    turned = q @ eigenbasis(q)
    gramian = turned.T @ turned
    assert (gramian - gramian.diag().diag()).abs().max() < 1e-4
    torch.testing.assert_close(turned @ turned.T, q @ q.T, rtol=1e-4, atol=1e-4)


def test_products_are_dot_products():
    x, q = torch.randn(3, 4), torch.randn(5, 4)
    pairs = History.of_lists([[4, 0, 4], [], [2]], 5)
    torch.testing.assert_close(products(x, q, pairs), (x[pairs.rows] * q[pairs.items]).sum(1))


@pytest.mark.parametrize("solver", ["cg", "exact"])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_logged_loss_is_that_of_the_whole_matrix_and_falls(solver: str, exponent: float):
    train, losses = random_interactions(), []
    model = Ials(IalsConfig(embedding_dim=6, frequency_exponent=exponent, solver=solver, l2=0.05), 60, 40)

    def log(epoch: int, values: dict[str, float]) -> None:
        assert epoch == len(losses) + 1
        assert values["loss"] * len(train) == pytest.approx(full_loss(model, train), rel=1e-4)
        losses.append(values["loss"])

    model.fit(train, FitContext(log=log))
    assert len(losses) == model.config.epochs == model.best_epoch
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_fold_in_gives_the_fitted_factors_to_new_users_too(solver: str):
    train = random_interactions()
    model = Ials(IalsConfig(embedding_dim=6, solver=solver), 60, 40)
    model.fit(train, FitContext())
    fitted = model.users @ model.items.T  # (U, I)
    for users in (torch.arange(60), torch.full((60,), -1)):
        torch.testing.assert_close(model.score(users, train.history()), fitted, rtol=1e-4, atol=1e-4)
    assert not model.score(torch.tensor([0, -1]), History.of_lists([[], []], 40)).any(), "nothing known: all 0"


def test_nothing_is_solved_for_users_with_the_history_of_the_fit(monkeypatch: pytest.MonkeyPatch):
    train = random_interactions()
    model, history, users = fitted(Ials, train, epochs=3, embedding_dim=8), train.history(), torch.arange(60)
    lists = [history.items[history.offsets[u] : history.offsets[u + 1]].tolist() for u in range(60)]
    solved = []
    solve = Ials._solve
    monkeypatch.setattr(Ials, "_solve", lambda self, rows, start: solved.append(len(start)) or solve(self, rows, start))
    backwards = History.of_lists([row[::-1] for row in lists], 40)
    assert torch.equal(model.user_factors(users, history), model.users) and not solved
    assert torch.equal(model.user_factors(users, backwards), model.users) and not solved
    other = History.of_lists([lists[0][:-1], [*lists[1], 39], lists[2], []], 40)
    got = model.user_factors(users[:4], other)
    assert solved == [3] and torch.equal(got[2], model.users[2]) and not got[3].any()
    assert not torch.allclose(got[:2], model.users[:2], atol=1e-3)
    unknown = model.user_factors(torch.full((60,), -1), history)
    assert solved == [3, 60]
    torch.testing.assert_close(unknown, model.users, rtol=1e-3, atol=1e-4)


def test_a_state_without_fingerprints_is_folded_in(tmp_path):
    train = random_interactions()
    model = fitted(Ials, train, epochs=2, embedding_dim=8)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "fingerprints"}
    old = Ials(model.config, 60, 40)
    restore(old, state)
    torch.testing.assert_close(old.user_factors(torch.arange(60), train.history()), model.users, rtol=1e-3, atol=1e-4)


def test_fingerprints_differ_where_histories_do():
    lists = [[], [0], [1], [0, 1], [1, 0], [0, 0], [0, 1, 1], [2, 1], [3]]
    kinds = {tuple(sorted(row)) for row in lists}
    got = fingerprints(History.of_lists(lists, 4)).tolist()
    assert len(set(got)) == len(kinds) and got[3] == got[4]
    many = torch.combinations(torch.arange(60), 3)  # (34220, 3)
    offsets = torch.arange(len(many) + 1) * 3
    assert len(set(fingerprints(History(offsets, many.reshape(-1), 60)).tolist())) == len(many)


@pytest.mark.parametrize("worth", [0.0, 2.0])
def test_rows_that_are_solved_are_left_out_without_a_trace(worth: float, monkeypatch: pytest.MonkeyPatch):
    """From a start that is the solution of some rows; empty rows are exactly 0 and ask for no step."""
    rows, q = problem()
    start = torch.randn(len(rows.l2), 8, generator=torch.Generator().manual_seed(3))
    start[::3] = solve_exactly(rows, q, A)[0][::3]
    expected = solve_by_gradients(rows, start, q, A, 40, 1e-4)
    monkeypatch.setattr(least_squares, "WORTH", worth)
    got = solve_by_gradients(rows, start, q, A, 40, 1e-4)
    assert torch.equal(got[0], expected[0]) and got[1] == pytest.approx(expected[1])
    assert torch.equal(got[0][::3], torch.where(rows.history.lengths[::3, None] > 0, start[::3], 0))
    empty = rows.history.lengths == 0
    assert empty.any() and not got[0][empty].any()


def test_history_counts_not_the_index():
    train = random_interactions()
    model = Ials(IalsConfig(embedding_dim=6), 60, 40)
    model.fit(train, FitContext())
    even, odd = History.of_lists([[0, 2, 4, 6]], 40), History.of_lists([[1, 3, 5, 7]], 40)
    for user in (-1, 0, 1):
        scores = model.score(torch.tensor([user]), even)[0], model.score(torch.tensor([user]), odd)[0]
        assert scores[0][8:38:2].mean() > scores[0][9:38:2].mean()
        assert scores[1][8:38:2].mean() < scores[1][9:38:2].mean()
    repeated = History.of_lists([[6, 0, 2, 0, 4, 6, 6]], 40)
    torch.testing.assert_close(model.score(torch.tensor([-1]), repeated), model.score(torch.tensor([-1]), even))


def test_repeated_rows_count_once():
    train = random_interactions()
    twice = train.select(torch.arange(len(train)).repeat_interleave(2))
    models = [Ials(IalsConfig(embedding_dim=4), 60, 40) for _ in range(2)]
    models[0].fit(train, FitContext())
    models[1].fit(twice, FitContext())
    assert torch.equal(models[0].items, models[1].items)


def with_ratings(ratings: Tensor) -> Interactions:
    train = random_interactions()
    return Interactions(train.users, train.items, 60, 40, ratings=ratings.expand(len(train)).clone())


def test_weights_of_one_are_no_weights():
    plain, weighted = (Ials(IalsConfig(embedding_dim=4, use_weights=w), 60, 40) for w in (False, True))
    plain.fit(with_ratings(torch.tensor(1.0)), FitContext())
    weighted.fit(with_ratings(torch.tensor(1.0)), FitContext())
    torch.testing.assert_close(weighted.users @ weighted.items.T, plain.users @ plain.items.T)


def test_weights_pull_towards_the_heavier_rows():
    train = random_interactions()
    ratings = torch.where(train.items < 20, 20.0, 1.0)
    ratings[0] = float("nan")
    train = Interactions(train.users, train.items, 60, 40, ratings=ratings)
    fits = []
    for use_weights in (False, True):
        model = Ials(IalsConfig(embedding_dim=4, use_weights=use_weights), 60, 40)
        model.fit(train, FitContext())
        fits.append((model.users @ model.items.T)[train.users, train.items])
    heavy = train.items < 20
    assert (fits[1][heavy] > fits[0][heavy]).float().mean() > 0.95
    scores = model.score(torch.tensor([3, -1]), History.of_lists([[0], [0]], 40))
    torch.testing.assert_close(scores[0], model.items @ model.users[3])  # of the fit: keeps its factors
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("ratings, words", [(None, "rating column"), (-1.0, "from 0 up"), (0.0, "from 0 up")])
def test_weights_that_cannot_be_are_refused(ratings: float | None, words: str):
    train = random_interactions() if ratings is None else with_ratings(torch.tensor(ratings))
    with pytest.raises(NotServable, match=words):
        Ials(IalsConfig(use_weights=True), 60, 40).fit(train, FitContext())


def test_stops_when_valid_stops_getting_better_and_keeps_the_best():
    metrics, seen = [0.1, 0.3, 0.2, 0.3, 0.1, 0.9], []

    def validate(model: Ials) -> float:
        seen.append((model.items.clone(), model.users.clone()))
        return metrics[len(seen) - 1]

    train = random_interactions()
    model = Ials(IalsConfig(embedding_dim=4, patience=3), 60, 40)
    model.fit(train, FitContext(validate=validate))
    assert len(seen) == 5 and model.best_epoch == 2, "0.3 again isn't better"
    assert torch.equal(model.items, seen[1][0])
    refit = Ials(IalsConfig(embedding_dim=4, patience=1), 60, 40)
    refit.fit(train, FitContext(validate=validate, epochs=2))
    assert len(seen) == 5 and refit.best_epoch == 2 and torch.equal(refit.items, model.items)


def test_deadline_ends_the_fit():
    epochs: list[int] = []
    context = FitContext(deadline=time.monotonic() - 1, log=lambda epoch, _: epochs.append(epoch))
    Ials(IalsConfig(embedding_dim=4), 60, 40).fit(random_interactions(), context)
    assert epochs == [1]


@pytest.mark.parametrize("wrong", [{"l2": 0}, {"unobserved_weight": 0}, {"solver": "block"}, {"cg_steps": 0}])
def test_config_refuses(wrong: dict):
    with pytest.raises(ValidationError):
        IalsConfig(**wrong)


def hits(scores: Tensor, valid: Tensor) -> tuple[float, float]:
    """HitRate@10 and NDCG@10 of column 0 among the valid others (N, C); ties count against it."""
    rank = ((scores[:, 1:] >= scores[:, :1]) & valid).sum(1)  # (N,), 0 is the best
    hit = (rank < 10).double()
    return float(hit.mean()), float((hit / torch.log2(rank.double() + 2)).mean())


def leave_last_out(rows: Tensor, seed: int) -> tuple[Interactions, Tensor]:
    """Rows (N, 4) of user, item, rating, time, ties in random order: train, and the last item of each user (U,)."""
    rows = rows[torch.from_numpy(generator(seed, "ties").permutation(len(rows)))]
    rows = rows[rows[:, 3].argsort(stable=True)]
    rows = rows[rows[:, 0].argsort(stable=True)]
    last = torch.cat([rows[1:, 0] != rows[:-1, 0], torch.ones(1, dtype=torch.bool)])  # (N,)
    users, items = (rows[:, :2] - 1).unbind(1)
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    return Interactions(users[~last], items[~last], n_users, n_items), items[last]


@pytest.mark.slow
def test_movielens_100k_last_event():
    rows, rates = frame(data_set("ml-100k") / "u.data"), []
    for seed in range(4):  # ties, negatives and the start move one result by 1 %
        train, positive = leave_last_out(rows, seed)
        users = torch.arange(train.n_users)
        known = train.history().dense()  # (U, I)
        known[users, positive] = 1
        draws = torch.rand(known.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(known > 0, -1)
        candidates = torch.cat([positive[:, None], draws.topk(99).indices], 1)  # (U, 100)
        model = Ials(IalsConfig(), train.n_users, train.n_items)
        model.fit(train, FitContext(seed=seed))
        rates.append(hits(model.score(users, train.history(), candidates), candidates[:, 1:] >= 0)[0])
    assert sum(rates) / len(rates) >= 0.645, rates


@pytest.mark.slow
def test_movielens_1m_as_published():
    """Rendle et al., RecSys 2022: HitRate@10 .7286, NDCG@10 .4520 at 192 dimensions, with exact solutions."""
    folder = data_set("ml-1m") / "ncf"
    rows = frame(gzip.decompress((folder / "ml-1m.train-no-timestamp.rating.gz").read_bytes()))
    train = Interactions(rows[:, 0].clone(), rows[:, 1].clone(), 6040, 3706)
    test = frame(folder / "ml-1m.test.rating")
    negatives = frame(folder / "ml-1m.test.negative", columns=range(1, 100))
    candidates = torch.cat([test[:, 1:2], negatives], 1)  # (U, 100)
    model = Ials(IalsConfig(embedding_dim=192), 6040, 3706)
    model.fit(train, FitContext())
    scores = torch.cat([model.score(u, train.history()[u], candidates[u]) for u in test[:, 0].split(2048)])
    hit_rate, ndcg = hits(scores, negatives != test[:, 1:2])
    assert hit_rate >= 0.726 and ndcg >= 0.450


def test_rows_summed_in_pieces_are_rows_summed_whole(monkeypatch):
    """Lengths around the size of a piece, and none at all."""
    lengths = [0, 1, 3, 4, 5, 8, 9, 0]
    random = torch.Generator().manual_seed(0)
    items = [torch.randint(7, (n,), generator=random).tolist() for n in lengths]
    rows = Rows(History.of_lists(items, 7), torch.rand(sum(lengths), generator=random), torch.ones(len(lengths)))
    monkeypatch.setattr(least_squares, "PIECE", 4)
    starts, first = rows.pieces
    assert torch.equal(first.diff(), torch.tensor([1, 1, 1, 1, 2, 2, 3])) and len(starts) == 12
    q, bag = torch.randn(7, 3, generator=random), torch.nn.functional.embedding_bag
    parts = bag(rows.history.items, q, starts, mode="sum", per_sample_weights=rows.weights)
    torch.testing.assert_close(bag(torch.arange(12), parts, first, mode="sum"), rows.sums(rows.weights, q))


def test_rows_with_a_prior_solve_the_penalised_problem():
    random = torch.Generator().manual_seed(3)
    history = History.of_lists([[0, 2, 3], [], [1], [0, 1, 2, 3, 4]], 5)
    q, prior = (torch.randn(n, 3, generator=random) for n in (5, 4))
    q = q @ eigenbasis(q)
    weights, l2 = torch.rand(9, generator=random) + 0.5, torch.rand(4, generator=random) + 0.5
    rows = Rows(history, weights, l2, prior)
    exact, _ = solve_exactly(rows, q, 0.3)
    for user, x in enumerate(exact):
        at = history.rows == user
        own, w = q[history.items[at]], weights[at]
        a = own.T @ (w[:, None] * own) + 0.3 * q.T @ q + l2[user] * torch.eye(3)
        torch.testing.assert_close(x, torch.linalg.solve(a, own.T @ w + l2[user] * prior[user]), rtol=1e-4, atol=1e-5)
    found, _ = solve_by_gradients(rows, torch.zeros(4, 3), q, 0.3, steps=50)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    assert rows.size(prior) == 0


def tastes_with_a_rare_item() -> tuple[Interactions, ItemAttributes]:
    """Even users like even items; item 20 (even) has one event, of a user who likes odd ones; item 21 has none."""
    pairs = [(user, item) for user in range(40) for item in range(user % 2, 20, 2) if (3 * user + item) % 7]
    pairs = torch.tensor([*pairs, (1, 20)])
    train = Interactions(pairs[:, 0], pairs[:, 1], 40, 22)
    return train, ItemAttributes(History.of_lists([[item % 2] for item in range(22)], 2))


@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_attributes_draw_a_rare_item_to_its_kind(solver):
    train, attributes = tastes_with_a_rare_item()
    liking = {}
    for prior in (False, True):
        model = Ials(IalsConfig(embedding_dim=4, epochs=8, l2=0.2, attribute_prior=prior, solver=solver), 40, 22)
        model.fit(train, FitContext(attributes=attributes))
        scores = model.score(torch.arange(40), train.history())[:, 20]  # (U,)
        liking[prior] = float(scores[::2].mean() - scores[1::2].mean())
        assert (model.items[21] == 0).all(), "an item without events is placed after the fit"
    assert liking[False] < 0 < liking[True]


def test_a_prior_without_attributes_is_a_reason():
    train, _ = tastes_with_a_rare_item()
    with pytest.raises(NotServable, match=r"attributes\.items"):
        Ials(IalsConfig(attribute_prior=True), 40, 22).fit(train, FitContext())
    assert "attribute_prior" not in IalsConfig().model_dump()


def test_items_placed_by_attributes_do_not_change_how_users_are_solved():
    train, attributes = tastes_with_a_rare_item()
    model = Ials(IalsConfig(embedding_dim=4, epochs=4), 40, 22)
    context = FitContext(attributes=attributes)
    model.fit(train, context)
    users, history = torch.full((40,), -1), train.history()
    before = model.score(users, history)
    assert place_new_items(model, train, context) == 1
    after = model.score(users, history)
    assert torch.equal(before[:, :21], after[:, :21])
    assert (after[::2, 21] < after[1::2, 21]).all(), "21 is odd"
    parts = model.contributions(1, history[torch.tensor([1])], 21)
    assert parts is not None
    torch.testing.assert_close(parts.sum(), after[1, 21], rtol=1e-3, atol=1e-4)
