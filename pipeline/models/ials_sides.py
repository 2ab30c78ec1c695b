"""The interactions of a fit of ials as weighted rows of both sides: by user and by item."""

import torch
from torch import Tensor

from pipeline.models.base import NotServable
from pipeline.models.ials_config import IalsConfig
from pipeline.models.ials_share import Share
from pipeline.models.ops.least_squares import OtherSide, Rows
from pipeline.training.event_weights import history_of
from pipeline.training.interactions import History, Interactions, stable_order


def sides(train: Interactions, config: IalsConfig, share: Share) -> tuple[Rows, Rows]:
    """The positive rows by user and by item. `train`: those of the share. Raises NotServable where nothing is there."""
    rows = train.positives()
    if not share.total(len(rows)):
        raise NotServable("ials: there is no interaction to learn from")
    learnt = history_of(train, config)
    if learnt.weights is not None:
        by_item = learnt.transposed()
        assert by_item.weights is not None
        weights, of_items = (config.weight_scale * side for side in (learnt.weights, by_item.weights))
        return rows_of(config, learnt, weights), rows_of(config, by_item, of_items, share.cut(by_item, of_items))
    by_user = train.history().narrow()
    by_item = by_user.transposed().narrow()
    if config.use_weights:
        of_rows, order = stable_order(rows.users), stable_order(by_user.items)
        weights = _by_rating(rows, config, share)
        weights = weights if of_rows is None else weights[of_rows]  # (E,)
        of_items = weights if order is None else weights[order]  # (E,)
    else:
        if by_item.doubled():
            by_user = by_user.once().narrow()
            by_item = by_user.transposed().narrow()
        weights = of_items = torch.ones(len(by_user.items), device=by_user.items.device)
    return rows_of(config, by_user, weights), rows_of(config, by_item, of_items, share.cut(by_item, of_items))


def rows_of(config: IalsConfig, history: History, weights: Tensor, cut: OtherSide | None = None) -> Rows:
    """Rows of a history with the weights (E,) of its entries, and what each pays for the size of its factors."""
    lengths, n_others = (history.lengths, history.n_items) if cut is None else (cut.lengths, cut.size)
    frequency = lengths + config.unobserved_weight * n_others  # (B,)
    return Rows(history, weights, config.l2 * frequency**config.frequency_exponent, cut=cut)


def _by_rating(rows: Interactions, config: IalsConfig, share: Share) -> Tensor:
    """(N,)"""
    if rows.ratings is None:
        raise NotServable("ials with use_weights needs a rating column, and this data set has none")
    weights = torch.where(rows.ratings.isnan(), 1.0, config.weight_scale * rows.ratings)
    if share.total(int((weights < 0).sum())) or not share.total(int((weights > 0).sum())):
        raise NotServable("ials with use_weights needs ratings from 0 up; set normalize = 'none' or 'log1p'")
    return weights
