"""What the processes of test_distributed.py do; a module of its own, as each of them imports it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from pipeline.config.settings import Finder
from pipeline.experiments.fit import FitRequest, fit_together, guided_by_first
from pipeline.models import MODELS
from pipeline.models.conformance import checkerboard
from pipeline.training.context import FitContext, ProcessGroup
from pipeline.training.distributed import FabricProcessGroup, meet
from pipeline.training.loop import fit_by_gradient
from pipeline.training.lr_finder import RateFinder
from pipeline.training.optimizers import TrainingConfig

ROWS = 41
"""With batches of 8 the last one has a single row: nothing is left for a second process."""
CASES = {
    "adam": (False, {}),
    "sgd, clipped": (False, {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 0.05, "learning_rate": 0.5}),
    "decay": (False, {"weight_decay": 0.5}),
    "one batch": (False, {"batch_size": 0}),
    "sparse adam": (True, {}),
    "sparse sgd": (True, {"optimizer": "sgd", "learning_rate": 0.5}),
}
BY_GRADIENT = sorted(name for name, family in MODELS.items() if issubclass(family.Config, TrainingConfig))


class Tables(nn.Module):
    """Dot products of two tables, the left one sparse or not, towards fixed targets."""

    def __init__(self, sparse: bool = False):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.left = nn.Embedding.from_pretrained(torch.randn(11, 3, generator=draw), freeze=False, sparse=sparse)
        self.right = nn.Embedding.from_pretrained(torch.randn(7, 3, generator=draw), freeze=False)
        self.unused = nn.Parameter(torch.ones(2))  # without a gradient it must not decay either
        self.targets = torch.randn(ROWS, generator=draw)  # (N,)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return ((self.left(rows % 11) * self.right(rows % 7)).sum(1) - self.targets[rows]).square().mean()


def learn(model: Tables, context: FitContext, loss: Any = None, **keys: Any) -> int:
    """The best epoch of a fit."""
    config = TrainingConfig(**{"epochs": 3, "batch_size": 8, "learning_rate": 0.05, **keys})
    return fit_by_gradient(model, ROWS, loss or model.loss, config, context)


def states(world: ProcessGroup) -> dict[str, dict[str, Tensor]]:
    """What is learnt, by case, where losses draw nothing."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, (sparse, keys) in CASES.items():
        model = Tables(sparse)
        learn(model, FitContext(world=world), **keys)
        found[name] = model.state_dict()
    finder, model = RateFinder(Finder(use=True)), Tables()
    learn(model, FitContext(world=world, finder=finder))
    found["rate found"] = {"losses": torch.tensor(finder.found.losses), **model.state_dict()}
    return found | {"pmf": family_state("pmf", world)}


def family_state(family: str, world: ProcessGroup) -> dict[str, Tensor]:
    """Of a family fitted for two epochs, whose last batch leaves nothing for the second process."""
    device = getattr(world, "device", torch.device("cpu"))
    train = checkerboard(rated=True).to(device)
    config = MODELS[family].Config.model_validate({"epochs": 2, "batch_size": 3 if family == "recvae" else 31})
    torch.manual_seed(0)
    model = MODELS[family](config, train.n_users, train.n_items)
    model.fit(train, FitContext(device=device, world=world))
    return {name: torch.as_tensor(value).cpu() for name, value in model.state_dict().items()}


def everything(world: FabricProcessGroup) -> dict[str, Any]:
    """All that two processes do together, in one go: it is their start that takes time. Tensors go as arrays."""
    found = {
        "met": meet(world),
        "states": states(world),
        "families": families(world),
        "draws": of_all(draws(world)),
        "sizes": of_all(out_of_memory_once(world)),
        "best epochs": of_all(stopped_by_valid(world)),
        "ended": of_all(ended_by_deadline(world)),
        "shared": of_all(shared_sums(world)),
        "cut": cut_by_users(world),
    }
    return within(found, Tensor, lambda tensor: tensor.detach().numpy())


