"""What further lists cost next to the plain export: ratios of CPU time, on drawn interactions.

    python -m tests.benchmarks.bench_lists [--users 12000 --items 10000 --rows 1500000 --rounds 2 --threads 1]

Models are mf with random factors and popular items' bias, whose lists are pruned exactly, and ease with random weights,
which scores every item. Half of the items are excluded by the rule of the second list; the last 500 items are new.
Audiences of 100 users per item are compared with lists of 100 items per user for which every score is computed.
"""

import argparse
import copy
import time
from collections.abc import Callable

import polars as pl
import torch

from pipeline.config.publishing import ByAttribute, Trending
from pipeline.models import Recommender
from pipeline.models.ease import Ease, EaseConfig
from pipeline.models.mf import MatrixFactorization, MatrixFactorizationConfig
from pipeline.publishing import business_rules, listed_users, user_lists
from pipeline.publishing.audiences import Audiences
from pipeline.publishing.explore import Explorer
from pipeline.publishing.listed_users import Users
from pipeline.publishing.lists_by_attribute import Values
from pipeline.publishing.trending import trending
from pipeline.publishing.user_lists import Fitted, Makers, Wanted
from tests.benchmarks.bench_hot_paths import Data

NEW, GENRES, DEPTH = 500, 20, 100
UNPRUNED = "unpruned 100"
COMPARED = {"audiences": UNPRUNED, "of genres, too": UNPRUNED}
"""What is not compared with the plain lists."""


def models(data: Data) -> dict[str, Recommender]:
    """Random ones: what lists cost depends on the shape of scores, not on their sense."""
    mf = MatrixFactorization(MatrixFactorizationConfig(embedding_dim=64), data.n_users, data.n_items)
    popularity = data.train.item_counts().log1p()  # (I,)
    torch.nn.init.normal_(mf.user.weight, std=0.3)
    torch.nn.init.normal_(mf.item.weight, std=0.3)
    mf.item.weight[:, :-1] *= (popularity / popularity.mean()).unsqueeze(1)
    mf.item.weight[:, -1] = popularity / popularity.mean()
    ease = Ease(EaseConfig(), data.n_users, data.n_items)
    ease.weights = torch.randn(data.n_items, data.n_items) / data.n_items
    return {"mf": mf, "ease": ease}


def ways(data: Data, model: Recommender) -> dict[str, Callable[[], object]]:
    """The plain lists of the first 50,000 users, and each kind of further ones with them."""
    n = min(data.n_users, listed_users.USERS_PER_PART)
    index = torch.arange(n)
    ids = pl.Series([f"i{item}" for item in range(data.n_items)])
    users = Users(pl.Series([f"u{user}" for user in range(n)]), index, data.history[index], data.history[index])
    half = torch.arange(data.n_items) % 2 == 0
    rules = business_rules.Rules(half, ["" if kept else "exclude_where" for kept in half.tolist()], [""] * data.n_items)
    none = business_rules.Rules()
    codes = torch.arange(data.n_items - NEW, data.n_items)
    had = pl.DataFrame(schema={"user_id": pl.String, "e": pl.Int64})
    explorer = Explorer(ids[data.n_items - NEW :], codes, data.n_items, 2, 1, had)
    plain, home, email = Wanted(none, 20), Wanted(rules, 20, name="home"), Wanted(none, 5, name="email")
    member = torch.randint(0, GENRES, (2, data.n_items), generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([member.flatten(), torch.arange(data.n_items).repeat(2)]).unique(dim=1)  # (2, E)
    values = Values(pl.Series([f"g{genre:02d}" for genre in range(GENRES)]), pairs[1], pairs[0])
    by = (values, ByAttribute(attribute="genres"))
    plainly = copy.copy(model)
    plainly.factors = lambda: None  # so that nothing is pruned

    def lists(wanted: list[Wanted], fitted: Fitted | None = None) -> None:
        makers = Makers(fitted or Fitted(model, data.train), users, 20 if len(wanted) > 1 else None)
        for each in wanted:
            user_lists._frame(*user_lists._lists(makers, each, ids), users.ids, ids)
        user_lists._lists_by(makers, none, ids)

    def audiences(values: dict[str, Values]) -> None:
        found = Audiences(model, DEPTH, None, values)
        found.collect([users])
        found.of_items(ids)
        found.of_values()

    return {
        "plain": lambda: lists([plain]),
        "one rule": lambda: lists([home]),
        "explore": lambda: lists([Wanted(none, 20, explorer)]),
        "3 lists": lambda: lists([plain, home, email]),
        "by genre": lambda: lists([plain], Fitted(model, data.train, by=by)),
        UNPRUNED: lambda: lists([Wanted(none, DEPTH)], Fitted(plainly, data.train)),
        "audiences": lambda: audiences({}),
        "of genres, too": lambda: audiences({"genres": values}),
    }


def trend(data: Data) -> Callable[[], object]:
    """Trending items of all rows."""
    seconds = torch.randint(0, 90 * 86_400, (len(data.train),), generator=torch.Generator().manual_seed(1))
    rows = pl.DataFrame(
        {"user_id": data.train.users.numpy(), "item_id": data.train.items.numpy(), "timestamp": seconds.numpy()}
    ).with_columns(pl.from_epoch("timestamp"), pl.format("i{}", "item_id").cast(pl.Categorical).alias("item_id"))
    rows = rows.with_columns(pl.col("timestamp").cast(pl.Datetime("us")))
    return lambda: trending(rows, pl.Series([], dtype=pl.String), Trending())


@torch.no_grad()
def main() -> None:
    """Print the best CPU time of each, and its ratio to the plain lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"users": 12_000, "items": 10_000, "rows": 1_500_000, "rounds": 2, "threads": 1}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = Data(args.users, args.items, args.rows)
    print(f"{len(data.train):,} rows of {args.users:,} users and {args.items:,} items, {args.threads} threads")
    for family, model in models(data).items():
        print(f"{family}: lists of {min(args.users, listed_users.USERS_PER_PART):,} users")
        timed = {**ways(data, model), "trending": trend(data)}
        best = dict.fromkeys(timed, float("inf"))
        for _ in range(args.rounds):
            for name, way in timed.items():
                started = time.process_time()
                way()
                best[name] = min(best[name], time.process_time() - started)
        for name, seconds in best.items():
            other = COMPARED.get(name, "plain")
            print(f"    {name:14} {seconds:8.3f} s   {seconds / max(best[other], 1e-9):6.2f} of {other}")


if __name__ == "__main__":
    main()
