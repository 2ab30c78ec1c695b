"""Test errors of matrix factorization of listening counts (lastfm-hetrec), over seeds of split and start.

    NIGHTRECS_DATA=... python -m tests.benchmarks.tutorial_lastfm [--seeds 10 --threads 2 --dims 20 30 40 50 60]

Everything but the seed is the recipe `lastfm-pmf`: filters of 5, random split by user, stepped schedule. On two scales,
log(1 + count) and counts scaled to [0, 60], for each seed: the embedding size is the one with the least error on valid
after three epochs, the fit keeps its best epoch on valid, and test is measured once, on the scale of the fit.

R² = 1 - MSE / MSE of a reference: the mean of train, and biases alone: μ + b_u + b_i, damped means (alternating, 10
rounds) whose two dampings are the best of a grid on valid, so that the reference is as good as such a model gets.
"""

import argparse
import os
import tempfile
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.evaluation import eval_task
from pipeline.experiments.families import family_of
from pipeline.models.pmf import Pmf, PmfConfig
from pipeline.stages import clean, encode, ingest, split
from pipeline.storage import journal
from pipeline.training.context import FitContext
from pipeline.training.device import set_threads
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import Normalizer

SCALES = {"log(1 + count)": ["normalize='log1p'"], "[0, 60]": ["normalize='min_max'", "normalize_to=[0, 60]"]}
LABELS = ("pmf_plain", "pmf")
DAMPINGS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TRIAL_EPOCHS = 3


def main() -> None:
    """Print one Markdown table a scale: mean ± standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dims", type=int, nargs="+", default=[20, 30, 40, 50, 60])
    args = parser.parse_args()
    set_threads(args.threads)
    with tempfile.TemporaryDirectory() as home:
        for scale, keys in SCALES.items():
            rows = [of_seed(seed, keys, args.dims, home) for seed in range(args.seeds)]
            print(table(scale, rows), flush=True)


def of_seed(seed: int, keys: list[str], dims: list[int], home: str) -> dict[str, float]:
    """Test MSE of the references and the models."""
    data = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / "lastfm-hetrec"
    overrides = [f"seed={seed}", *(f"dataset.feedback.{key}" for key in keys)]
    run = prepare("lastfm-hetrec", "lastfm-pmf", str(data), home, overrides)
    train, valid, test = scaled_parts(run)
    assert train.ratings is not None
    found = {
        "mean": mse(train.ratings.double().mean(), test),
        "biases alone": mse(biases_alone(train, valid, test), test),
    }
    for label in LABELS:
        _, config = family_of(run.settings, label)
        assert isinstance(config, PmfConfig)
        trials = {dim: on_valid(fit(config, dim, seed, train, valid, TRIAL_EPOCHS), valid) for dim in dims}
        model = fit(config, min(trials, key=trials.__getitem__), seed, train, valid)
        found[label] = on_valid(model, test)
    return found


def scaled_parts(run: Run) -> list[Interactions]:
    """Train, valid and test, their ratings on the scale of train, through the line itself."""
    journal.open_run(run)
    raw = ingest.read_source(run)
    folder = split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, raw)))
    parts, feedback = eval_task.load_splits(folder, torch.device("cpu")), run.settings.dataset.feedback
    normalizer = Normalizer.fit(feedback.normalize, parts.of("train").ratings, feedback.normalize_to)
    return [normalizer.on(parts.of(name)) for name in eval_task.PARTS]


def fit(
    config: PmfConfig, dim: int, seed: int, train: Interactions, valid: Interactions, epochs: int | None = None
) -> Pmf:
    """The best epoch on valid; or exactly so many epochs."""
    model = Pmf(config.model_copy(update={"embedding_dim": dim}), train.n_users, train.n_items)
    model.fit(train, FitContext(seed=seed, epochs=epochs, validate=lambda of: -on_valid(of, valid)))
    return model


@torch.no_grad()
def on_valid(model: Pmf, rows: Interactions) -> float:
    """MSE of the model's predictions."""
    return mse(model.predict(rows.users, rows.items), rows)


def biases_alone(train: Interactions, valid: Interactions, test: Interactions) -> Tensor:
    """Predictions for test, (N,), with the dampings that are best on valid."""
    pairs = list(product(DAMPINGS, DAMPINGS))
    best = min(pairs, key=lambda pair: mse(with_dampings(train, valid, *pair), valid))
    return with_dampings(train, test, *best)


def with_dampings(train: Interactions, rows: Interactions, of_items: float, of_users: float) -> Tensor:
    """μ + b_u + b_i with b_i = Σ (r - μ - b_u) / (of_items + n_i) and b_u likewise, in turn; (N,)."""
    assert train.ratings is not None
    ratings = train.ratings.double()  # (E,)
    mean = ratings.mean()
    user, item = (torch.zeros(n, dtype=torch.float64) for n in (train.n_users, train.n_items))  # (U,), (I,)
    n_user, n_item = torch.bincount(train.users, minlength=len(user)), torch.bincount(train.items, minlength=len(item))
    for _ in range(10):
        rest = ratings - mean - user[train.users]
        item = torch.bincount(train.items, rest, len(item)) / (of_items + n_item)
        rest = ratings - mean - item[train.items]
        user = torch.bincount(train.users, rest, len(user)) / (of_users + n_user)
    return mean + user[rows.users] + item[rows.items]


def mse(predicted: Tensor, rows: Interactions) -> float:
    """Mean squared error."""
    assert rows.ratings is not None
    return float((predicted.double() - rows.ratings.double()).square().mean())


def table(scale: str, rows: list[dict[str, float]]) -> str:
    """MSE and both R², mean ± sd; and in how many seeds R² is above 0."""
    lines = [
        f"\n{scale}, {len(rows)} seeds\n",
        "| | test MSE | R² against the mean | (> 0 in) | R² against biases alone | (> 0 in) |",
        "|---|---|---|---|---|---|",
    ]
    for name in rows[0]:
        errors = [row[name] for row in rows]
        cells = [name, spread(errors)]
        for reference in ("mean", "biases alone"):
            r2 = [1 - row[name] / row[reference] for row in rows]
            cells += [spread(r2), f"{sum(value > 0 for value in r2)} of {len(r2)}"] if name != reference else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """`0.712 ± 0.014`."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
