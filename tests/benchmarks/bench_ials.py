"""Seconds and loss of iALS an epoch, by solver; next to `implicit` where that is installed.

    python -m tests.benchmarks.bench_ials [--users 6000 --items 3700 --dim 64 --epochs 6 --threads 2]

The data are drawn: item popularity falls as 1/rank^0.8, histories are lognormal with a mean of about 160. The
loss is that of Rendle et al., per interaction; `implicit` minimises another one, so only its seconds compare.
"""

import argparse
import itertools
import time

import torch

from pipeline.models.ials import Ials, IalsConfig
from pipeline.training.context import FitContext
from pipeline.training.interactions import Interactions

SOLVERS = [{"cg_steps": 1}, {"cg_steps": 2}, {"cg_steps": 3}, {"solver": "exact"}]


def draw(n_users: int, n_items: int) -> Interactions:
    """Interactions without any taste in them; solvers take as long as on real ones."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randn(n_users, generator=random).mul(0.9).add(4.7).exp().clamp(20, n_items / 2).long()  # (U,)
    popularity = torch.arange(1, n_items + 1).double() ** -0.8
    users = torch.repeat_interleave(torch.arange(n_users), lengths)  # (N,)
    items = torch.multinomial(popularity, len(users), replacement=True, generator=random)  # (N,)
    keys = torch.unique(users * n_items + items)
    return Interactions(keys // n_items, keys % n_items, n_users, n_items)


def seconds_and_losses(train: Interactions, config: IalsConfig) -> tuple[list[float], list[float]]:
    """Of every epoch."""
    times, losses = [time.perf_counter()], []

    def log(epoch: int, values: dict[str, float]) -> None:
        times.append(time.perf_counter())
        losses.append(values["loss"])

    Ials(config, train.n_users, train.n_items).fit(train, FitContext(log=log))
    return [end - start for start, end in itertools.pairwise(times)], losses


def seconds_of_implicit(train: Interactions, dim: int, epochs: int, threads: int, use_cg: bool) -> list[float]:
    """Of every epoch of `implicit`'s alternating least squares; ImportError where it is not installed."""
    from implicit.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]
    from scipy.sparse import csr_matrix

    times = [time.perf_counter()]
    model = AlternatingLeastSquares(factors=dim, iterations=epochs, num_threads=threads, use_cg=use_cg)
    model.fit_callback = lambda *_: times.append(time.perf_counter())
    ones = torch.ones(len(train)).numpy()
    shape = (train.n_users, train.n_items)
    model.fit(csr_matrix((ones, (train.users.numpy(), train.items.numpy())), shape), show_progress=False)
    return [end - start for start, end in itertools.pairwise(times)]


def main() -> None:
    """Print a table; the fastest epoch counts, as others may share the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"users": 6000, "items": 3700, "dim": 64, "epochs": 6, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train = draw(args.users, args.items)
    print(f"{len(train):,} interactions, {args.dim} dimensions, {args.threads} threads")
    print(f"{'solver':24} {'s/epoch':>8}  loss after each epoch")
    for options in SOLVERS:
        config = IalsConfig.model_validate({"embedding_dim": args.dim, "epochs": args.epochs, **options})
        times, losses = seconds_and_losses(train, config)
        print(f"{options!s:24} {min(times):8.3f}  {' '.join(f'{loss:.4f}' for loss in losses)}", flush=True)
    for use_cg in (True, False):
        try:
            times = seconds_of_implicit(train, args.dim, args.epochs, args.threads, use_cg)
        except ImportError:
            print("implicit is not installed")
            return
        print(f"{f'implicit, use_cg={use_cg}':24} {min(times):8.3f}")


if __name__ == "__main__":
    main()
