"""A fit that starts from the state of an earlier one instead of from random values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

SHARES = {"epochs": 0.25, "patience": 0.2}
"""Of a warm fit, as a share of those of a cold one; rounded up."""
RATE = 0.1
"""Learning rate of a warm fit by gradient steps, as a share of that of a cold one. At the whole rate the first steps,
whose moments are new, move the state away from the epoch that early stopping chose."""

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class PreviousFit:
    """The state of an earlier fit of the same configuration, and where its users and items are now."""

    state: Mapping[str, Tensor]
    """Its `state_dict()`."""
    users: Tensor
    """Row of each user in the earlier state, (U,); -1 for a user that it does not know."""
    items: Tensor
    """The same for items, (I,)."""

    def shortened(self, config: Config) -> Config:
        """The config with fewer epochs and less patience: a warm fit has little left to learn.

        A learning-rate schedule spans the fewer epochs.
        """
        changed = {name: max(1, math.ceil(share * getattr(config, name))) for name, share in SHARES.items()}
        return config.model_copy(update=changed)

    @torch.no_grad()
    def carry_into(self, model: nn.Module, rows: Mapping[str, str]) -> None:
        """Copy the earlier state over the initial values of the model.

        `rows`: the tables that have a row per user or item, by their name in the state, with `users` or `items`. Rows
        of new users and items keep their initial values. Of the other tensors, parameters are copied as they are.
        """
        parameters = {name for name, _ in model.named_parameters()}
        for name, tensor in model.state_dict().items():
            before = self.state.get(name)
            if before is None or not (name in rows or name in parameters):
                continue
            if name not in rows:
                tensor.copy_(before)
                continue
            places = (self.users if rows[name] == "users" else self.items).to(tensor.device)  # (N,)
            known = places >= 0  # (N,)
            tensor[known] = before.to(tensor.device)[places[known]]
