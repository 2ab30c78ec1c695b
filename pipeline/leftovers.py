"""What can go: something at rest, its size, and how it is removed. Made by whoever knows, removed by `nightrecs gc`."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Leftover:
    """One thing that nothing needs any more."""

    kind: str
    """generation, lake, report, temporary, model (in MLflow) or run (in MLflow)."""
    name: str
    bytes: int
    remove: Callable[[], None] = field(repr=False, compare=False)


def of_path(kind: str, path: Path, root: Path) -> Leftover:
    """A file or folder, named from `root`."""
    return Leftover(kind, str(path.relative_to(root)), size_of([path]), lambda: delete(path))


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files and folders that removing them frees: a file with another name elsewhere frees none."""
    total = 0
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
                total += file.stat().st_size
    return total


def delete(path: Path) -> None:
    """Remove a file or a folder; one that is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