def within(value: Any, kind: type, turn: Callable[[Any], Any]) -> Any:
    """What is of `kind` in dictionaries and lists is turned."""
    if isinstance(value, dict):
        return {key: within(each, kind, turn) for key, each in value.items()}
    if isinstance(value, list):
        return [within(each, kind, turn) for each in value]
    return turn(value) if isinstance(value, kind) else value


def families(world: ProcessGroup) -> dict[str, Any]:
    """What every process has learnt, by family; tensors as arrays."""
    found = {name: of_all(family_state(name, world)) for name in BY_GRADIENT}
    return within(found, Tensor, lambda tensor: tensor.detach().numpy())


def of_all(value: Any) -> list[Any]:
    """Of every process, in order."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def draws(world: ProcessGroup) -> tuple[list[float], list[int]]:
    """What a loss draws in its first step, by its generator and by torch's own; the rows that it was given."""
    drawn, given = [], []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        if not drawn:
            drawn.extend([float(torch.rand((), generator=generator)), float(torch.rand(()))])
        given.extend(rows.tolist())
        return model.loss(rows, generator)

    model = Tables()
    learn(model, FitContext(world=world), loss, epochs=1)
    return drawn, given


def out_of_memory_once(world: ProcessGroup) -> list[int]:
    """Rows of each step; the last process has no memory for its second one."""
    sizes: list[int] = []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        sizes.append(len(rows))
        if len(sizes) == 2 and world.rank == world.size - 1:
            raise torch.OutOfMemoryError
        return model.loss(rows, generator)

    model = Tables()
    learn(model, FitContext(world=world), loss, epochs=1)
    return sizes


def stopped_by_valid(world: ProcessGroup) -> int:
    """The best epoch, by metrics that only the first process has."""
    metrics = iter([0.1, 0.3, 0.2, 0.2, 0.9])

    def guide(model: Any) -> float:
        assert world.rank == 0, "the others get the result"
        return next(metrics)

    context = FitContext(world=world, validate=guided_by_first(guide, world))
    return learn(Tables(), context, epochs=9, patience=2)


def ended_by_deadline(world: ProcessGroup) -> tuple[int, bool]:
    """Epochs, where only for the first process the deadline is over."""
    context = FitContext(world=world, deadline=time.monotonic() + (-1 if world.rank == 0 else 3600))
    return learn(Tables(), context), context.cut_short


def shared_sums(world: ProcessGroup) -> dict[str, list[float]]:
    """A sum, what the first process says, and rows of different numbers, of which one process may have none."""
    mine = torch.arange(3.0) + 10 * world.rank
    return {
        "summed": world.summed(mine.clone()).tolist(),
        "agreed": world.agreed(mine.clone()).tolist(),
        "joined": world.joined(mine[world.rank :]).tolist(),
        "none": world.joined(mine[3 * world.rank :]).tolist(),
    }


def cut_by_users(world: ProcessGroup) -> dict[str, Any]:
    """The state of ials in the first process; each has the rows of some of the users, the second of three has none."""
    train = checkerboard(rated=True)
    config = MODELS["ials"].Config.model_validate({"epochs": 3, "embedding_dim": 4})
    model = MODELS["ials"](config, train.n_users, train.n_items)
    context = FitContext(world=world)
    if world.size > 1:
        half = train.n_users // 2
        borders = [0, *[half] * (world.size - 1), train.n_users]
        context.users = range(*borders[world.rank : world.rank + 2])
        train = train.select((train.users >= context.users.start) & (train.users < context.users.stop))
    model.fit(train, context)
    state = {name: torch.as_tensor(value) for name, value in model.state_dict().items()}
    return within(state, Tensor, lambda tensor: tensor.numpy())


def broken_in_one(world: ProcessGroup, request: FitRequest, folder: Path) -> dict[str, Any]:
    """A fit, of which that of `broken` goes wrong in the second process after it began in both."""
    if request.label == "broken":
        distributed.barrier()
        if world.rank == 1:
            raise ValueError("planted in one")
    return fit_together(world, request, folder)
