import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.base import FitContext, ModelConfig, Recommender, pick
from pipeline.models.popularity import Popularity, PopularityConfig
from pipeline.ranking import ranks as ranking
from pipeline.ranking.pruned_topk import DotProducts
from pipeline.ranking.ranks import LeakError, ScoreError
from pipeline.training.interactions import History, Interactions
from tests.support import models


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and on a busy machine wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Fixed(models.Fixed):
    needs_ratings = True  # so it has learnt of every user, with history or without


class FixedReader(Fixed):
    reads_history = True


def empty(n: int, n_items: int) -> History:
    return History.of_lists([[]] * n, n_items)


def table(n: int, n_items: int, levels: int, seed: int) -> Tensor:
    """Integer-valued scores: with few levels, nearly all are tied."""
    return torch.randint(levels, (n, n_items), generator=torch.Generator().manual_seed(seed)).float()


def some_lists(rng: np.random.Generator, n: int, n_items: int, most: int) -> list[list[int]]:
    return [rng.permutation(n_items)[: rng.integers(0, most + 1)].tolist() for _ in range(n)]


def brute_force(scores: list[float], masked: set[int], k: int) -> list[int]:
    return sorted((i for i in range(len(scores)) if i not in masked), key=lambda i: (-scores[i], i))[:k]


def lists_of(result: ranking.Lists) -> list[list[int]]:
    return [[i for i in row if i >= 0] for row in result.items.tolist()]


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize(("n_items", "k"), [(1, 1), (1, 5), (7, 3), (7, 7), (7, 20), (300, 10), (2000, 10)])
@pytest.mark.parametrize("tile", [1, 5, None])
def test_lists_equal_a_full_sort_by_score_then_item(n_items, k, levels, tile):
    n = 12
    rng = np.random.default_rng(n_items + k + levels)
    known = some_lists(rng, n, n_items, n_items)
    scores = table(n, n_items, levels, seed=k)
    mask = History.of_lists(known, n_items)
    result = ranking.top_k(Fixed(scores), torch.arange(n), mask, mask, k, tile=tile)
    expected = [brute_force(scores[u].tolist(), set(known[u]), k) for u in range(n)]
    assert lists_of(result) == expected
    for u, row in enumerate(expected):
        assert result.scores[u].tolist() == scores[u, row].tolist() + [-np.inf] * (k - len(row))
        assert result.items[u, len(row) :].tolist() == [-1] * (k - len(row))


def test_rows_follow_the_users_asked_for():
    scores = table(5, 50, 1000, seed=1)
    users = torch.tensor([3, 0, 3])
    result = ranking.top_k(Fixed(scores), users, empty(3, 50), None, 4)
    assert lists_of(result) == [brute_force(scores[u].tolist(), set(), 4) for u in users.tolist()]


def test_everything_seen_gives_an_empty_list():
    mask = History.of_lists([[2, 0, 1], [1]], 3)
    result = ranking.top_k(Fixed(table(2, 3, 9, seed=0)), torch.arange(2), mask, mask, 2)
    assert result.items[0].tolist() == [-1, -1] and len(lists_of(result)[1]) == 2


def test_allowed_limits_the_items_and_a_model_can_refuse_none():
    scores = torch.tensor([[5.0, -torch.inf, 3.0, 4.0]])
    allowed = torch.tensor([False, True, True, True])
    result = ranking.top_k(Fixed(scores), torch.tensor([0]), empty(1, 4), None, 4, allowed=allowed)
    assert result.items.tolist() == [[3, 2, 1, -1]]  # -inf is the lowest score, not a mask


