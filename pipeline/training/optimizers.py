"""Settings of gradient fits, and the optimizers and learning rates that they stand for."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.training.context import ModelConfig, NotServable


class TrainingConfig(ModelConfig):
    """How a gradient family is fitted; families inherit it and set their own defaults."""

    epochs: PositiveInt = 20
    """Largest number of epochs; `patience` may end the fit earlier."""
    batch_size: NonNegativeInt = 4096
    """Rows per step; 0: all rows at once."""
    learning_rate: PositiveFloat = 0.01
    """Learning rate; the highest one of the schedules `one_cycle` and `cosine`."""
    optimizer: Literal["sgd", "adam", "adamw", "adagrad", "row_adagrad", "sparse_adam"] = "adam"
    """sparse_adam needs sparse gradients; adam uses it automatically for tables that have them. row_adagrad has one
    step size per row of a table."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of sgd."""
    dampening: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Dampening of sgd's momentum: v = momentum v + (1 - dampening) g, from 0; equal to `momentum`, v is a running
    mean."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of dense parameters: L2 added to the gradient (decoupled for adamw)."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    """cosine falls to 0; one_cycle rises from 1/25 during 30 % of the epochs, then falls to 0 (Smith, 2018)."""
    steps: tuple[tuple[PositiveInt, PositiveFloat], ...] = ()
    """Schedule `step`: a list of [epochs, learning rate]; the last rate stays."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of a step's gradient; longer gradients are scaled down to it."""
    patience: PositiveInt = 5
    """Validations without improvement after which the fit ends."""
    min_improvement: NonNegativeFloat = 0.0
    """Share of the metric by which a validation must be better than the last improvement to be one for `patience`; the
    best epoch is kept all the same."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    added_later: ClassVar[tuple[str, ...]] = ("min_improvement",)


class SparseAdam(torch.optim.SparseAdam):
    """torch's SparseAdam with the same results, by looking rows up instead of adding sparse tensors: much faster."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the rows that have gradients."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(table), exp_avg_sq=torch.zeros_like(table))
                state["step"] += 1
                grad = table.grad.coalesce()
                rows, values = grad.indices()[0], grad.values()  # (T,), (T, D)
                if not values.numel():
                    continue
                before, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]  # (T, D) each
                mean = values.sub(before).mul_(1 - beta1).add_(before)
                square = values.pow(2).sub_(square).mul_(1 - beta2).add_(square)
                state["exp_avg"].index_copy_(0, rows, mean)
                state["exp_avg_sq"].index_copy_(0, rows, square)
                corrections = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
                size = group["lr"] * math.sqrt(corrections[1]) / corrections[0]
                update = mean.div_(square.sqrt_().add_(group["eps"])).mul_(-size)
                table.index_copy_(0, rows, update.add_(table[rows]))


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al., JMLR 2011) with one sum per row, of the mean square of its gradient; for dense and sparse
    gradients. Its state is a number per row, and a step reads and writes only the rows that have gradients."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float = 0.0, eps: float = 1e-10):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the rows that have gradients."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                sums = self.state[table].setdefault("sum", table.new_zeros(len(table) if table.dim() else ()))
                if table.grad.is_sparse:
                    rows, values = summed(table.grad)  # (T,), (T, D)
                    norms = torch.linalg.vector_norm(values, dim=1)  # (T,)
                    of_rows = sums.index_select(0, rows).addcmul_(norms, norms, value=1 / values.shape[1])  # (T,)
                    sums.index_copy_(0, rows, of_rows)
                    sizes = of_rows.sqrt_().add_(group["eps"]).reciprocal_().mul_(-group["lr"])  # (T,)
                    table.index_add_(0, rows, values.mul_(sizes.unsqueeze(1)))
                    continue
                grad = table.grad.add(table, alpha=group["weight_decay"])  # (N, …)
                rest = tuple(range(1, table.dim()))
                sums += grad.square().mean(rest) if rest else grad.square()
                sizes = sums.sqrt().add_(group["eps"]).view(sums.shape + (1,) * len(rest))
                table.addcdiv_(grad, sizes, value=-group["lr"])


