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
BYTES_PER_PAIR = 2
"""Of the filter, at least: 3 % of the unknown pairs pass it and are searched."""
RANK_CELLS = 1 << 26
"""Largest number of cells of a table of ranks; 128 MiB in 16 bits."""
CELLS_PER_PAIR = 64
"""Most cells of it per pair: more take longer to fill than a fit of a few epochs gains."""


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
        self.filter = (
            PairFilter(pairs, known.n_users, known.n_items)
            if device.type == "cpu" and len(pairs) >= FILTER_FROM
            else None
        )
        in_table = device.type == "cpu" and not alpha and self.filter is None
        self.ranks = ranks_of_points(keys, known.n_users, self.total + 1) if in_table else None  # (U * (total + 1),)

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
        if self.ranks is not None:
            return self._items_at(point.add_(self.ranks.take(point)).sub_(line))
        passed = torch.searchsorted(self.keys, point.to(self.keys.dtype), right=True)  # (B, n)
        point += passed if self.before is None else self.before[passed]
        point -= back  # (B, n) on the full line
        return self._items_at(point)

    def _filtered(self, users: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Items (B, n) at points of the full line; those that are known are replaced."""
        assert self.filter is not None
        items = self._items_at(_points(self.total, len(users), n, generator))  # (B, n)
        known = self.filter.cells_of_known(users.unsqueeze(1), items)  # (K,)
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


class SharedNegatives:
    """Draws items by weight that all rows of a group share, and finds the pairs among them that a user knows.

    A row then has n negatives less those that its user knows. Groups of as many rows as negatives need one drawn item
    and one look-up of a vector per row, where negatives of their own need n.
    """

    def __init__(self, known: Interactions, alpha: float = 0.0):
        """`known` has all rows that the fit may know, positive or not; pairs may repeat."""
        pairs = torch.unique(known.users * known.n_items + known.items)  # (N,) sorted
        ends = torch.cumsum(_weights(pairs % known.n_items, known.n_users, known.n_items, alpha), 0)  # (I,)
        self.total, self.ends = int(ends[-1]), ends if alpha else None  # if uniform, the point is the item
        self.filter = PairFilter(pairs, known.n_users, known.n_items)

    def draw(self, users: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Items (S, n) for S groups of R users, (S, R); and cells of (S, R, n), as if flat, that are known, (K,)."""
        items = _points(self.total, len(users), n, generator)  # (S, n)
        items = items if self.ends is None else torch.searchsorted(self.ends, items, right=True)
        return items, self.filter.cells_of_known(users.unsqueeze(2), items.unsqueeze(1))


class PairFilter:
    """Finds the known ones among many pairs: a Bloom filter (CACM 1970) of two bits in one byte, and a search for the
    few that pass.

    The search in N pairs misses the caches log2(N) times, the filter once. Bytes of one user are next to each other, so
    that looks at several items of a user touch few lines of the cache.
    """

    def __init__(self, pairs: Tensor, n_users: int, n_items: int):
        """`pairs` (N,), user * n_items + item, sorted; at least one."""
        self.pairs, self.n_items, device = pairs, n_items, pairs.device
        counts = torch.bincount(pairs // n_items, minlength=n_users)  # (U,)
        sizes = torch.exp2(torch.ceil(torch.log2((counts * BYTES_PER_PAIR).clamp(min=1).double()))).long()  # (U,)
        ends = torch.cumsum(sizes, 0)  # (U,) in bytes
        short = torch.int32 if int(ends[-1]) < 1 << 31 else torch.int64
        self.starts, self.masks = (ends - sizes).to(short), (sizes - 1).to(short)  # (U,) each
        random = torch.Generator().manual_seed(0)
        self.bytes = torch.randint(1 << 31, (n_items,), generator=random).to(device, short)  # (I,)
        first, step = torch.randint(8, (n_items,), generator=random), torch.randint(1, 8, (n_items,), generator=random)
        self.bits = ((1 << first) | (1 << (first + step) % 8)).to(device, torch.uint8)  # (I,) two of the eight
        self.table = torch.zeros(int(ends[-1]), dtype=torch.uint8, device=device)
        for some in pairs.split(1 << 20):
            places, bits = self._places(some // n_items, some % n_items), self.bits[some % n_items]  # (N',) each
            for bit in range(8):
                own = places[(bits >> bit & 1).bool()]  # (O,) may repeat, with equal results
                self.table[own] |= 1 << bit

    def cells_of_known(self, users: Tensor, items: Tensor) -> Tensor:
        """Indices, (K,), of the known ones among the pairs of `users` and `items`, broadcast, as if they were flat."""
        places, bits = self._places(users, items), self.bits.take(items)
        found = self.table.index_select(0, places.view(-1)).view_as(places).bitwise_and_(bits) == bits
        cells = found.view(-1).nonzero().squeeze(1)  # (P,)
        wanted = (users * self.n_items).expand(places.shape).take(cells) + items.expand(places.shape).take(
            cells
        )  # (P,)
        at = torch.searchsorted(self.pairs, wanted).clamp_(max=len(self.pairs) - 1)  # (P,)
        return cells[self.pairs[at] == wanted]

    def _places(self, users: Tensor, items: Tensor) -> Tensor:
        """Bytes of pairs, broadcast."""
        return (self.masks.take(users) & self.bytes.take(items)).add_(self.starts.take(users))


def ranks_of_points(keys: Tensor, n_users: int, width: int) -> Tensor | None:
    """The number of keys of the same user up to and including each point, (U * width,): what a search would find.

    A look-up misses the caches once, a search takes some 20 steps that nothing can foresee. None where the table would
    be too large. `keys`: (N,) sorted, user * width + point.
    """
    if not len(keys) or n_users * width > min(RANK_CELLS, CELLS_PER_PAIR * len(keys)):
        return None
    ranks = torch.empty(n_users * width, dtype=torch.int16 if width < 1 << 15 else torch.int32)
    step = width * max(1, (1 << 20) // width)  # points of whole users, few enough for the caches
    for start in range(0, len(ranks), step):
        end = min(start + step, len(ranks))
        first, last = torch.searchsorted(keys, torch.tensor([start, end], dtype=keys.dtype)).tolist()
        counts = torch.bincount(keys[first:last] - start, minlength=end - start).view(-1, width)  # (U', width)
        ranks[start:end] = torch.cumsum(counts, 1).view(-1)
    return ranks


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
