"""Measures a fitted model on one part of a split: what it may read, what is masked, what it must find."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline import lake, metrics, per_user, segments
from pipeline.candidates import N_NEGATIVES, sampled_99
from pipeline.errors import baselines, known_pairs
from pipeline.interactions import History, Interactions
from pipeline.models import Recommender
from pipeline.normalize import Normalizer
from pipeline.ranking import Ranks, candidate_ranks, holdout_ranks
from pipeline.rng import generator
from pipeline.settings import Settings

EARLIER = {"valid": ("train",), "test": ("train", "valid")}
FITTED_ON = {"train": ("train",), "train+valid": ("train", "valid")}
PARTS = ("train", "valid", "test")
AS_IN_THE_SOURCE = Normalizer()
VALIDATION_USERS = 20_000  # a seeded sample of them is enough to tell epochs apart
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """A split on one device."""

    frames: dict[str, pl.DataFrame]
    n_users: int
    n_items: int
    device: torch.device

    def of(self, *names: str) -> Interactions:
        """The rows of some parts together, ordered by user, then time."""
        frame = pl.concat([self.frames[name] for name in names])
        if len(names) > 1:
            frame = frame.sort("user_idx", "timestamp", maintain_order=True)
        return Interactions.of_frame(frame, self.n_users, self.n_items, self.device)

    def known(self, *names: str) -> History:
        """Every interaction of some parts, positive or not, by user."""
        rows = self.of(*names)
        return History.of(rows.users, rows.items, self.n_users, self.n_items)

    def fitted_on(self, fit: str) -> Interactions:
        """What a fit on `train` or `train+valid` learns from."""
        return self.of(*FITTED_ON[fit])


def load_parts(folder: Path, device: torch.device) -> Parts:
    """Read the split's folder; `candidates` is there where candidates were published."""
    info = lake.info(folder)
    frames = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    return Parts(frames, info["n_users"], info["n_items"], device)


@dataclass(frozen=True)
class Question:
    """What a part asks of a model that was fitted on other parts, for every user with holdout."""

    users: Tensor  # (N,)
    history: History  # (N rows) positives of the rows fitted on: what the model may read
    mask: History  # (N rows) every earlier interaction, positive or not
    holdout: History  # (N rows) positives of the part
    popular: Tensor  # (I,) positives an item in the rows fitted on
    fitted: History  # (U rows) positives of all users in the rows fitted on

    def of(self, rows: Tensor) -> "Question":
        """The same for some users."""
        own = self.users[rows], self.history[rows], self.mask[rows], self.holdout[rows]
        return Question(*own, self.popular, self.fitted)


def ask(parts: Parts, split: str, fit: str) -> Question:
    """The question that `split` puts to a model fitted on `fit`."""
    fitted, held = parts.fitted_on(fit), parts.of(split).history()
    users = torch.nonzero(held.lengths).flatten()  # (N,)
    mask = parts.known(*EARLIER[split])[users]
    history = fitted.history()
    return Question(users, history[users], mask, held[users], fitted.item_counts(), history)


@dataclass(frozen=True)
class Validator:
    """The figure that selects, on valid, as a function of the model; higher is better."""

    figure: Callable[[Recommender], float]
    per_user: Callable[[Recommender], Tensor] | None = None
    """The values (N,) that a ranking figure is the mean of."""

    def __call__(self, model: Recommender) -> float:
        """The figure."""
        return self.figure(model)


def validator(parts: Parts, settings: Settings, family: type[Recommender], normalizer: Normalizer) -> Validator | None:
    """What guides a fit on train, and what a blend learns its weights by.

    None without a valid, and for a family that doesn't have the figure: it is then fitted unguided, measured,
    and not eligible as champion.
    """
    select = settings.select
    if parts.frames["valid"].is_empty():
        return None
    sign = 1 if metrics.higher_is_better(select.metric) else -1
    if select.protocol == "error":
        valid = parts.of("valid")
        if valid.ratings is None or not predicts(family):
            return None
        rated = valid.rated()
        rated = rated.select(known_pairs(parts.of("train"), rated))
        if not len(rated):
            return None
        return Validator(lambda model: sign * _error(select.metric, model, rated, normalizer))
    question = ask(parts, "valid", "train")
    rows = torch.nonzero(question.history.lengths > 0).flatten()
    if len(rows) > VALIDATION_USERS:
        chosen = generator(settings.seed, "validation users").choice(len(rows), VALIDATION_USERS, replace=False)
        rows = rows[torch.from_numpy(np.sort(chosen)).to(rows.device)]
    if not len(rows):
        return None
    asked, cutoff = question.of(rows), select.cutoff
    in_sample = select.protocol == "sampled_99"
    negatives = sampled_99(parts.known(*PARTS)[asked.users], settings.seed, "valid") if in_sample else None

    def per_user(model: Recommender) -> Tensor:
        ranks = _ranks(model, asked, cutoff) if negatives is None else _among(model, asked, negatives)
        return sign * metrics.per_user(ranks, [cutoff], [select.metric])[select.metric, cutoff]

    return Validator(lambda model: float(per_user(model).nanmean()), per_user)


