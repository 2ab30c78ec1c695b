"""The splits on one device, and evaluation tasks: what a model may read, what is masked, what it must find."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.config.settings import Settings
from pipeline.core.memory import total_memory
from pipeline.evaluation import beyond_accuracy
from pipeline.evaluation.ranking_metrics import Scope
from pipeline.evaluation.split_files import SplitFiles
from pipeline.models import Recommender
from pipeline.preparation.seen import HIDE, SeenRule
from pipeline.ranking.ranks import refuse_leak
from pipeline.sources import model_attributes
from pipeline.storage import lake
from pipeline.training.attributes import ItemAttributes, NewItems
from pipeline.training.encoded_rows import NARROW, Wanted, in_blocks, interactions_of
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

    frames: Mapping[str, pl.DataFrame]
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

    def of(self, *names: str, ids_only: bool = False, users: range | None = None) -> Interactions:
        """Rows of the named splits, ordered by user, then time; `ids_only`: without ratings and times, and narrow.

        `users`: only those of these users.
        """
        wanted = Wanted(self.recency, ids_only, narrow=ids_only, users=users)
        return interactions_of(self._blocks(names), self._shape, self.device, wanted)

    def masked(self, split: str, of: Tensor | None = None) -> History:
        """By user, the interactions before `split` that mask their item in its lists: all, positive or not.

        Of event types, those that mask; with `seen = "allow"` none, or those of the last `hide_days`. `of` (N,): only
        those of these users.
        """
        some = None
        if of is not None:
            some = np.zeros(self.n_users, dtype=bool)  # (U,)
            some[of.cpu().numpy()] = True
        kept: list[pl.DataFrame] = []
        by_rule = self.seen.allow
        held = self.frames[split] if by_rule else pl.DataFrame()
        for block in self._blocks(EARLIER[split], ("rating", "positive", "event", "quantity")):
            rows = block if some is None else block.filter(pl.Series(some[block["user_idx"].to_numpy()]))
            if by_rule or "masks" in rows.columns:
                rows = rows.filter(self.seen.masking(rows, held, self.kind))
            kept.append(rows.select("user_idx", "item_idx"))
        users, items = (
            torch.from_numpy(np.concatenate([rows[name].to_numpy() for rows in kept]).astype(np.int64)).to(self.device)
            for name in ("user_idx", "item_idx")
        )
        return History.of(users, items, self.n_users, self.n_items)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.n_users, self.n_items

    def _blocks(self, names: Sequence[str], left_out: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Rows of several splits, ordered by user, then time, in blocks; without the columns `left_out`."""
        scans = [self.frames.scan(n) if isinstance(self.frames, SplitFiles) else self.frames[n].lazy() for n in names]
        columns = [name for name in scans[0].collect_schema().names() if name not in left_out]
        return in_blocks(scans, self.n_users, columns)

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

    def fitted_on(self, fit: str, ids_only: bool = False, users: range | None = None) -> Interactions:
        """The rows that a fit on `train` or `train+valid` learns from; `users`: only those of these users."""
        return self.of(*FITTED_ON[fit], ids_only=ids_only, users=users)


def load_splits(split_dir: Path, device: torch.device, recency: bool = False) -> Splits:
    """Read the folder of the stage `split`; it includes `candidates` where candidates were published.

    On a CPU the last ones that were read stay in memory if they need no more than KEPT bytes: all models of a night are
    fitted and evaluated on the same. Large ones stay on the disk.
    """
    files = sorted(split_dir.glob("*.parquet"))
    key = (str(split_dir.resolve()), str(device), recency, *((path.name, path.stat().st_mtime_ns) for path in files))
    if key in _LOADED:
        return _LOADED[key]
    info = lake.info(split_dir)
    frames = SplitFiles({path.stem: path for path in files})
    splits = Splits(frames, info["n_users"], info["n_items"], device, recency, SeenRule.of(info), info.get("kind", ""))
    for other in [other for other in _LOADED if (other[0], *other[3:]) != (key[0], *key[3:])]:
        del _LOADED[other]  # of another night
    held = [frames, *(other.frames for other in _LOADED.values())]  # with and without recency
    if device.type == "cpu" and sum(of.size for of in held if isinstance(of, SplitFiles)) <= KEPT:
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
    fitted: History  # (U rows) positives of all users in the rows fitted on; ids of 32 bits where they do
    new: NewItems | None = None  # with `[attributes]`
    owners: Tensor | None = None  # (I,) users with a row that `popular` counts; None: as `popular`, no pair repeats

    _signatures: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def of(self, rows: Tensor) -> "EvalTask":
        """The same task for some of the users."""
        own = {name: getattr(self, name)[rows] for name in ("users", "history", "mask", "holdout")}
        return replace(self, **own)

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
    mask = splits.masked(split, users)[users]
    same = next((task for (_, of), task in splits.tasks.items() if of == fit), None) or _of_fit(splits, fit)
    task = replace(same, users=users, history=_wide(same.fitted[users]), mask=mask, holdout=held[users])
    if splits.device.type == "cpu" and task.size + sum(other.size for other in splits.tasks.values()) <= KEPT:
        splits.tasks[split, fit] = task
    return task


def _of_fit(splits: Splits, fit: str) -> EvalTask:
    """A task without users, for a model fitted on `fit`."""
    attributes = splits.attributes
    rows = splits.fitted_on(fit, ids_only=attributes is None)
    new = None if attributes is None else NewItems.of(rows, attributes)
    none = History.of_lists([], splits.n_items, splits.device)
    fitted = rows.history()
    narrow = replace(fitted, items=fitted.items.int() if splits.n_items <= NARROW else fitted.items)
    return EvalTask(none.items, none, none, none, rows.fallback_counts(), narrow, new, _owners(rows))


def _owners(rows: Interactions) -> Tensor | None:
    """Users with a positive row of the target's event types by item, (I,) float32; None: one row a pair."""
    if rows.target is None:
        return None
    held = rows.held_out()
    pairs = torch.unique(held.users.long() * rows.n_items + held.items)  # (P,)
    return torch.bincount(pairs % rows.n_items, minlength=rows.n_items).float()


def _wide(history: History) -> History:
    """The same with ids of 64 bits, as models read them."""
    return replace(history, items=history.items.long())


def _held(rows: Interactions) -> History:
    rows = rows.held_out()
    return History.of(rows.users, rows.items, rows.n_users, rows.n_items)
