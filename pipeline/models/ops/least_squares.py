"""The half-step of alternating least squares: all rows of a sparse matrix solved, the other side fixed.

Row u with entries i of weight w_i, and factors q_i of the other side, minimises over its factors x

    sum_{entries} w_i (1 - x·q_i)² + a sum_{all i} (x·q_i)² + l2_u |x|²

(Rendle et al., RecSys 2022, eq. 1 to 5; Hu et al., ICDM 2008, eq. 3 and 4), so A x = b with
A = sum w_i q_i q_iᵀ + a QᵀQ + l2_u I and b = sum w_i q_i. The matrix A is only formed by `solve_exactly`.
With a prior mean m_u of x, the last term is l2_u |x - m_u|², and b has l2_u m_u as well.

Where several processes share the other side, each has the entries of its part of it, and all have all rows: every sum
over entries is summed over the processes, so that all compute the same x.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from pipeline.training.context import ProcessGroup
from pipeline.training.interactions import History

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

ALONE = ProcessGroup()
TILE = 1 << 24  # numbers in one temporary matrix: 64 MB
CPU_TILE = 1 << 22  # the same for conjugate gradients on a CPU, which have ten such matrices
WORTH = 0.7  # share of rows still to be solved below which the others are left out
MANY, PIECE = 1 << 20, 256  # entries from which CUDA sums rows in pieces, and of a piece


@dataclass(frozen=True)
class OtherSide:
    """What several processes know of the other side of rows, of which each has a part."""

    world: ProcessGroup
    size: int
    """Its rows in all processes."""
    lengths: Tensor  # (B,) entries of each of the rows, in all processes
    mass: Tensor  # (B, 1) sum of their weights, in all processes

    def of(self, rows: Tensor | slice) -> "OtherSide":
        """Of some of the rows."""
        return replace(self, lengths=self.lengths[rows], mass=self.mass[rows])


@dataclass(frozen=True)
class Rows:
    """B rows of the matrix with E weighted entries, and what each row pays for the size of its factors."""

    history: History
    weights: Tensor  # (E,)
    l2: Tensor  # (B,)
    prior: Tensor | None = None  # (B, D) in the basis of the factors; None: 0
    cut: OtherSide | None = None  # None: this process has all entries

    @property
    def lengths(self) -> Tensor:
        """Number of entries of each row, in all processes, (B,)."""
        return self.history.lengths if self.cut is None else self.cut.lengths

    @property
    def n_others(self) -> int:
        """Rows of the other side, in all processes."""
        return self.history.n_items if self.cut is None else self.cut.size

    def total(self, of_others: Tensor) -> Tensor:
        """A sum over the other side, in all processes, (…) -> (…)."""
        return of_others if self.cut is None else self.cut.world.summed(of_others)

    def agreed(self, mask: Tensor) -> Tensor:
        """What the first process finds, (B, 1) bool: all must take the same rows into their sums."""
        return mask if self.cut is None else self.cut.world.agreed(mask.to(torch.uint8)).bool()

    @cached_property
    def mass(self) -> Tensor:
        """Sum of the weights of a row, (B, 1)."""
        if self.cut is not None:
            return self.cut.mass
        return self.sums(self.weights, self.weights.new_ones(self.history.n_items, 1))

    def of(self, rows: Tensor) -> "Rows":
        """Some of the rows, (B',)."""
        return replace(self._at(rows), history=self.history[rows], weights=self.weights[self.history.places(rows)])

    def _at(self, rows: Tensor | slice) -> "Rows":
        """With those rows of what there is one of per row."""
        prior = None if self.prior is None else self.prior[rows]
        cut = None if self.cut is None else self.cut.of(rows)
        return replace(self, l2=self.l2[rows], prior=prior, cut=cut)

    def right_side(self, q: Tensor) -> Tensor:
        """b, (I, D) -> (B, D)."""
        sums = self.sums(self.weights, q)
        return sums if self.prior is None else sums + self.l2[:, None] * self.prior

    def size(self, x: Tensor) -> float:
        """Sum of l2_u |x_u - m_u|², (B, D) -> scalar."""
        return float((self.l2 @ (x if self.prior is None else x - self.prior).square()).sum())

    @cached_property
    def even(self) -> bool:
        """All weights are 1."""
        return bool((self.weights == 1).all())

    def weighted(self, x: Tensor, q: Tensor) -> Tensor:
        """Sum of w_i (x_u · q_i) q_i over a row's entries, (B, D), (I, D) -> (B, D)."""
        of_entries = products(x, q, self.history)  # (E,)
        return self.sums(of_entries if self.even else of_entries.mul_(self.weights), q)

    def tiles(self, dim: int) -> Iterator[tuple[slice, "Rows"]]:
        """Consecutive rows, so many that their factors are no more than TILE numbers, or CPU_TILE."""
        on_cpu = self.history.items.device.type == "cpu"
        size = max(1, (min(TILE, CPU_TILE) if on_cpu else TILE) // dim)
        if 0 < len(self.l2) <= size:  # no length is asked for
            yield slice(0, len(self.l2)), self
            return
        for start in range(0, len(self.l2), size):
            rows = slice(start, min(start + size, len(self.l2)))
            offsets = self.history.offsets[rows.start : rows.stop + 1]
            entries = slice(int(offsets[0]), int(offsets[-1]))
            history = History(offsets - offsets[0], self.history.items[entries], self.history.n_items)
            yield rows, replace(self._at(rows), history=history, weights=self.weights[entries])

    def sums(self, values: Tensor, q: Tensor) -> Tensor:
        """Sum of value times q_i over a row's entries, (E,), (I, D) -> (B, D)."""
        return self.total(self._own_sums(values, q))

    def _own_sums(self, values: Tensor, q: Tensor) -> Tensor:
        """Over those that this process has."""
        bag, items = nn.functional.embedding_bag, self.history.items
        if not len(items):
            return q.new_zeros(len(self.l2), q.shape[1])
        if items.device.type == "cpu" or len(items) < MANY:
            return bag(items, q, self.history.offsets[:-1], mode="sum", per_sample_weights=values)
        starts, of_rows = self.pieces
        parts = bag(items, q, starts, mode="sum", per_sample_weights=values)  # (P, D)
        return bag(torch.arange(len(parts), device=items.device), parts, of_rows, mode="sum")

    @cached_property
    def pieces(self) -> tuple[Tensor, Tensor]:
        """Where pieces of rows of PIECE entries at most begin, (P,), and the first piece of each row, (B,).

        One thread goes through a row: the most popular items would have all others wait.
        """
        n = (self.history.lengths + PIECE - 1).div(PIECE, rounding_mode="floor").clamp(min=1)  # (B,)
        first = torch.cumsum(n, 0) - n  # (B,)
        rows = torch.repeat_interleave(torch.arange(len(n), device=n.device), n)  # (P,)
        place = torch.arange(len(rows), device=n.device) - first[rows]  # (P,)
        return self.history.offsets[rows] + PIECE * place, first


def products(x: Tensor, q: Tensor, pairs: History) -> Tensor:
    """x_u · q_i of every pair, (B, D), (I, D) -> (E,); no row of x or q is copied."""
    zeros = x.new_zeros(len(pairs.items))
    if not len(zeros):
        return zeros
    pattern = torch.sparse_csr_tensor(pairs.offsets, pairs.items, zeros, (len(x), len(q)), check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, x, q.T, beta=0.0).values()


def eigenbasis(q: Tensor, rows: Rows | None = None, world: ProcessGroup = ALONE) -> Tensor:
    """Rotation V (D, D): the gramian of q V is diagonal; the products of x V and q V are those of x and q.

    `rows`: those that are solved by q, of which each process of `world` may have a part. All get the same rotation.
    """
    gramian = (q.T @ q).double()  # in float32 some that have a rank of 1 don't converge
    if rows is not None:
        gramian = rows.total(gramian)
    return world.agreed(torch.linalg.eigh(gramian).eigenvectors.to(q.dtype))


def solve_by_gradients(
    rows: Rows, start: Tensor, q: Tensor, unobserved_weight: float, steps: int, tolerance: float = 0.0
) -> tuple[Tensor, float]:
    """Conjugate gradients from `start` (B, D), `steps` at most; a row rests once |b - A x| <= tolerance |b|.

    The gramian of `q` must be diagonal (see `eigenbasis`). Then a QᵀQ costs nothing, and the diagonal of A,
    with the mean q² for that of the row's own items, is a preconditioner that makes two steps from the
    last epoch's factors as good as a solution (tests/benchmarks/bench_ials.py).

    Returns x (B, D) and the loss of these rows: the quadratic at x is sum(w) - x·(b + residual).
    """
    return solve_in_place(rows, start.clone(), q, unobserved_weight, steps, tolerance)


def solve_in_place(
    rows: Rows, x: Tensor, q: Tensor, unobserved_weight: float, steps: int, tolerance: float = 0.0
) -> tuple[Tensor, float]:
    """`solve_by_gradients` that puts the solution where `x` (B, D) starts from: half the memory."""
    loss = torch.zeros((), dtype=torch.float64, device=x.device)
    gramian = rows.total(q.square().sum(0))  # (D,)
    for tile, part in rows.tiles(q.shape[1]):
        x[tile], r, b = _gradients(part, x[tile], q, gramian, unobserved_weight, steps, tolerance)
        loss += part.weights.sum(dtype=torch.float64) - (x[tile] * (b + r)).sum(dtype=torch.float64)
    return x, float(loss)


def _gradients(
    rows: Rows, x: Tensor, q: Tensor, gramian: Tensor, unobserved_weight: float, steps: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x, b - A x and b of one tile, (B, D) each."""
    known = unobserved_weight * gramian + rows.l2[:, None]  # (B, D), diagonal of a QᵀQ + l2 I
    scale = known + rows.mass * gramian / rows.n_others  # (B, D)
    b = rows.right_side(q)  # (B, D)
    r = b - known * x - rows.weighted(x, q)  # (B, D)
    limit = tolerance**2 * _dot(b, b)  # (B, 1)
    p, rz = torch.zeros_like(x), torch.ones_like(limit)
    solved, left = Solved(x, r), torch.arange(len(x), device=x.device)
    if tolerance:  # rows without entries are 0, which conjugate gradients only come close to
        x, r = (torch.where(rows.lengths[:, None] > 0, t, 0) for t in (x, r))
    for _ in range(steps):
        active = _dot(r, r) > limit  # (B, 1)
        if tolerance:
            active = rows.agreed(active)
            ahead = active.squeeze(1).nonzero().squeeze(1)  # (B',)
            if not len(ahead):
                break
            if len(ahead) < WORTH * len(x):  # the others rest, and cost nothing any more
                solved.put(left, x, r)
                left, rows = left[ahead], rows.of(ahead)
                active = active[ahead]
                x, r, p, rz, known, scale, limit = (t[ahead] for t in (x, r, p, rz, known, scale, limit))
        z = r / scale
        rz, before = _dot(r, z), rz
        p = z + rz / before.clamp_min(1e-30) * p
        ap = known * p + rows.weighted(p, q)  # (B, D) = A p
        step = active * rz / _dot(p, ap).clamp_min(1e-30)  # (B, 1)
        x = x + step * p
        r = r - step * ap
    return *solved.put(left, x, r), b


class Solved:
    """Factors and residuals of all rows of a tile, (B, D) each, while some of them are still being solved."""

    def __init__(self, x: Tensor, r: Tensor):
        self.x, self.r = x, r

    def put(self, rows: Tensor, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Those of `rows` (B',) are x and r (B', D); returns all."""
        if len(rows) == len(self.x):
            self.x, self.r = x, r
        else:
            self.x, self.r = self.x.index_copy(0, rows, x), self.r.index_copy(0, rows, r)
        return self.x, self.r


def solve_exactly(rows: Rows, q: Tensor, unobserved_weight: float) -> tuple[Tensor, float]:
    """A Cholesky factorisation for every row, those of like length together; x (B, D) and the loss."""
    dim, lengths, own = q.shape[1], rows.lengths, rows.history.lengths
    gramian = unobserved_weight * (q.T @ q)  # (D, D), of this process's part of q
    x = q.new_zeros(len(lengths), dim)  # (B, D)
    loss = float(rows.weights.sum(dtype=torch.float64))
    for chosen in by_length(lengths, max(1, TILE // 4 // dim**2)):  # (C,)
        a = gramian.repeat(len(chosen), 1, 1)  # (C, D, D)
        b = q.new_zeros(len(chosen), dim)  # (C, D)
        positions = torch.arange(int(own[chosen].max()), device=q.device)
        for at in positions.split(max(1, TILE // 4 // (dim * len(chosen)))) if len(positions) else ():  # (L,)
            real = at < own[chosen, None]  # (C, L)
            entries = torch.where(real, rows.history.offsets[chosen, None] + at, 0)  # (C, L)
            w = torch.where(real, rows.weights[entries], 0.0)  # (C, L)
            h = q[rows.history.items[entries]]  # (C, L, D)
            weighted = h * w[:, :, None]  # (C, L, D)
            a.baddbmm_(h.transpose(1, 2), weighted)
            b += weighted.sum(1)
        a, b = rows.total(a), rows.total(b)
        if rows.prior is not None:
            b += rows.l2[chosen, None] * rows.prior[chosen]
        a.diagonal(dim1=1, dim2=2).add_(rows.l2[chosen, None])
        solved = torch.cholesky_solve(b[:, :, None], torch.linalg.cholesky(a))[:, :, 0]  # (C, D)
        x[chosen] = solved
        loss -= float((solved * b).sum(dtype=torch.float64))
    return x, loss


def by_length(lengths: Tensor, size: int) -> Iterator[Tensor]:
    """All rows by length, at most `size` at a time, none much longer than the first of its group."""
    order = torch.argsort(lengths, stable=True)
    while len(order):
        group = order[:size]
        group = group[lengths[group] <= 1.25 * lengths[group[0]] + 8]
        yield group
        order = order[len(group) :]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)  # (B, 1)
