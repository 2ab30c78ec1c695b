"""Ranks of all users of a large split in parts that an engine carries out, a range of users each.

A part is what `ranks.holdout_ranks` and `joint_ranks` rank at once, by the same calls, so the ranks are theirs bit for
bit. Tensors of a part go through files; the night adds the ranks up and computes all metrics from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core import spread
from pipeline.core.filesystem import temporary_name
from pipeline.evaluation.eval_task import EvalRun, EvalTask, eval_task
from pipeline.evaluation.evaluator import with_same_scores
from pipeline.models.serialization import load
from pipeline.ranking import ranks
from pipeline.ranking.joint_ranks import JointRanking, SplitTask, joint_ranks
from pipeline.ranking.ranks import Lists, Ranks, holdout_ranks
from pipeline.storage import lake
from pipeline.training.device import resolve_device, set_threads
from pipeline.training.interactions import Facts, History

PAIRS = 10**10
"""Users times items from which an evaluation is spread; dot products take two cores about 15 s for so many."""


@dataclass(frozen=True)
class Fit:
    """The model that parts rank with, and how."""

    folder: Path
    device: str
    threads: int
    depth: int
    n_users: int
    n_items: int
    together: bool
    """Whether all splits of a part are ranked from the same scores."""


def is_large(n_users: int, n_items: int, held_out: int) -> bool:
    """Whether an engine ranks in parts; `held_out`: the most users of a split that have held-out events."""
    return held_out > ranks.USERS and n_users * n_items >= PAIRS


def by_engine(eval_runs: Sequence[EvalRun], fit: Path, folder: Path) -> dict[str, Ranks]:
    """Ranks of protocol `full` by split, of the model that `fit` holds; empty where no engine should make them.

    `folder`: the unfinished result that they are for. Raises LeakError, or ScoreError, as `ranks_of` does.
    """
    first = eval_runs[0]
    splits, settings = first.splits, first.settings
    asked = [run for run in eval_runs if splits.holds_out(run.split)]
    may_be = "full" in settings.evaluation.protocols and is_large(splits.n_users, splits.n_items, splits.n_users)
    if not (spread.engine().is_elsewhere and may_be and asked):
        return {}
    tasks = {run.split: eval_task(splits, run.split, run.fit).without_leak for run in asked}
    if max(len(task.users) for task in tasks.values()) <= ranks.USERS:
        return {}
    together = bool(with_same_scores(eval_runs))
    groups = [tasks] if together else [{split: task} for split, task in tasks.items()]
    about = Fit(
        fit, settings.device, settings.threads, max(settings.evaluation.cutoffs), splits.n_users, splits.n_items,
        together,
    )  # fmt: skip
    with lake.scratch(folder) as scratch:
        calls = [
            (about, _written(scratch / f"{next(iter(group))}-{number:04d}.in", group, users, first))
            for group in groups
            for number, users in enumerate(_chunks(group))
        ]
        found: dict[str, list[dict[str, Tensor]]] = {split: [] for split in tasks}
        for outputs in spread.engine().each(rank_part, calls):
            for split, path in outputs.items():
                found[split].append(load_file(path, device=str(splits.device)))
                path.unlink()
    return {split: _joined(parts, tasks[split], about.depth) for split, parts in found.items()}


def rank_part(fit: Fit, path: Path) -> dict[str, Path]:
    """Rank the users in the file `path`; returns the files with ranks and lists, by split."""
    set_threads(fit.threads)
    device = resolve_device(fit.device)
    model, state = load(fit.folder, device), load_file(path, device=str(device))
    users, own = state["users"], _unpacked(state, "history", fit.n_items)  # (B,), B rows
    popular, allowed = state["popular"], state.get("allowed")
    splits = [name.removesuffix(".users") for name in state if name.endswith(".users")]
    tasks = [
        SplitTask(*(state[f"{split}.users"], *(_unpacked(state, f"{split}.{of}", fit.n_items) for of in OF_SPLIT)))
        for split in splits
    ]
    if fit.together:
        ranking = JointRanking(model, _by_user(own, users, fit.n_users), fit.depth, allowed, popular)
        found = joint_ranks(ranking, tasks)
    else:
        (task,) = tasks
        found = [
            holdout_ranks(
                model, users, own, task.mask, task.holdout, fit.depth, allowed=allowed, fallback=popular,
                leak_checked=True,
            )
        ]  # fmt: skip
    outputs: dict[str, Path] = {}
    for split, each in zip(splits, found, strict=True):
        assert each.lists is not None
        lists = {name: getattr(each.lists, name) for name in OF_LISTS}
        outputs[split] = _save(path.with_name(f"{path.stem}-{split}.out"), {"ranks": each.ranks, **lists})
    return outputs


OF_SPLIT = ("mask", "holdout")
OF_LISTS = ("items", "scores", "from_fallback")
OF_FACTS = ("kinds", "quantities", "ages")


def _chunks(tasks: dict[str, EvalTask]) -> tuple[Tensor, ...]:
    """The users of each part, (B,) ascending: those that are ranked at once without an engine."""
    users = [task.users for task in tasks.values()]
    return (torch.unique(torch.cat(users)) if len(users) > 1 else users[0]).split(ranks.USERS)


def _written(path: Path, tasks: dict[str, EvalTask], users: Tensor, eval_run: EvalRun) -> Path:
    """Write what a part with these users (B,) needs."""
    first = next(iter(tasks.values()))
    state = {"users": users, "popular": first.popular}
    if first.new is not None:
        state["allowed"] = first.new.servable(eval_run.model.reads_attributes)
    own: History | None = None
    for split, task in tasks.items():
        rows = ((task.users >= users[0]) & (task.users <= users[-1])).nonzero().squeeze(1)  # (R,)
        state[f"{split}.users"] = task.users[rows]
        for name in OF_SPLIT:
            state |= _packed(getattr(task, name)[rows], f"{split}.{name}")
        own = task.history[rows] if len(tasks) == 1 else None
    return _save(path, state | _packed(first.fitted[users] if own is None else own, "history"))


def _save(path: Path, state: dict[str, Tensor]) -> Path:
    """Write tensors by a rename: two processes may make the same file."""
    temporary = temporary_name(path)
    save_file({name: tensor.cpu().clone().contiguous() for name, tensor in state.items()}, temporary)
    temporary.replace(path)
    return path


def _packed(history: History, name: str) -> dict[str, Tensor]:
    state = {f"{name}.offsets": history.offsets, f"{name}.items": history.items}
    for fact in OF_FACTS if history.facts is not None else ():
        if (values := getattr(history.facts, fact)) is not None:
            state[f"{name}.{fact}"] = values
    return state


def _unpacked(state: dict[str, Tensor], name: str, n_items: int) -> History:
    facts = Facts(*(state.get(f"{name}.{fact}") for fact in OF_FACTS))
    has_facts = any(f"{name}.{fact}" in state for fact in OF_FACTS)
    return History(state[f"{name}.offsets"], state[f"{name}.items"], n_items, facts if has_facts else None)


def _by_user(own: History, users: Tensor, n_users: int) -> History:
    """The rows of `own` as those of `users` (B,) ascending, among U rows; the others are empty."""
    lengths = torch.zeros(n_users, dtype=own.offsets.dtype, device=users.device)  # (U,)
    lengths[users] = own.lengths
    offsets = torch.zeros(n_users + 1, dtype=own.offsets.dtype, device=users.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return History(offsets, own.items, own.n_items, own.facts, own.weights)


def _joined(parts: list[dict[str, Tensor]], task: EvalTask, depth: int) -> Ranks:
    lists = Lists.joined([Lists(*(part[name] for name in OF_LISTS)) for part in parts])
    found = torch.cat([part["ranks"] for part in parts])  # (E,)
    return Ranks(task.holdout.offsets, found, depth, task.history.lengths > 0, lists)
