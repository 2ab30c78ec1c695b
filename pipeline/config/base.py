"""Base class and shared types of all settings sections."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pipeline.config.toml_files import NAME

Name = Annotated[str, Field(pattern=NAME)]
FileStem = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}$")]
"""Name of a file without its suffix: no separator, no leading dot, no control character."""
Fraction = Annotated[float, Field(ge=0, le=1)]
MOST = 2**31 - 1
"""The largest whole number of a setting: what counts rows of a table or steps of a loop has room for it."""
MOST_DAYS = 100_000
"""The longest time, in days: 273 years, which a date of an interaction has room for on both sides."""


class Section(BaseModel):
    """A section of the settings tree. Unknown keys are errors, and so are numbers that no night can calculate with."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _has_room(cls, value: object, info: ValidationInfo) -> object:
        name = info.field_name or ""
        of_days = name.endswith("days") or name.endswith("windows")
        limit = 2**63 - 1 if name == "seed" else MOST_DAYS if of_days else MOST
        for number in _numbers(value):
            if abs(number) > limit and (of_days or name == "minutes" or isinstance(number, int)):
                raise ValueError(f"{number:g} is more than {limit:,}")
        return value


def _numbers(value: object) -> Iterator[float]:
    """The numbers of a value, which may be a list or a table of them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _numbers(each)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, dict):
        yield from _numbers([*value.values()])  # pyright: ignore[reportUnknownArgumentType]
