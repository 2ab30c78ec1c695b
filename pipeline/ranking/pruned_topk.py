"""Top-k of dot products without computing them all, and yet exactly."""

import torch
from torch import Tensor

from pipeline.models.ops.topk import ordered, unordered
from pipeline.training.interactions import History

HEAD = 1024  # items that are scored for everybody: those with the highest bounds
BLOCK = 512  # step in which more items are
CELLS = 1 << 26  # scores at once
CPU_CELLS = 1 << 22  # what stays in a cache


class DotProducts:
    """score = <user factors, item factors> + item bias, for the items that are `allowed`.

    A score is at most |user| |item| + bias (Cauchy-Schwarz). So with the items ordered by that bound, whoever
    has k scores above the bound of the next item is done (Teflioudi et al., "LEMP", SIGMOD 2015, sec. 3).
    """

    def __init__(self, items: Tensor, bias: Tensor | None, users: Tensor, allowed: Tensor | None = None):
        """Item factors (I, D), bias (I,); `users` (U, D): order the items for users of about this size."""
        bias = items.new_zeros(len(items)) if bias is None else bias.to(items.dtype)
        kept = torch.arange(len(items), device=items.device) if allowed is None else allowed.nonzero().squeeze(1)
        norms = torch.linalg.vector_norm(items, dim=1)  # (I,)
        typical = torch.linalg.vector_norm(users, dim=1).mean()
        order = torch.argsort(norms[kept] * typical + bias[kept], descending=True, stable=True)
        self.order = kept[order]  # (I',) item at each place
        self.place = torch.full((len(items),), len(items), device=items.device)  # (I,) place of each item
        self.place[self.order] = torch.arange(len(self.order), device=items.device)
        self.items = torch.cat([items, bias.unsqueeze(1)], 1)[self.order].T.contiguous()  # (D + 1, I')
        starts = slice(min(HEAD, len(self.order)), None, BLOCK)
        self.norm_from = _max_from(norms[self.order])[starts] * 1.00001  # (J,) of each block on; above rounding
        self.bias_from = _max_from(bias[self.order])[starts]  # (J,)
        self.buffer = items.new_empty(0)

    def top(self, users: Tensor, mask: History | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """User factors (B, D) to values (B, k), items (B, k) and `tied` (B,), for k < HEAD.

        As `topk.largest` has them, but for which of the items of equal score are listed in `tied` rows.
        """
        x = torch.cat([users, users.new_ones(len(users), 1)], 1)  # (B, D + 1)
        values, places = self._best(x, mask, 0, HEAD, k + 1)  # (B, k + 1): one more shows a tie at the end
        bounds = torch.linalg.vector_norm(users, dim=1, keepdim=True) * self.norm_from + self.bias_from  # (B, J)
        blocks, rows = (bounds >= values[:, k:]).sum(1).sort(descending=True, stable=True)  # (B,), bounds fall
        rows = rows[: int((blocks > 0).sum())]
        ends = (HEAD + BLOCK * blocks).clamp(max=len(self.order)).tolist()
        start, cells = 0, CPU_CELLS if x.device.type == "cpu" else CELLS
        while start < len(rows):  # the furthest first, so that neighbours go about as far
            part = rows[start : start + max(1, cells // (ends[start] - HEAD))]  # (B',)
            known = None if mask is None else mask[part]
            more = self._best(x[part], known, HEAD, ends[start], k + 1)
            start += len(part)
            values[part], at = torch.cat([values[part], more[0]], 1).topk(k + 1, dim=1)
            places[part] = torch.cat([places[part], more[1]], 1).gather(1, at)
        tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        return *ordered(values[:, :k], self.order[places[:, :k]]), tied

    def _best(self, x: Tensor, mask: History | None, first: int, end: int, k: int) -> tuple[Tensor, Tensor]:
        """Values and places (B, k) among the places first .. end - 1; fewer columns where those are fewer."""
        width, cells = end - first, len(x) * (end - first)
        if len(self.buffer) < cells:
            self.buffer = x.new_empty(cells)
        flat = self.buffer[:cells]
        scores = torch.mm(x, self.items[:, first:end], out=flat.view(-1, width))  # (B, width)
        if mask is not None:
            places = self.place[mask.items] - first  # (E,)
            inside = ((places >= 0) & (places < width)).nonzero().squeeze(1)
            at = mask.rows[inside] * width + places[inside]
            flat[at] = flat[at] - torch.inf  # NaN stays NaN, so it is noticed
        values, places = unordered(scores, min(k, width))
        return values, places + first


def _max_from(values: Tensor) -> Tensor:
    """Largest value from each place to the end, (I',)."""
    return values.flip(0).cummax(0).values.flip(0)
