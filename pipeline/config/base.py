"""Base class and shared types of all settings sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config.toml_files import NAME

Name = Annotated[str, Field(pattern=NAME)]
FileStem = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}$")]
"""Name of a file without its suffix: no separator, no leading dot, no control character."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section of the settings tree. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)
