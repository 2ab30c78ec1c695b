"""Warm nights in a row: the metric on valid of each night's warm fit against the cold fit of the same rows.

    NIGHTRECS_DATA=... python -m tests.benchmarks.warm_chain [ml-100k] [--nights 5] [--seeds 1 2 3] [--models mf ials]

The first night has the oldest rows, and is cold; each later one has `--new` more of the newest rows, and starts from
the fit of the night before, as with `warm_start = true` where every night publishes all of its models. Test is not
looked at. The interval is that of the cold fit, over the users of valid (bootstrap, 95 %).
"""

import argparse
import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

FILES = {
    "ml-100k": ("ml-100k", "u.data", "\t", "u.item"),
    "ml-1m-timed": ("ml-1m", "ratings-timestamp-subset.dat.gz", "::", "movies.dat"),
}


def main() -> None:
    """Fit every night warm and cold, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="ml-100k", choices=FILES)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--new", type=float, default=0.01, help="share of the rows that each night adds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--models", nargs="+", default=["mf", "ials", "sasrec"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    print("| model | seed | night | warm | cold [95 %] | epochs, warm and cold | seconds, warm and cold |")
    print("|---|---|---|---|---|---|---|")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            chain(args, Path(folder), seed)


def chain(args: argparse.Namespace, place: Path, seed: int) -> None:
    """The nights of one seed, in a home of their own."""
    from flows.nightly import data_stages
    from flows.prepare import prepare
    from flows.step import plainly
    from pipeline.experiments import warm_start
    from pipeline.stages import evaluate, train
    from pipeline.storage import journal, lake

    rows, toml = written(args.dataset, place)
    published: dict[str, Path] = {}
    of_label = [""]
    warm_start.published_fit = lambda run, cold: published.get(of_label[0])
    settings = [f"seed={seed}", "threads=1", "warm_start=true", *args.overrides]
    settings += [f'models.{label}.family="{label}"' for label in args.models]
    for night in range(args.nights):
        kept = rows[: round(len(rows) * (1 - args.new * (args.nights - 1 - night)))]
        (place / "data" / "rows").write_text("".join(kept))
        run = prepare(str(toml), "nightly", str(place / "data"), str(place / "home"), settings)
        journal.open_run(run)
        data = data_stages(run, plainly)
        cold_run = run.model_copy(update={"settings": run.settings.model_copy(update={"warm_start": False})})
        for label in args.models:
            of_label[0] = label
            cold = train.fit_model(cold_run, data.parts, label)
            warm = train.fit_model(run, data.parts, label) if night else cold
            published[label] = warm
            about = [lake.info(warm), lake.info(cold)]
            found = [valid_of(evaluate.evaluate_model(run, data.parts, label, fit, fit)) for fit in (warm, cold)]
            (value, _, _), (expected, low, high) = found
            outside = "" if value >= low else " **below**"
            epochs = " ".join(str(len(info["history"])) for info in about)
            seconds = " ".join(f"{info['seconds']:.1f}" for info in about)
            ends = f"{expected:.4f} [{low:.4f}, {high:.4f}]"
            print(
                f"| {label} | {seed} | {night + 1} | {value:.4f}{outside} | {ends} | {epochs} | {seconds} |", flush=True
            )


def written(dataset: str, place: Path) -> tuple[list[str], Path]:
    """The rows by time, and a data set TOML for the part of them that a night has, `rows`."""
    folder, ratings, delimiter, items = FILES[dataset]
    source = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / folder
    with (gzip.open if ratings.endswith(".gz") else open)(source / ratings, "rt") as file:
        rows: list[Any] = sorted(file, key=lambda line: int(line.rsplit(delimiter, 1)[1]))
    (place / "data").mkdir()
    (place / "data" / items).write_bytes((source / items).read_bytes())
    shipped = (Path(__file__).parents[2] / "pipeline" / "datasets" / f"{dataset}.toml").read_text()
    toml = place / "chain.toml"
    toml.write_text(
        shipped.replace(f'name = "{dataset}"', 'name = "chain"')
        .replace('folder = "ml-1m"\n', "")
        .replace(ratings, "rows")
    )
    return rows, toml


def valid_of(folder: Path) -> tuple[float, float, float]:
    """ndcg@10 on valid of all users, with its interval."""
    rows = pl.read_parquet(folder / "metrics.parquet")
    wanted = {"split": "valid", "segment": "all", "metric": "ndcg", "cutoff": 10, "protocol": "full"}
    return rows.filter(**wanted).select("value", "ci_low", "ci_high").row(0)


if __name__ == "__main__":
    main()
