"""What a row changes in the process of a night, and the proof that the night came to it.

A plant under a name that nobody calls any more tests nothing, and its row passes. So every change goes through
`replace` or `set_constant`, and `unmet` names those that were without effect.
"""

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.paths import CHECKOUT

RECORDS: list[Path] = []
"""The file that this process and its forks write to; none: nobody asks."""
_written: set[str] = set()


def begin(record: Path) -> None:
    """Write what is planted and what is met into this file, also from processes that this one forks."""
    RECORDS[:] = [record]
    _written.clear()


def replace(
    owner: Any, name: str, make: Callable[[Any], Callable[..., Any]], when: Callable[..., bool] | None = None
) -> None:
    """Replace a function of a module or class by `make(original)`; it is met when it is called.

    `when`: only for calls with arguments for which this is true; others go to the original.
    """
    original, label = getattr(owner, name), f"{owner.__name__}.{name}"
    planted = make(original)
    _write(f"planted {label}")

    @functools.wraps(original)
    def called(*args: Any, **named: Any) -> Any:
        if when is not None and not when(*args, **named):
            return original(*args, **named)
        _write(f"met {label}")
        return planted(*args, **named)

    setattr(owner, name, called)
    if isinstance(owner, ModuleType):
        _set_copies(owner.__name__, name, called)


def set_constant(module: ModuleType, name: str, value: Any) -> None:
    """Set a constant of a module; AssertionError if nobody reads one of that name."""
    getattr(module, name)
    assert any(_reads(tree, name) for _, tree in _code(name)), f"nobody reads {module.__name__}.{name}"
    setattr(module, name, value)
    _set_copies(module.__name__, name, value)


def _set_copies(module: str, name: str, value: Any) -> None:
    """Set it where `from module import name` has copied it to. Modules that are imported later copy the new one."""
    for path, tree in _code(name):
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == module:
                where = sys.modules.get(
                    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
                )
                for one in node.names:
                    if one.name == name and where is not None:
                        setattr(where, one.asname or name, value)


def unmet(record: Path) -> list[str]:
    """What was planted by the record and never met."""
    lines = record.read_text().splitlines() if record.exists() else []
    found = {word: {line.partition(" ")[2] for line in lines if line.startswith(word)} for word in ("planted", "met")}
    return sorted(found["planted"] - found["met"])


def _write(line: str) -> None:
    if line in _written:
        return
    for record in RECORDS:
        _written.add(line)
        with record.open("a") as file:
            file.write(f"{line}\n")


def _code(name: str) -> list[tuple[Path, ast.Module]]:
    """The files that have the name. Parsing all of them takes longer than a night."""
    return [(path, ast.parse(text)) for path, text in _texts() if name in text]


@functools.cache
def _texts() -> list[tuple[Path, str]]:
    paths = [path for package in ("pipeline", "flows") for path in sorted((CHECKOUT / package).rglob("*.py"))]
    return [(path, path.read_text(encoding="utf-8")) for path in paths]


def _reads(tree: ast.Module, name: str) -> bool:
    loads = (node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Load))
    return any(name in (getattr(node, "id", None), getattr(node, "attr", None)) for node in loads)


def by_hand(path: Path) -> Iterator[str]:
    """Assignments of a file to attributes of what it imported, or by setattr: plants that nobody watches."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        (one.asname or one.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for one in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            base: ast.expr = node
            while isinstance(base, ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name) and base.id in imported - {"sys", "os"}:
                yield f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield f"{path.name}:{node.lineno}"
