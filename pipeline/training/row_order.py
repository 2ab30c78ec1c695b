"""The order of rows in an epoch whose steps stay in the processor's caches."""

import torch
from torch import Tensor

CHUNK = 4096
"""Users per chunk: their vectors, and the bytes of a filter of their pairs, are 1 MB each."""


class ChunkedOrder:
    """Random chunks of users, and the rows of a chunk in random order, as in stratified descent (Gemulla et al., KDD
    2011), where the blocks are of both sides.

    A step on rows of all users looks up most vectors, and facts about their users, in main memory. Every epoch draws
    other chunks, so no two users stay together.
    """

    def __init__(self, users: Tensor, n_users: int, size: int = CHUNK):
        """`users` (N,) of the rows, in any order."""
        self.lengths, self.size = torch.bincount(users, minlength=n_users), size  # (U,)
        self.starts = torch.cumsum(self.lengths, 0) - self.lengths  # (U,)
        ordered = bool((users[1:] >= users[:-1]).all())
        self.by_user = None if ordered else torch.argsort(users, stable=True)  # (N,)

    def __call__(self, generator: torch.Generator) -> Tensor:
        """All rows, (N,), each once."""
        users, parts = torch.randperm(len(self.lengths), generator=generator), []
        for some in users.split(self.size):
            lengths = self.lengths[some]  # (C,)
            before = torch.cumsum(lengths, 0) - lengths  # (C,)
            rows = torch.repeat_interleave(self.starts[some] - before, lengths)  # (R,)
            rows += torch.arange(len(rows))
            parts.append(rows[torch.randperm(len(rows), generator=generator)])
        order = torch.cat(parts)  # (N,)
        return order if self.by_user is None else self.by_user[order]
