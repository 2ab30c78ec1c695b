"""Errors of predicted ratings, the variance of the targets, and the errors of simple predictors."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.ranking_metrics import Scope, intervals_by_user
from pipeline.training.interactions import Interactions

ITEM_DAMPING, USER_DAMPING = 25.0, 10.0


def baselines(train: Interactions, users: Tensor, items: Tensor) -> dict[str, Tensor]:
    """Ratings (N,) that need no model: `mean`, and `bias` = mean + item bias + user bias (both damped means).

    b_i = Σ (r - mean) / (25 + n_i), b_u = Σ (r - mean - b_i) / (10 + n_u) (Koren 2010, "Factor in the
    neighbors", sec. 2.1). Users and items without training ratings have bias 0.
    """
    rows = train.rated()
    if rows.ratings is None or not len(rows):
        raise ValueError("there are no ratings to learn a mean from")
    mean = rows.ratings.double().mean()
    rest = rows.ratings.double() - mean  # (E,)
    item_bias = _damped(rest, rows.items, train.n_items, ITEM_DAMPING)  # (I,)
    user_bias = _damped(rest - item_bias[rows.items], rows.users, train.n_users, USER_DAMPING)  # (U,)
    known = torch.where(users >= 0, user_bias[users.clamp(min=0)], 0.0)  # (N,)
    return {"mean": mean.expand(len(users)), "bias": mean + item_bias[items] + known}


def known_pairs(train: Interactions, rows: Interactions) -> Tensor:
    """Whether user and item of each row both have a rating in `train`, (N,) bool."""
    rated = train.rated()
    by_user = torch.bincount(rated.users, minlength=train.n_users) > 0  # (U,)
    by_item = torch.bincount(rated.items, minlength=train.n_items) > 0  # (I,)
    return by_user[rows.users] & by_item[rows.items]


@dataclass(frozen=True)
class RatedRows:
    """Ratings and what was predicted for them, (N,) each, in one unit."""

    predicted: Tensor
    actual: Tensor
    users: Tensor
    baselines: Mapping[str, Tensor] = field(default_factory=dict)
    """Predictions of simple predictors, by name."""

    def select(self, rows: Tensor) -> "RatedRows":
        """Some of the rows."""
        simple = {name: values[rows] for name, values in self.baselines.items()}
        return RatedRows(self.predicted[rows], self.actual[rows], self.users[rows], simple)


def rating_errors(rows: RatedRows, scope: Scope, *, segment: str = "all", scaled: bool = False) -> list[dict[str, Any]]:
    """Records of tables.METRICS without run_id, protocol `error`, cutoff 0, in the unit of the ratings.

    rmse = √ mean (predicted - actual)², mae = mean |predicted - actual|; also target_variance (of `actual`; its root
    is the rmse of the best constant) and rmse_<name>, mae_<name> of the baselines. Intervals resample users with all
    their rows. Without rows there are no records. `scaled`: values are on the scale of a fit, and names end in
    `_scaled`.
    """
    predicted, actual = rows.predicted, rows.actual
    if not len(actual):
        return []
    if not bool(predicted.isfinite().all()):
        raise ValueError(f"{int((~predicted.isfinite()).sum()):,} predicted ratings are not finite")
    names, columns = ["rmse", "mae"], _errors(predicted, actual)
    for name, simple in rows.baselines.items():
        names += [f"rmse_{name}", f"mae_{name}"]
        columns += _errors(simple, actual)
    values = torch.stack(columns, 1)  # (N, M)
    ends = intervals_by_user(values, rows.users, scope.seed, resamples=scope.resamples)  # (M, 2)
    suffix = "_scaled" if scaled else ""
    base = {**replace(scope, protocol="error").record(segment, len(actual)), "cutoff": 0}
    variance = float(actual.double().var(correction=0))
    records = [{**base, "metric": f"target_variance{suffix}", "value": variance, "ci_low": None, "ci_high": None}]
    for name, mean, (low, high) in zip(names, values.mean(0).tolist(), ends.tolist(), strict=True):
        power = 0.5 if name.startswith("rmse") else 1.0
        value = {"value": mean**power, "ci_low": max(low, 0.0) ** power, "ci_high": high**power}
        records.append({**base, "metric": name + suffix, **value})
    return records


def _errors(predicted: Tensor, actual: Tensor) -> list[Tensor]:
    """Squared and absolute errors, (N,) each."""
    off = predicted.double() - actual.double()
    return [off.square(), off.abs()]


def _damped(values: Tensor, index: Tensor, n: int, damping: float) -> Tensor:
    """Σ values / (damping + count) of each index, (n,)."""
    sums = torch.bincount(index, weights=values, minlength=n)
    return sums / (damping + torch.bincount(index, minlength=n))
