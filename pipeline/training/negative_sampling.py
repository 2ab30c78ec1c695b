"""Draws negatives on the device: exact, and without a sync."""

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
FILTER_FROM = 2_000_000
"""Pairs from which the search in them is slower, on a CPU, than a look whether an item is known."""
FILTER_BITS = 16
"""Bits per pair of the filter, at least, of which two are set: 1 % of the unknown pairs pass it and are searched."""
FACTOR = -7046029254386353131  # odd: 2 ** 64 / golden ratio, as a signed number
SECOND_FACTOR = -4417276706812531889  # odd: 0xC2B2AE3D27D4EB4F, a prime of xxHash


class NegativeSampler:
    """Draws items without a row of the user, by weight: uniform (`alpha` = 0), or popularity ** `alpha`.

    Every item has an integer weight of at least 1. Place the items on a line, each as long as its weight. For one user,
    cut out the known items: a known item k that starts at s(k) then lies at the point s(k) - (known weight before k) of
    the shorter line. A uniform point r of that line is moved back to the full line by adding the weight of all known
    items at points <= r. This takes one `searchsorted` for all users, since the keys start with the user.

    With many pairs on a CPU that search misses the caches. Then a point of the full line is drawn, and only if its item
    is known, another one of the shorter line. With total weight W, of which the user knows K, an unknown item of weight
    w comes with the same probability, w/W + K/W * w/(W - K) = w/(W - K).
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
        before = torch.zeros(len(pairs) + 1, dtype=torch.long, device=device)  # (N + 1,)
        torch.cumsum(weights[items], 0, out=before[1:])
        self.before = before if alpha else None  # if uniform, the number of pairs before
        counts = torch.bincount(users, minlength=known.n_users)  # (U,)
        first = torch.cumsum(counts, 0) - counts  # (U,) first pair of each user
        before_user = before[first]  # (U,)
        room = self.total - (before[first + counts] - before_user)  # (U,) length of the user's shorter line
        inside = before[:-1] - before_user[users]  # (N,) known weight of the user before the pair
        keys = users * (self.total + 1) + (ends - weights)[items] - inside  # (N,) sorted
        small = known.n_users * (self.total + 1) < 1 << 31
        self.keys = keys.int() if small else keys  # half the memory to search
        self.real = room > 0  # (U,)
        self.all_real = bool(self.real.all())
        lines = torch.arange(known.n_users, device=device) * (self.total + 1)  # (U,) where keys of a user start
        self.of_user = torch.stack([room.clamp(min=1), lines, before_user + lines], 1)  # (U, 3): one look-up in `draw`
        self.filter = PairFilter(pairs) if device.type == "cpu" and len(pairs) >= FILTER_FROM else None

    def draw(self, users: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Items (B, n), which may repeat, and whether they are valid, (B,).

        A user with rows for all items has no negatives: the row is False and its items, all 0, mean nothing.
        """
        items = self._unknown(users, n, generator) if self.filter is None else self._filtered(users, n, generator)
        real = self.real[users]  # (B,)
        return (items if self.all_real else torch.where(real.unsqueeze(1), items, 0)), real

    def _unknown(self, users: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Items (B, n) at points of the shorter lines."""
        room, line, back = self.of_user[users].unsqueeze(2).unbind(1)  # (B, 1) each
        point = _points(room, len(users), n, generator).add_(line)  # (B, n) behind the lines of the users before
        passed = torch.searchsorted(self.keys, point.to(self.keys.dtype), right=True)  # (B, n)
        point += passed if self.before is None else self.before[passed]
        point -= back  # (B, n) on the full line
        return self._items_at(point)

    def _filtered(self, users: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Items (B, n) at points of the full line; those that are known are replaced."""
        assert self.filter is not None
        items = self._items_at(_points(self.total, len(users), n, generator))  # (B, n)
        known = self.filter.cells_of_known(users.unsqueeze(1) * self.n_items + items)  # (K,)
        items.view(-1)[known] = self._unknown(users[known // n], 1, generator).squeeze(1)
        return items

    def _items_at(self, points: Tensor) -> Tensor:
        """Items at points of the full line, (B, n)."""
        return points if self.ends is None else torch.searchsorted(self.ends, points, right=True)

    def for_rows(self, users: Tensor, n: int, kind: str, seed: int) -> Draw:
        """A function from a batch (B,) of rows of `users` (N,) and a generator to the result of `draw` for them.

        `fresh` draws at every call; `static` draws once, here, from `seed`, and keeps (N, n) items.
        """
        if kind == "fresh":
            return lambda batch, generator: self.draw(users[batch], n, generator)
        once = torch.Generator(users.device).manual_seed(seed_of(seed, "negatives"))
        items, real = self.draw(users, n, once)  # (N, n), (N,)
        return lambda batch, generator: (items[batch], real[batch])


class PairFilter:
    """Finds the known ones among many pairs: a Bloom filter of two bits (Bloom, CACM 1970), and a search for the rest.

    The search in N pairs misses the caches log2(N) times, a look at a bit once.
    """

    def __init__(self, pairs: Tensor):
        """`pairs` (N,), sorted, on the CPU; at least one."""
        self.pairs, self.bits = pairs, max(3, (FILTER_BITS * len(pairs) - 1).bit_length())
        self.table = torch.zeros(1 << self.bits - 3, dtype=torch.uint8)  # (2 ** bits / 8,)
        for some in pairs.split(1 << 20):
            for places in self._places(some), self._places(some, second=True):
                for bit in range(8):
                    own = places[places & 7 == bit] >> 3  # (O,) may repeat, with equal results
                    self.table[own] |= 1 << bit

    def cells_of_known(self, pairs: Tensor) -> Tensor:
        """Indices, (K,), of the known ones among `pairs`, any shape, as if it were flat."""
        pairs = pairs.reshape(-1)  # (M,)
        cells = self._is_set(self._places(pairs)).nonzero().squeeze(1)  # (P,)
        cells = cells[self._is_set(self._places(pairs[cells], second=True)).bool()]
        wanted = pairs[cells]  # (P,)
        found = torch.searchsorted(self.pairs, wanted).clamp_(max=len(self.pairs) - 1)  # (P,)
        return cells[self.pairs[found] == wanted]

    def _is_set(self, places: Tensor) -> Tensor:
        """1 where the bit is set, else 0, (M,)."""
        return self.table[places >> 3].bitwise_right_shift_((places & 7).to(torch.uint8)).bitwise_and_(1)

    def _places(self, pairs: Tensor, second: bool = False) -> Tensor:
        """Bits of pairs, (M,): the highest ones of a product that wraps around (Knuth: The Art of Computer Programming,
        volume 3, 6.4)."""
        product = pairs * (SECOND_FACTOR if second else FACTOR)
        return product.bitwise_right_shift_(64 - self.bits).bitwise_and_((1 << self.bits) - 1)


def _points(length: Tensor | int, rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Uniform points (B, n) of lines of integer lengths: a remainder of 62 random bits, so biased by less than
    length / 2 ** 62."""
    random = torch.randint(1 << 62, (rows, n), device=generator.device, generator=generator)  # (B, n)
    return torch.remainder(random, length)


def _weights(items: Tensor, n_users: int, n_items: int, alpha: float) -> Tensor:
    """Integer weights (I,), at least 1, and so small that users times their sum fits int64."""
    counts = torch.bincount(items, minlength=n_items).double()  # (I,)
    if not alpha:
        return torch.ones_like(counts, dtype=torch.long)
    shape = (counts / counts.mean().clamp(min=1e-12)) ** alpha  # (I,)
    largest = (1 << 62) / (max(n_users, 1) * shape.sum().clamp(min=1.0)) - n_items / shape.sum().clamp(min=1.0)
    return (shape * torch.clamp(largest, max=FINENESS)).round().long().clamp(min=1)
