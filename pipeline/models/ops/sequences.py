"""Histories as padded pieces for models of order: every event is a target once, and no prefix is copied."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.interactions import History, Interactions


@dataclass(frozen=True)
class Pieces:
    """Histories cut into N pieces; each reads the event before its first as its first input."""

    history: History
    start: Tensor  # (N,) place of the first input of a piece in history.items
    length: Tensor  # (N,) inputs of a piece, as many as targets
    width: int
    moments: Tensor | None = None  # (E,) one number a user and time, rising along history.items

    @classmethod
    def of(cls, history: History, width: int, moments: Tensor | None = None) -> "Pieces":
        """Cut from the end, so that the last piece of a long history is full, as it is when it is served."""
        targets = (history.lengths - 1).clamp(min=0)  # (U,) the first event has nothing before it
        pieces = (targets + width - 1) // width  # (U,)
        user = torch.repeat_interleave(torch.arange(len(history), device=targets.device), pieces)  # (N,)
        from_end = torch.cumsum(pieces, 0)[user] - 1 - torch.arange(len(user), device=targets.device)  # (N,) 0: last
        stop = targets[user] - from_end * width  # (N,)
        start = (stop - width).clamp(min=0)
        longest = int((stop - start).max()) if len(user) else 1
        return cls(history, history.offsets[:-1][user] + start, stop - start, longest, moments)

    def __len__(self) -> int:
        return len(self.start)

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and which places are real, (B, L) each; real places come first in a row.

        With a generator, events of one moment come in a new order every time: theirs in the data means nothing.
        """
        places = torch.arange(self.width + 1, device=rows.device)  # (L + 1,)
        real = places <= self.length[rows].unsqueeze(1)  # (B, L + 1)
        events = torch.where(real, self.start[rows].unsqueeze(1) + places, 0)  # (B, L + 1)
        if generator is not None and self.moments is not None:
            chance = torch.rand(events.shape, dtype=torch.float64, device=rows.device, generator=generator)
            when = torch.where(real, self.moments[events] + chance, torch.inf)  # (B, L + 1)
            events = events.gather(1, when.argsort(1))
        items = torch.where(real, self.history.items[events], 0)  # (B, L + 1)
        return items[:, :-1], items[:, 1:], real[:, 1:]


def moments_of(train: Interactions) -> Tensor | None:
    """A number for every event of `train.history()`, equal for those of one user at one time, (E,); None: no ties."""
    rows = train.positives()
    if rows.timestamps is None or not len(rows):
        return None
    order = torch.argsort(rows.users, stable=True)  # (E,) as History.of has it
    users, times = rows.users[order], rows.timestamps[order]  # (E,) each
    new = (users[1:] != users[:-1]) | (times[1:] != times[:-1])  # (E - 1,)
    return None if new.all() else torch.cat([new.new_zeros(1).long(), torch.cumsum(new, 0)])


def latest(history: History, width: int) -> tuple[Tensor, Tensor]:
    """The last `width` events of each row, (B, L), padded behind with 0; and how many are real, (B,)."""
    length = history.lengths.clamp(max=width)  # (B,)
    if not len(history.items):
        return length.new_zeros(len(history), 1), length
    places = torch.arange(max(int(length.max()), 1), device=length.device)  # (L,)
    events = (history.offsets[1:] - length).unsqueeze(1) + places  # (B, L)
    real = places < length.unsqueeze(1)  # (B, L)
    return torch.where(real, history.items[torch.where(real, events, 0)], 0), length
