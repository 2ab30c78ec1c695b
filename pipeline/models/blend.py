"""A blend of fitted models: the weighted sum of their standardised scores (weights: Caruana et al., ICML 2004)."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from pipeline.core.bootstrap import paired_difference
from pipeline.models import registry
from pipeline.models.base import Explainer, Recommender, pick
from pipeline.training.context import FitContext, ModelConfig, NotServable
from pipeline.training.event_weights import WeightsConfig
from pipeline.training.interactions import History, Interactions


class Member(BaseModel):
    """A member of the blend, as it was fitted."""

    family: str
    config: dict[str, Any]


class BlendConfig(ModelConfig):
    """Hyperparameters of `Blend`."""

    of: tuple[str, ...] = ()
    """Labels of the models to blend; empty: all models of the recipe except popularity and other blends."""
    most: Annotated[int, Field(ge=2)] | None = None
    """Largest number of members: only those that are best on valid. Unset: all."""
    weights: dict[str, NonNegativeFloat] | None = None
    """Weights of the members, by label. Unset: equal, or learned on valid if that is significantly better."""
    picks: PositiveInt = 12
    """Resolution of learned weights: they are multiples of 1 / picks."""
    members: dict[str, Member] = Field(default_factory=dict)
    """Family and hyperparameters of each label; set by the night, not in recipes."""


class Blend(Recommender):
    """score(u, i) = Σ w_m (s_m(u, i) - mean) / sd, with the mean and sd of s_m(u, ·) over all items.

    Learned weights are counts of greedy picks with replacement (Caruana et al., "Ensemble selection from libraries of
    models", ICML 2004). They are used only if weights picked on half of the valid users beat equal weights on the other
    half: the 95 % interval of the paired difference is above 0. If the deadline comes first, the same test decides on
    the best weights tried so far.
    """

    family = "blend"
    Config = BlendConfig
    blends = True

    def __init__(self, config: BlendConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: BlendConfig = config
        made = (_made(member, n_users, n_items) for member in config.members.values())
        self.models: Sequence[Recommender] = nn.ModuleList(made)  # type: ignore[assignment]
        self.reads_history = all(model.reads_history for model in self.models)  # type: ignore[misc]
        self.weights = list((config.weights or dict.fromkeys(config.members, 1.0)).values())  # by member
        self._known: dict[tuple[int, bytes], Tensor] | None = None  # standardised scores, while weights are learned

    @classmethod
    def of(cls, config: BlendConfig, models: Mapping[str, Recommender]) -> "Blend":
        """A blend of fitted models, by label; weights of missing models are dropped."""
        members = {
            name: Member(family=registry.name_of(type(m)), config=m.config.model_dump()) for name, m in models.items()
        }
        weights = config.weights and {name: config.weights.get(name, 0.0) for name in models}
        if len(models) < 2 or (weights and not any(weights.values())):
            raise NotServable(
                f"a blend needs two fitted models with weights, and there is {', '.join(models) or 'none'}"
            )
        first = next(iter(models.values()))
        blend = cls(config.model_copy(update={"members": members, "weights": weights}), first.n_users, first.n_items)
        blend.models = nn.ModuleList(models.values())  # type: ignore[assignment]
        blend.reads_attributes = any(model.reads_attributes for model in models.values())
        return blend

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Choose the weights; the members are already fitted."""
        self.to(context.device)
        if self.config.weights is None and context.per_user is not None:
            fits = context.memory is None or 4 * self.n_users * self.n_items * len(self.models) < context.memory
            self._known = {} if fits else None
            self.weights = self._learned(context.per_user, context)
            self._known = None
        weights = {name: w / sum(self.weights) for name, w in zip(self.config.members, self.weights, strict=True)}
        self.weights = list(weights.values())
        self.config = self.config.model_copy(update={"weights": weights})  # a refit keeps them

    def _learned(self, per_user: Callable[[Any], Tensor], context: FitContext) -> list[float]:
        """Weights by member: equal unless others are significantly better. Ends before the deadline."""
        n, tried = len(self.models), {}
        chosen, longest = (1,) * n, 0.0  # seconds of one evaluation; the first one also scores the members

        def metric(picks: tuple[int, ...]) -> Tensor:
            """The selection metric of every valid user, (N,)."""
            nonlocal longest
            if picks not in tried:
                started = time.monotonic()
                if context.deadline is not None and started + longest > context.deadline:
                    raise _NoTime
                self.weights = [float(pick) for pick in picks]
                tried[picks] = per_user(self).cpu()
                took = time.monotonic() - started
                longest = took if len(tried) < 3 else max(longest, took)
            return tried[picks]

        def picked(rows: Tensor) -> tuple[int, ...]:
            """Greedy picks by the mean metric of some users; the best picks found before time runs out."""
            picks, best = (0,) * n, (-math.inf, (1,) * n)
            try:
                for _ in range(self.config.picks):
                    nexts = [tuple(p + (m == added) for m, p in enumerate(picks)) for added in range(n)]
                    found = (-math.inf, picks)
                    for p in nexts:
                        found = max(found, (float(metric(p)[rows].nanmean()), p))
                        best = max(best, found)
                    picks = found[1]
            except _NoTime:
                context.cut_short = True
            return best[1]

        try:
            equal = metric(chosen)
        except _NoTime:
            context.cut_short = True
            return [1.0] * n
        half = torch.rand(len(equal), generator=torch.Generator().manual_seed(context.seed)) < 0.5  # (N,)
        if not half.all() and half.any():
            on_half = picked(half)
            if paired_difference(tried[on_half][~half], equal[~half], context.seed).ci_low > 0:
                chosen = on_half if context.cut_short else picked(torch.ones_like(half))
        return [float(pick) for pick in chosen]

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Weighted sum of standardised scores, (B, I) or (B, C)."""
        total = torch.zeros(len(users), self.n_items, device=users.device)  # (B, I)
        for at, (model, weight) in enumerate(zip(self.models, self.weights, strict=True)):
            if weight:
                total += weight * self._standard(at, model, users, history)
        return pick(total, items)

    def explainer(self) -> Explainer | None:
        """What an event adds by all members that weigh; constants of a user are left out. None if one can't explain,
        or weighs events in its own way."""
        models = [(model, weight) for model, weight in zip(self.models, self.weights, strict=True) if weight]
        if any(isinstance(model.config, WeightsConfig) and model.config.weighs for model, _ in models):
            return None
        members = [(model, weight, model.explainer()) for model, weight in models]
        if any(explain is None for _, _, explain in members):
            return None

        def explain(users: Tensor, history: History, items: Tensor) -> Tensor:
            added = torch.zeros(len(history.items), items.shape[1], device=items.device)  # (E, K)
            for model, weight, of_member in members:
                assert of_member is not None
                deviation = torch.std(model.score(users, history), 1, correction=0).clamp(min=1e-9)  # (B,)
                added += weight * of_member(users, history, items) / deviation[history.rows, None]
            return added

        return explain

    def _standard(self, at: int, model: Recommender, users: Tensor, history: History) -> Tensor:
        """`_standardised`, kept while weights are learned."""
        if self._known is None:
            return _standardised(model, users, history)
        tile = (at, users.cpu().numpy().tobytes())  # all users: with sampled candidates one may fill several rows
        if tile in self._known:
            return self._known[tile]
        standard = _standardised(model, users, history)
        if sum(map(len, self._known.values())) < self.n_users * len(self.models):
            self._known[tile] = standard
        return standard


def _standardised(model: Recommender, users: Tensor, history: History) -> Tensor:
    """Scores of one member with mean 0 and deviation 1 over all items, (B, I)."""
    scores = model.score(users, history)  # (B, I)
    deviation, mean = torch.std_mean(scores, 1, keepdim=True, correction=0)
    return (scores - mean) / deviation.clamp(min=1e-9)


class _NoTime(Exception):
    """Another evaluation would end after the deadline."""


def _made(member: Member, n_users: int, n_items: int) -> Recommender:
    family = registry.find(member.family)
    return family(family.Config.model_validate(member.config), n_users, n_items)
