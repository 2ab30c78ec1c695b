"""What the default recipe computes on 20 million rows, by parts, next to bare kernels and other ways: ratios of CPU time.

    python -m tests.benchmarks.bench_hot_paths [gram scores slim history evaluate ials profile draws mf]
        [--users 20000 --items 8000 --rows 3000000 --rounds 3 --threads 1 --check]

Each part runs its ways in turn, `rounds` times in one process, and prints the best CPU time of each and its ratio to
the first one. CPU time says something on a busy machine too; what shares its caches still moves it by a tenth or two. `--check` runs only the ways that have a limit, next to the first one, and
exits with 1 if a ratio is above its limit: `make bench-smoke`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from pipeline.config import loader
from pipeline.evaluation import eval_task, evaluator
from pipeline.models.ials import FOLD_IN_STEPS, FOLD_IN_TOLERANCE, Ials, IalsConfig
from pipeline.models.ials_sides import rows_of
from pipeline.models.mf import LARGE, MatrixFactorization, MatrixFactorizationConfig
from pipeline.models.ops.history_products import gram_by_tiles, gram_of, times
from pipeline.models.ops.least_squares import solve_by_gradients
from pipeline.models.popularity import Popularity, PopularityConfig
from pipeline.models.slim import Slim, SlimConfig
from pipeline.reporting import data_profile
from pipeline.schemas import tables
from pipeline.training.context import FitContext
from pipeline.training.interactions import History, Interactions
from pipeline.training.negative_sampling import NegativeSampler, PairFilter
from pipeline.training.normalizer import Normalizer

Ways = dict[str, Callable[[], object]]


@dataclass
class Data:
    """Drawn interactions: lognormal activity, popularity as 1 / (rank + 20) ** 0.9, no taste."""

    n_users: int
    n_items: int
    n_rows: int

    @cached_property
    def train(self) -> Interactions:
        """By user, each user's items in no order."""
        random = torch.Generator().manual_seed(0)
        activity = torch.randn(self.n_users, generator=random).mul(1.1).exp()
        popularity = (torch.arange(self.n_items) + 20.0) ** -0.9
        n = int(1.3 * self.n_rows)
        users = torch.multinomial(activity, n, replacement=True, generator=random)
        items = torch.multinomial(popularity, n, replacement=True, generator=random)
        keys = torch.unique(users * self.n_items + items)
        keys = keys[torch.randperm(len(keys), generator=random)[: self.n_rows]]
        keys = keys[torch.argsort(keys // self.n_items, stable=True)]
        return Interactions(keys // self.n_items, keys % self.n_items, self.n_users, self.n_items)

    @cached_property
    def history(self) -> History:
        """All rows by user."""
        return self.train.history()

    @cached_property
    def splits(self) -> eval_task.Splits:
        """A tenth of the rows each for valid and test."""
        part = torch.arange(len(self.train)) % 10
        names = tables.ENCODED.columns
        frame = pl.DataFrame({"user_idx": self.train.users.numpy(), "item_idx": self.train.items.numpy()}).with_columns(
            pl.lit(True).alias("positive"), *(pl.lit(None).alias(n) for n in ("rating", "timestamp"))
        )
        frame = frame.select(*names).cast(tables.ENCODED.schema)  # type: ignore[arg-type]
        parts = {"train": part > 1, "valid": part == 0, "test": part == 1}
        frames = {name: frame.filter(pl.Series(chosen.numpy())) for name, chosen in parts.items()}
        return eval_task.Splits(frames, self.n_users, self.n_items, torch.device("cpu"))


def gram(data: Data) -> Iterator[Ways]:
    """XᵀX: a bare embedding_bag of the transposed rows, ours, and dense tiles."""
    history, ones = data.history, torch.ones(data.n_users)
    by_item = history.transposed()

    def kernel() -> Tensor:
        found, columns = torch.zeros(data.n_items, data.n_items), torch.zeros(data.n_users, 64)
        for chosen in torch.arange(data.n_items).split(64):
            own = by_item[chosen]
            columns.zero_()[own.items, own.rows] = 1
            sums = nn.functional.embedding_bag(
                by_item.items, columns, by_item.offsets, mode="sum", include_last_offset=True
            )
            found[:, chosen] = sums[:, : len(chosen)]
        return found

    yield {
        "bag": kernel,
        "gram_of": lambda: gram_of(history, ones),
        "dense tiles": lambda: gram_by_tiles(history, ones),
    }


def scores(data: Data) -> Iterator[Ways]:
    """Scores of ease for 2,000 users: a bare embedding_bag of the rows, ours by tiles of 200 and at once, and a dense product."""
    chosen, weights = data.history[torch.arange(2000)], torch.randn(data.n_items, data.n_items)
    yield {
        "bag": lambda: nn.functional.embedding_bag(
            chosen.items, weights, chosen.offsets, mode="sum", include_last_offset=True
        ),
        "times": lambda: [times(chosen[rows], weights) for rows in torch.arange(2000).split(200)],
        "in bulk": lambda: times(chosen, weights),
        "dense": lambda: chosen.dense() @ weights,
    }


def slim(data: Data) -> Iterator[Ways]:
    """Scores of slim for 2,000 users, 100 weights per item: ours, and a sparse times a dense matrix."""
    model, users = Slim(SlimConfig(), data.n_users, data.n_items), torch.arange(2000)
    chance = data.train.item_counts() + 1
    model.sources = torch.multinomial(chance.expand(data.n_items, -1), 100).sort(1).values.reshape(-1)
    model.offsets, model.weights = torch.arange(data.n_items + 1) * 100, torch.rand(100 * data.n_items)
    by_target, chosen = History(model.offsets, model.sources, data.n_items), data.history[users]
    yield {
        "slim": lambda: model.score(users, chosen),
        "sparse @ dense": lambda: (by_target.sparse(model.weights) @ chosen.dense().T).T,
    }


def history(data: Data) -> Iterator[Ways]:
    """A history from sorted rows: a look whether they are, ours, and a stable sort."""
    users, items = data.train.users, data.train.items
    yield {
        "look": lambda: bool((users[1:] >= users[:-1]).all()),
        "of": lambda: History.of(users, items, data.n_users, data.n_items),
        "sort": lambda: items[torch.argsort(users, stable=True)],
    }


class AllScores(Popularity):
    """Popularity that is ranked as models with scores of each user are."""

    personal = True


def evaluate(data: Data) -> Iterator[Ways]:
    """Popularity on test: ranking by all scores, by one order, and the evaluation, as of a night's second model."""
    settings = loader.load_settings("sample", "nightly", [])[0]
    model = Popularity(PopularityConfig(), data.n_users, data.n_items)
    model.fit(data.splits.fitted_on("train"), FitContext())
    run = eval_task.EvalRun(model, "popularity", data.splits, "test", "train", settings, Normalizer())
    task = eval_task.eval_task(data.splits, "test", "train")
    started = time.process_time()
    evaluator.evaluate(run, lambda frame: None)
    print(f"    {'first model':14} {time.process_time() - started:8.3f} s")
    depth = max(settings.evaluation.cutoffs)
    scored = AllScores(PopularityConfig(), data.n_users, data.n_items)
    scored.counts = model.counts
    yield {
        "ranking": lambda: evaluator.ranks_of(scored, task, depth),
        "one order": lambda: evaluator.ranks_of(model, task, depth),
        "evaluate": lambda: evaluator.evaluate(run, lambda frame: None),
    }


def ials(data: Data) -> Iterator[Ways]:
    """A fit: one epoch, two, and three; and user factors: the fitted ones, and solved again."""
    model = Ials(IalsConfig(), data.n_users, data.n_items)
    yield {f"{n} epochs": lambda n=n: model.fit(data.train, FitContext(epochs=n)) for n in (1, 2, 3)}
    users, rows, a = torch.arange(data.n_users), rows_of(model.config, data.history, torch.ones(len(data.train))), 0.3
    yield {
        "fitted": lambda: model.user_factors(users, data.history),
        "folded in": lambda: solve_by_gradients(rows, model.users, model.items, a, FOLD_IN_STEPS, FOLD_IN_TOLERANCE),
    }


def profile(data: Data) -> Iterator[Ways]:
    """Parts of the profile: counts of users, items and pairs, and of ratings; next to counting users only."""
    rows = pl.DataFrame({"user_id": data.train.users.numpy(), "item_id": data.train.items.numpy()})
    rows = rows.with_columns(pl.all().cast(pl.String).cast(pl.Categorical), rating=pl.int_range(pl.len()) % 10 / 2)
    yield {
        "users": lambda: rows.group_by("user_id").len(),
        "counts": lambda: data_profile.Counts.of(rows),
        "ratings": lambda: data_profile.distribution(data_profile.Values.of(rows["rating"])),
    }


def draws(data: Data) -> Iterator[Ways]:
    """Negatives of 50 batches of 4,096 rows: by searches only, and by a filter of the known pairs."""
    users = data.train.users[torch.randperm(len(data.train))[: 50 * 4096]].split(4096)
    searches, filtered = NegativeSampler(data.train), NegativeSampler(data.train)
    searches.filter = None
    pairs = (data.train.users * data.n_items + data.train.items).sort().values
    filtered.filter = PairFilter(pairs, data.n_users, data.n_items)

    def all_of(sampler: NegativeSampler) -> None:
        random = torch.Generator().manual_seed(0)
        for batch in users:
            sampler.draw(batch, 16, random)

    yield {"searches": lambda: all_of(searches), "filter": lambda: all_of(filtered)}


def mf(data: Data) -> Iterator[Ways]:
    """One epoch with a large table of users, with both tables sparse, and with shared negatives; a million rows."""
    train = data.train.select(torch.arange(min(len(data.train), 1_000_000)))
    large = Interactions(train.users * 4, train.items, 4 * data.n_users, data.n_items)  # more rows than are used
    print(f"    {len(train):,} rows per epoch")

    def epoch(**settings: Any) -> Callable[[], object]:
        model = MatrixFactorization(MatrixFactorizationConfig(**settings), large.n_users, data.n_items)
        return lambda: model.fit(large, FitContext(epochs=1))

    shared = MatrixFactorization.config_at(MatrixFactorizationConfig(), LARGE, ()).model_dump()
    yield {"mf": epoch(), "both sparse": epoch(sparse=True), "shared": epoch(**shared)}


PARTS: dict[str, Callable[[Data], Iterator[Ways]]] = {
    "gram": gram, "scores": scores, "slim": slim, "history": history, "evaluate": evaluate, "ials": ials,
    "profile": profile, "draws": draws, "mf": mf,
}  # fmt: skip

LIMITS = {"gram_of": 1.3, "times": 1.3, "in bulk": 0.8, "of": 4.0, "evaluate": 3.0, "3 epochs": 3.0, "filter": 1.0}
"""Largest ratios to the first way of the part, for `--check`."""
LIMITED = ("gram", "scores", "history", "evaluate", "ials", "draws")
"""Parts with such ways."""


def best_times(ways: Ways, rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest of `rounds` runs of each way; the ways take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - started)
    return best


def main() -> None:
    """Print the best CPU time of every way, and its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    for name, default in {"users": 20_000, "items": 8_000, "rows": 3_000_000, "rounds": 3, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--check", action="store_true", help="run what has a limit, and exit with 1 above one")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(args.threads)
    data = Data(args.users, args.items, args.rows)
    slow: list[str] = []
    print(f"{len(data.train):,} rows of {args.users:,} users and {args.items:,} items, {args.threads} threads")
    for part in args.parts or [name for name in PARTS if name in LIMITED or not args.check]:
        print(f"{part}: {(PARTS[part].__doc__ or '').strip()}", flush=True)
        with torch.no_grad() if part != "mf" else torch.enable_grad():
            for ways in PARTS[part](data):
                if args.check:
                    first = next(iter(ways))
                    ways = {name: way for name, way in ways.items() if name == first or name in LIMITS}
                    if len(ways) < 2:
                        continue
                best = best_times(ways, args.rounds)
                floor = max(next(iter(best.values())), 1e-9)
                for name, seconds in best.items():
                    limit = LIMITS.get(name) if args.check else None
                    above = limit is not None and seconds / floor > limit
                    slow += [f"{part}: {name} {seconds / floor:.2f}, limit {limit}"] if above else []
                    wanted = "" if limit is None else f"   limit {limit:.2f}{', ABOVE' if above else ''}"
                    print(f"    {name:14} {seconds:8.3f} s   {seconds / floor:6.2f}{wanted}", flush=True)
    if slow:
        raise SystemExit("slower than the limits: " + "; ".join(slow))


if __name__ == "__main__":
    main()
