"""Models over the nights of a backtest, by hand."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from pipeline.schemas import tables
from pipeline.selection import over_nights


def values(of: dict[str, list[float]], nights: int, users: int) -> pl.DataFrame:
    """The same values for every user, one per night, by model."""
    rows = [
        {"run_id": f"n{night:02d}", "user_id": f"u{user}", "model": model, "metric": "ndcg", "cutoff": 10,
         "value": by_night[night] + 0.01 * user}
        for model, by_night in of.items() for night in range(nights) for user in range(users)
    ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(pl.col("cutoff").cast(pl.Int32))


def test_which_model_wins():
    rng = np.random.default_rng(5)
    good = list(rng.uniform(0.3, 0.5, 30))
    of = {"a": good, "b": [v - 0.1 + rng.normal(0, 0.01) for v in good], "c": [v + rng.normal(0, 0.05) for v in good],
          "published lists": good}  # fmt: skip
    found = over_nights.models(values(of, 30, 8), ["a", "b", "c"])
    rows = {row["model"]: row for row in found.to_dicts()}
    best = "a" if rows["a"]["value"] >= rows["c"]["value"] else "c"
    assert rows[best]["difference"] == 0 and not rows[best]["is_worse"]
    assert rows["b"]["is_worse"] and rows["b"]["ci_low"] < rows["b"]["difference"] < rows["b"]["ci_high"] < 0
    assert not rows["c"]["is_worse"] and not rows["a"]["is_worse"]
    assert rows["published lists"]["value"] == pytest.approx(rows["a"]["value"])
    assert sum(row["nights_best"] for row in rows.values()) == 30 and rows["published lists"]["nights_best"] == 0
    assert {(row["n"], row["users"], row["nights"]) for row in rows.values()} == {(240, 8, 30)}
    by_night = over_nights.by_night(values(of, 30, 8))
    assert by_night.height == 4 * 30 and set(by_night["n"]) == {8}


def test_a_model_that_could_not_be_fitted_in_a_night_does_not_win_by_that():
    of = {"a": [0.2] * 6, "b": [0.1, 0.1, 0.1, 0.9, 0.9, 0.9]}
    shown = values(of, 6, 3).filter(~((pl.col("model") == "a") & (pl.col("run_id") > "n02")))
    found = over_nights.models(shown, ["a", "b"])
    assert found["model"].to_list() == ["a", "b"] and set(found["nights"]) == {3}
    assert found["ci_low"].to_list() == [0.0, None], "three nights are too few"
    assert over_nights.models(pl.DataFrame(), ["a"]).is_empty()


def test_realised_over_the_nights():
    rows = [
        {"run_id": f"n{night:02d}", "list_source": source, "horizon_days": days, "metric": "ndcg", "cutoff": 10,
         "segment": "all", "value": value + night / 100, "ci_low": 0.0, "ci_high": 1.0, "n": 5, "measured_by": "x"}
        for night in range(12) for days in (1, 28)
        for source, value in (("published", 0.5), ("popularity", 0.2), ("published - popularity", 0.3))
    ]  # fmt: skip
    measured = pl.DataFrame(rows, schema=tables.REALISED.schema, orient="row")
    found = over_nights.realised(measured, "ndcg", 10, dt.timedelta(days=1))
    assert found["value"].to_list() == pytest.approx([0.555, 0.255, 0.355] * 2) and set(found["nights"]) == {12}
    assert found["ci_low"].is_null().to_list() == [False] * 3 + [True] * 3, "28 nights overlap, and there are 12"
    weekly = over_nights.realised(measured, "ndcg", 10, dt.timedelta(days=7))
    assert not weekly["ci_low"].has_nulls(), "four overlap"
