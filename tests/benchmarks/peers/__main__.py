"""`make bench-peers`: fits of Nightrecs and of other libraries on the same rows, in alternating rounds.

    NIGHTRECS_DATA=... python -m tests.benchmarks.peers [--dataset ml-100k --rounds 3 --only implicit,lenskit --write]

Every fit is a process of its own, in the environment of its library. Each user's last row is held out; the others are
fitted, without a search and without early stopping. Lists are measured by the evaluator of Nightrecs. Times are CPU
seconds of all threads, so that other processes matter less; medians over the rounds, with the smallest and largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flows.cli.output import replace_block
from flows.prepare import prepare
from pipeline.core.paths import CHECKOUT
from pipeline.evaluation import evaluator, ranking_metrics
from pipeline.evaluation.eval_task import Splits, eval_task, load_splits
from pipeline.models import FitContext, ModelConfig, Recommender
from pipeline.stages import clean, encode, ingest, split
from pipeline.storage import journal
from pipeline.training.interactions import History, Interactions
from tests.benchmarks.peers.environments import HERE, PEERS, Missing, python_of

OURS = "nightrecs"
K, DIM = 10, 64
LIMIT = 3600
"""Seconds after which a process is given up."""
Times = dict[str, Any]


class Lists(Recommender):
    """Scores of lists that another process made: an item counts by its place, all others alike."""

    Config = ModelConfig
    serves_everyone = True

    def __init__(self, lists: Tensor, n_items: int):
        super().__init__(ModelConfig(), len(lists), n_items)
        self.lists = lists  # (U, K), -1 where a list is shorter

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Nothing to learn."""

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I)."""
        depth = self.lists.shape[1]
        scores = torch.zeros(len(users), self.n_items + 1)  # (B, I + 1)
        places = torch.arange(depth, 0, -1.0).expand(len(users), -1)  # (B, K)
        return scores.scatter_(1, self.lists[users] % (self.n_items + 1), places)[:, :-1]


def read_split(dataset: str, data: str | None, home: str) -> Splits:
    """Each user's last row is test, the others are train, as a night cuts them."""
    settings = ['split.kind="leave_one_out"', "split.valid=0"]
    run = prepare(dataset, "nightly", data, home, settings)
    journal.open_run(run)
    encoded = encode.encode_ids(run, clean.clean_interactions(run, ingest.read_source(run)))
    return load_splits(split.split_interactions(run, encoded), torch.device("cpu"))


