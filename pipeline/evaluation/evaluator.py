"""Evaluates a fitted model on one split, by every configured protocol."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.evaluation import per_user, ranking_metrics, rating_evaluator, segments
from pipeline.evaluation.eval_task import EvalRun, EvalTask, Splits, eval_task
from pipeline.evaluation.rating_evaluator import Records
from pipeline.models import Recommender
from pipeline.ranking.joint_ranks import JointRanking, SplitTask, joint_ranks
from pipeline.ranking.ranks import Ranks, candidate_ranks, holdout_ranks
from pipeline.ranking.sampled_candidates import N_NEGATIVES, sampled_99


def evaluate(eval_run: EvalRun, keep: Callable[[pl.DataFrame], None], ranked: Ranks | None = None) -> Records:
    """Records of tables.METRICS (without run_id), by every configured protocol.

    With explicit ratings, or where `select` uses them, also the errors of predicted ratings. `keep` receives the
    selecting metric of every user (tables.PER_USER), if it is a mean over users, events or rows. `ranked`: what
    `ranked_together` found for this split.
    """
    if not eval_run.splits.holds_out(eval_run.split):
        return []
    protocols, settings = {"full": partial(_full, ranked=ranked), "sampled_99": _sampled}, eval_run.settings
    task = eval_task(eval_run.splits, eval_run.split, eval_run.fit)
    records: Records = []
    for protocol in settings.evaluation.protocols:
        ranks, users, found = protocols[protocol](eval_run, task)
        records += found
        if protocol == settings.select.protocol:
            per_user.of_ranks(ranks, users, settings.select, keep)
    if settings.dataset.feedback.kind == "explicit" or settings.select.protocol == "error":
        records += rating_evaluator.errors(eval_run, keep)
    return records


def ranked_together(eval_runs: Sequence[EvalRun]) -> dict[str, Ranks]:
    """Ranks by split, of one model on several splits, from the same scores.

    Empty where nothing would be saved: the model scores few users at a time, or read another history for each split.
    """
    asked = with_same_scores(eval_runs)
    if not asked:
        return {}
    first, model = asked[0], asked[0].model
    tasks = [eval_task(run.splits, run.split, run.fit).without_leak for run in asked]
    of_splits = [SplitTask(task.users, task.mask, task.holdout) for task in tasks]
    allowed = None if tasks[0].new is None else tasks[0].new.servable(model.reads_attributes)
    depth = max(first.settings.evaluation.cutoffs)
    ranking = JointRanking(model, tasks[0].fitted, depth, allowed, tasks[0].popular)
    return dict(zip([run.split for run in asked], joint_ranks(ranking, of_splits), strict=True))


def with_same_scores(eval_runs: Sequence[EvalRun]) -> list[EvalRun]:
    """Those of them that `ranked_together` ranks; empty if none."""
    first, model = eval_runs[0], eval_runs[0].model
    asked = [run for run in eval_runs if run.splits.holds_out(run.split)]
    same = all(run.model is model and run.fit == first.fit for run in asked)
    in_bulk = model.scores_in_bulk and first.splits.device.type == "cpu"
    is_wanted = len(asked) > 1 and same and in_bulk and "full" in first.settings.evaluation.protocols
    return asked if is_wanted else []


def ranks_of(model: Recommender, task: EvalTask, depth: int) -> Ranks:
    """Ranks of the holdout events among all items except the masked ones, and the lists, up to `depth`.

    With `[attributes]`, items without a row in the fit are ranked by models that read attributes only.
    """
    task = task.without_leak
    return holdout_ranks(
        model,
        task.users,
        task.history,
        task.mask,
        task.holdout,
        depth,
        allowed=None if task.new is None else task.new.servable(model.reads_attributes),
        fallback=task.popular,
        leak_checked=True,
    )


def ranks_among(model: Recommender, task: EvalTask, negatives: Tensor) -> Ranks:
    """Ranks of the holdout events among the negatives of their users, (N, C) by row of the task."""
    rows = task.holdout.rows  # (E,): one row per event
    return candidate_ranks(
        model,
        task.users[rows],
        task.history[rows],
        task.holdout.items,
        negatives[rows],
        fallback=task.popular,
    )


def _full(eval_run: EvalRun, task: EvalTask, ranked: Ranks | None = None) -> tuple[Ranks, Tensor, Records]:
    """All items except the masked ones are ranked; segment `all`: users with history, `cold_users`: the others."""
    cutoffs = eval_run.settings.evaluation.cutoffs
    ranks = ranked or ranks_of(eval_run.model, task, max(cutoffs))
    records = ranking_metrics.summarise(ranks, cutoffs, eval_run.scope, popular=task.popular)
    records += segments.by_segment(ranks, task, cutoffs, eval_run.scope)
    new_days = eval_run.settings.attributes.new_days
    records += segments.of_new_items(ranks, task, cutoffs, eval_run.scope, new_days)
    records += segments.beyond_accuracy(ranks, task, cutoffs, eval_run.scope)
    return ranks, task.users, records


def _sampled(eval_run: EvalRun, task: EvalTask) -> tuple[Ranks, Tensor, Records]:
    """Each holdout event among 99 negatives of its user (published ones, if any); n counts events."""
    negatives = negatives_of(eval_run.splits, task, eval_run.settings.seed, eval_run.split)  # (N, C)
    ranks = ranks_among(eval_run.model, task, negatives)
    cutoffs = [k for k in eval_run.settings.evaluation.cutoffs if k <= ranks.depth]
    scope = replace(eval_run.scope, protocol="sampled_99")
    users = task.users[task.holdout.rows]  # (E,)
    return ranks, users, ranking_metrics.summarise(ranks, cutoffs, scope, popular=task.popular, of=users)


def negatives_of(splits: Splits, task: EvalTask, seed: int, split: str) -> Tensor:
    """Negatives by user of the task, (N, C), -1 where a user has fewer: published ones in test, where there are any.

    They are drawn for users without published ones: among none, every event would have rank 1.
    """
    published = splits.frames.get("candidates") if split == "test" else None
    if published is None:
        return drawn(splits, task, seed, split)
    negatives = published_candidates(published, splits)[task.users]  # (N, C)
    none = (negatives < 0).all(1)  # (N,)
    if bool(none.any()):
        negatives[none, :N_NEGATIVES] = drawn(splits, task, seed, split)[none]
    return negatives


def drawn(splits: Splits, task: EvalTask, seed: int, split: str) -> Tensor:
    """99 items per user of the task that are no `Splits.off_limits`, (N, 99)."""
    return sampled_99(splits.off_limits(split)[task.users], seed, split)


def published_candidates(candidates: pl.DataFrame, splits: Splits) -> Tensor:
    """Published candidates by user, (U, C), padded with -1."""
    width = max(candidates["item_idx"].list.len().max(), N_NEGATIVES)  # type: ignore[type-var]
    listed = np.full((splits.n_users, int(width)), -1, dtype=np.int64)
    for user, items in candidates.select("user_idx", "item_idx").iter_rows():
        listed[user, : len(items)] = items
    return torch.from_numpy(listed).to(splits.device)
