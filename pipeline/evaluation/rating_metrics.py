"""Errors of predicted ratings, beside the spread of the targets and the errors of simple predictors."""

from typing import Any

import torch
from torch import Tensor

from pipeline.core.bootstrap import RESAMPLES, intervals
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
    """Which rows have a user and an item that both have a rating in `train`, (N,) bool."""
    rated = train.rated()
    by_user = torch.bincount(rated.users, minlength=train.n_users) > 0  # (U,)
    by_item = torch.bincount(rated.items, minlength=train.n_items) > 0  # (I,)
    return by_user[rows.users] & by_item[rows.items]


def rating_errors(
    predicted: Tensor,
    actual: Tensor,
    users: Tensor,
    baselines: dict[str, Tensor] | None = None,
    *,
    model: str,
    split: str,
    segment: str = "all",
    scaled: bool = False,
    seed: int = 42,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Records of tables.METRICS without run_id, protocol `error`, cutoff 0, over (N,) rows, in the unit of ratings.

    rmse = √ mean (predicted - actual)², mae = mean |predicted - actual|; beside them target_variance (of
    `actual`; its root is the rmse of the best constant) and rmse_<name>, mae_<name> of `baselines`. Intervals
    resample users with all their rows. No rows, no records. `scaled`: everything is on the scale of a fit, and the
    names end in `_scaled`.
    """
    if not len(actual):
        return []
    if not bool(predicted.isfinite().all()):
        raise ValueError(f"{int((~predicted.isfinite()).sum()):,} predicted ratings are not finite")
    names, columns = ["rmse", "mae"], _errors(predicted, actual)
    for name, simple in (baselines or {}).items():
        names += [f"rmse_{name}", f"mae_{name}"]
        columns += _errors(simple, actual)
    of, counts = torch.unique(users, return_inverse=True, return_counts=True)[1:]  # (N,), (U,)
    values = torch.stack(columns, 1)  # (N, M)
    sums = torch.zeros(len(counts), len(names), dtype=torch.float64).index_add_(0, of.cpu(), values.cpu())  # (U, M)
    ends = intervals(sums.to(values.device), seed, counts=counts, resamples=resamples)  # (M, 2)
    suffix = "_scaled" if scaled else ""
    base = {
        "model": model,
        "split": split,
        "protocol": "error",
        "cutoff": 0,
        "segment": segment,
        "n": len(actual),
    }
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
