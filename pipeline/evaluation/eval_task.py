"""The splits on one device, and evaluation tasks: what a model may read, what is masked, what it must find."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.settings import Settings
from pipeline.core.memory import total_memory
from pipeline.evaluation import beyond_accuracy
from pipeline.evaluation.ranking_metrics import Scope
from pipeline.models import Recommender
from pipeline.preparation.seen import HIDE, SeenRule
from pipeline.ranking.ranks import refuse_leak
from pipeline.sources import model_attributes
from pipeline.storage import lake
from pipeline.training.attributes import ItemAttributes, NewItems
from pipeline.training.interactions import History, Interactions
from pipeline.training.normalizer import Normalizer

EARLIER = {"valid": ("train",), "test": ("train", "valid")}
FITTED_ON = {"train": ("train",), "train+valid": ("train", "valid")}
SPLITS = ("train", "valid", "test")
KEPT = total_memory() // 16
"""Bytes of the splits, and of their tasks, that are kept for the next model of the night."""


@dataclass(frozen=True)
class Splits:
    """Train, valid and test on one device."""

    frames: dict[str, pl.DataFrame]
    n_users: int
    n_items: int
    device: torch.device
    recency: bool = False
    """Whether histories have the ages of their events."""
    seen: SeenRule = HIDE
    """Which known items are masked."""
    kind: str = ""
    """Kind of the split."""
    tasks: "dict[tuple[str, str], EvalTask]" = field(default_factory=dict, compare=False, repr=False)
    """Tasks that were asked for, by split and fit; on a CPU, as long as they need no more than KEPT bytes."""

    def of(self, *names: str) -> Interactions:
        """Rows of the named splits, ordered by user, then time."""
        frame = _by_user([self.frames[name] for name in names])
        return Interactions.of_frame(frame, self.n_users, self.n_items, self.device, self.recency)

    def masked(self, split: str) -> History:
        """By user, the interactions before `split` that mask their item in its lists: all, positive or not.

        Of event types, those that mask; with `seen = "allow"` none, or those of the last `hide_days`.
        """
        parts = [self.frames[name] for name in EARLIER[split]]
        needed = [name for name in parts[0].columns if name not in ("rating", "positive", "event", "quantity")]
        rows = _by_user([part.select(needed) for part in parts])
        if self.seen.allow or "masks" in rows.columns:
            rows = rows.filter(self.seen.masking(rows, self.frames[split], self.kind))
        users, items = (
            torch.from_numpy(rows[name].cast(pl.Int64).to_numpy(writable=True)).to(self.device)
            for name in ("user_idx", "item_idx")
        )
        return History.of(users, items, self.n_users, self.n_items)

    def off_limits(self, split: str) -> History:
        """By user, the interactions whose items are no negatives in `split`: those of all splits.

        With `seen = "allow"` what the user has may be a negative: only masked items, and those to find now or later,
        are none.
        """
        if self.seen.allow:
            masked, held = self.masked(split), _held(self.of(*SPLITS[SPLITS.index(split) :]))
            users, items = torch.cat([masked.rows, held.rows]), torch.cat([masked.items, held.items])
            return History.of(users, items, self.n_users, self.n_items)
        rows = self.of(*SPLITS).off_limits()
        return History.of(rows.users, rows.items, self.n_users, self.n_items)

    @cached_property
    def attributes(self) -> ItemAttributes | None:
        """Attributes of items, with `[attributes]`."""
        frame = self.frames.get(Path(model_attributes.ITEM_VALUES).stem)
        return None if frame is None else ItemAttributes.of_frame(frame, self.n_items, self.device)

    def holds_out(self, split: str) -> bool:
        """Whether the split holds out a row."""
        rows = self.frames[split]
        held = rows["positive"] & rows["target"] if "target" in rows.columns else rows["positive"]
        return bool(held.any())

    def fitted_on(self, fit: str) -> Interactions:
        """The rows that a fit on `train` or `train+valid` learns from."""
        return self.of(*FITTED_ON[fit])


def load_splits(split_dir: Path, device: torch.device, recency: bool = False) -> Splits:
    """Read the folder of the stage `split`; it includes `candidates` where candidates were published.

    On a CPU the last ones that were read stay in memory if they need no more than KEPT bytes: all models of a night are
    fitted and evaluated on the same.
    """
    files = sorted(split_dir.glob("*.parquet"))
    key = (str(split_dir.resolve()), str(device), recency, *((path.name, path.stat().st_mtime_ns) for path in files))
    if key in _LOADED:
        return _LOADED[key]
    info = lake.info(split_dir)
    frames = {path.stem: pl.read_parquet(path) for path in files}
    splits = Splits(frames, info["n_users"], info["n_items"], device, recency, SeenRule.of(info), info.get("kind", ""))
    for other in [other for other in _LOADED if (other[0], *other[3:]) != (key[0], *key[3:])]:
        del _LOADED[other]  # of another night
    held = [*_LOADED.values(), splits]  # with and without recency
    if device.type == "cpu" and sum(frame.estimated_size() for of in held for frame in of.frames.values()) <= KEPT:
        _LOADED[key] = splits
    return splits


_LOADED: dict[tuple[object, ...], Splits] = {}
"""The splits that were read last."""


def release() -> None:
    """Forget the splits that were kept: no model is fitted or evaluated on them any more."""
    _LOADED.clear()


@dataclass(frozen=True)
class EvalRun:
    """A fitted model, and the split that it is evaluated on."""

    model: Recommender
    label: str
    splits: Splits
    split: str
    """valid or test."""
    fit: str
    """The rows that the model was fitted on, a key of FITTED_ON."""
    settings: Settings
    normalizer: Normalizer
    """Normalizer of the ratings that it was fitted on."""

    @property
    def scope(self) -> Scope:
        """What the records of its metrics have in common."""
        return Scope(self.label, self.split, seed=self.settings.seed)


@dataclass(frozen=True)
class EvalTask:
    """What a split asks of a model that was fitted on earlier ones, for every user with holdout."""

    users: Tensor  # (N,)
    history: History  # (N rows) positives of the rows fitted on: what the model may read
    mask: History  # (N rows) every earlier interaction that masks its item, positive or not
    holdout: History  # (N rows) positives of the split, of the target's event types
    popular: Tensor  # (I,) positives per item in the rows fitted on, of the target's event types
    fitted: History  # (U rows) positives of all users in the rows fitted on
    new: NewItems | None = None  # with `[attributes]`

    _signatures: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def of(self, rows: Tensor) -> "EvalTask":
        """The same task for some of the users."""
        own = self.users[rows], self.history[rows], self.mask[rows], self.holdout[rows]
        return EvalTask(*own, self.popular, self.fitted, self.new, self._signatures)

    def signatures(self, seed: int) -> Tensor:
        """`beyond_accuracy.signatures` of the items in the rows fitted on, (I, D); drawn once for all models."""
        if seed not in self._signatures:
            random = torch.Generator(self.fitted.items.device).manual_seed(seed)
            self._signatures[seed] = beyond_accuracy.signatures(self.fitted, random)
        return self._signatures[seed]

    @cached_property
    def without_leak(self) -> "EvalTask":
        """This task; LeakError: an item is both masked and held out. Checked once for all models."""
        refuse_leak(self.users, self.mask, self.holdout)
        return self

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        parts = [self.history, self.mask, self.holdout, self.fitted]
        tensors = [self.users, self.popular, *(t for part in parts for t in (part.offsets, part.items))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def eval_task(splits: Splits, split: str, fit: str) -> EvalTask:
    """The task of `split` for a model fitted on `fit`."""
    if (split, fit) in splits.tasks:
        return splits.tasks[split, fit]
    held = _held(splits.of(split))
    users = torch.nonzero(held.lengths).flatten()  # (N,)
    mask = splits.masked(split)[users]  # before the rows fitted on, so that memory never holds both as they are made
    fitted = splits.fitted_on(fit)
    history = fitted.history()
    new = None if splits.attributes is None else NewItems.of(fitted, splits.attributes)
    task = EvalTask(users, history[users], mask, held[users], fitted.fallback_counts(), history, new)
    if splits.device.type == "cpu" and task.size + sum(other.size for other in splits.tasks.values()) <= KEPT:
        splits.tasks[split, fit] = task
    return task


def _by_user(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of several splits, ordered by user, then time."""
    frame = pl.concat(frames)
    return frame.sort("user_idx", "timestamp", maintain_order=True) if len(frames) > 1 else frame


def _held(rows: Interactions) -> History:
    rows = rows.held_out()
    return History.of(rows.users, rows.items, rows.n_users, rows.n_items)
