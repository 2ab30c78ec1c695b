"""iALS: weighted matrix factorization of implicit feedback by alternating least squares.

Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, with the
frequency-scaled penalty of Rendle et al., "Revisiting the Performance of iALS on Item Recommendation
Benchmarks", RecSys 2022.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.core.console import log
from pipeline.core.seeding import seed_of
from pipeline.models.base import Explainer, FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.ials_config import IalsConfig
from pipeline.models.ials_share import Checkpoints, Share, State
from pipeline.models.ials_sides import rows_of, sides
from pipeline.models.ops.attribute_map import AttributePrior
from pipeline.models.ops.fingerprints import fingerprints
from pipeline.models.ops.least_squares import (
    Rows,
    eigenbasis,
    products,
    solve_by_gradients,
    solve_exactly,
    solve_in_place,
)
from pipeline.training.interactions import History, Interactions
from pipeline.training.warm import PreviousFit

FOLD_IN_STEPS, FOLD_IN_TOLERANCE = 100, 1e-5
PIECE = 1 << 16  # rows that are checked at once


class Ials(Recommender):
    """score(u, i) = <p_u, q_i>; p_u is solved from the given history, with the fitted item factors.

    With attribute_prior, the penalty of an item is l2_i |q_i - F x_i|² (a regression-based prior: Agarwal and Chen,
    "Regression-based Latent Factor Models", KDD 2009), with attributes x_i and F from a ridge regression of the factors
    in every epoch.

    Items that were placed by their attributes have factors, but users are solved as in the fit, where those were 0.

    A user with the history of the fit (the same items in any order) gets the fitted factors: they are that solution,
    to 1e-5, so nothing is solved. Repeated items count once, or by their weights; users are then always solved. With
    ratings as weights, users of the fit keep their fitted factors, since a `History` has no ratings; interactions of
    other users have the mean weight of the fit.
    """

    family = "ials"
    Config = IalsConfig
    reads_history = True
    cuts_users = True
    rows_of_state: ClassVar[Mapping[str, str]] = {"users": "users", "items": "items"}

    def __init__(self, config: IalsConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: IalsConfig = config
        self.users: Tensor
        self.items: Tensor
        self.mean_weight: Tensor
        self.register_buffer("users", torch.zeros(n_users, config.embedding_dim))
        self.register_buffer("items", torch.zeros(n_items, config.embedding_dim))  # with a diagonal gramian
        self.register_buffer("mean_weight", torch.ones(()))
        self.fingerprints: Tensor
        self.register_buffer("fingerprints", torch.zeros(0, dtype=torch.long))  # (U,) of the histories of the fit
        self.placed: Tensor
        self.register_buffer("placed", torch.zeros(0, dtype=torch.long))  # (N,) items placed by attributes
        self._solved_by: Tensor | None = None  # `items` with 0 for those

    @classmethod
    def fits_on_ids(cls, config: ModelConfig) -> bool:
        """Unless weights come from ratings."""
        return isinstance(config, IalsConfig) and not config.use_weights

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Alternate; the loss of an epoch is eq. 1 of Rendle et al., divided by the number of interactions.

        With `context.epochs` exactly so many epochs; else, with `context.validate`, until `patience` epochs
        bring no improvement, and the best factors are restored; else `epochs` of the config. With
        `context.previous` from its factors, for fewer epochs (training/warm.py); epoch 0 is what was carried over.
        """
        self.to(context.device)
        share = Share.of(context, self.n_users)
        train = share.rows(train)
        both = sides(train, self.config, share)
        by_user = both[0]
        self.mean_weight, n_entries = share.mean(by_user.weights), share.total(len(by_user.weights))
        self.placed, self._solved_by = self.placed[:0], None
        validate = share.validating(context.validate) if context.validate and context.epochs is None else None
        prior = AttributePrior("ials", train, context) if self.config.attribute_prior else None
        config = self.config if context.previous is None else context.previous.shortened(self.config)
        last_epoch = config.epochs if context.epochs is None else context.epochs
        identity = f"ials {config.model_dump_json()} {n_entries:.0f} {context.seed} {last_epoch}"
        checkpoints = Checkpoints(share, context, identity)
        state = self._resumed(checkpoints, prior) or self._begun(both, share, context, validate)
        for epoch in range(state.progress.epoch + 1, last_epoch + 1):
            values = self._epoch(both, share, prior if epoch > 1 else None)
            values["loss"] /= n_entries
            if validate is not None:
                values["valid"] = validate(self)
            state.note(epoch, values, (self.users, self.items))
            context.log(epoch, values)
            if epoch < last_epoch and share.is_late(context):
                context.cut_short = True
                log.warning("the deadline ended the fit after epoch %d of %d", epoch, last_epoch)
                break
            if state.progress.best_epoch is not None and epoch - state.progress.best_epoch >= config.patience:
                break
            state.prior_l2 = None if prior is None else prior.l2
            checkpoints.after_epoch(state, (self.users, self.items))
        self.best_epoch = state.progress.best_epoch
        if state.kept is not None:
            self.users, self.items = state.kept
        self.users = self._solve(by_user, self.users)
        self.fingerprints = fingerprints(train.history())
        finite = all(bool(part.isfinite().all()) for table in (self.users, self.items) for part in table.split(PIECE))
        if share.total(float(not finite)):
            raise NotServable("ials: the factors are not finite; raise l2 or lower weight_scale")
        self.users, self.fingerprints = share.world.joined(self.users), share.world.joined(self.fingerprints)

    def _resumed(self, checkpoints: Checkpoints, prior: AttributePrior | None) -> State | None:
        """The state of a checkpoint, with its factors in this model; None: there is none."""
        found = checkpoints.resume()
        if found is None:
            return None
        state, (self.users, self.items) = found
        if prior is not None:
            prior.l2 = state.prior_l2
        return state

    def _begun(
        self,
        both: tuple[Rows, Rows],
        share: Share,
        context: FitContext,
        validate: Callable[[Recommender], float] | None,
    ) -> State:
        """The state before the first epoch, with random factors or those of an earlier fit in this model."""
        random, state = torch.Generator().manual_seed(seed_of(context.seed, "ials", "init")), State()
        dim, stddev = self.config.embedding_dim, self.config.init_stddev / math.sqrt(self.config.embedding_dim)
        self.users = share.first_factors(dim, stddev, random).to(context.device)  # (U, D), or those of the share
        self.items = torch.zeros_like(self.items)  # (I, D)
        if context.previous is not None:
            self._start_from(share.previous(context.previous), both, share)
            state.kept, state.progress.best_epoch = (self.users, self.items), 0
            if validate is not None:
                state.progress.best = validate(self)
                context.log(0, {"valid": state.progress.best})
        return state

    def _epoch(self, both: tuple[Rows, Rows], share: Share, prior: AttributePrior | None) -> dict[str, float]:
        """Both half-steps; the loss of all interactions."""
        # Users last: then they fit the items, and the gramian of the items is left diagonal.
        by_user, by_item = both
        own = by_item if prior is None else replace(by_item, prior=prior.of(self.items))
        self.items, self.users, _, paid = self._half_step(own, self.items, self.users, share)
        self.items = share.world.agreed(self.items)
        self.users, self.items, loss, _ = self._half_step(by_user, self.users, self.items, share)
        return {"loss": share.total(loss) + paid}

    def _start_from(self, previous: PreviousFit, both: tuple[Rows, Rows], share: Share) -> None:
        """Factors of the earlier fit; of new items by its users, then of all users by the items. The others stay.

        Where few epochs are best, as on sparse data, this beats any further epoch.
        """
        by_user, by_item = both
        previous.carry_into(self, self.rows_of_state)
        self.users[previous.users.to(self.users.device) < 0] = 0.0
        turn = eigenbasis(self.users, by_item, share.world)  # (D, D)
        self.users, self.items = self.users @ turn, self.items @ turn
        new = (previous.items.to(self.items.device) < 0).nonzero().squeeze(1)  # (N,)
        if len(new):
            a, start = self.config.unobserved_weight, torch.zeros_like(self.items[new])  # (N, D)
            found = solve_by_gradients(by_item.of(new), start, self.users, a, FOLD_IN_STEPS, FOLD_IN_TOLERANCE)[0]
            self.items[new] = found
        self.items = share.world.agreed(self.items)
        turn = eigenbasis(self.items, by_user, share.world)
        self.users, self.items = self.users @ turn, self.items @ turn
        self.users = self._solve(by_user, self.users)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Dot products, (B, I) or (B, C)."""
        user = self._fold_in(users, history)  # (B, D)
        if items is None:
            return user @ self.items.T
        if items.shape[1] > self.n_items:  # of torch, no pattern has more entries than a whole matrix
            return (user @ self.items.T).gather(1, items)
        offsets = torch.arange(len(items) + 1, device=items.device) * items.shape[1]  # (B + 1,)
        return products(user, self.items, History(offsets, items.reshape(-1), self.n_items)).view_as(items)

    def user_factors(self, users: Tensor, history: History) -> Tensor:
        """The factors that `score` multiplies with the items', (B, D): folded in from `history`."""
        return self._fold_in(users, history)

    def contributions(self, user: int, history: History, item: int) -> Tensor | None:
        """w_j q_iᵀ A⁻¹ q_j, with A as in least_squares.py (Hu et al., sec. 5), (E,).

        None for users of a fit with ratings as weights: a `History` doesn't hold those.
        """
        if self.config.use_weights and user >= 0 and history.weights is None:
            return None
        q, w = self._known_items.double(), self._known_weights(history).double()  # (I, D), (E,)
        own = q[history.items]  # (E, D)
        a = self.config.unobserved_weight * (q.T @ q) + own.T @ (w[:, None] * own)  # (D, D)
        a.diagonal().add_(rows_of(self.config, history, w).l2)
        return (w * (own @ torch.linalg.solve(a, self.items[item].double()))).float()

    def explainer(self) -> Explainer | None:
        """w_j q_iᵀ A⁻¹ q_j, as `contributions`; None for fits with ratings as weights."""
        if self.config.use_weights and not self.config.event_weights:
            return None
        q, of_items = self._known_items.double(), self.items.double()  # (I, D) each
        gramian = self.config.unobserved_weight * (q.T @ q)  # (D, D)

        def explain(users: Tensor, history: History, items: Tensor) -> Tensor:
            rows, weights = history.rows, self._known_weights(history)  # (E,) each
            place = torch.arange(len(rows), device=q.device) - history.offsets[rows]  # (E,)
            longest = int(history.lengths.amax()) if len(rows) else 0
            own = q.new_zeros(len(items), longest, q.shape[1])  # (B, L, D), 0 beyond a row's events
            own[rows, place] = q[history.items]
            w = q.new_zeros(len(items), longest, 1).index_put_((rows, place), weights.double()[:, None])  # (B, L, 1)
            a = gramian + own.mT @ (w * own)  # (B, D, D)
            a.diagonal(dim1=1, dim2=2).add_(rows_of(self.config, history, weights).l2[:, None])
            added = w * (own @ torch.linalg.solve(a, of_items[items].mT))  # (B, L, K)
            return added[rows, place].float()  # (E, K)

        return explain

    def _known_weights(self, history: History) -> Tensor:
        """What every interaction of a history adds to its cell, (E,)."""
        if history.weights is None:
            return self.mean_weight.expand(len(history.items))
        return self.config.weight_scale * history.weights

    def _fold_in(self, users: Tensor, history: History) -> Tensor:
        """Factors by the history, (B, D)."""
        known = (users >= 0)[:, None]  # (B, 1)
        fitted = self.users[users.clamp(min=0)] * known  # (B, D)
        history = self.weighed(history)
        by_rating = self.config.use_weights and history.weights is None
        if by_rating and known.all():
            return fitted
        if by_rating:
            others = ~known.squeeze(1)  # (B,)
        elif history.weights is not None:
            others = torch.ones_like(users, dtype=torch.bool)
        else:
            others = ~(known.squeeze(1) & self._is_of_the_fit(users, history))
        others = others.nonzero().squeeze(1)  # (B',)
        if len(others):
            history = history[others] if history.weights is not None else history[others].once()
            rows = rows_of(self.config, history, self._known_weights(history))
            fitted[others] = self._solve(rows, fitted[others] * (history.lengths > 0)[:, None])
        return fitted

    def _is_of_the_fit(self, users: Tensor, history: History) -> Tensor:
        """Whether the items of the history are those that the factors of the user were solved for, (B,) bool."""
        if not len(self.fingerprints):  # a state that an earlier version wrote
            return torch.zeros_like(users, dtype=torch.bool)
        return fingerprints(history) == self.fingerprints[users.clamp(min=0)]

    def _solve(self, rows: Rows, start: Tensor) -> Tensor:
        """Users by the items as they are, to convergence, (B, D)."""
        a = self.config.unobserved_weight
        if self.config.solver == "exact":
            return solve_exactly(rows, self._known_items, a)[0]
        return solve_by_gradients(rows, start, self._known_items, a, FOLD_IN_STEPS, FOLD_IN_TOLERANCE)[0]

    @property
    def _known_items(self) -> Tensor:
        """Factors of the items by which users are solved, (I, D): those of the fit, whose gramian is diagonal."""
        if not len(self.placed):
            return self.items
        if self._solved_by is None or self._solved_by.device != self.items.device:
            self._solved_by = self.items.index_fill(0, self.placed, 0.0)
        return self._solved_by

    def learnt_of_items(self) -> list[Tensor]:
        """The factors."""
        return [self.items]

    def set_items(self, items: Tensor, rows: list[Tensor]) -> None:
        """Give items (N,) without a row in the fit these factors, (N, D)."""
        self.placed, self._solved_by = items, None
        super().set_items(items, rows)

    def _half_step(self, rows: Rows, x: Tensor, q: Tensor, share: Share) -> tuple[Tensor, Tensor, float, float]:
        """New x, q in its eigenbasis, the loss but for what the other side pays, and what this side pays."""
        a, turn = self.config.unobserved_weight, eigenbasis(q, rows, share.world)  # (D, D)
        x, q = x @ turn, q @ turn
        if rows.prior is not None:
            rows = replace(rows, prior=rows.prior @ turn)
        if self.config.solver == "exact":
            x, loss = solve_exactly(rows, q, a)
        else:
            x, loss = solve_in_place(rows, x, q, a, self.config.cg_steps)
        return x, q, loss, rows.size(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        for name in ("fingerprints", "placed"):  # not in states of earlier versions
            state_dict.setdefault(f"{prefix}{name}", getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *more)

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.items

    def user_vectors(self) -> Tensor:
        """(U, D), by the history of the fit."""
        return self.users

    def factors(self) -> tuple[Tensor, Tensor, None]:
        """(U, D) by the history of the fit, (I, D), no bias."""
        return self.users, self.items, None
