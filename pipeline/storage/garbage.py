"""What can go: something at rest, its size, and how it is removed. Made by whoever knows, removed by `nightrecs gc`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.filesystem import delete, size_of


@dataclass(frozen=True)
class Garbage:
    """One thing that nothing needs any more."""

    kind: str
    """generation, lake, report, temporary, model (in MLflow) or run (in MLflow)."""
    name: str
    bytes: int
    remove: Callable[[], None] = field(repr=False, compare=False)


def of_path(kind: str, path: Path, root: Path) -> Garbage:
    """A file or folder, named from `root`."""
    return Garbage(kind, str(path.relative_to(root)), size_of([path]), lambda: delete(path))
