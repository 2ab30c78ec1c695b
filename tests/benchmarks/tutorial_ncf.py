"""The usual NCF tutorial's procedure next to ours and popularity, on whole MovieLens files: hit_rate@10 among 99 negatives.

    NIGHTRECS_DATA=... python -m tests.benchmarks.tutorial_ncf [--datasets ml-latest-small ml-100k --seeds 1 2 3]

The procedure: of each user the latest row is held out, all others are positive; a Dataset draws 4 negatives a
positive in Python, a DataLoader stacks pairs one by one in file order, torch's default start, sigmoid and BCE, Adam,
batch 512, 5 epochs; users are evaluated one at a time. Ours gets the same rows and candidates; with its defaults, the
number of epochs comes from the row before the held-out one, as in a night.
"""

import argparse
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import polars as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.core.bootstrap import paired_difference
from pipeline.models import Recommender
from pipeline.models.ncf import Ncf, NcfConfig
from pipeline.models.popularity import Popularity, PopularityConfig
from pipeline.ranking.ranks import candidate_ranks
from pipeline.training.context import FitContext
from pipeline.training.interactions import Interactions

FILES = {"ml-latest-small": ("ratings.csv", ",", True), "ml-100k": ("u.data", "\t", False)}
N_NEGATIVES = 4
Pair = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """Pairs of train, in file order, and each user's held-out item; all by dense index."""

    train: list[Pair]
    holdout: dict[int, int]
    before: dict[int, int]  # the row of train before the held-out one
    n_users: int
    n_items: int

    def items_of(self) -> dict[int, set[int]]:
        """Every item of a user, the held-out one too."""
        items = defaultdict(set)
        for user, item in [*self.train, *self.holdout.items()]:
            items[user].add(item)
        return items

    def inner(self) -> "Task":
        """The same task one row earlier, within train."""
        train = [(user, item) for user, item in self.train if self.before[user] != item]
        return Task(train, self.before, {}, self.n_users, self.n_items)

    def interactions(self) -> Interactions:
        """Train, as a fit of ours takes it."""
        table = torch.tensor(sorted(self.train))  # (N, 2)
        return Interactions(table[:, 0].contiguous(), table[:, 1].contiguous(), self.n_users, self.n_items)


def read_task(name: str) -> Task:
    """The whole file, leave-latest-out; of equal times the first row in the file is the latest."""
    file, separator, header = FILES[name]
    data = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / name
    rows = pl.read_csv(data / file, separator=separator, has_header=header)
    rows = rows.rename(dict(zip(rows.columns, ("user", "item", "rating", "time"), strict=True)))
    rows = rows.with_columns(pl.col("user", "item").rank("dense").cast(pl.Int64) - 1)
    rows = rows.with_columns(place=pl.col("time").rank("ordinal", descending=True).over("user"))
    train = list(rows.filter(pl.col("place") > 1).select("user", "item").iter_rows())
    holdout, before = (dict(rows.filter(place=place).select("user", "item").iter_rows()) for place in (1, 2))
    return Task(train, holdout, before, rows["user"].n_unique(), rows["item"].n_unique())


class Pairs(Dataset):
    """Positives, each followed by its negatives, drawn by rejection when the set is made: again for every epoch."""

    def __init__(self, task: Task, rng: random.Random):
        known = set(task.train)
        users, items, labels = [], [], []
        for user, item in task.train:
            users.append(user)
            items.append(item)
            labels.append(1.0)
            for _ in range(N_NEGATIVES):
                negative = rng.randrange(task.n_items)
                while (user, negative) in known:
                    negative = rng.randrange(task.n_items)
                users.append(user)
                items.append(negative)
                labels.append(0.0)
        self.users, self.items, self.labels = torch.tensor(users), torch.tensor(items), torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.users[row], self.items[row], self.labels[row]


