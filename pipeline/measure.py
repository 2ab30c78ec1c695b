"""Measures a fitted model on one part of a split, by every protocol asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline import metrics, per_user, rated, segments
from pipeline.candidates import N_NEGATIVES, sampled_99
from pipeline.models import Recommender
from pipeline.normalize import Normalizer
from pipeline.question import PARTS, Parts, Question, ask
from pipeline.ranking import Ranks, candidate_ranks, holdout_ranks
from pipeline.rated import Records
from pipeline.settings import Settings


def measure(
    model: Recommender,
    label: str,
    parts: Parts,
    split: str,
    fit: str,
    settings: Settings,
    normalizer: Normalizer = rated.AS_IN_THE_SOURCE,
    keep: Callable[[pl.DataFrame], Any] | None = None,
) -> Records:
    """Records of tables.METRICS (without run_id) of a model fitted on `fit`, by every protocol asked for.

    Where rows have explicit ratings, or `select` asks for it, also the errors of predicted ones. `keep` gets the
    figure that selects for every user (tables.PER_USER), where it is a mean over users, events or rows.
    """
    if not parts.frames[split]["positive"].any():
        return []
    protocols = {"full": _full, "sampled_99": _sampled}
    question = ask(parts, split, fit)
    about = {"model": label, "split": split, "seed": settings.seed, "popular": question.popular}
    records: Records = []
    for protocol in settings.evaluation.protocols:
        ranks, users, found = protocols[protocol](model, question, parts, settings, about)
        records += found
        if keep and protocol == settings.select.protocol:
            per_user.of_ranks(ranks, users, settings.select, keep)
    if settings.dataset.feedback.kind == "explicit" or settings.select.protocol == "error":
        records += rated.errors(model, label, parts, split, fit, settings, normalizer, keep)
    return records


def ranks_of(model: Recommender, question: Question, depth: int) -> Ranks:
    """Each holdout event among all items but the masked ones, and the lists, as far as `depth`."""
    return holdout_ranks(
        model,
        question.users,
        question.history,
        question.mask,
        question.holdout,
        depth,
        fallback=question.popular,
    )


def ranks_among(model: Recommender, question: Question, negatives: Tensor) -> Ranks:
    """Each holdout event among its user's negatives, (N, C) by row of the question."""
    rows = question.holdout.rows  # (E,): one row an event
    return candidate_ranks(
        model,
        question.users[rows],
        question.history[rows],
        question.holdout.items,
        negatives[rows],
        fallback=question.popular,
    )


def _full(
    model: Recommender, question: Question, parts: Parts, settings: Settings, about: dict[str, Any]
) -> tuple[Ranks, Tensor, Records]:
    """All items but the masked ones are ranked; segment `all`: users with history, `cold_users`: the others."""
    cutoffs = settings.evaluation.cutoffs
    ranks = ranks_of(model, question, max(cutoffs))
    records = metrics.summarise(ranks, cutoffs, protocol="full", **about)
    shape = cutoffs, question.popular, about
    records += segments.by_segment(ranks, question.holdout, question.history.lengths, *shape)
    records += segments.beyond_accuracy(ranks, question.holdout, question.fitted, *shape)
    return ranks, question.users, records


def _sampled(
    model: Recommender, question: Question, parts: Parts, settings: Settings, about: dict[str, Any]
) -> tuple[Ranks, Tensor, Records]:
    """Each holdout event among its user's 99 negatives (n counts events); published candidates where there are any."""
    split, cutoffs = about["split"], settings.evaluation.cutoffs
    published = parts.frames.get("candidates") if split == "test" else None
    if published is not None:
        negatives = published_candidates(published, parts)[question.users]
    else:
        negatives = drawn(parts, question, settings.seed, split)
    ranks = ranks_among(model, question, negatives)
    found = metrics.summarise(ranks, [k for k in cutoffs if k <= ranks.depth], protocol="sampled_99", **about)
    return ranks, question.users[question.holdout.rows], found


def drawn(parts: Parts, question: Question, seed: int, split: str) -> Tensor:
    """99 items a user of the question without any row of theirs, (N, 99)."""
    return sampled_99(parts.known(*PARTS)[question.users], seed, split)


def published_candidates(candidates: pl.DataFrame, parts: Parts) -> Tensor:
    """Published candidates by user, (U, C), padded with -1."""
    width = max(candidates["item_idx"].list.len().max(), N_NEGATIVES)  # type: ignore[type-var]
    listed = np.full((parts.n_users, int(width)), -1, dtype=np.int64)
    for user, items in candidates.select("user_idx", "item_idx").iter_rows():
        listed[user, : len(items)] = items
    return torch.from_numpy(listed).to(parts.device)
