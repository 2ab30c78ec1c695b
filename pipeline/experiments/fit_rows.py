"""The rows of a fit; of families that are cut by users, in several processes, those of each one's users."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch

from pipeline.evaluation.eval_task import Splits, load_splits
from pipeline.storage import lake
from pipeline.training.context import ProcessGroup
from pipeline.training.encoded_rows import Wanted, in_blocks, interactions_of, user_ranges
from pipeline.training.interactions import Interactions

if TYPE_CHECKING:
    from pipeline.experiments.fit import FitRequest


@dataclass(frozen=True)
class FitRows:
    """What a fit learns from."""

    train: Interactions
    """All rows; where a family needs nothing of the others, those of this process's users."""
    splits: Splits | None
    """Those that the rows are from; None for a fit on `all`."""
    users: range | None
    """The users of this process; None: all."""
    total: int
    """Number of rows in all processes."""

    @classmethod
    def read(cls, request: "FitRequest", device: torch.device, world: ProcessGroup) -> "FitRows":
        """Read them."""
        users, settings = users_of(request, world), request.run.settings
        ids_only = (
            request.family.fits_on_ids(request.config)
            and settings.dataset.feedback.normalize == "none"
            and not settings.attributes.used
        )
        # The age of an event counts from the newest row of all users.
        own = users if ids_only and not settings.recency and not settings.dataset.is_weighted else None
        wanted = Wanted(settings.recency, ids_only, narrow=ids_only, users=own)
        if request.fit == "all":
            train, splits = _encoded(request.data, device, wanted), None
        else:
            splits = load_splits(request.data, device, settings.recency)
            train = splits.fitted_on(request.fit, ids_only, own)
        total = len(train) if own is None else int(world.summed(torch.tensor(len(train), device=device)))
        return cls(train, splits, users, total)

    def own(self, rows: Interactions) -> Interactions:
        """The rows of this process's users; all, if it has all."""
        if self.users is None:
            return rows
        return rows.select((rows.users >= self.users.start) & (rows.users < self.users.stop))


def users_of(request: "FitRequest", world: ProcessGroup) -> range | None:
    """The users of this process, of a family that is cut by users in several processes; None: all."""
    if world.size == 1 or not request.family.cuts_users:
        return None
    rows = pl.scan_parquet(request.data / ("interactions.parquet" if request.fit == "all" else "train.parquet"))
    return user_ranges(rows, lake.info(request.data)["n_users"], world.size)[world.rank]


def _encoded(data: Path, device: torch.device, wanted: Wanted) -> Interactions:
    """All encoded rows."""
    shape = lake.info(data)
    n_users, n_items = shape["n_users"], shape["n_items"]
    blocks = in_blocks([pl.scan_parquet(data / "interactions.parquet")], n_users)
    return interactions_of(blocks, (n_users, n_items), device, wanted)