def predicts(family: type[Recommender]) -> bool:
    """Whether the family has ratings to offer."""
    return family.predict is not Recommender.predict


def measure(
    model: Recommender,
    label: str,
    parts: Parts,
    split: str,
    fit: str,
    settings: Settings,
    normalizer: Normalizer = AS_IN_THE_SOURCE,
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
        records += _errors(model, label, parts, split, fit, settings, normalizer, keep)
    return records


def _ranks(model: Recommender, question: Question, depth: int) -> Ranks:
    return holdout_ranks(
        model,
        question.users,
        question.history,
        question.mask,
        question.holdout,
        depth,
        fallback=question.popular,
    )


def _among(model: Recommender, question: Question, negatives: Tensor) -> Ranks:
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
    ranks = _ranks(model, question, max(cutoffs))
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
        everything = parts.known(*PARTS)[question.users]
        negatives = sampled_99(everything, settings.seed, split)
    ranks = _among(model, question, negatives)
    found = metrics.summarise(ranks, [k for k in cutoffs if k <= ranks.depth], protocol="sampled_99", **about)
    return ranks, question.users[question.holdout.rows], found


def published_candidates(candidates: pl.DataFrame, parts: Parts) -> Tensor:
    """Published candidates by user, (U, C), padded with -1."""
    width = max(candidates["item_idx"].list.len().max(), N_NEGATIVES)  # type: ignore[type-var]
    listed = np.full((parts.n_users, int(width)), -1, dtype=np.int64)
    for user, items in candidates.select("user_idx", "item_idx").iter_rows():
        listed[user, : len(items)] = items
    return torch.from_numpy(listed).to(parts.device)


def _errors(
    model: Recommender,
    label: str,
    parts: Parts,
    split: str,
    fit: str,
    settings: Settings,
    normalizer: Normalizer,
    keep: Callable[[pl.DataFrame], Any] | None = None,
) -> Records:
    """Errors of predicted ratings on the part, beside those of simple predictors: in the source's unit and, where
    that is another, on the scale of the fit (the simple predictors are fitted anew there).

    Segment `all`: rows whose user and item both have a rating in what was fitted on; `cold`: the others.
    """
    part = parts.of(split)
    if part.ratings is None or not predicts(type(model)):
        return []
    train, rows = parts.fitted_on(fit), part.rated()
    predicted = _predicted(model, rows, normalizer)
    if predicted is None or not len(rows):
        return []
    assert rows.ratings is not None
    records: Records = []
    known = known_pairs(train, rows)  # (N,)
    for scale in dict.fromkeys((AS_IN_THE_SOURCE, normalizer)):
        actual, simple = scale.apply(rows.ratings), baselines(scale.on(train), rows.users, rows.items)
        if keep and settings.select.protocol == "error" and scale == _scale_of(settings.select.metric, normalizer):
            warm = torch.ones(parts.n_users, dtype=torch.bool, device=parts.device)
            chosen = (scale.apply(predicted)[known], actual[known], rows.users[known])
            per_user.of_errors(*chosen, warm, settings.select, keep)
        about = {"model": label, "split": split, "scaled": scale != AS_IN_THE_SOURCE, "seed": settings.seed}
        for segment, chosen in (("all", known), ("cold", ~known)):
            beside = {name: values[chosen] for name, values in simple.items()}
            compared = (scale.apply(predicted)[chosen], actual[chosen], rows.users[chosen], beside)
            records += metrics.rating_errors(*compared, segment=segment, **about)
    return records


@torch.no_grad()
def _predicted(model: Recommender, rows: Interactions, normalizer: Normalizer) -> Tensor | None:
    """(N,) in the source's unit."""
    predicted = model.predict(rows.users, rows.items)
    return None if predicted is None else normalizer.invert(predicted)


def _error(metric: str, model: Recommender, rows: Interactions, normalizer: Normalizer) -> float:
    """rmse or mae, in the source's unit; or, of the same predictions, on the scale of the fit."""
    predicted = _predicted(model, rows, normalizer)
    assert predicted is not None and rows.ratings is not None
    scale = _scale_of(metric, normalizer)
    off = scale.apply(predicted).double() - scale.apply(rows.ratings).double()  # (N,)
    return float(off.square().mean().sqrt() if metric.startswith("rmse") else off.abs().mean())


def _scale_of(metric: str, normalizer: Normalizer) -> Normalizer:
    """The scale on which an error is measured."""
    return normalizer if metric.endswith("_scaled") else AS_IN_THE_SOURCE
