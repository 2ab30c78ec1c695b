"""Something stored that is no longer needed, its size, and how to remove it. `nightrecs gc` removes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.filesystem import delete, size_of


@dataclass(frozen=True)
class Garbage:
    """One file, folder, model or run that is no longer needed."""

    kind: str
    """generation, lake, report, temporary, destination (a night copied elsewhere), model or run (both in MLflow)."""
    name: str
    bytes: int
    remove: Callable[[], None] = field(repr=False, compare=False)


def of_path(kind: str, path: Path, root: Path) -> Garbage:
    """A file or folder; its name is relative to `root`."""
    return Garbage(kind, str(path.relative_to(root)), size_of([path]), lambda: delete(path))
