"""Products with the binary matrix X of histories: its gram matrix, and X times a matrix; dense or by its entries.

Dense products do all of U x I cells, entries only those that are there. A dense product of a CPU does about five times
as many cells a second as weighted bags do entries. Below a few milliseconds the way does not matter, so small
products are dense.
"""

import torch
from torch import Tensor, nn

from pipeline.core.console import log
from pipeline.training.interactions import History

DENSE_GRAM = 1 << 33
"""Multiplications of a dense gram matrix up to which it is computed that way: a fifth of a second of one core."""
DENSE_ITEMS, DENSE_ITEMS_ON_CUDA = 2048, 8192
"""Items up to which scores are a dense product. It depends on nothing else, so a user has the same scores alone."""
FEW_COLUMNS = 16
"""A product is looked up cell by cell where it has so many times the columns that are asked for."""
DENSEST = 0.25
"""Share of cells with an entry up to which a gram matrix is cheaper by entries."""
TILE = 8192
"""Users of one dense tile."""
AT_A_TIME = 128
"""Columns of a matrix whose rows are summed at a time: the popular rows then stay in a core's cache."""
COPIED_FROM = 8
"""Entries per row of a matrix from which copying its columns pays."""
USERS, COLUMNS = 1 << 18, 1 << 23
"""Users at a time, and numbers in the columns of X that are dense at a time (32 MB), by entries."""
MIRROR = 1024
"""Side of the blocks in which a triangle is mirrored."""


def gram_of(history: History, scale: Tensor, values: Tensor | None = None) -> Tensor:
    """XᵀX, (I, I); entries of row u are `values` (E,), by default 1, times scale[u], (U,); none is negative.

    Of repeated items in a row the last value counts. Without `values` and where all of `scale` are equal powers of 2,
    both ways give equal results: sums of whole numbers are exact.
    """
    n_users, n_items, n = len(history), history.n_items, len(history.items)
    work, density = n_users * n_items**2, n / max(n_users * n_items, 1)
    if history.items.device.type != "cpu" or work <= DENSE_GRAM or density > DENSEST:
        return gram_by_tiles(history, scale, values)
    log.debug(
        f"the gram matrix of {n_items:,} items is summed by its {n:,} entries, since only {density:.2%} of all cells "
        f"have one ({DENSEST:.0%} or more: dense tiles)"
    )
    gram = torch.zeros(n_items, n_items)  # (I, I)
    for start in range(0, n_users, USERS):
        rows = torch.arange(start, min(start + USERS, n_users))
        of_rows = slice(int(history.offsets[rows[0]]), int(history.offsets[rows[-1] + 1]))
        _add_gram(gram, history[rows], scale[rows], None if values is None else values[of_rows])
    _mirror(gram)
    return gram


def gram_by_tiles(history: History, scale: Tensor, values: Tensor | None = None, tile: int = TILE) -> Tensor:
    """`gram_of` by dense tiles of users."""
    gram = torch.zeros(history.n_items, history.n_items, device=history.items.device)
    for start in range(0, len(history), tile):
        rows = torch.arange(start, min(start + tile, len(history)), device=history.items.device)
        part = history[rows]
        x = part.dense().mul_(scale[rows, None])  # (tile, I)
        if values is not None:
            x[part.rows, part.items] *= values[history.offsets[rows[0]] : history.offsets[rows[-1] + 1]]
        gram.addmm_(x.T, x)
    return gram


