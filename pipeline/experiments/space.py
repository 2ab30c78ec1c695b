"""Search spaces: `[models.<label>.search]`, validated against the family's hyperparameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ConfigDict, StrictBool, ValidationError, model_validator

from pipeline.config import loader
from pipeline.config.base import Section
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.training.context import ModelConfig


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Any, ...]


class Range(Section):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: int | float
    high: int | float
    log: StrictBool = False
    """Sample uniformly on a logarithmic scale."""
    step: int | float | None = None
    """Restrict to low, low + step, …"""

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range starts above 0")
        if self.step is not None and (self.log or not 0 < self.step <= self.high - self.low):
            raise ValueError("step must be above 0, at most high - low, and goes without log")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of integers."""
        return isinstance(self.low, int)

    def points(self) -> list[int | float]:
        """The values of a range with `step`."""
        assert self.step is not None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + i * self.step, 12) for i in range(count)]


Space = dict[str, Choices | Range]


def read_space(search: Mapping[str, Any], config: ModelConfig, where: str, key: str) -> Space:
    """Validate a search against a family's config, which also gives the values that are not searched.

    Raises SettingsError: `where` it was set, `key` (e.g. `models.mf.search`), the problem, the nearest known name.
    """
    if not search:
        raise SettingsError(f"{where}: {key} names no hyperparameter to search")
    known = config.names
    for name in search:
        if name not in known:
            near = f"{nearest(name, known)}; known here: {', '.join(known)}"
            raise SettingsError(f"{where}: {key}.{name}: unknown hyperparameter{near}")
    return {name: _read(value, name, config, where, f"{key}.{name}") for name, value in search.items()}


def _read(value: object, name: str, config: ModelConfig, where: str, key: str) -> Choices | Range:
    if isinstance(value, list):
        if not value:
            raise SettingsError(f"{where}: {key}: the list of choices is empty")
        for choice in value:
            _checked(choice, name, config, where, key)
        return Choices(tuple(value))
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {key}: write a list of choices or {{ low = …, high = … }}, got {value!r}")
    try:
        given = Range.model_validate(value)
    except ValidationError as error:
        raise SettingsError(loader.explain(error, Range, where, f"{key}.")) from None
    ends = [_checked(end, name, config, where, key) for end in (given.low, given.high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise SettingsError(f"{where}: {key}: {name} is not a number; give a list of choices")
    if isinstance(ends[0], int) and given.step is not None and not float(given.step).is_integer():
        raise SettingsError(f"{where}: {key}.step: {name} is a whole number, got {given.step!r}")
    step = given.step if given.step is None or isinstance(ends[0], float) else int(given.step)
    return given.model_copy(update={"low": ends[0], "high": ends[1], "step": step})


def _checked(value: object, name: str, config: ModelConfig, where: str, key: str) -> Any:
    """`value` as the family's config parses it. Errors of other fields are ignored here; a trial would raise them."""
    try:
        read = type(config).model_validate({**config.model_dump(), name: value})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            if problem["loc"][:1] == (name,) or problem["loc"][:2] == tuple(name.split(".", 1)):
                raise SettingsError(f"{where}: {key}: {problem['msg']}, got {value!r}") from None
        return value
    return read.value_of(name)


def grid_of(space: Space) -> list[dict[str, Any]]:
    """Every combination; the last hyperparameter varies fastest. ValueError names a range without step."""
    for name, of in space.items():
        if isinstance(of, Range) and of.step is None:
            raise ValueError(f"{name}: a grid needs a list of choices, or a range with step")
    axes = [of.values if isinstance(of, Choices) else of.points() for of in space.values()]
    return [dict(zip(space, values, strict=True)) for values in product(*axes)]


def usual_point(space: Space, config: ModelConfig) -> dict[str, Any] | None:
    """The configured values, or None where they lie outside the space."""
    point = {name: config.value_of(name) for name in space}
    return point if all(_holds(space[name], value) for name, value in point.items()) else None


def _holds(of: Choices | Range, value: object) -> bool:
    if isinstance(of, Choices):
        return any(isinstance(value, bool) == isinstance(v, bool) and value == v for v in of.values)
    if isinstance(value, bool) or not isinstance(value, int | float) or not of.low <= value <= of.high:
        return False
    steps = 0 if of.step is None else (value - of.low) / of.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)
