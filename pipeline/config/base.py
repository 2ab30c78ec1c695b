"""Base class and shared types of all settings sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
NAME_IN_WORDS = "1 to 64 of the characters A-Z a-z 0-9 _ -, the first a letter or a digit"
"""Names become parts of paths, so they hold no separator and no dot."""
Name = Annotated[str, Field(pattern=NAME)]
FileStem = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}$")]
"""Name of a file without its suffix: no separator, no leading dot, no control character."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section of the settings tree. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)
