"""Data-parallel fits on several devices of this machine; `launcher.py` starts the processes.

In fits by gradient every process holds the whole model, starts from the same state, and reads the same rows in the same
order. It takes its share of each batch. Gradients are averaged, weighted by the shares, so all processes take the same
step. Families with `cuts_users` give each process a range of users instead, and sum what the items need.
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
    """One of the processes failed; the message names it and the reason."""


def check(devices: int, device: torch.device) -> None:
    """Raise ValueError, with a message for users, if that many devices can't be used together."""
    if devices <= 1:
        return
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ValueError(f"devices = {devices} needs lightning-fabric: pip install 'nightrecs[fabric]'; or set it to 1")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"devices = {devices} goes with CUDA or the CPU, not with {device.type}; set it to 1")
    if device.type == "cuda" and devices > (there := torch.cuda.device_count()):
        raise ValueError(f"devices = {devices}, and torch sees {there} of CUDA; set it to {there} at most")


class AllOutOfMemory(torch.OutOfMemoryError):
    """One process is out of memory, and all processes raise this error."""


def meet(world: "FabricProcessGroup") -> int:
    """Number of processes that reach one another; used by `doctor`."""
    one = torch.ones((), device=world.device)
    distributed.all_reduce(one)
    return int(one)


class FabricProcessGroup(ProcessGroup):
    """Several processes that fit one model together, seen from one of them."""

    def __init__(self, fabric: Any, report: Callable[[str, Any], None]):
        self.fabric, self.report, self.device = fabric, report, fabric.device
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.per_machine = self.size

    def broadcast(self, value: T) -> T:
        """The value of process 0, in all processes."""
        return self._with_others(self.fabric.broadcast, value)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; every process gets the same bits."""
        tensor = tensor.contiguous()
        self._with_others(distributed.all_reduce, tensor)
        return tensor

    def agreed(self, tensor: Tensor) -> Tensor:
        """The tensor of process 0."""
        tensor = tensor.contiguous()
        self._with_others(distributed.broadcast, tensor, 0)
        return tensor

    def joined(self, rows: Tensor) -> Tensor:
        """In process 0 the rows of all processes, one process after the other, so that it holds them once."""
        counts = self._gathered(torch.tensor(len(rows), device=self.device)).tolist()  # (processes,)
        if self.rank:
            if len(rows):
                self._with_others(distributed.send, rows.contiguous(), 0)
            return rows
        whole = rows.new_empty(sum(counts), *rows.shape[1:])  # (N, …)
        parts = whole.split(counts)
        parts[0].copy_(rows)
        for source, part in enumerate(parts[1:], start=1):
            if len(part):
                self._with_others(distributed.recv, part, source)
        return whole

    def send(self, *message: Any) -> None:
        """Send a message to the process that launched this one; only process 0 does."""
        if self.rank == 0:
            self.report("message", message)

    def backward(
        self, model: nn.Module, rows: Tensor, run_backward: Callable[[Tensor], Tensor], check_memory: bool
    ) -> Tensor:
        """Store the gradient of the mean loss of rows (B,) in the model of every process; returns the loss, ().

        It is the mean of the shares' losses weighted by their rows: that of the batch if a loss is a mean over rows.
        With `check_memory`, all processes raise AllOutOfMemory if one is out of memory; this waits for the device.
        """
        own = rows[self.rank :: self.size]  # (B / processes,)
        weight, loss, out_of_memory = len(own) / len(rows), torch.zeros((), device=self.device), 0.0
        try:  # an empty share takes a row of weight 0, because losses may count their calls
            loss = run_backward(own if len(own) else rows[:1])
        except torch.OutOfMemoryError:
            if not check_memory:
                raise
            model.zero_grad(set_to_none=True)
            out_of_memory = 1.0
        sparse = {id(table) for table in sparse_tables(model)}
        trained = [p for p in model.parameters() if p.requires_grad]
        dense = [p for p in trained if id(p) not in sparse]
        status = torch.stack([loss.float() * weight, torch.tensor(out_of_memory, device=self.device)])  # (2,)
        grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in dense)
        flat = torch.cat([status, *(grad.flatten() * weight for grad in grads)])  # (2 + P,): one message per step
        self._with_others(distributed.all_reduce, flat)  # Fabric's all_reduce adds a barrier
        if check_memory and flat[1] > 0:
            raise AllOutOfMemory("a device is out of memory")
        for parameter, grad in zip(dense, flat[2:].split([p.numel() for p in dense]), strict=True):
            if parameter.grad is not None:  # else no process has one, and optimizers skip it
                parameter.grad = grad.view_as(parameter)
        for table in trained:
            if id(table) in sparse and table.grad is not None:
                table.grad = self._summed(table.grad, weight)
        return flat[0]

    def out_of_memory(self, error: torch.OutOfMemoryError) -> NoReturn:
        """Raise `error` if all processes have it, else ProcessFailed: the others continue and can't be stopped."""
        if isinstance(error, AllOutOfMemory):
            raise error
        raise ProcessFailed("its device is out of memory; lower batch_size, or set devices = 1") from error

    def _summed(self, grad: Tensor, weight: float) -> Tensor:
        """The weighted sum of the sparse gradients (N, D) of all processes: rows that any of them touched."""
        grad, some = grad.coalesce(), slice(None if weight else 0)
        rows, values = grad.indices()[0][some], grad.values()[some] * weight  # (R,), (R, D)
        counts = self._gathered(torch.tensor(len(rows), device=self.device))  # (processes,)
        missing = int(counts.max()) - len(rows)
        kept = torch.arange(len(rows) + missing, device=self.device) < counts.unsqueeze(1)  # (processes, most)
        rows = self._gathered(F.pad(rows, (0, missing)))[kept]  # (all rows,)
        values = self._gathered(F.pad(values, (0, 0, 0, missing)))[kept]  # (all rows, D)
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, grad.shape, check_invariants=False).coalesce()

    def _gathered(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which have one shape, (…) -> (processes, …)."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._with_others(distributed.all_gather, parts, tensor.contiguous())
        return torch.stack(parts)

    def _with_others(self, collective: Callable[..., Any], *args: Any) -> Any:
        try:
            return collective(*args)
        except RuntimeError as error:  # raising this lets Python handle a signal that ended the others too
            reason = f"{error}".partition("\n")[0]
            raise ProcessFailed(f"another process can't be reached: {reason}") from error
