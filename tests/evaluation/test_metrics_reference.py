"""Every ranking metric against an independent library, trec_eval's by ir-measures, on lists of our own making."""

import ir_measures
import pytest
import torch
from ir_measures import AP, RR, P, R, Success, nDCG

from pipeline.evaluation import ranking_metrics
from pipeline.ranking.ranks import holdout_ranks
from pipeline.training.interactions import History

N_ITEMS, N_USERS, CUTOFFS = 30, 80, (1, 5, 20)
THEIRS = {"ndcg": nDCG, "precision": P, "recall": R, "mrr": RR, "hit_rate": Success, "map": AP}


class Table(torch.nn.Module):
    """Scores from a table, with many ties."""

    reads_history = True
    serves_everyone = True
    needs_ratings = False
    personal = True
    scores_in_bulk = False

    def __init__(self, scores: torch.Tensor):
        super().__init__()
        self.scores = scores
        self.n_items = scores.shape[1]

    def score(self, users, history, items=None):
        found = self.scores[users]
        return found if items is None else found.gather(1, items)

    def user_factors(self, users, history):
        return None

    def factors(self):
        return None


def lists_and_holdout(seed: int):
    """Random ties, masks that leave short lists, users with much, little and no holdout."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (N_USERS, N_ITEMS), generator=rng).float()
    mask, holdout = [], []
    for _ in range(N_USERS):
        order = torch.randperm(N_ITEMS, generator=rng).tolist()
        masked = int(torch.randint(0, 25, (1,), generator=rng))
        held = int(torch.randint(0, min(6, N_ITEMS - masked) + 1, (1,), generator=rng))
        mask.append(sorted(order[:masked]))
        holdout.append(order[masked : masked + held])
    return scores, History.of_lists(mask, N_ITEMS), History.of_lists(holdout, N_ITEMS), holdout


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_is_that_of_the_library(seed):
    scores, mask, held, holdout = lists_and_holdout(seed)
    users = torch.arange(N_USERS)
    ranks = holdout_ranks(Table(scores), users, mask, mask, held, max(CUTOFFS))  # type: ignore[arg-type]
    ours = ranking_metrics.per_user(ranks, CUTOFFS)
    hidden = mask.dense() > 0
    run = {
        f"u{user}": {
            f"i{item}": score - 0.001 * (item in holdout[user])  # ties count against the model
            for item, score in enumerate(scores[user].tolist())
            if not hidden[user, item]
        }
        for user in range(N_USERS)
    }
    qrels = {f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(holdout) if items}
    measures = {theirs @ k: (name, k) for name, theirs in THEIRS.items() for k in CUTOFFS}
    compared = 0
    for result in ir_measures.iter_calc(list(measures), qrels, run):
        name, k = measures[result.measure]
        user = int(result.query_id[1:])
        value = ours[name, k][user].item()
        if name == "map":  # trec_eval divides by all relevant items, we by the most a list of k can have
            value *= min(k, len(holdout[user])) / len(holdout[user])
        assert value == pytest.approx(result.value, abs=1e-9), (name, k, user)
        compared += 1
    assert compared == len(measures) * len(qrels)
    assert {name for name, _ in ours} == set(THEIRS), "a metric without a counterpart: compare it by hand"
