"""Speed of NCF: ours, the tutorial's procedure, and RecBole's NeuMF where that is importable; one run, in turn.

    python -m tests.benchmarks.bench_ncf [--users 943 --items 1682 --batches 512 8192 --rounds 3]

A row is a positive or a negative: embedding 8, layers 64 and 32, 4 negatives a positive, drawn for every epoch;
a round is a whole epoch, draws included. The tutorial's model is an MLP, RecBole's a NeuMF; each is compared with the same
of ours. Evaluation: draw 99 negatives for every user, score them and the held-out item, rank. Seconds are CPU
time, and the fastest round counts, as others may share the machine. The data are drawn, as in bench_ials.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it

import numpy as np
import torch

from pipeline.models.ncf import Ncf, NcfConfig
from pipeline.ranking.ranks import candidate_ranks
from pipeline.ranking.sampled_candidates import sampled_99
from pipeline.training.context import FitContext
from pipeline.training.interactions import History
from tests.benchmarks import tutorial_ncf
from tests.benchmarks.bench_ials import draw
from tests.benchmarks.tutorial_ncf import N_NEGATIVES, Task

Work = Callable[[], object]
LAYERS = (64, 32)
GONE_FROM_NUMPY = {"float_": "float64", "complex_": "complex128", "unicode_": "str_"}  # RecBole 1.2.1 asks for them


def draw_task(n_users: int, n_items: int) -> Task:
    """Drawn rows of every user, the last one held out."""
    rows = draw(n_users, n_items)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    users, items = rows.users.tolist(), rows.items.tolist()
    holdout = {users[row]: items[row] for row in order}
    train = [(users[row], items[row]) for row in order if holdout[users[row]] != items[row]]
    return Task(train, holdout, {}, n_users, n_items)


def train_ours(task: Task, variant: str, batch: int) -> Work:
    """A fit of one epoch, from the rows on."""
    config = NcfConfig.model_validate({"variant": variant, "layers": LAYERS, "batch_size": batch, "embedding_dim": 8})
    model, train = Ncf(config, task.n_users, task.n_items), task.interactions()
    return lambda: model.fit(train, FitContext(epochs=1))


def evaluate_ours(task: Task, variant: str) -> Work:
    """As in `measure`: negatives of every user at once, then ranks."""
    train, users = task.interactions(), torch.arange(task.n_users)
    holdout = torch.tensor([task.holdout[user] for user in range(task.n_users)])
    everything = torch.tensor([*task.train, *task.holdout.items()])  # (N, 2)
    known = History.of(everything[:, 0], everything[:, 1], task.n_users, task.n_items)
    model = Ncf(NcfConfig.model_validate({"variant": variant, "layers": LAYERS}), task.n_users, task.n_items).eval()
    return lambda: candidate_ranks(model, users, train.history(), holdout, sampled_99(known, 1, "test"))


def train_tutorial(task: Task, batch: int) -> Work:
    """An epoch as written."""
    model, rng = tutorial_ncf.TutorialNcf(task.n_users, task.n_items), random.Random(1)
    optimizer = torch.optim.Adam(model.parameters())
    return lambda: tutorial_ncf.run_epoch(model, optimizer, task, rng, batch)


def evaluate_tutorial(task: Task) -> Work:
    """A user after the other."""
    model = tutorial_ncf.TutorialNcf(task.n_users, task.n_items)
    return lambda: tutorial_ncf.evaluate_tutorial(model, task, tutorial_ncf.draw_candidates(task, 1))


class RecBole:
    """NeuMF of RecBole on the same rows; ImportError, with what is missing, where it can't be imported."""

    def __init__(self, task: Task, folder: Path):
        warnings.filterwarnings("ignore")
        for old, new in GONE_FROM_NUMPY.items():
            if not hasattr(np, old):
                setattr(np, old, getattr(np, new))
        from recbole.config import Config  # pyright: ignore[reportMissingImports]
        from recbole.data import create_dataset, data_preparation  # pyright: ignore[reportMissingImports]
        from recbole.model.general_recommender import NeuMF  # pyright: ignore[reportMissingImports]
        from recbole.trainer import Trainer  # pyright: ignore[reportMissingImports]

        logging.disable(logging.WARNING)
        self.made = Config, create_dataset, data_preparation, NeuMF, Trainer
        self.folder = folder / "drawn"
        self.folder.mkdir()
        rows = [*((u, i, 1) for u, i in task.train), *((u, i, 2) for u, i in task.holdout.items())]
        lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
        (self.folder / "drawn.inter").write_text("\n".join(lines))

    def build(self, batch: int) -> tuple[Work, Work, int]:
        """An epoch of training, an evaluation of all users, and rows an epoch."""
        make_config, create_dataset, data_preparation, model, trainer_of = self.made
        settings = {
            "data_path": str(self.folder.parent), "checkpoint_dir": str(self.folder), "use_gpu": False,
            "state": "ERROR", "show_progress": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": list(LAYERS), "dropout_prob": 0.0,
            "train_batch_size": batch, "eval_batch_size": 8192, "metrics": ["Hit"], "topk": [10],
            "valid_metric": "Hit@10",
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": N_NEGATIVES, "dynamic": False},
            "eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "uni99"},
        }  # fmt: skip
        sys.argv = sys.argv[:1]  # it reads them
        config = make_config(model="NeuMF", dataset="drawn", config_dict=settings)
        data = create_dataset(config)
        train, _, test = data_preparation(config, data)
        network = model(config, train.dataset)
        trainer = trainer_of(config, network)
        n_rows = len(train.dataset) * (1 + N_NEGATIVES)
        return (
            lambda: trainer._train_epoch(train, 0),
            lambda: trainer.evaluate(test, load_best_model=False),
            n_rows,
        )