def export(parts: Splits, folder: Path) -> None:
    """Write what the processes read (exchange.py)."""
    rows = parts.of("train").positives()
    assert rows.timestamps is not None
    table = torch.stack([rows.users, rows.items, rows.timestamps // 1_000_000], 1).numpy()  # (N, 3)
    np.savetxt(folder / "rows.csv", table, fmt="%d", delimiter=",", header="user,item,timestamp", comments="")
    sizes = {"n_users": parts.n_users, "n_items": parts.n_items, "k": K, "dim": DIM}
    (folder / "task.json").write_text(json.dumps(sizes))


def measured(library: str, python: Path, model: str, folder: Path, threads: int, parts: Splits) -> Times:
    """Times of one process, and the metrics of its lists."""
    script = HERE / f"fit_{library}.py"
    one = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "LK", "RAYON")}
    paths = {"PYTHONPATH": str(CHECKOUT)} if library == OURS else {"PYTHONPATH": ""}
    command = [str(python), str(script), str(folder), model, "--threads", str(threads)]
    (folder / "lists.npy").unlink(missing_ok=True)
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **one, **paths}, capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode:
        raise Missing(f"{library}, {model}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    times: Times = json.loads(done.stdout.strip().splitlines()[-1])
    lists = torch.from_numpy(np.load(folder / "lists.npy"))  # (U, K)
    ranks = evaluator.ranks_of(Lists(lists, parts.n_items), eval_task(parts, "test", "train"), K)
    metrics = {f"{name}@{K}": ranking_metrics.mean_of(name, ranks, K) for name in ("ndcg", "recall")}
    return {**times, **metrics, "rows_per_s": times["rows"] * times["epochs"] / times["fit_cpu"]}


def rounds_of(
    peers: Sequence[str], folder: Path, options: argparse.Namespace, parts: Splits
) -> Iterator[dict[str, list[Times]]]:
    """Measurements by `model library` after every round: all peers of a model after one another, in turn."""
    pythons, missing = {OURS: Path(sys.executable)}, {}
    for peer in peers:
        try:
            pythons[peer] = python_of(peer)
        except Missing as error:
            missing[peer] = str(error)
    models = sorted({model for peer in pythons if peer != OURS for model in PEERS[peer]})
    models = [model for model in models if not options.models or model in options.models.split(",")]
    found: dict[str, list[Times]] = {}
    for number in range(options.rounds):
        for model in models:
            able = [name for name in pythons if name == OURS or model in PEERS[name]]
            for library in able if number % 2 == 0 else able[::-1]:
                try:
                    times = measured(library, pythons[library], model, folder, options.threads, parts)
                except (Missing, subprocess.TimeoutExpired) as error:
                    missing[f"{library} {model}"] = str(error)
                    continue
                found.setdefault(f"{model} {library}", []).append(times)
                print(f"round {number + 1}: {model:9} {library:10} fit {times['fit_cpu']:.2f} s, "
                      f"ndcg@{K} {times[f'ndcg@{K}']:.4f}", flush=True)  # fmt: skip
        yield found
    for why in missing.values():
        print(f"left out: {why}")


def summary(found: dict[str, list[Times]]) -> list[Times]:
    """Median, smallest and largest of every measurement, and our time by theirs."""
    rows = []
    for key, rounds in sorted(found.items()):
        model, library = key.split()
        row: Times = {"model": model, "library": library, "version": rounds[0]["version"], "rounds": len(rounds)}
        row["epochs"] = rounds[0]["epochs"]
        for name in ("fit_cpu", "fit_wall", "lists_cpu", "rows_per_s", f"ndcg@{K}", f"recall@{K}"):
            values = [times[name] for times in rounds]
            row[name] = [statistics.median(values), min(values), max(values)]
        ours = found.get(f"{model} {OURS}")
        if ours and library != OURS:
            row["ratio"] = statistics.median(times["fit_cpu"] for times in ours) / row["fit_cpu"][0]
        rows.append(row)
    return rows


def markdown(rows: Sequence[Times], title: str) -> str:
    """The measurements as a table."""
    lines = [
        title, "",
        "| model | library | epochs | fit, CPU s | rows/s | lists, CPU s | ndcg@10 | recall@10 | Nightrecs' fit ÷ its fit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        name = f"{row['library']} {row['version']}" if row["library"] != OURS else "Nightrecs"
        fit, rate = row["fit_cpu"], row["rows_per_s"][0]
        cells = [
            row["model"], name, str(row["epochs"]), f"{fit[0]:.2f} ({fit[1]:.2f} – {fit[2]:.2f})", f"{rate:,.0f}",
            f"{row['lists_cpu'][0]:.2f}", f"{row['ndcg@10'][0]:.4f}", f"{row['recall@10'][0]:.4f}",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", help="a shipped data set with times")
    parser.add_argument("--data", help="folder of its files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help=f"these libraries, of {','.join(PEERS)}")
    parser.add_argument("--models", help="these models, e.g. als,bpr")
    parser.add_argument("--write", action="store_true", help="write peers.json and the table of the README")
    options = parser.parse_args()
    peers = options.only.split(",") if options.only else list(PEERS)
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
        parts = read_split(options.dataset, options.data, home)
        export(parts, Path(folder))
        table = ""
        for number, found in enumerate(rounds_of(peers, Path(folder), options, parts), start=1):
            rows, size = summary(found), f"{len(parts.of('train')):,} rows"
            title = f"**{options.dataset}**, {size}, rounds: {number}, threads: {options.threads}"
            table = markdown(rows, title)
            if options.write:
                (HERE / "peers.json").write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
                replace_block(HERE.parent / "README.md", "peers", lambda _, table=table: table)
        print(f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
