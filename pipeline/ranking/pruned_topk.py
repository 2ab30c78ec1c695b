"""Exact top-k of dot products without computing all of them."""

import torch
from torch import Tensor

from pipeline.models.ops.topk import ordered, unordered
from pipeline.training.interactions import History

HEAD = 1024
"""Items that are scored for all users: those with the highest bounds."""
BLOCK = 512
"""Granularity in which further items are scored."""
CELLS = 1 << 26
"""Scores that are computed at once."""
CPU_CELLS = 1 << 22
"""The same on a CPU: what stays in its cache."""


class DotProducts:
    """score = <user factors, item factors> + item bias, for the items that are `allowed`.

    A score is at most |user| |item| + bias (Cauchy-Schwarz). With the items ordered by that bound, a user is done as
    soon as k scores are above the bound of the next item (Teflioudi et al., "LEMP", SIGMOD 2015, sec. 3). On CUDA it is
    cheaper to compute all products than to find out which users are done.
    """

    def __init__(
        self,
        items: Tensor,
        bias: Tensor | None,
        users: Tensor,
        allowed: Tensor | None = None,
        pruned: bool | None = None,
    ):
        """Item factors (I, D), item bias (I,); items are ordered for users of the mean length of `users` (U, D).

        Without `pruned`, the default on CUDA, all products are computed and the items keep their own order.
        """
        self.pruned = items.device.type == "cpu" if pruned is None else pruned
        given = bias
        bias = items.new_zeros(len(items)) if bias is None else bias.to(items.dtype)
        kept = torch.arange(len(items), device=items.device) if allowed is None else allowed.nonzero().squeeze(1)
        self.head = HEAD if self.pruned else len(kept)
        self.all_kept = len(kept) == len(items)
        norms = torch.linalg.vector_norm(items, dim=1)  # (I,)
        typical = torch.linalg.vector_norm(users, dim=1).mean()
        order = torch.argsort(norms[kept] * typical + bias[kept], descending=True, stable=True)
        self.order = kept[order] if self.pruned else kept  # (I',) item at each place
        self.place = torch.full((len(items),), len(items), device=items.device)  # (I,) inverse of `order`
        self.place[self.order] = torch.arange(len(self.order), device=items.device)
        both = torch.cat([items, bias.unsqueeze(1)], 1) if self.pruned else items
        self.items = both[self.order].T.contiguous()  # (D + 1, I'), or (D, I') with a separate bias
        self.added = None if self.pruned or given is None else bias[self.order]  # (I',)
        starts = slice(min(self.head, len(self.order)), None, BLOCK)
        self.norm_from = _max_from(norms[self.order])[starts] * 1.00001  # (J,) from each block on; for rounding
        self.bias_from = _max_from(bias[self.order])[starts]  # (J,)
        self.buffer = items.new_empty(0)

    def top(self, users: Tensor, mask: History | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """User factors (B, D) to values (B, k), items (B, k) and `tied` (B,), for k < HEAD.

        The same as `topk.largest` returns, but in `tied` rows it is open which of the items of equal score are listed.
        """
        x = torch.cat([users, users.new_ones(len(users), 1)], 1) if self.pruned else users  # (B, D + 1) or (B, D)
        values, places = self._best(x, mask, 0, self.head, k + 1)  # (B, k + 1): one more shows a tie at the end
        if self.head < len(self.order):
            self._score_tail(x, users, mask, values, places, k)
        tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        return *ordered(values[:, :k], self.order[places[:, :k]]), tied

    def _score_tail(
        self, x: Tensor, users: Tensor, mask: History | None, values: Tensor, places: Tensor, k: int
    ) -> None:
        """Score items beyond the head where bounds don't exclude them; updates `values` and `places` (B, k + 1)."""
        bounds = torch.linalg.vector_norm(users, dim=1, keepdim=True) * self.norm_from + self.bias_from  # (B, J)
        blocks, rows = (bounds >= values[:, k:]).sum(1).sort(descending=True, stable=True)  # (B,), bounds fall
        rows = rows[: int((blocks > 0).sum())]
        ends = (self.head + BLOCK * blocks).clamp(max=len(self.order)).tolist()
        start, cells = 0, CPU_CELLS if x.device.type == "cpu" else CELLS
        while start < len(rows):  # longest first, so that users of one part need about as many items
            part = rows[start : start + max(1, cells // (ends[start] - self.head))]  # (B',)
            masked = None if mask is None else mask[part]
            more = self._best(x[part], masked, self.head, ends[start], k + 1)
            start += len(part)
            values[part], at = torch.cat([values[part], more[0]], 1).topk(k + 1, dim=1)
            places[part] = torch.cat([places[part], more[1]], 1).gather(1, at)

    def _best(self, x: Tensor, mask: History | None, first: int, end: int, k: int) -> tuple[Tensor, Tensor]:
        """Values and places (B, k) among places first .. end - 1; fewer columns if there are fewer places."""
        width, cells = end - first, len(x) * (end - first)
        if len(self.buffer) < cells:
            self.buffer = x.new_empty(cells)
        flat = self.buffer[:cells]
        scores = flat.view(-1, width)  # (B, width)
        if self.added is None:
            torch.mm(x, self.items[:, first:end], out=scores)
        else:
            torch.addmm(self.added[first:end], x, self.items[:, first:end], out=scores)
        if mask is not None:
            places = self.place[mask.items] - first  # (E,)
            if self.all_kept and width == len(self.order):
                at = mask.rows * width + places
            else:
                inside = ((places >= 0) & (places < width)).nonzero().squeeze(1)
                at = mask.rows[inside] * width + places[inside]
            flat[at] = flat[at] - torch.inf  # NaN stays NaN, so that it is noticed
        values, places = unordered(scores, min(k, width))
        return values, places + first


def _max_from(values: Tensor) -> Tensor:
    """Maximum from each place to the end, (I',)."""
    return values.flip(0).cummax(0).values.flip(0)
