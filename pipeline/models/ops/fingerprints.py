"""A number per row of a history, by which equal sets of items are recognised."""

import torch
from torch import Tensor

from pipeline.training.interactions import History

GOLDEN = -0x61C8864680B583EB  # 2**64 / the golden ratio, as int64


def fingerprints(history: History) -> Tensor:
    """A number per row, (B,) int64: equal for the same items in any order, for others by a chance of 2**-64.

    The sum of 64-bit hashes of the items (the finalizer of SplitMix64: Steele et al., "Fast splittable pseudorandom
    number generators", OOPSLA 2014); sums and products of int64 wrap around.
    """
    z = torch.arange(1, history.n_items + 1, device=history.items.device) * GOLDEN  # (I,)
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    z = z ^ _shifted(z, 31)
    sums = torch.zeros(len(history.items) + 1, dtype=torch.long, device=z.device)  # (E + 1,)
    torch.cumsum(z[history.items], 0, out=sums[1:])
    return sums[history.offsets[1:]] - sums[history.offsets[:-1]]


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Bits shifted to the right, zeros from the left."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
