"""A number per row of a history, by which equal sets of items are recognised."""

import torch
from torch import Tensor

from pipeline.training.interactions import History

ROWS = 1 << 17  # that are summed at once
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
    found = torch.empty(len(history), dtype=torch.long, device=z.device)  # (B,)
    for start in range(0, len(history), ROWS):
        offsets = history.offsets[start : start + ROWS + 1].long()  # (R + 1,)
        first, last = int(offsets[0]), int(offsets[-1])
        sums = z.new_zeros(last - first + 1)
        torch.cumsum(z[history.items[first:last]], 0, out=sums[1:])
        found[start : start + ROWS] = sums[offsets[1:] - first] - sums[offsets[:-1] - first]
    return found


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Bits shifted to the right, zeros from the left."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
