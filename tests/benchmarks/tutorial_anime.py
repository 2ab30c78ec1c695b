"""Rating prediction as an old anime tutorial has it, and ours: on generated files, and on MovieLens 1M.

    NIGHTRECS_DATA=... python -m tests.benchmarks.tutorial_anime [--home DIR --scale 1 --seeds 1 2 3 --only generated]

`generated`: whole nights of `anime-synthetic` by the recipe `anime-mf`; next to every model stands the error of who
knows the planted structure. `movielens`: recipe `ratings` on all of MovieLens 1M, 10 % of the rows held out at random,
fitted on the other 90 %; the number of epochs comes from another 10 %, as in a night, nothing from test. Errors
are over all held-out rows, with those whose user or item the fit does not know. Each result is kept in the home and
is there when the command is called again.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import fmean, stdev

from pipeline.storage.lock import lock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import polars as pl

from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.datasets.anime_like import write_anime
from pipeline.stages import clean, encode, evaluate, ingest, split, train
from pipeline.storage import journal, lake

SHOWN_EPOCHS = (50, 500, 1000, 2000)


def main() -> None:
    """Print one Markdown table for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", help="keeps results (default: a temporary folder)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the generated files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("generated", "movielens"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or temporary
        if args.only != "movielens":
            print(generated(home, args.scale, args.threads), flush=True)
        if args.only != "generated":
            print(movielens(home, args.seeds, args.threads), flush=True)


def generated(home: str, scale: float, threads: int) -> str:
    """Mean squared error on train and valid, and RMSE on test, of every model of `anime-mf`."""
    data = Path(home) / f"anime-{scale:g}"
    planted = write_anime(data, scale=scale)
    run = prepare("anime-synthetic", "anime-mf", str(data), home, [f"threads={threads}"])
    lines = [
        f"{planted['ratings']:,} ratings; RMSE of the mean {planted['rmse_constant']:.4f}, of the best linear function "
        f"of the planted structure {planted['rmse_linear']:.4f}, of the best of all {planted['rmse_best']:.4f}\n",
        "| model | epochs | train MSE | valid MSE | test RMSE | above planted | cold ratings | fit, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, (fit, metrics) in measured(run, "train").items():
        rmse, cold = (metrics.filter(split="test", metric="rmse", segment=s) for s in ("all", "cold"))
        for row in lake.info(fit)["history"]:
            last = row["epoch"] == lake.info(fit)["best_epoch"]
            if "valid" in row and (last or (row["epoch"] in SHOWN_EPOCHS and lake.info(fit)["config"]["epochs"] > 100)):
                mse = row.get("train_mse", row["loss"])
                line = f"| `{label}` | {row['epoch']} | {mse:.3f} | {row['valid'] ** 2:.3f} "
                if last:
                    above = rmse["value"][0] / planted["rmse_linear"] - 1
                    n, seconds = cold["n"].sum(), lake.info(fit)["seconds"]
                    line += f"| {rmse['value'][0]:.4f} | {above:+.1%} | {n:,} | {seconds:.0f} |"
                lines.append(line if last else line + "| | | | |")
    return "\n".join(lines) + "\n"


def movielens(home: str, seeds: list[int], threads: int) -> str:
    """RMSE on test over the seeds."""
    data = Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / "ml-1m"
    keys = [f"threads={threads}", "evaluation.fit_for_test=train+valid", "split.valid=0.1", "split.test=0.1"]
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        run = prepare("ml-1m-untimed", "ratings", str(data), home, [f"seed={seed}", *keys])
        for label, (fit, metrics) in measured(run, "train+valid").items():
            errors = metrics.filter(split="test", metric="rmse")  # warm and cold rows
            if errors.height:
                square = (errors["value"] ** 2 * errors["n"]).sum() / errors["n"].sum()
                found.setdefault(label, []).append((square**0.5, lake.info(fit)["seconds"]))
                print(f"{label} seed {seed}: {square**0.5:.4f}, {errors['n'].sum():,} rows", flush=True)
    lines = ["| MovieLens 1M, 90:10 by row | test RMSE | seeds | fit, s |", "|---|---|---|---|"]
    for label, values in found.items():
        errors, seconds = zip(*values, strict=True)
        spread = f" ± {stdev(errors):.4f}" if len(errors) > 1 else ""
        lines.append(f"| `{label}` | {fmean(errors):.4f}{spread} | {len(errors)} | {fmean(seconds):.0f} |")
    return "\n".join(lines) + "\n"


def measured(run: Run, fit_for_test: str) -> dict[str, tuple[Path, pl.DataFrame]]:
    """The fit on train and the metrics of every model of the recipe."""
    found = {}
    with lock(run.home, run.dataset, run.run_id):
        journal.open_run(run)
        raw = ingest.read_source(run)
        parts = split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, raw)))
        for label in run.settings.models:
            fit = tested = train.fit_model(run, parts, label)
            if fit_for_test != "train":
                tested = train.refit_model(run, parts, label, fit_for_test, fit)
            found[label] = (
                fit,
                pl.read_parquet(evaluate.evaluate_model(run, parts, label, fit, tested) / "metrics.parquet"),
            )
        journal.close_run(run, "stopped", "a benchmark")
    return found


if __name__ == "__main__":
    main()
