"""Numbers by their place in an order, without sorting all of them."""

import numpy as np

SAMPLED, MARGIN = 2**15, 400
"""Numbers of the sample of `at_place`, and how many on each side of the place are looked at, 1.2 %: six times the
standard deviation of a random sample's median."""


def at_place(numbers: np.ndarray, place: int) -> int:
    """The number (N,) that has this place in their order. A sample says between which two it is, so few are sorted."""
    sample = np.sort(numbers[:: max(1, len(numbers) // SAMPLED)])
    about = place * len(sample) // len(numbers)
    low, high = sample[max(about - MARGIN, 0)], sample[min(about + MARGIN, len(sample) - 1)]
    below, between = 0, []
    for start in range(0, len(numbers), 2**16):  # each part fits the CPU cache
        part = numbers[start : start + 2**16]
        below += int(np.count_nonzero(part < low))
        between.append(part[(part >= low) & (part <= high)])
    found = np.concatenate(between)
    if not below <= place < below + len(found):  # an unusual order of the numbers
        return int(np.partition(numbers, place)[place])
    return int(np.partition(found, place - below)[place - below])
