"""Top-10 lists for 138,000 users x 27,000 items at 64 dims, next to `implicit`'s `recommend`, in turn.

    python -m tests.benchmarks.bench_top_k [--users 138000 --items 27000 --dim 64 --rounds 3 --threads 2]

Factors are drawn; the norms of items fall with their rank, as in fitted models. Users mask about 65 items each.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # what `implicit` asks for

import torch
from torch import Tensor

from pipeline.models.mf import MatrixFactorization, MatrixFactorizationConfig
from pipeline.ranking.ranks import top_k
from pipeline.training.interactions import History


def factors(n_users: int, n_items: int, dim: int) -> tuple[Tensor, Tensor]:
    """(U, D) and (I, D)."""
    random = torch.Generator().manual_seed(0)
    norms = torch.arange(1, n_items + 1).float().pow(-0.3).unsqueeze(1)  # (I, 1)
    items = torch.randn(n_items, dim, generator=random) * norms
    return torch.randn(n_users, dim, generator=random), items[torch.randperm(n_items, generator=random)]


def seen(n_users: int, n_items: int, each: int = 65) -> History:
    """Items drawn for every user."""
    random = torch.Generator().manual_seed(1)
    keys = torch.arange(n_users).repeat_interleave(each) * n_items
    keys = torch.unique(keys + torch.randint(n_items, keys.shape, generator=random))
    return History.of(keys // n_items, keys % n_items, n_users, n_items)


def main() -> None:
    """Print every round, then the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"users": 138_000, "items": 27_000, "dim": 64, "rounds": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    user_factors, item_factors = factors(args.users, args.items, args.dim)
    mask = seen(args.users, args.items)
    model = MatrixFactorization(
        MatrixFactorizationConfig(embedding_dim=args.dim, item_bias=False), args.users, args.items
    )
    with torch.no_grad():
        model.user.weight.copy_(user_factors)
        model.item.weight.copy_(item_factors)
    everyone = torch.arange(args.users)

    def ours() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            top_k(model, everyone, mask, mask, 10)
        return time.perf_counter() - started

    theirs = by_implicit(user_factors, item_factors, mask, args.threads)
    rounds = [(ours(), theirs() if theirs else float("nan")) for _ in range(args.rounds)]
    for mine, other in rounds:
        print(f"nightrecs {mine:.1f} s, implicit {other:.1f} s, ratio {mine / other:.2f}")
    mine, other = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    print(f"medians: nightrecs {mine:.1f} s, implicit {other:.1f} s, ratio {mine / other:.2f}")


def by_implicit(user_factors: Tensor, item_factors: Tensor, mask: History, threads: int):
    """A function that times `implicit`, or None where it is not installed."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("implicit is not installed; only nightrecs is measured")
        return None
    import numpy as np
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(factors=user_factors.shape[1], num_threads=threads)
    model.user_factors, model.item_factors = user_factors.numpy(), item_factors.numpy()
    ones = np.ones(len(mask.items), dtype=np.float32)
    known = csr_matrix((ones, mask.items.numpy(), mask.offsets.numpy()), (len(mask), mask.n_items))
    users = np.arange(len(mask))

    def run() -> float:
        started = time.perf_counter()
        model.recommend(users, known, N=10, filter_already_liked_items=True)
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
