"""Whole training steps as CUDA graphs: one launch a step instead of a hundred."""

from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from pipeline.core.console import log

WARM_UP = 3
"""Steps of a kind that run as they are before one is captured: libraries and optimizers make their state in them."""


class StepGraphs:
    """Replays steps on a stream of its own, one graph a kind of step; captures each kind from a step it is given.

    A step of a small model is a hundred kernels of a few microseconds; starting them one by one takes ten times as
    long as they do. `step` updates the model by rows (B,), always as many, and asks the device for nothing. It may
    draw from `generator` and from torch's own. A step that can't be captured is run as it is, and so are all others.
    """

    def __init__(self, step: Callable[[Tensor], None], device: torch.device):
        self.step, self.stream = step, torch.cuda.Stream(device)
        self.generator = torch.Generator(device)
        self.graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.seen: Counter[Hashable] = Counter()
        self.rows: Tensor | None = None
        self.pool = torch.cuda.graph_pool_handle()
        self.given_up = False

    def take(self, kind: Hashable, rows: Tensor) -> None:
        """One step by the rows (B,)."""
        if kind not in self.graphs and self.seen[kind] >= WARM_UP and not self.given_up:
            self._capture(kind, rows)
        if graph := self.graphs.get(kind):
            assert self.rows is not None
            self.rows.copy_(rows)
            graph.replay()
        else:
            self.seen[kind] += 1
            self.step(rows)

    def forget(self) -> None:
        """Give the graphs' memory back; the next steps are captured afresh."""
        self.graphs, self.rows, self.pool = {}, None, torch.cuda.graph_pool_handle()

    def _capture(self, kind: Hashable, rows: Tensor) -> None:
        """Capturing runs nothing: the state is as before."""
        self.rows = torch.empty_like(rows) if self.rows is None else self.rows
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.step(self.rows)
        except RuntimeError as error:
            self.given_up = True
            log.warning("steps are launched kernel by kernel: %s", f"{error}".partition("\n")[0])
        else:
            self.graphs[kind] = graph