def summed(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (T,) and their sums (T, D) of a sparse gradient: `coalesce`, several times as fast on a CPU."""
    if grad.is_coalesced() or grad.device.type != "cpu":
        grad = grad.coalesce()
        return grad.indices()[0], grad.values()
    rows, order = grad._indices()[0].int().sort(stable=True)  # (N,) each
    first = torch.ones_like(rows, dtype=torch.bool)  # (N,)
    torch.ne(rows[1:], rows[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)  # (T,)
    return rows[starts].long(), F.embedding_bag(order, grad._values(), starts, mode="sum")


def optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """One optimizer for tables with sparse gradients and one for all other parameters, where there are any."""
    tables = sparse_tables(model)
    ids = {id(p) for p in tables}
    dense = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
    made = [_optimizer(dense, config, config.optimizer)] if dense else []
    name = "sparse_adam" if config.optimizer in ("adam", "adamw") else config.optimizer
    if tables and (config.weight_decay or config.momentum or config.clip_norm):
        raise NotServable("weight_decay, momentum and clip_norm need dense gradients; set sparse = false or l2 instead")
    return [*made, _optimizer(tables, config, name, sparse=True)] if tables else made


def sparse_tables(model: nn.Module) -> list[Tensor]:
    """Embedding tables with sparse gradients."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of the next step; a tensor, which CUDA graphs read, is changed in place."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def in_graphs(made: Sequence[torch.optim.Optimizer]) -> bool:
    """Whether steps of all these optimizers can be captured in a CUDA graph."""
    return all(isinstance(group["lr"], Tensor) for optimizer in made for group in optimizer.param_groups)


def _optimizer(
    parameters: Sequence[Tensor], config: TrainingConfig, name: str, sparse: bool = False
) -> torch.optim.Optimizer:
    decay, device = config.weight_decay, parameters[0].device
    # on CUDA the rate is a tensor that graphs read: see step_graphs.py
    graphed: Any = {"fused": True} if device.type == "cuda" and not sparse else {}
    rate: Any = torch.tensor(config.learning_rate, device=device) if graphed else config.learning_rate
    match name:
        case "sgd":
            momentum, dampening = config.momentum, config.dampening
            sgd = torch.optim.SGD(parameters, rate, momentum, dampening, decay, **graphed)
            if dampening:  # torch would start from the whole gradient
                sgd.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in parameters})
            return sgd
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=config.learning_rate, weight_decay=decay)
        case "row_adagrad":
            return RowAdagrad(parameters, config.learning_rate, decay)
        case "sparse_adam":
            return SparseAdam(parameters, lr=config.learning_rate)
        case _:  # fused is 3 to 6 times faster
            adam = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
            return adam(parameters, lr=rate, weight_decay=decay, fused=True, capturable=bool(graphed))


def slowed(config: TrainingConfig, share: float) -> TrainingConfig:
    """The config with this share of its learning rate, and of those of its schedule `step`."""
    steps = tuple((epochs, share * rate) for epochs, rate in config.steps)
    return config.model_copy(update={"learning_rate": share * config.learning_rate, "steps": steps})


def learning_rate(config: TrainingConfig, at: float) -> float:
    """The rate at the moment `at`, in epochs since the start; a pure function, so refits and resumed fits repeat it."""
    share = min(at / config.epochs, 1.0)
    match config.schedule:
        case "step":
            ends = accumulate(epochs for epochs, _ in config.steps)
            rates = [rate for _, rate in config.steps] or [config.learning_rate]
            return next((rate for end, rate in zip(ends, rates, strict=False) if at < end), rates[-1])
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * share)) / 2
        case "one_cycle":
            low, climb = 1 / 25, 0.3
            if share < climb:
                return config.learning_rate * (low + (1 - low) * (1 - math.cos(math.pi * share / climb)) / 2)
            return config.learning_rate * (1 + math.cos(math.pi * (share - climb) / (1 - climb))) / 2
    return config.learning_rate
