"""`nightrecs leaderboard`: the models of the published night side by side."""

import sys
from argparse import Namespace

import polars as pl

from flows.cli.output import show
from flows.cli.query import query
from pipeline.config.settings import ERRORS
from pipeline.schemas import tables

USUAL_DEPTH = 10
FOR_PEOPLE = ("ndcg", "recall", "hit_rate", "coverage", "rmse", "mae")
"""Metrics that fit into a terminal, next to the selection metric."""


def leaderboard(options: Namespace) -> None:
    """Print models, best first, with metrics as columns. JSON has all metrics of one cutoff, text a few of them."""
    long = query(options, "select * from leaderboard where split = $split", {"split": options.split})
    if options.all:
        show(long.to_dicts(), options)
        return
    against, decides = compared(long)
    depths = [*decides["cutoff"], USUAL_DEPTH, *long["cutoff"].sort(descending=True)]
    depth = next((k for k in depths if k and k in long["cutoff"]), 0)
    wide = (
        long.filter(pl.col("cutoff").is_in([0, depth]))
        .with_columns(tables.metric_names().alias("name"), pl.col("value").round(4))
        .pivot("name", index=["model", "champion", "split", "protocol", "n"], values="value")
        .join(against, on=["model", "protocol"], how="left", maintain_order="left")
    )
    wanted = [f"{metric}{at}" for metric in [*decides["metric"], *FOR_PEOPLE] for at in (f"@{depth}", "")]
    metrics = [name for name in dict.fromkeys(wanted) if name in wide.columns]
    by = metrics[0] if metrics else "model"
    wide = wide.sort("protocol", by, descending=[False, by not in ("model", *ERRORS)], nulls_last=True)
    if options.json:
        show(wide.to_dicts(), options)
        return
    protocol = ["protocol"] if wide["protocol"].n_unique() > 1 else []
    champion = pl.when("champion").then(pl.lit("yes")).alias("champion")
    show(wide.select("model", champion, *protocol, *metrics, "n", "against_best").to_dicts(), options)
    if against.height:
        best = against.filter(against_best="best")["model"].item()
        print(
            f"against_best: paired by user with {best}, the best on valid; like: not significantly different",
            file=sys.stderr,
        )
    print("--all shows every metric, cutoff and interval", file=sys.stderr)


def compared(long: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two frames: model, protocol, against_best (best, like, worse or better); and metric, cutoff of the comparison.

    Both are empty for nights without comparisons.
    """
    if "compared_with" not in long.columns:
        long = long.with_columns(compared_with=pl.lit(None, pl.String), difference=0.0, is_real=False)
    rows = long.drop_nulls("compared_with")
    real = pl.when(pl.col("difference") < 0).then(pl.lit("worse")).otherwise(pl.lit("better"))
    word = pl.when("is_real").then(real).otherwise(pl.lit("like"))
    best = rows.select(model="compared_with", protocol="protocol", against_best=pl.lit("best")).unique()
    against = pl.concat([best, rows.select("model", "protocol", against_best=word)])
    return against, rows.select("metric", "cutoff").unique()