def test_scores_of_the_model_are_not_written_to():
    model = Popularity(PopularityConfig(), 2, 4)
    model.fit(Interactions(torch.tensor([0, 1, 1]), torch.tensor([2, 2, 3]), 2, 4), FitContext())
    before = model.counts.clone()
    mask = History.of_lists([[2], []], 4)
    result = ranking.top_k(model, torch.tensor([0, -1]), mask, mask, 3)
    assert result.items.tolist() == [[3, 0, 1], [2, 3, 0]]  # user -1 and no history, yet no fallback
    assert not result.from_fallback.any() and torch.equal(model.counts, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("n_items", [5, 2000])
def test_scores_that_are_no_numbers_raise(bad, masked, n_items):
    scores = table(3, n_items, 9, seed=0)
    scores[1, 4] = bad
    mask = History.of_lists([[], [4] if masked else [], []], n_items)
    users = torch.tensor([0, 1, 2])
    with pytest.raises(ScoreError, match="user 1"):
        ranking.top_k(Fixed(scores), users, mask, mask, 3)
    with pytest.raises(ScoreError, match="user 1"):
        ranking.holdout_ranks(Fixed(scores), users, mask, mask, History.of_lists([[0], [0], [1]], n_items), 3)
    with pytest.raises(ScoreError, match="user 1"):
        ranking.candidate_ranks(Fixed(scores), users, mask, torch.zeros(3, dtype=torch.long), torch.full((3, 1), 4))


def test_fallback_serves_whom_the_model_cannot():
    scores, popular = torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([9.0, 7.0, 8.0])
    history = History.of_lists([[0], [], [1]], 3)
    users = torch.tensor([0, 1, -1])
    result = ranking.top_k(Fixed(scores), users, history, history, 2, fallback=popular)
    assert result.items.tolist() == [[2, 1], [2, 1], [0, 2]]
    assert result.from_fallback.tolist() == [False, False, True]
    reader = FixedReader(scores)
    result = ranking.top_k(reader, torch.tensor([0, 1, 1]), history, history, 2, fallback=popular)
    assert result.items.tolist() == [[2, 1], [0, 2], [2, 0]]
    assert result.from_fallback.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="1 of 3 users"):
        ranking.top_k(reader, torch.tensor([0, 1, 1]), history, history, 2)


def test_no_users_and_misfitting_rows():
    model = Fixed(table(2, 3, 9, seed=0))
    assert ranking.top_k(model, torch.arange(0), empty(0, 3), None, 2).items.shape == (0, 2)
    with pytest.raises(ValueError, match="mask has 3 rows for 2 users"):
        ranking.top_k(model, torch.arange(2), empty(2, 3), empty(3, 3), 2)


# ── ranks of holdout events ──


def reference_ranks(scores: list[float], masked: set[int], held: list[int], k_max: int) -> list[int]:
    """Pessimistic ranks, slowly."""
    ranks = []
    others_scores = [scores[i] for i in sorted(set(range(len(scores))) - masked - set(held))]
    for event in held:
        others = sum(score >= scores[event] for score in others_scores)
        place = 1 + sum((-scores[i], i) < (-scores[event], event) for i in held)
        ranks.append(others + place if others + place <= k_max else 0)
    return ranks


@pytest.mark.parametrize("seed", range(40))
def test_ranks_equal_a_slow_reference(seed):
    rng = np.random.default_rng(seed)
    n, n_items, k_max = int(rng.integers(1, 8)), int(rng.integers(1, 400)), int(rng.integers(1, 25))
    scores = table(n, n_items, int(rng.choice([1, 2, 4, 30, 10_000])), seed)
    drawn = [rng.permutation(n_items).tolist() for _ in range(n)]
    cuts = [sorted(rng.integers(0, n_items + 1, 2).tolist()) for _ in range(n)]
    masked = [d[:a] for d, (a, _) in zip(drawn, cuts, strict=True)]
    held = [d[a:b] for d, (a, b) in zip(drawn, cuts, strict=True)]
    mask, holdout = History.of_lists(masked, n_items), History.of_lists(held, n_items)
    model, users = Fixed(scores), torch.arange(n)
    result = ranking.holdout_ranks(model, users, mask, mask, holdout, k_max)
    expected = [reference_ranks(scores[u].tolist(), set(masked[u]), held[u], k_max) for u in range(n)]
    assert result.ranks.tolist() == [rank for row in expected for rank in row]
    assert result.n_holdout.tolist() == list(map(len, held))
    assert result.warm.tolist() == [bool(row) for row in masked]
    plain = ranking.top_k(model, users, mask, mask, k_max)
    assert torch.equal(result.lists.items, plain.items) and torch.equal(result.lists.scores, plain.scores)
    in_ones = ranking.holdout_ranks(model, users, mask, mask, holdout, k_max, tile=1)
    assert torch.equal(in_ones.ranks, result.ranks)


