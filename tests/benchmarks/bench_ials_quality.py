"""Seconds of iALS and of `implicit` to an NDCG on MovieLens 1M, NCF files; one run, in turn, real data.

    NIGHTRECS_DATA=... python -m tests.benchmarks.bench_ials_quality [--dim 64 --epochs 12 --target 0.44 --threads 2]

sampled_99 with the published candidates, no valid; after every epoch the clock stops and NDCG@10 is measured.
`implicit` runs with the settings that reached an NDCG fastest among those tried (alpha 4.33, regularization 35).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from torch import Tensor

from flows.prepare import prepare
from pipeline.evaluation import evaluator, ranking_metrics
from pipeline.evaluation.eval_task import Splits, eval_task, load_splits
from pipeline.models.ials import Ials, IalsConfig
from pipeline.ranking.ranks import candidate_ranks
from pipeline.stages import clean, encode, ingest, split
from pipeline.storage import journal
from pipeline.training.context import FitContext
from pipeline.training.interactions import History

Curve = list[tuple[float, float]]  # seconds so far, NDCG@10


class Clock:
    """Seconds of work, less what measuring takes."""

    def __init__(self, ndcg: Callable[[], float]):
        self.ndcg, self.curve = ndcg, Curve()
        self.spent, self.started = 0.0, time.perf_counter()

    def epoch(self, *_: object) -> None:
        """An epoch has ended."""
        self.spent += time.perf_counter() - self.started
        self.curve.append((self.spent, self.ndcg()))
        self.started = time.perf_counter()


def read_split() -> Splits:
    """The published split, through the line itself."""
    data = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / "ml-1m"
    with tempfile.TemporaryDirectory() as home:
        run = prepare("ml-1m-ncf", "nightly", str(data), home, ["split.valid=0"])
        journal.open_run(run)
        raw = ingest.read_source(run)
        parts = split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, raw)))
        return load_splits(parts, torch.device("cpu"))


def ours(parts: Splits, dim: int, epochs: int, ndcg: Callable[[Ials], float]) -> Curve:
    """iALS with its defaults for MovieLens 1M."""
    model = Ials(
        IalsConfig(embedding_dim=dim, epochs=epochs, l2=0.007, unobserved_weight=0.3), parts.n_users, parts.n_items
    )
    clock = Clock(lambda: ndcg(model))
    model.fit(parts.fitted_on("train"), FitContext(log=clock.epoch))
    return clock.curve


def theirs(parts: Splits, dim: int, epochs: int, threads: int, ndcg: Callable[[Tensor, Tensor], float]) -> Curve:
    """`implicit`; ImportError where it is not installed."""
    from implicit.cpu.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]
    from scipy.sparse import csr_matrix

    train = parts.fitted_on("train")
    model = AlternatingLeastSquares(factors=dim, iterations=epochs, alpha=4.33, regularization=35, num_threads=threads)
    clock = Clock(lambda: ndcg(torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors)))
    model.fit_callback = clock.epoch
    ones = torch.ones(len(train)).numpy()
    matrix = csr_matrix((ones, (train.users.numpy(), train.items.numpy())), (parts.n_users, parts.n_items))
    model.fit(matrix, show_progress=False)
    return clock.curve


def main() -> None:
    """Print both curves and the ratio of the seconds to the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"dim": 64, "epochs": 12, "target": 0.44, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = read_split()
    question = eval_task(parts, "test", "train")
    negatives = evaluator.published_candidates(parts.frames["candidates"], parts)[question.users]
    holdout = question.holdout.items

    def of_model(model: Ials) -> float:
        ranks = candidate_ranks(model, question.users, question.history, holdout, negatives)
        return ranking_metrics.mean_of("ndcg", ranks, 10)

    def of_factors(users: Tensor, items: Tensor) -> float:
        return of_model(_Dots(users, items))  # type: ignore[arg-type]

    curves = {"nightrecs": ours(parts, args.dim, args.epochs, of_model)}
    try:
        curves["implicit"] = theirs(parts, args.dim, args.epochs, args.threads, of_factors)
    except ImportError:
        print("implicit is not installed; only nightrecs is measured")
    reached = {}
    for name, curve in curves.items():
        print(name, " ".join(f"{seconds:.2f}s:{value:.4f}" for seconds, value in curve), flush=True)
        reached[name] = next((seconds for seconds, value in curve if value >= args.target), None)
    print(f"seconds to NDCG@10 {args.target}: {reached}")
    if all(reached.get(name) for name in ("nightrecs", "implicit")):
        print(f"ratio {reached['nightrecs'] / reached['implicit']:.2f}")  # type: ignore[operator]


class _Dots:
    """Factors of another library, as far as `candidate_ranks` asks."""

    serves_everyone = True

    def __init__(self, users: Tensor, items: Tensor):
        self.users, self.items = users, items

    def score(self, users: Tensor, history: History, items: Tensor) -> Tensor:
        """(B,), (B, C) -> (B, C)."""
        return torch.einsum("bd,bcd->bc", self.users[users], self.items[items])


if __name__ == "__main__":
    main()
