"""Numerics that several families share."""

__all__ = [
    "attention",
    "attribute_map",
    "fingerprints",
    "item_graph",
    "least_squares",
    "pair_scores",
    "rated_batches",
    "sequences",
    "squared_error",
    "topk",
]
