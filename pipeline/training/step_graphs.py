"""Whole training steps as CUDA graphs: one launch per step instead of a hundred."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.console import log

WARM_UP = 3
"""Steps of each kind that run normally before one is captured: they create the state of libraries and optimizers."""


@dataclass(frozen=True)
class Steps:
    """Properties of a family's steps."""

    static: bool = False
    """Batches of one size give tensors of constant shapes, and the loss never waits for the device. On CUDA such steps
    are replayed as graphs."""
    turn: Callable[[], Hashable] | None = None
    """Called before each step; steps with equal results run the same operations."""
    order: Callable[[torch.Generator], Tensor] | None = None
    """The rows (N,) in the order of an epoch, by a generator that all processes have alike; None: a random order."""


class StepGraphs:
    """Replays steps on its own stream, with one graph per kind of step, captured at the first chance.

    A step of a small model is a hundred kernels of a few microseconds; launching them one by one takes ten times as
    long as running them. `step` updates the model on rows (B,), always the same number, and never waits for the device.
    It may draw from `generator` and from torch's own generators. If a step can't be captured, all steps run normally.
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
        """One step on rows (B,); steps of equal `kind` run the same operations."""
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
        """Release the graphs and their memory; later steps are captured again."""
        self.graphs, self.rows, self.pool = {}, None, torch.cuda.graph_pool_handle()

    def _capture(self, kind: Hashable, rows: Tensor) -> None:
        """Capture one step; capturing runs nothing, so the state does not change."""
        self.rows = torch.empty_like(rows) if self.rows is None else self.rows
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.step(self.rows)
        except RuntimeError as error:
            self.given_up = True
            log.warning("steps run without CUDA graphs: %s", f"{error}".partition("\n")[0])
        else:
            self.graphs[kind] = graph
