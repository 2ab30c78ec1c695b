"""Draws negatives on the device: exact, without rejection sampling and without a sync."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.core.seeding import seed_of
from pipeline.training.interactions import Interactions

Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
Negatives = Literal["fresh", "static"]
FINENESS = 1 << 16
"""Weight of an item of average popularity, unless it must be smaller to fit 62 bits."""


class NegativeSampler:
    """Draws items without a row of the user, by weight: uniform (`alpha` = 0), or popularity ** `alpha`.

    Every item has an integer weight of at least 1. Place the items on a line, each as long as its weight. For one user,
    cut out the known items: a known item k that starts at s(k) then lies at the point s(k) - (known weight before k) of
    the shorter line. A uniform point r of that line is moved back to the full line by adding the weight of all known
    items at points <= r. This takes one `searchsorted` for all users, since the keys start with the user.
    """

    def __init__(self, known: Interactions, alpha: float = 0.0):
        """`known` has all rows that the fit may know, positive or not; pairs may repeat."""
        device = known.users.device
        self.n_items = known.n_items
        pairs = torch.unique(known.users * known.n_items + known.items)  # (N,) sorted
        users, items = pairs // known.n_items, pairs % known.n_items  # (N,) each
        weights = _weights(items, known.n_users, known.n_items, alpha)  # (I,)
        ends = torch.cumsum(weights, 0)  # (I,) end of every item on the line
        self.total = int(ends[-1]) if len(ends) else 0
        self.ends = ends if alpha else None  # if uniform, the point is the item
        # cumulative weight of known items up to and including each pair, with a leading 0
        self.before = torch.zeros(len(pairs) + 1, dtype=torch.long, device=device)  # (N + 1,)
        torch.cumsum(weights[items], 0, out=self.before[1:])
        counts = torch.bincount(users, minlength=known.n_users)  # (U,)
        first = torch.cumsum(counts, 0) - counts  # (U,) first pair of each user
        before_user = self.before[first]  # (U,)
        room = self.total - (self.before[first + counts] - before_user)  # (U,) length of the user's shorter line
        inside = self.before[:-1] - before_user[users]  # (N,) known weight of the user before the pair
        keys = users * (self.total + 1) + (ends - weights)[items] - inside  # (N,) sorted
        small = known.n_users * (self.total + 1) < 1 << 31
        self.keys = keys.int() if small else keys  # half the memory to search
        self.real = room > 0  # (U,)
        self.all_real = bool(self.real.all())
        lines = torch.arange(known.n_users, device=device) * (self.total + 1)  # (U,) where keys of a user start
        self.of_user = torch.stack([room.clamp(min=1), lines, before_user + lines], 1)  # (U, 3): one look-up in `draw`

    def draw(self, users: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Items (B, n), which may repeat, and whether they are valid, (B,).

        A user with rows for all items has no negatives: the row is False and its items, all 0, mean nothing.
        """
        room, line, back = self.of_user[users].unsqueeze(2).unbind(1)  # (B, 1) each
        # a remainder of 62 random bits: biased by less than room / 2**62
        random = torch.randint(1 << 62, (len(users), n), device=users.device, generator=generator)  # (B, n)
        point = torch.remainder(random, room).add_(line)  # (B, n) behind the lines of the users before
        passed = torch.searchsorted(self.keys, point.to(self.keys.dtype), right=True)  # (B, n)
        point += self.before[passed]
        point -= back  # (B, n) on the full line
        items = point if self.ends is None else torch.searchsorted(self.ends, point, right=True)  # (B, n)
        real = self.real[users]  # (B,)
        return (items if self.all_real else torch.where(real.unsqueeze(1), items, 0)), real

    def for_rows(self, users: Tensor, n: int, kind: str, seed: int) -> Draw:
        """A function from a batch (B,) of rows of `users` (N,) and a generator to the result of `draw` for them.

        `fresh` draws at every call; `static` draws once, here, from `seed`, and keeps (N, n) items.
        """
        if kind == "fresh":
            return lambda batch, generator: self.draw(users[batch], n, generator)
        once = torch.Generator(users.device).manual_seed(seed_of(seed, "negatives"))
        items, real = self.draw(users, n, once)  # (N, n), (N,)
        return lambda batch, generator: (items[batch], real[batch])


def _weights(items: Tensor, n_users: int, n_items: int, alpha: float) -> Tensor:
    """Integer weights (I,), at least 1, and so small that users times their sum fits int64."""
    counts = torch.bincount(items, minlength=n_items).double()  # (I,)
    if not alpha:
        return torch.ones_like(counts, dtype=torch.long)
    shape = (counts / counts.mean().clamp(min=1e-12)) ** alpha  # (I,)
    largest = (1 << 62) / (max(n_users, 1) * shape.sum().clamp(min=1.0)) - n_items / shape.sum().clamp(min=1.0)
    return (shape * torch.clamp(largest, max=FINENESS)).round().long().clamp(min=1)
