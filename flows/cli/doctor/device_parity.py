"""Compares small models of every family on two devices (or numbers of threads) by their scores."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.datasets.sample import write_sample
from pipeline.models import MODELS, FitContext, Recommender
from pipeline.models.blend import Blend, BlendConfig
from pipeline.ranking.ranks import top_k
from pipeline.training.interactions import Interactions
from pipeline.training.loop import TrainingConfig, seeded

QUICK = {"epochs": 2, "embedding_dim": 16}
BLENDED = ("ease", "item_knn")
USERS, K = 400, 10
SAME_STATE = 1e-4
"""Largest relative difference of scores of one model on both sides."""
OVERLAP = 0.95
"""Least share of top-10 items in common, of one model, and of two fits of a closed form."""
QUALITY = 0.05
"""Largest difference of the share of the top 10 that users have, of two fits by gradients or sampling. Random
numbers differ between devices."""


@dataclass(frozen=True)
class Side:
    """Where to compute."""

    device: str = "cpu"
    threads: int | None = None
    """Number of threads of torch; None: unchanged."""
    precision: str = "fp32"
    """Precision of fits; scores are always computed in float32."""

    def __str__(self) -> str:
        precision = "" if self.precision == "fp32" else f" ({self.precision})"
        return self.device + precision + ("" if self.threads is None else f" (threads: {self.threads})")


@dataclass(frozen=True)
class Parity:
    """One family: the same state scored on both sides, then fitted on both sides."""

    family: str
    score_difference: float
    """Of one model: largest |a - b| / largest |a|."""
    overlap: float
    """Of one model: share of the top 10 in common."""
    fit_overlap: float
    """Of the two fits: share of the top 10 in common."""
    fit_quality: float
    """Of the two fits: difference of the share of each user's unmasked top 10 that is in their history."""
    by_gradient: bool
    """Fitted by gradients, or by another method that draws random numbers on the device."""

    @property
    def passed(self) -> bool:
        """Within the tolerances of this module."""
        same = self.score_difference <= SAME_STATE and self.overlap >= OVERLAP
        return same and (self.fit_quality <= QUALITY if self.by_gradient else self.fit_overlap >= OVERLAP)


def compare(reference: Side, other: Side, families: list[str] | None = None) -> Iterator[Parity]:
    """One Parity per family, on the first users of the built-in sample."""
    train = sample_interactions()
    for name in families or sorted(MODELS):
        with threads(reference):
            model = fit(name, train, reference)
            mine, my_list = scores_of(model, train)
        with threads(other):
            moved, moved_list = scores_of(model.to(other.device), train)
            theirs_list = scores_of(fit(name, train, other), train)[1]
        yield Parity(
            name,
            float((mine - moved).abs().max() / mine.abs().max().clamp_min(1e-12)),
            overlap(my_list, moved_list),
            overlap(my_list, theirs_list),
            abs(hits(my_list, train) - hits(theirs_list, train)),
            issubclass(MODELS[name].Config, TrainingConfig) or MODELS[name].samples,
        )


def sample_interactions(users: int = USERS) -> Interactions:
    """The first users of the sample, encoded; every row positive, with ratings and times."""
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder))
        text = pl.read_csv(Path(folder) / "interactions.csv", infer_schema=False, truncate_ragged_lines=True)
    number = pl.col("rating", "timestamp").cast(pl.Float64, strict=False)
    rows = text.with_columns(number).drop_nulls().filter(pl.col("rating").is_finite())
    rows = rows.with_columns(
        user_idx=pl.col("user").rank("dense").cast(pl.Int32) - 1,
        item_idx=pl.col("item").rank("dense").cast(pl.Int32) - 1,
        timestamp=pl.col("timestamp").cast(pl.Int64) * 1_000_000,
        positive=pl.lit(True),
    )
    n_items = rows["item_idx"].n_unique()
    rows = rows.filter(pl.col("user_idx") < users).unique(["user_idx", "item_idx"], keep="last", maintain_order=True)
    return Interactions.of_frame(rows.sort("user_idx", "timestamp", "item_idx"), users, n_items)


def fit(family: str, train: Interactions, side: Side) -> Recommender:
    """A small model; a blend has two members."""
    kind = MODELS[family]
    config = kind.Config.model_validate({k: v for k, v in QUICK.items() if k in kind.Config.model_fields})
    if isinstance(config, BlendConfig):
        model: Recommender = Blend.of(config, {part: fit(part, train, side) for part in BLENDED})
    else:
        with seeded(0):
            model = kind(config, train.n_users, train.n_items)
    model.fit(train.to(side.device), FitContext(device=torch.device(side.device), precision=side.precision, seed=0))
    return model.eval()


@torch.no_grad()
def scores_of(model: Recommender, train: Interactions) -> tuple[Tensor, Tensor]:
    """Scores (U, I) and top-10 items (U, 10), nothing masked, on the CPU."""
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    users, history = torch.arange(train.n_users, device=device), train.to(device).history()
    lists = top_k(model, users, history, None, K, fallback=train.item_counts().to(device))
    return model.score(users, history).float().cpu(), lists.items.cpu()


def overlap(a: Tensor, b: Tensor) -> float:
    """Mean share of items in common of lists (U, K)."""
    return float((a.unsqueeze(2) == b.unsqueeze(1)).any(2).float().mean())


def hits(lists: Tensor, train: Interactions) -> float:
    """Share of the lists (U, K) that is in the users' histories."""
    return float(train.history().dense().gather(1, lists).mean())


@contextmanager
def threads(side: Side) -> Iterator[None]:
    """Set torch's number of threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(side.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