def _add_gram(gram: Tensor, history: History, scale: Tensor, values: Tensor | None) -> None:
    """Add a triangle of XᵀX to `gram` (I, I): cell i, j where j is not more popular than i, so each pair once.

    Row j of XᵀX is the sum of the rows of X of the users with j, of which a few columns are dense at a time. The most
    popular items are those columns first; then only items that are no more popular have to be summed up, and they
    have few entries.
    """
    by_item, values = _by_item(history, scale, values)  # values: (E,) or None
    popular = torch.argsort(by_item.lengths, descending=True, stable=True)  # (I,)
    place = torch.empty_like(popular)
    place[popular] = torch.arange(len(popular))
    left = torch.cumsum(by_item.lengths[popular].flip(0), 0).flip(0).tolist()  # entries from each place on
    block = min(max(COLUMNS // max(len(history), 1), 16), 128)
    columns = torch.zeros(len(history), block)  # (U, C) of X
    items, held, weights, ended = popular, by_item, values, None
    for start in range(0, len(popular), block):
        if not left[start]:
            break
        if ended is None or left[start] < 0.7 * ended:  # leave out the items that are columns already
            items = _dealt(popular[start:], torch.get_num_threads())
            held, ended = by_item[items], left[start]
            weights = None if values is None else values[by_item.places(items)]  # (E',)
        chosen = popular[start : start + block]  # (C,)
        own = by_item[chosen]
        columns[own.items, own.rows] = 1 if values is None else values[by_item.places(chosen)]
        sums = nn.functional.embedding_bag(
            held.items, columns, held.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )[:, : len(chosen)]  # (J, C)
        columns[own.items, own.rows] = 0
        sums = torch.where(place[items].unsqueeze(1) >= place[chosen], sums, 0)  # the others are there already
        rows = torch.zeros(len(chosen), len(popular)).index_copy_(1, items, sums.T)  # (C, I)
        gram.index_add_(0, chosen, rows)


def _by_item(history: History, scale: Tensor, values: Tensor | None) -> tuple[History, Tensor | None]:
    """The transposed history with the last of repeated events, and its scaled entries, (E,); None: all are 1."""
    order = torch.argsort(history.items.int(), stable=True)  # (E,) by item, then user, then event
    by_item = history.transposed()
    entries = None
    if values is not None or not bool((scale == 1).all()):
        entries = (scale[history.rows] if values is None else scale[history.rows] * values)[order]  # (E,)
    of_item = by_item.rows  # (E,)
    repeated = (by_item.items[1:] == by_item.items[:-1]) & (of_item[1:] == of_item[:-1])  # (E - 1,)
    if bool(repeated.any()):
        kept = torch.cat([~repeated, repeated.new_ones(1)])  # (E,)
        by_item = History.of(of_item[kept], by_item.items[kept], len(by_item), by_item.n_items)
        entries = None if entries is None else entries[kept]
    return by_item, entries


def _dealt(items: Tensor, hands: int) -> Tensor:
    """Items (J,) dealt out like cards: a thread takes consecutive rows, and popular items cost most."""
    return torch.cat([items[hand::hands] for hand in range(hands)])


def _mirror(gram: Tensor) -> None:
    """Make a matrix symmetric of which of every pair of cells one is 0."""
    diagonal = gram.diagonal().clone()
    for top in range(0, len(gram), MIRROR):
        for start in range(top, len(gram), MIRROR):
            upper, lower = (
                gram[top : top + MIRROR, start : start + MIRROR],
                gram[start : start + MIRROR, top : top + MIRROR],
            )
            both = upper + lower.T
            upper.copy_(both)
            lower.copy_(both.T)
    gram.diagonal().copy_(diagonal)


def times(history: History, matrix: Tensor, columns: Tensor | None = None) -> Tensor:
    """X times a matrix (I, J), with repeated items once, (B, J), or some columns of every row, (B, C) -> (B, C).

    Where the history has weights they are the entries of X, and its items don't repeat.
    Dense for few items, else the sum of the matrix's rows. On CUDA some columns are taken from whole rows: sums of
    single cells would be added in any order there.
    """
    on_cpu = history.items.device.type == "cpu"
    if history.n_items <= (DENSE_ITEMS if on_cpu else DENSE_ITEMS_ON_CUDA):
        product = history.dense() @ matrix  # (B, J)
        return product if columns is None else product.gather(1, columns)
    weights = history.weights  # (E,)
    if weights is None and (again := history.repeats()) is not None:
        weights = (~again).to(matrix.dtype)
    if on_cpu and columns is not None and FEW_COLUMNS * columns.shape[1] <= matrix.shape[1]:
        return _times_few(history, matrix, columns, weights)
    if on_cpu and columns is None and len(history.items) >= COPIED_FROM * len(matrix):
        return _times_by_columns(history, matrix, weights)
    product = nn.functional.embedding_bag(
        history.items, matrix, history.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )  # (B, J)
    return product if columns is None else product.gather(1, columns)


def _times_by_columns(history: History, matrix: Tensor, weights: Tensor | None) -> Tensor:
    """X times a matrix, (B, J), a few of its columns at a time; the bits are those of all at once."""
    product = matrix.new_empty(len(history), matrix.shape[1])
    copied = matrix.new_empty(len(matrix) * AT_A_TIME)
    for columns, sums in zip(matrix.split(AT_A_TIME, 1), product.split(AT_A_TIME, 1), strict=True):
        own = copied[: columns.numel()].view(columns.shape).copy_(columns)  # (I, C)
        sums.copy_(
            nn.functional.embedding_bag(
                history.items, own, history.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
            )
        )  # (B, C)
    return product


def _times_few(history: History, matrix: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
    """The cells of the product that `columns` (B, C) names, (B, C)."""
    flat, width, rows = matrix.reshape(-1), matrix.shape[1], history.rows
    product = matrix.new_zeros(columns.shape)
    for events in torch.arange(len(rows)).split(max(1, COLUMNS // max(columns.shape[1], 1))):  # (E',)
        cells = flat[history.items[events].unsqueeze(1) * width + columns[rows[events]]]  # (E', C)
        product.index_add_(0, rows[events], cells if weights is None else cells * weights[events].unsqueeze(1))
    return product
