"""Hyperparameters of the family `ials`."""

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.training.event_weights import WeightsConfig


class IalsConfig(WeightsConfig):
    """Hyperparameters of `Ials`."""

    embedding_dim: PositiveInt = 64
    """Length of the user and item vectors."""
    l2: PositiveFloat = 0.007
    """Regularisation: λ of the papers, before frequency scaling."""
    unobserved_weight: PositiveFloat = 0.3
    """α₀ of Rendle et al.: weight of every cell of the matrix; an interaction adds 1 to its cell."""
    frequency_exponent: NonNegativeFloat = 1.0
    """ν of Rendle et al.: a user's l2 is l2 · (interactions + unobserved_weight · items)^ν, an item's likewise."""
    epochs: PositiveInt = 12
    """Largest number of epochs; `patience` may end the fit earlier."""
    patience: PositiveInt = 3
    """Epochs without improvement on valid after which the fit ends."""
    init_stddev: PositiveFloat = 0.1
    """Standard deviation of the initial user factors, times 1/sqrt(embedding_dim)."""
    solver: Literal["cg", "exact"] = "cg"
    """cg: conjugate gradients from the last epoch's factors; exact: a Cholesky factorisation per row, slow."""
    cg_steps: PositiveInt = 2
    """Steps of conjugate gradients per half-step."""
    use_weights: bool = False
    """An interaction adds weight_scale · rating instead of 1 (and 1 where it has no rating). With `[events]` or
    `feedback.repeats`, for which it is set by default, weight_scale · its weight by event type and quantity."""
    weight_scale: PositiveFloat = 1.0
    """α of Hu et al.; only with weights."""
    attribute_prior: bool = False
    """Item factors are drawn to what their attributes predict instead of to 0, most for items with few events; with
    `[attributes]`."""
    added_later: ClassVar[tuple[str, ...]] = (
        "event_weights", "quantity_exponent", "half_life_days", "attribute_prior",
    )  # fmt: skip
