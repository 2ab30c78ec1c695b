"""Metrics by user, as the gate reads them."""

import numpy as np
import polars as pl

from pipeline.schemas import tables

N = 900


def figures(seed: int = 0, **shifts: float | np.ndarray) -> dict[str, pl.DataFrame]:
    """Per-user values of several models: a common part, noise of their own, and a shift of all users or of each."""
    common = np.random.default_rng(seed).beta(1, 3, N)
    frames = {}
    for place, (label, shift) in enumerate(shifts.items()):
        noise = np.random.default_rng([seed, place]).normal(0, 0.05, N)
        frame = pl.DataFrame({"user_idx": np.arange(N, dtype=np.int32), "value": common + noise + shift})
        frames[label] = frame.with_columns(n=pl.lit(1, pl.Int64), warm=pl.lit(True))
        tables.PER_USER.check(frames[label])
    return frames