def test_ranks_by_hand():
    scores = torch.tensor([[9.0, 8.0, 8.0, 8.0, 7.0, 6.0]])
    holdout = History.of_lists([[2, 5, 1]], 6)
    # item 0 is masked; 3 ties with 1 and 2 and counts before both
    result = ranking.holdout_ranks(
        Fixed(scores), torch.tensor([0]), empty(1, 6), History.of_lists([[0]], 6), holdout, 4
    )
    assert result.ranks.tolist() == [3, 0, 2]
    assert result.lists.items.tolist() == [[1, 2, 3, 4]]


def test_a_constant_scorer_hits_nothing():
    n, n_items = 50, 200
    holdout = History.of_lists([[u, u + 1, u + 2] for u in range(n)], n_items)
    result = ranking.holdout_ranks(
        Fixed(torch.zeros(n, n_items)), torch.arange(n), empty(n, n_items), None, holdout, 20
    )
    assert result.ranks.sum() == 0


def test_a_holdout_item_that_is_masked_raises():
    mask = History.of_lists([[0], [2, 3]], 5)
    holdout = History.of_lists([[1], [4, 3]], 5)
    with pytest.raises(LeakError, match=r"1 holdout events .* user 7, item 3"):
        ranking.holdout_ranks(Fixed(torch.zeros(9, 5)), torch.tensor([6, 7]), mask, mask, holdout, 3)


def test_users_whom_nobody_serves_rank_nothing():
    holdout = History.of_lists([[0], [0]], 3)
    model, users = Fixed(torch.tensor([[3.0, 2.0, 1.0]])), torch.tensor([0, -1])
    history = History.of_lists([[1], []], 3)
    result = ranking.holdout_ranks(model, users, history, history, holdout, 2)
    assert result.ranks.tolist() == [1, 0] and result.warm.tolist() == [True, False]
    result = ranking.holdout_ranks(model, users, history, history, holdout, 2, fallback=torch.tensor([4.0, 5.0, 1.0]))
    assert result.ranks.tolist() == [1, 2] and result.lists.from_fallback.tolist() == [False, True]


