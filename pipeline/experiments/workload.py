"""What a fit, an evaluation and publishing have to do, counted from rows, users, items and hyperparameters.

The counts are rough: they order the families and tell seconds from minutes. `forecast.py` scales them by what was
timed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.training.context import ModelConfig

NUMBER = 4
"""Bytes of a number."""
NEAREST, SIMILAR = 48.0, 10.0
"""How often all similarities of an item to the others are touched until the nearest are found: to fit, to publish."""
SKEW = 3.0
"""Mean squared length of a history, over the squared mean length: lengths are skewed."""
LEARNING_PASSES = 30
"""How often a step of a gradient fit touches an embedding: read, gradient, optimizer state, write."""
MF_PASSES = 16
"""The same for `mf` whose rows have negatives of their own."""
SHARED_ROW, SHARED_CELL = 13_000.0, 500.0
"""Bytes that `mf` with shared negatives moves per row, and per row and negative, apart from its rows' embeddings."""
PAIR_PASSES, SORT_PASSES = 20, 300
"""How often a pair of items is touched when it is added to a score, and when pairs are sorted and counted."""
SMALL_PRODUCTS = 3.0
"""How much longer the products of small networks take than those of large matrices."""
EVALUATION_STEPS, TABLES_STEPS, STAGE_STEPS = 1_200.0, 8_000.0, 120.0
"""Work that does not depend on the data: of an evaluation, of tables and audits, and between two stages."""
TRACKING_STEPS, LOGGING_STEPS = 3_000.0, 300.0
"""Work of logging a night to MLflow, which is open already: what every night has, and every run (a family, a trial)."""
STATE = 64
"""Numbers per user or item, where a config does not say."""


@dataclass(frozen=True)
class Shape:
    """Size of the data that is fitted or ranked."""

    rows: int
    users: int
    items: int

    @property
    def length(self) -> float:
        """Mean number of rows of a user."""
        return self.rows / max(1, self.users)