def fastest(work: dict[str, Work], rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest round of each, taken in turn."""
    seconds = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, do in work.items():
            started = time.process_time()
            do()
            seconds[name] = min(seconds[name], time.process_time() - started)
    return seconds


def show(what: str, amount: dict[str, int], seconds: dict[str, float]) -> None:
    """A line a contender, each next to the same model of ours."""
    per_second = {name: amount[name] / seconds[name] for name in seconds}
    print(what)
    for name, rate in per_second.items():
        ours = {"tutorial, mlp": "ours, mlp", "RecBole, neumf": "ours, neumf"}.get(name)
        ratio = f"   ours / this {per_second[ours] / rate:.1f}" if ours else ""
        print(f"  {name:16} {rate:12,.0f}{ratio}", flush=True)


def main() -> None:
    """Print rows a second by batch size, then users a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"users": 943, "items": 1682, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 8192])
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = draw_task(args.users, args.items)
    n_rows = len(task.train) * (1 + N_NEGATIVES)
    print(f"{n_rows:,} rows an epoch, {task.n_users:,} users, {task.n_items:,} items, one thread")
    with tempfile.TemporaryDirectory() as folder:
        try:
            recbole = RecBole(task, Path(folder))
        except ImportError as error:
            print(f"RecBole can't be imported ({error}); ours and the tutorial are measured")
            recbole = None
        for batch in args.batches:
            work = {f"ours, {variant}": train_ours(task, variant, batch) for variant in ("mlp", "neumf")}
            work["tutorial, mlp"] = train_tutorial(task, batch)
            amount = dict.fromkeys(work, n_rows)
            if recbole:
                work["RecBole, neumf"], _, amount["RecBole, neumf"] = recbole.build(batch)
            show(f"rows trained a second, batch {batch:,}", amount, fastest(work, args.rounds))
        work = {f"ours, {variant}": evaluate_ours(task, variant) for variant in ("mlp", "neumf")}
        work["tutorial, mlp"] = evaluate_tutorial(task)
        if recbole:
            work["RecBole, neumf"] = recbole.build(args.batches[0])[1]
        show("users evaluated a second", dict.fromkeys(work, task.n_users), fastest(work, args.rounds))


if __name__ == "__main__":
    main()
