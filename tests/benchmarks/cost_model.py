"""What a night of many rows would cost, from rates that a small night has here: the table of flows/README.md.

    python -m tests.benchmarks.cost_model                                  # the table, from the rates below
    python -m tests.benchmarks.cost_model --measure [--rows 3000000 --users 30000 --items 20000 --epochs 4]

`--measure` runs a night of generated rows in one thread, in this process, and prints the CPU time of its stages as
rates, then the table from them. Nobody has run a night of the size that the table is about: costs are taken as linear
in rows, in users or in users × items, and machines as independent of one another; times are doubled for what is not.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from flows.conductor import conduct
from flows.prepare import prepare
from pipeline.core.stage_call import StageCall, StageName
from pipeline.datasets.synthetic import write_synthetic
from pipeline.models.mf import MatrixFactorization, MatrixFactorizationConfig
from pipeline.ranking.ranks import top_k
from pipeline.storage import lake
from tests.benchmarks.bench_split import TOML
from tests.benchmarks.bench_top_k import factors, seen

RECIPE = """[split]
kind = "leave_one_out"
[models.ials]
embedding_dim = {dim}
epochs = {epochs}
[gate]
enabled = false
[export]
top_n = {top_n}
"""
RESERVE = 2.0
"""Times of several machines are multiplied by this."""
MANY_USERS, MANY_ITEMS = 2_000, 300_000
"""For the rate of ranking: with more items, lists are cut out of a smaller share of them."""


@dataclass(frozen=True)
class Size:
    """A night."""

    rows: float = 10e9
    users: float = 100e6
    items: float = 1e6
    dim: int = 64
    epochs: int = 16
    evaluated: float = 10e6
    """Users of a sample."""
    top_n: int = 20


@dataclass(frozen=True)
class Rates:
    """CPU time of one thread."""

    data: float = 1.74
    """µs a row until split; in shards, by `bench_shards` at 100 million rows."""
    ials: float = 0.50
    """µs an entry and epoch, with the last solve."""
    rank: float = 1.57
    """ns a user and item, for exact lists."""
    evaluate: float = 157
    """µs a user for what does not grow with the catalog. The small night's ranking is in it, so it is an upper bound."""
    export: float = 9.2
    """µs a row of the lists, likewise: scores, reasons, ids, the published file."""
    audit: float = 12.5
    """µs a row of the lists."""


@dataclass(frozen=True)
class Machines:
    """Equal ones."""

    count: int
    cores: int

    def hours(self, core_hours: float) -> float:
        """Of the clock, with the reserve."""
        return core_hours / self.count / self.cores * (RESERVE if self.count > 1 else 1)


def core_hours(size: Size, rates: Rates) -> dict[str, float]:
    """Of every part of a night with one model."""
    lists = size.users * size.top_n
    seconds = {
        "until split": size.rows * rates.data / 1e6,
        "ials, fitted twice": 2 * size.rows * size.epochs * rates.ials / 1e6,
        "evaluate": size.evaluated * (2 * size.items * rates.rank / 1e9 + rates.evaluate / 1e6),
        "export": size.users * size.items * rates.rank / 1e9 + lists * rates.export / 1e6,
        "audit": lists * rates.audit / 1e6,
    }
    return {part: spent / 3600 for part, spent in seconds.items()}


def table(size: Size, rates: Rates) -> list[str]:
    """Lines of Markdown."""
    many, one = Machines(16, 16), Machines(1, 64)
    lines = [
        f"| part | core-hours | {many.count} machines of {many.cores} cores | one of {one.cores} |",
        "|---|---|---|---|",
    ]
    spent = core_hours(size, rates)
    for part, hours in [*spent.items(), ("all", sum(spent.values()))]:
        lines.append(f"| {part} | {hours:.0f} | {_clock(many.hours(hours))} | {_clock(one.hours(hours))} |")
    return lines


def _clock(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1.5 else f"{hours:.1f} h"


class CpuTimes:
    """A step that adds up the CPU time of every stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: defaultdict[StageName, float] = defaultdict(float)
        self.folders: dict[StageName, Any] = {}

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Run the stage, unless it only shows what the others did."""
        if call.place in (StageName.TRACK, StageName.REPORT):
            return None
        started = time.process_time()
        self.folders[call.stage] = stage(*inputs)
        self.seconds[call.stage] += time.process_time() - started
        return self.folders[call.stage]


def measure(size: Size, folder: Path) -> Rates:
    """Rates of a night of this size."""
    torch.set_num_threads(1)
    csv = folder / "ratings.csv"
    write_synthetic(csv, rows=int(size.rows), users=int(size.users), items=int(size.items))
    (folder / "big.toml").write_text(TOML)
    recipe = folder / "cost.toml"
    recipe.write_text(RECIPE.format(dim=size.dim, epochs=size.epochs, top_n=size.top_n))
    run = prepare(str(folder / "big.toml"), str(recipe), home=str(folder / "home"), overrides=["threads=1"])
    times = CpuTimes()
    conduct(run, times)
    for stage, seconds in times.seconds.items():
        print(f"{stage:<10} {seconds:6.1f} s")
    spent, lists = times.seconds, size.users * size.top_n
    data = (StageName.INGEST, StageName.ADMIT, StageName.CLEAN, StageName.ENCODE, StageName.SPLIT)
    fits = len(list(run.home.lake(run.dataset).glob(f"5_models/ials-*/{lake.MANIFEST}")))
    return Rates(
        data=sum(spent[stage] for stage in data) / size.rows * 1e6,
        ials=spent[StageName.TRAIN] / size.rows / size.epochs / fits * 1e6,
        rank=seconds_of_ranking(MANY_USERS, MANY_ITEMS, size.dim) / MANY_USERS / MANY_ITEMS * 1e9,
        evaluate=spent[StageName.EVALUATE] / size.users * 1e6,
        export=spent[StageName.EXPORT] / lists * 1e6,
        audit=spent[StageName.AUDIT] / lists * 1e6,
    )


def seconds_of_ranking(n_users: int, n_items: int, dim: int) -> float:
    """CPU time of exact lists of 20 items, without what they are written with."""
    model = MatrixFactorization(MatrixFactorizationConfig(embedding_dim=dim, item_bias=False), n_users, n_items)
    users, items = factors(n_users, n_items, dim)
    with torch.no_grad():
        model.user.weight.copy_(users)
        model.item.weight.copy_(items)
        mask = seen(n_users, n_items)
        started = time.process_time()
        top_k(model, torch.arange(n_users), mask, mask, 20)
    return time.process_time() - started


def main() -> None:
    """Print rates and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    for name, default in {"rows": 3_000_000, "users": 30_000, "items": 20_000, "epochs": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rates = Rates()
    if args.measure:
        with tempfile.TemporaryDirectory() as temporary:
            rates = measure(Size(args.rows, args.users, args.items, epochs=args.epochs), Path(temporary))
    for each in fields(rates):
        print(f"{each.name}: {getattr(rates, each.name):.3g}")
    print("\n".join(table(Size(), rates)))


if __name__ == "__main__":
    main()
