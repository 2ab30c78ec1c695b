"""Training of gradient families: interactions as tensors, negative sampling, the training loop, optimizers,
checkpoints and devices.
"""

__all__ = [
    "attributes",
    "checkpoint",
    "context",
    "device",
    "distributed",
    "divergence",
    "encoded_rows",
    "event_weights",
    "interactions",
    "launcher",
    "loop",
    "lr_finder",
    "negative_sampling",
    "normalizer",
    "optimizers",
    "step_graphs",
    "warm",
]