def test_ranks_among_candidates():
    scores = torch.tensor([[5.0, 4.0, 4.0, 3.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    holdout = torch.tensor([1, 0])
    candidates = torch.tensor([[0, 2, 3, -1], [0, 1, 2, -1]])  # 2 ties with the holdout; 0 is the holdout itself
    result = ranking.candidate_ranks(Fixed(scores), torch.tensor([0, 1]), empty(2, 5), holdout, candidates, tile=1)
    assert result.ranks.tolist() == [3, 3]
    unknown = torch.tensor([0, -1])
    result = ranking.candidate_ranks(Fixed(scores), unknown, empty(2, 5), holdout, candidates)
    assert result.ranks.tolist() == [3, 3]
    popular = torch.tensor([9.0, 8.0, 10.0, 0.0, 0.0])
    result = ranking.candidate_ranks(Fixed(scores), unknown, empty(2, 5), holdout, candidates, fallback=popular)
    assert result.ranks.tolist() == [3, 2]


# ── dot products: the pruned way must give what scoring everything gives ──


class Dots(Recommender):
    """Factors given; `plain` hides them, so that everything is scored."""

    Config = ModelConfig
    needs_ratings = True  # so it has learnt of every user, with history or without

    def __init__(self, users: Tensor, items: Tensor, bias: Tensor | None = None, plain: bool = False):
        super().__init__(ModelConfig(), len(users), len(items))
        self.users, self.items, self.bias, self.plain = users, items, bias, plain
        self.scored = 0

    def fit(self, train, context):
        raise NotImplementedError

    def score(self, users, history, items=None):
        self.scored += len(users)
        scores = self.users[users] @ self.items.T
        return pick(scores if self.bias is None else scores + self.bias, items)

    def factors(self):
        return None if self.plain else (self.users, self.items, self.bias)


def some_factors(seed: int, n: int, n_items: int, whole: bool, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    users, items = torch.randn(n, 8, generator=draw), torch.randn(n_items, 8, generator=draw)
    items *= torch.rand(n_items, 1, generator=draw) ** spread
    bias = torch.randn(n_items, generator=draw)
    return (users.round(), (2 * items).round(), bias.round()) if whole else (users, items, bias)


@pytest.mark.parametrize("whole", [True, False])  # whole numbers: exact sums and many ties
@pytest.mark.parametrize("spread", [0, 1, 6])  # from nothing to prune to nearly all
@pytest.mark.parametrize("with_bias", [True, False])
def test_pruned_lists_and_ranks_equal_plain_ones(whole, spread, with_bias):
    n, n_items, k = 40, 4000, 10
    users, items, bias = some_factors(spread, n, n_items, whole, spread)
    rng = np.random.default_rng(spread)
    best = (users @ items.T).argsort(1, descending=True)[:, :3000].tolist()  # mask what would be listed
    drawn = [rng.permutation(best[u])[: rng.integers(0, 2500)].tolist() if u % 3 else best[u] for u in range(n)]
    mask = History.of_lists([d[len(d) // 9 :] for d in drawn], n_items)
    holdout = History.of_lists([d[: len(d) // 9] for d in drawn], n_items)
    allowed = torch.from_numpy(rng.random(n_items) < 0.9)
    bias = bias if with_bias else None
    fast, plain, who = Dots(users, items, bias), Dots(users, items, bias, plain=True), torch.arange(n)
    for tile in (None, 7):
        for choice in (None, allowed):
            a = ranking.top_k(fast, who, mask, mask, k, allowed=choice, tile=tile)
            b = ranking.top_k(plain, who, mask, mask, k, allowed=choice, tile=tile)
            assert torch.equal(a.items, b.items)
            torch.testing.assert_close(a.scores, b.scores)
    if not whole:
        assert fast.scored == 0  # no tie, nothing scored in full
    a = ranking.holdout_ranks(fast, who, mask, mask, holdout, 20)
    b = ranking.holdout_ranks(plain, who, mask, mask, holdout, 20)
    assert torch.equal(a.ranks, b.ranks) and torch.equal(a.lists.items, b.lists.items)
    assert (b.ranks > 0).any()


class Same(Fixed):
    """The same scores for all users, as popularity has them."""

    personal = False
    serves_everyone = True


@pytest.mark.parametrize("levels", [3, 400, 10**6])  # ties everywhere, some, hardly any
def test_one_order_for_all_users_gives_the_lists_of_all_scores(levels: int):
    n, n_items, k = 30, 2500, 10
    rng = np.random.default_rng(levels)
    row = torch.randint(levels, (n_items,), generator=torch.Generator().manual_seed(1)).float() - levels // 2
    best = row.argsort(descending=True).tolist()
    drawn = [rng.permutation(best[: 40 * u + 1])[: rng.integers(0, 1100)].tolist() for u in range(n)]
    drawn[3], drawn[4] = best[:1200], best[: n_items - 4]  # nothing is left of the best ones
    mask = History.of_lists([d[len(d) // 9 :] for d in drawn], n_items)
    holdout = History.of_lists([d[: len(d) // 9] for d in drawn], n_items)
    same, plain, who = Same(row.expand(n, -1)), Fixed(row.expand(n, -1)), torch.arange(n)
    for choice in (None, torch.from_numpy(rng.random(n_items) < 0.9), torch.arange(n_items) < 7):
        a, b = (ranking.holdout_ranks(model, who, mask, mask, holdout, k, allowed=choice) for model in (same, plain))
        assert torch.equal(a.ranks, b.ranks) and torch.equal(a.lists.items, b.lists.items)
        assert torch.equal(a.lists.scores, b.lists.scores)
        if levels == 10**6 and choice is None:
            assert same.asked < n / 2  # one for the order, and users who know most of the best
    with pytest.raises(ScoreError, match="30 users"):
        bad = row.clone().index_fill_(0, torch.tensor([5]), torch.nan)
        ranking.top_k(Same(bad.expand(n, -1)), who, mask, mask, k)


def test_pruning_survives_what_has_no_size():
    n_items = 3000
    users, items, _ = some_factors(1, 3, n_items, False, 1)
    users[0] = 0  # all scores tie
    model = Dots(users, items)
    result = ranking.top_k(model, torch.arange(3), empty(3, n_items), None, 5)
    assert result.items[0].tolist() == [0, 1, 2, 3, 4] and model.scored == 1
    everything = History.of_lists([list(range(n_items)), [1], list(range(2998))], n_items)
    result = ranking.top_k(model, torch.arange(3), everything, everything, 5)
    assert (result.items >= 0).sum(1).tolist() == [0, 5, 2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_factors_that_are_no_numbers_raise(bad):
    users, items, _ = some_factors(2, 4, 3000, False, 1)
    users[2, 3] = bad
    with pytest.raises(ScoreError, match=r"1 users .* user 2"):
        ranking.top_k(Dots(users, items), torch.arange(4), empty(4, 3000), None, 5)
    users[2, 3] = 1
    items[2999, 3] = torch.nan
    with pytest.raises(ScoreError, match="4 users"):
        ranking.top_k(Dots(users, items), torch.arange(4), empty(4, 3000), None, 5)


def test_history_readers_are_asked_for_their_factors_or_scored():
    users, items, _ = some_factors(3, 4, 3000, False, 1)

    class Reader(Dots):
        reads_history = True

    class Folding(Reader):
        def user_factors(self, users, history):
            return self.users[users] * history.lengths.unsqueeze(1)

    history = History.of_lists([[0], [1, 2], [], [3]], 3000)
    reader, folding = Reader(users, items), Folding(users, items)
    popular = torch.arange(3000.0)
    a = ranking.top_k(reader, torch.arange(4), history, history, 5, fallback=popular)
    b = ranking.top_k(folding, torch.arange(4), history, history, 5, fallback=popular)
    assert (reader.scored, folding.scored) == (3, 0) and torch.equal(a.items, b.items)
    torch.testing.assert_close(b.scores[1], 2 * a.scores[1])


def test_a_user_of_whom_nothing_was_learnt_gets_the_fallback():
    """An index is no proof: a user without a positive row has one too, and a vector that is still noise."""
    model = Fixed(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    model.needs_ratings = False
    history = History.of_lists([[0], []], 3)
    lists = ranking.top_k(model, torch.arange(2), history, None, 1, fallback=torch.tensor([0.0, 0.0, 5.0]))
    assert lists.items.tolist() == [[0], [2]] and lists.from_fallback.tolist() == [False, True]


def test_memory_that_is_out_halves_the_tiles_and_is_told_once_a_halving(monkeypatch, capsys):
    """The lists are the same; a single user's scores that don't fit are the end."""
    scores = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))
    history = History.of_lists([[0]] * 10, 30)
    model, sizes = Fixed(scores), []
    expected = ranking.top_k(model, torch.arange(10), history, history, 5)

    def limited(most: int):
        def score(users, history, items=None):
            sizes.append(len(users))
            if len(users) > most:
                raise torch.OutOfMemoryError("out of memory")
            return scores[users]

        return score

    monkeypatch.setattr(model, "score", limited(3))
    got = ranking.top_k(model, torch.arange(10), history, history, 5)
    assert torch.equal(got.items, expected.items) and torch.equal(got.scores, expected.scores)
    assert sizes == [10, 5, 3, 3, 3, 1] and capsys.readouterr().err.count("warning: ") == 2
    monkeypatch.setattr(model, "score", limited(0))
    with pytest.raises(torch.OutOfMemoryError):
        ranking.top_k(model, torch.arange(10), history, history, 5)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_rules", [False, True])
def test_all_dot_products_give_the_lists_that_pruned_ones_give(with_bias: bool, with_rules: bool):
    random = torch.Generator().manual_seed(0)
    users, items = torch.randn(30, 8, generator=random), torch.randn(3000, 8, generator=random)
    bias = torch.randn(3000, generator=random) if with_bias else None
    allowed = torch.rand(3000, generator=random) < 0.9 if with_rules else None
    mask = History.of_lists(torch.randint(3000, (30, 40), generator=random).tolist(), 3000)
    all_of_them, pruned = (DotProducts(items, bias, users, allowed, pruned=way) for way in (False, True))
    (values, places, tied), expected = all_of_them.top(users, mask, 10), pruned.top(users, mask, 10)
    torch.testing.assert_close(values, expected[0])
    assert torch.equal(places, expected[1]) and not tied.any()
