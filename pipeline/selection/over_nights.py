"""Models and published lists over the nights of a backtest: which one wins, and how sure that is."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import polars as pl

from pipeline.core.serial_means import Mean, of_nights, of_users_and_nights
from pipeline.evaluation.realised import DIFFERENCE, POPULARITY, PUBLISHED
from pipeline.schemas import tables
from pipeline.schemas.backtest_tables import BACKTEST_MODELS, BACKTEST_REALISED, BACKTEST_VALUES

CONFIDENCE = 0.95


def by_night(values: pl.DataFrame) -> pl.DataFrame:
    """BACKTEST_VALUES. `values`: run_id, user_id, model, metric, cutoff, value of each user."""
    means = values.group_by("run_id", "model", "metric", "cutoff").agg(
        pl.col("value").mean(), n=pl.len().cast(pl.Int64)
    )
    return BACKTEST_VALUES.check(means.sort("run_id", "model"))


def models(values: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """BACKTEST_MODELS, best first. `labels`: the models of the recipe; other lists are compared with the best of them.

    The intervals of the differences together have a confidence of 95 % (Bonferroni's correction). Only nights and users
    with the values of all models count, so that a model that could not be fitted in a night does not win by that.
    """
    if values.is_empty():
        return BACKTEST_MODELS.empty()
    everywhere = values["model"].n_unique()
    complete = values.filter(pl.len().over("run_id", "user_id") == everywhere)
    if complete.is_empty():
        return BACKTEST_MODELS.empty()
    wide = complete.pivot("model", index=["run_id", "user_id"], values="value").sort("run_id", "user_id")
    users, nights = (wide[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "run_id"))
    columns = [name for name in wide.columns if name not in ("run_id", "user_id")]
    means = {name: float(wide[name].mean()) for name in columns}  # type: ignore[arg-type]
    own = sorted((name for name in columns if name in labels), key=lambda name: (-means[name], labels.index(name)))
    best_at = wide.group_by("run_id").agg(pl.col(own).mean()).select(
        best=pl.concat_list(own).list.arg_max()
    )["best"]  # fmt: skip
    about: dict[str, object] = complete.select("metric", "cutoff").row(0, named=True)
    about |= {"n": wide.height, "users": int(users.max()) + 1, "nights": int(nights.max()) + 1}
    corrected = 1 - (1 - CONFIDENCE) / max(1, len(columns) - 1)
    records: list[dict[str, object]] = []
    for name in sorted(columns, key=lambda name: (-means[name], name)):
        change = (wide[name] - wide[own[0]]).to_numpy()  # (P,)
        found = Mean(0.0, 0.0, 0.0) if name == own[0] else of_users_and_nights(change, users, nights, corrected)
        records.append(
            about
            | {"model": name, "value": means[name], "difference": found.value, "ci_low": found.ci_low,
               "ci_high": found.ci_high, "is_worse": found.below_zero,
               "nights_best": int((best_at == own.index(name)).sum()) if name in own else 0}
        )  # fmt: skip
    return BACKTEST_MODELS.check(pl.DataFrame(records, schema=BACKTEST_MODELS.schema, orient="row"))


def realised(measured: pl.DataFrame, metric: str, cutoff: int, every: timedelta) -> pl.DataFrame:
    """BACKTEST_REALISED. `measured`: tables.REALISED of all nights; `every`: time between two nights."""
    rows = tables.REALISED.check(measured).filter(segment="all", metric=metric, cutoff=cutoff)
    records: list[dict[str, object]] = []
    for days in sorted(rows["horizon_days"].unique()):
        for source in (PUBLISHED, POPULARITY, DIFFERENCE):
            of = rows.filter(horizon_days=days, list_source=source).sort("run_id")["value"].to_numpy()  # (T,)
            found = of_nights(of, overlap=max(1, -(timedelta(days=days) // -every)))
            records.append(
                {"horizon_days": days, "list_source": source, "metric": metric, "cutoff": cutoff,
                 "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "nights": len(of)}
            )  # fmt: skip
    return BACKTEST_REALISED.check(pl.DataFrame(records, schema=BACKTEST_REALISED.schema, orient="row"))