class TutorialNcf(nn.Module):
    """Embeddings of 8, MLP 16 -> 64 -> 32 -> 1, sigmoid."""

    def __init__(self, n_users: int, n_items: int):
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, 8), nn.Embedding(n_items, 8)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Probabilities, (B,), (B,) -> (B,)."""
        return torch.sigmoid(self.mlp(torch.cat([self.user(users), self.item(items)], 1))).squeeze(1)


def run_epoch(model: TutorialNcf, optimizer: torch.optim.Optimizer, task: Task, rng: random.Random, batch: int) -> None:
    """Negatives, then one pass."""
    for users, items, labels in DataLoader(Pairs(task, rng), batch_size=batch):
        loss = nn.functional.binary_cross_entropy(model(users, items), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit_tutorial(task: Task, seed: int, epochs: int = 5) -> TutorialNcf:
    """As written."""
    torch.manual_seed(seed)
    model, rng = TutorialNcf(task.n_users, task.n_items), random.Random(seed)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        run_epoch(model, optimizer, task, rng, batch=512)
    return model


def draw_candidates(task: Task, seed: int) -> dict[int, list[int]]:
    """99 items a user without any row of theirs."""
    rng, items_of = random.Random(seed), task.items_of()
    return {user: rng.sample(sorted(set(range(task.n_items)) - items_of[user]), 99) for user in sorted(task.holdout)}


@torch.no_grad()
def evaluate_tutorial(model: TutorialNcf, task: Task, candidates: dict[int, list[int]]) -> list[float]:
    """1 where the held-out item is among the 10 best of 100, a user after the other."""
    hits = []
    for user, negatives in candidates.items():
        items = [*negatives, task.holdout[user]]
        scores = model(torch.tensor([user] * len(items)), torch.tensor(items)).numpy()
        best = [items[place] for place in (-scores).argsort(kind="stable")[:10]]
        hits.append(float(task.holdout[user] in best))
    return hits


def evaluate_ours(model: Recommender, train: Interactions, task: Task, candidates: dict[int, list[int]]) -> list[float]:
    """The same question to a model of ours; ties count against it."""
    users = torch.tensor(list(candidates))
    holdout = torch.tensor([task.holdout[user] for user in candidates])
    negatives = torch.tensor(list(candidates.values()))  # (U, 99)
    ranks = candidate_ranks(model, users, train.history()[users], holdout, negatives).ranks
    return (ranks <= 10).float().tolist()


TUTORIAL = NcfConfig(
    variant="mlp", embedding_dim=8, layers=(64, 32), n_negatives=4, batch_size=512, learning_rate=0.001, epochs=5
)
OURS = {
    "ours, torch's start": TUTORIAL.model_copy(update={"init_std": 1.0}),
    "ours, same settings": TUTORIAL,
    "ours, defaults": NcfConfig(),
}


def best_epoch(task: Task, config: NcfConfig, seed: int) -> int:
    """Chosen on each user's row before the held-out one, as in a night."""
    inner = task.inner()
    train, candidates = inner.interactions(), draw_candidates(inner, seed)
    model = Ncf(config, task.n_users, task.n_items)
    model.fit(train, FitContext(seed=seed, validate=lambda model: mean(evaluate_ours(model, train, inner, candidates))))
    return model.best_epoch or config.epochs


def hits_of_seed(task: Task, seed: int, tutorial: bool) -> dict[str, list[float]]:
    """Hits a user of every contender, on one draw of candidates."""
    train, candidates = task.interactions(), draw_candidates(task, seed)
    popular = Popularity(PopularityConfig(), task.n_users, task.n_items)
    popular.fit(train, FitContext())
    hits = {"popularity": evaluate_ours(popular, train, task, candidates)}
    if tutorial:
        hits["tutorial, as written"] = evaluate_tutorial(fit_tutorial(task, seed), task, candidates)
    for name, config in OURS.items():
        model = Ncf(config, task.n_users, task.n_items)
        epochs = best_epoch(task, config, seed) if name == "ours, defaults" else config.epochs
        model.fit(train, FitContext(seed=seed, epochs=epochs))
        hits[name] = evaluate_ours(model, train, task, candidates)
    return hits


def report(name: str, found: dict[int, dict[str, list[float]]]) -> None:
    """Means over the seeds; the difference to popularity is that of each user's mean over them."""
    print(f"{name}: {len(next(iter(found.values()))['popularity'])} users, hit_rate@10 among 99 sampled negatives")
    for contender in next(iter(found.values())):
        hits = torch.tensor([of[contender] for of in found.values() if contender in of])  # (S, U)
        popular = torch.tensor([of["popularity"] for of in found.values() if contender in of])  # (S, U)
        error = (hits[0].std() / hits.shape[1] ** 0.5).item()  # of one seed
        rates = " ".join(f"{rate:.3f}" for rate in hits.mean(1))
        line = f"  {contender:20} {hits.mean():.3f}  (seeds: {rates}; standard error of one {error:.3f})"
        if contender != "popularity":
            change = paired_difference(hits.mean(0), popular.mean(0))
            line += f"  popularity {change.value:+.3f} [{change.ci_low:+.3f}, {change.ci_high:+.3f}]"
            line += f", p = {change.p_value:.3f}"
        print(line, flush=True)


def main() -> None:
    """Print a block a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=sorted(FILES), default=sorted(FILES, reverse=True))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--tutorial-seeds", type=int, default=1, help="how many of the seeds the tutorial gets; 0: none"
    )
    parser.add_argument("--threads", type=int, default=1, help="steps this small gain nothing from more")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.datasets:
        task = read_task(name)
        tutorial = args.seeds[: args.tutorial_seeds]
        report(name, {seed: hits_of_seed(task, seed, seed in tutorial) for seed in args.seeds})


if __name__ == "__main__":
    main()
