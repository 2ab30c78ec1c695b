"""One fit on several devices of this machine: what its processes agree on, step by step. `processes.py` starts them.

Every process holds the whole model, starts from the same state, and goes through the same rows in the same order. Of
each batch it takes its share; the gradients are averaged, weighted by the shares, so all take the same step.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from pipeline.training.context import ProcessGroup
from pipeline.training.optimizers import sparse_tables

T = TypeVar("T")


class ProcessFailed(RuntimeError):
    """One of the processes did; the message says which and why."""


def check(devices: int, device: torch.device) -> None:
    """Raise ValueError, for people, where so many devices can't be used together."""
    if devices <= 1:
        return
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ValueError(f"devices = {devices} needs lightning-fabric: pip install 'nightrecs[fabric]'; or set it to 1")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"devices = {devices} goes with CUDA or the CPU, not with {device.type}; set it to 1")
    if device.type == "cuda" and devices > (there := torch.cuda.device_count()):
        raise ValueError(f"devices = {devices}, and torch sees {there} of CUDA; set it to {there} at most")


class AllOutOfMemory(torch.OutOfMemoryError):
    """Memory is out in one of the processes, and all of them know."""


def meet(world: "FabricProcessGroup") -> int:
    """How many processes find one another."""
    one = torch.ones((), device=world.device)
    distributed.all_reduce(one)
    return int(one)


class FabricProcessGroup(ProcessGroup):
    """Several that fit one model together, of which this is one."""

    def __init__(self, fabric: Any, say: Callable[[str, Any], None]):
        self.fabric, self.say, self.device = fabric, say, fabric.device
        self.rank, self.size = fabric.global_rank, fabric.world_size

    def broadcast(self, value: T) -> T:
        """What process 0 says, in all of them."""
        return self._with_others(self.fabric.broadcast, value)

    def send(self, *message: Any) -> None:
        """Say something to the process that launched this one; only process 0 does."""
        if self.rank == 0:
            self.say("told", message)

    def backward(self, model: nn.Module, rows: Tensor, backward: Callable[[Tensor], Tensor], look: bool) -> Tensor:
        """Put the gradient of the mean loss of rows (B,) into the model of every process; that loss, ().

        It is the mean of the shares' losses weighted by their rows: the batch's own where a loss is a mean over rows.
        With `look` the device is asked whether memory was out in any process; then all raise AllOutOfMemory.
        """
        own = rows[self.rank :: self.size]  # (B / processes,)
        weight, loss, out_of_memory = len(own) / len(rows), torch.zeros((), device=self.device), 0.0
        try:  # where the last batch leaves nothing, a row without weight: losses may count their calls
            loss = backward(own if len(own) else rows[:1])
        except torch.OutOfMemoryError:
            if not look:
                raise
            model.zero_grad(set_to_none=True)
            out_of_memory = 1.0
        sparse = {id(table) for table in sparse_tables(model)}
        learnt = [p for p in model.parameters() if p.requires_grad]
        dense = [p for p in learnt if id(p) not in sparse]
        said = torch.stack([loss.float() * weight, torch.tensor(out_of_memory, device=self.device)])  # (2,)
        grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in dense)
        flat = torch.cat([said, *(grad.flatten() * weight for grad in grads)])  # (2 + P,): one message a step
        self._with_others(distributed.all_reduce, flat)  # Fabric's own would make all wait for all first
        if look and flat[1] > 0:
            raise AllOutOfMemory("the memory of a device is out")
        for parameter, grad in zip(dense, flat[2:].split([p.numel() for p in dense]), strict=True):
            if parameter.grad is not None:  # else it has none in any process, and optimizers leave it alone
                parameter.grad = grad.view_as(parameter)
        for table in learnt:
            if id(table) in sparse and table.grad is not None:
                table.grad = self._summed(table.grad, weight)
        return flat[0]

    def out_of_memory(self, error: torch.OutOfMemoryError) -> NoReturn:
        """Raise `error` where all processes have it; else ProcessFailed, as the others go on and can't be asked to."""
        if isinstance(error, AllOutOfMemory):
            raise error
        raise ProcessFailed("the memory of its device is out; set batch_size lower, or devices = 1") from error

    def _summed(self, grad: Tensor, weight: float) -> Tensor:
        """The sparse gradients (N, D) of all processes, weighted, as one: rows that any of them touched."""
        grad, some = grad.coalesce(), slice(None if weight else 0)
        rows, values = grad.indices()[0][some], grad.values()[some] * weight  # (R,), (R, D)
        counts = self._gathered(torch.tensor(len(rows), device=self.device))  # (processes,)
        missing = int(counts.max()) - len(rows)
        kept = torch.arange(len(rows) + missing, device=self.device) < counts.unsqueeze(1)  # (processes, most)
        rows = self._gathered(F.pad(rows, (0, missing)))[kept]  # (all rows,)
        values = self._gathered(F.pad(values, (0, 0, 0, missing)))[kept]  # (all rows, D)
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, grad.shape, check_invariants=False).coalesce()

    def _gathered(self, tensor: Tensor) -> Tensor:
        """Of every process, all of one shape, (…) -> (processes, …)."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._with_others(distributed.all_gather, parts, tensor.contiguous())
        return torch.stack(parts)

    def _with_others(self, deed: Callable[..., Any], *args: Any) -> Any:
        try:
            return deed(*args)
        except RuntimeError as error:  # making this one lets Python see a signal that has ended the others too
            why = f"{error}".partition("\n")[0]
            raise ProcessFailed(f"another process can't be reached: {why}") from error
