"""Keys of `[attributes]`: which attributes of items the models read."""

from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.config.base import Section


class Attributes(Section):
    """Attributes of the item catalog as inputs of models, and items without events."""

    items: bool | Annotated[list[str], Field(min_length=1)] = False
    """Attributes of `[items]` that models read: true for all, or their names. Items of the catalog without events then
    take part: a model that can place them by their attributes lists them."""
    min_items: PositiveInt = 2
    """A value that fewer items have is not read. Columns of numbers or dates with many values are cut into tenths."""
    new_days: PositiveInt = 30
    """Segment `new_items` of the metrics: items whose first row is at most so many days before the end of the rows that
    the model was fitted on, and later ones."""

    @property
    def names(self) -> list[str] | None:
        """Names of the attributes; None: all."""
        return self.items if isinstance(self.items, list) else None

    @property
    def used(self) -> bool:
        """Whether models read attributes."""
        return self.items is not False