@dataclass(frozen=True)
class Work:
    """Counts of operations, by what limits them."""

    products: float = 0.0
    """Floating-point operations of dense matrix products."""
    moved: float = 0.0
    """Bytes read or written at random places."""
    steps: float = 0.0
    """Updates one after another, each of many small operations."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.products + other.products, self.moved + other.moved, self.steps + other.steps)

    def __mul__(self, times: float) -> "Work":
        return Work(self.products * times, self.moved * times, self.steps * times)


def of_fit(family: str, config: ModelConfig, shape: Shape) -> Work:
    """One fit; of a family that is not known here, as of matrix factorization by gradient steps."""
    return FITS.get(family, _gradient)(config, shape) + Work(moved=32.0 * shape.rows)


def of_evaluation(family: str, config: ModelConfig, shape: Shape, fitted: Shape) -> Work:
    """Scores and ranks of `users` users by a model of this fit; `rows` are their histories."""
    return of_lists(family, config, shape, fitted) + Work(steps=EVALUATION_STEPS)


def of_lists(family: str, config: ModelConfig, shape: Shape, fitted: Shape) -> Work:
    """Scores and ranks of `users` users; `rows` are their histories, `fitted` the data of the fit."""
    if family in SPARSE_SCORES:
        score = Work(moved=0.4 * NUMBER * shape.rows * shape.items)  # whole rows of the matrix, one after another
    elif family == "graph_filter":
        score = _filtered(config, shape.users, fitted)
    elif family == "next_item":
        read = min(float(shape.rows), shape.users * getattr(config, "latest", 30))
        score = Work(moved=PAIR_PASSES * NUMBER * read * min(shape.items, getattr(config, "neighbors", 200)))
    elif family == "sasrec":
        score = _forward(config, shape) + Work(2.0 * shape.users * shape.items * _dim(config))
    else:
        score = Work(2.0 * shape.users * shape.items * _dim(config))
    return score + Work(moved=4.0 * NUMBER * shape.users * shape.items + 64.0 * shape.rows)


def of_similar(family: str, config: ModelConfig, shape: Shape) -> Work:
    """Similar items of all items."""
    found = _filtered(config, shape.items, shape) if family == "graph_filter" else Work(2.0 * shape.items**2 * STATE)
    return found + Work(moved=SIMILAR * NUMBER * shape.items**2)


def of_tables(shape: Shape, top_n: int) -> Work:
    """Tables of lists, users, items and rows; their audit, and publishing them."""
    return Work(moved=400.0 * shape.rows + 1_000.0 * shape.users * top_n, steps=TABLES_STEPS)


def of_tracking(runs: int) -> Work:
    """Logging a night to MLflow, with this number of runs."""
    return Work(steps=TRACKING_STEPS + LOGGING_STEPS * runs)


def epochs_of(config: ModelConfig) -> int | None:
    """Number of epochs after each of which a fit can be ended; None: it is one piece."""
    found = getattr(config, "epochs", None)
    return found if isinstance(found, int) else None


def _dim(config: ModelConfig) -> int:
    found = getattr(config, "embedding_dim", STATE)
    return found if isinstance(found, int) else STATE


def _pairs(shape: Shape) -> float:
    """Pairs of items in one history, summed over the users."""
    return SKEW * shape.rows * shape.length


def _popularity(config: ModelConfig, shape: Shape) -> Work:
    return Work(moved=32.0 * shape.rows)


def _ease(config: ModelConfig, shape: Shape) -> Work:
    plain = not any(getattr(config, name, 0) for name in ("rating_exponent", "weighs", "attribute_weight"))
    if plain and shape.users < shape.items:  # the dual form solves for users
        solved = 2.0 * shape.users**2 * (shape.users + 2 * shape.items)
        return Work(solved, 3.0 * NUMBER * shape.users * (shape.users + shape.items))
    return Work(2.0 * shape.items**3, 2.0 * NUMBER * _pairs(shape))


def _slim(config: ModelConfig, shape: Shape) -> Work:
    iterations = getattr(config, "iterations", 100)
    return Work((2.0 + 0.5 * iterations) * shape.items**3, 2.0 * NUMBER * _pairs(shape))


def _neighbors(config: ModelConfig, shape: Shape) -> Work:
    return Work(moved=6.0 * NUMBER * _pairs(shape) + NEAREST * NUMBER * shape.items**2)


def _pairs_in_reach(config: ModelConfig, shape: Shape) -> Work:
    reach = min(2.0 * getattr(config, "reach", 10), SKEW * shape.length)
    return Work(moved=SORT_PASSES * NUMBER * shape.rows * reach)


def _ials(config: ModelConfig, shape: Shape) -> Work:
    epochs, passes, dim = epochs_of(config) or 1, 2 * (getattr(config, "cg_steps", 2) + 2), _dim(config)
    solved = Work(4.0 * (shape.users + shape.items) * dim**2, 2.0 * passes * NUMBER * shape.rows * dim, 200)
    return solved * epochs + Work(moved=40.0 * NUMBER * shape.rows * dim)


def _graph_filter(config: ModelConfig, shape: Shape) -> Work:
    columns, rounds = getattr(config, "components", 256) + 16, 10
    found = Work(24.0 * (shape.users + shape.items) * columns**2, 2.0 * rounds * NUMBER * shape.rows * columns)
    if _is_dense(config, shape):
        found += Work(moved=getattr(config, "order", 8) * NUMBER * shape.rows * shape.items)
    return found


def _filtered(config: ModelConfig, signals: int, shape: Shape) -> Work:
    """The polynomial of a graph filter, for a number of signals; one product where it is stored as a matrix."""
    if _is_dense(config, shape):
        return Work(2.0 * signals * shape.items**2)
    order, columns = getattr(config, "order", 8), getattr(config, "components", 256)
    passes = order * NUMBER * (2.0 * shape.rows + 5.0 * shape.items) * 1.5
    return Work(4.0 * signals * shape.items * columns, signals * passes)


def _is_dense(config: ModelConfig, shape: Shape) -> bool:
    return shape.items <= getattr(config, "dense_items", 8_000)


def _gradient(config: ModelConfig, shape: Shape) -> Work:
    epochs, touched = epochs_of(config) or 10, getattr(config, "n_negatives", 4) + 2
    moved = LEARNING_PASSES * NUMBER * shape.rows * touched * _dim(config)
    return Work(moved=moved, steps=_batches(config, shape.rows)) * epochs


def _mf(config: ModelConfig, shape: Shape) -> Work:
    epochs, negatives, dim = epochs_of(config) or 10, getattr(config, "n_negatives", 4), _dim(config)
    if getattr(config, "shared_negatives", None):
        per_row = SHARED_ROW + SHARED_CELL * negatives + LEARNING_PASSES * NUMBER * dim
    else:
        per_row = MF_PASSES * NUMBER * (negatives + 2) * dim
    return Work(moved=per_row * shape.rows, steps=_batches(config, shape.rows)) * epochs


def _autoencoder(config: ModelConfig, shape: Shape) -> Work:
    epochs, hidden = epochs_of(config) or 10, getattr(config, "hidden_dim", 600)
    products = SMALL_PRODUCTS * 6.0 * shape.users * shape.items * hidden
    return Work(products, steps=_batches(config, shape.users)) * epochs


def _sequence(config: ModelConfig, shape: Shape) -> Work:
    epochs, width = epochs_of(config) or 10, getattr(config, "max_length", 200)
    scored = shape.items if getattr(config, "loss", "softmax") == "softmax" else getattr(config, "n_negatives", 256)
    pieces = shape.users * (1 + shape.length // width)
    scores = Work(SMALL_PRODUCTS * 6.0 * shape.rows * scored * _dim(config))
    return (_forward(config, shape) * 3 + scores + Work(steps=_batches(config, pieces))) * epochs


def _forward(config: ModelConfig, shape: Shape) -> Work:
    """The blocks of a sequence model, forward, for all rows."""
    dim, width = _dim(config), getattr(config, "max_length", 200)
    weights = 18 if getattr(config, "block", "plain") == "ligr" else 12  # of a block, in dim**2
    blocks = getattr(config, "blocks", 2) * (weights * dim**2 + 2 * dim * min(width, shape.length))
    return Work(SMALL_PRODUCTS * 2.0 * shape.rows * blocks)


def _batches(config: ModelConfig, rows: float) -> float:
    return 1 + rows / max(1, getattr(config, "batch_size", 0) or rows)


FITS: Mapping[str, Callable[[ModelConfig, Shape], Work]] = {
    "popularity": _popularity,
    "ease": _ease,
    "slim": _slim,
    "item_knn": _neighbors,
    "rp3beta": _neighbors,
    "next_item": _pairs_in_reach,
    "ials": _ials,
    "graph_filter": _graph_filter,
    "mf": _mf,
    "multvae": _autoencoder,
    "recvae": _autoencoder,
    "sasrec": _sequence,
}
SPARSE_SCORES = ("ease", "slim", "item_knn", "rp3beta")
"""Families that score by summing rows of a matrix of items, not by products of vectors."""

IN_PIECES = ("item_knn", "next_item", "rp3beta")
"""Families whose fit gives up early, after a small part, where it would not end in time (`FitContext.in_time`)."""


def part(shape: Shape, rows: int, users: int) -> Shape:
    """The shape of a part of the data."""
    return replace(shape, rows=rows, users=users)
