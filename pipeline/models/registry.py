"""Finds the model families: the modules of this package, installed packages, and dotted paths in recipes.

A built-in family is one module of this package with a `Recommender` class that sets `family`, its name in recipes.
There is no list to extend. A family outside of this repository is found in one of two ways:

* By entry point, under the name that its package declares:

      [project.entry-points."nightrecs.models"]
      tiny = "mymod:Tiny"

* By dotted path, in a recipe: `family = "mymod:Tiny"`.

In both cases the module must be importable wherever a night runs: installed, or in a folder of PYTHONPATH.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.core.console import log
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.models.base import ModelConfig, Recommender

GROUP = "nightrecs.models"
"""Entry points of this group are families."""
DOTTED_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
RESERVED = ("family", "finder", "search")
"""Keys of `[models.<label>]` that are not hyperparameters."""


class Families(Mapping[str, type[Recommender]]):
    """Family classes by name, in alphabetical order.

    Iteration covers the built-in families and those of entry points. A lookup also takes a dotted path. Modules are
    imported at the first access, not when this package is imported.
    """

    def __getitem__(self, name: str) -> type[Recommender]:
        try:
            return find(name)
        except SettingsError as error:
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({**_installed(), **_built_in()}))

    def __len__(self) -> int:
        return len({**_installed(), **_built_in()})


MODELS = Families()


def find(name: str) -> type[Recommender]:
    """The class of a family, by its name or dotted path; SettingsError says why there is none."""
    if name in _built_in():
        return _built_in()[name]
    if name in _installed():
        return _installed()[name]
    if (entry := _entry_points().get(name)) is not None:
        return load_class(entry.value)  # raises: `_installed` leaves out only what can't be loaded
    if ":" in name:
        return load_class(name)
    raise SettingsError(f"no family is called {name!r}{nearest(name, MODELS)}; there are: {', '.join(MODELS)}")


def name_of(family: type[Recommender]) -> str:
    """The name under which `find` returns this class: its short name, else its dotted path."""
    known = {**_installed(), **_built_in()}
    return next((name for name, each in known.items() if each is family), path_of(family))


def path_of(family: type[Recommender]) -> str:
    """`module:Class`."""
    return f"{family.__module__}:{family.__qualname__}"


def is_blend(name: str) -> bool:
    """Whether a family is made of other fitted models; False for unknown names."""
    family = MODELS.get(name)
    return family is not None and family.blends


def key_of(family: type[Recommender], rows: int | None = None, config: ModelConfig | None = None) -> dict[str, Any]:
    """What identifies the code of a family in the keys of fits on so many rows, and of searches.

    For a built-in family: class name and version. An outside family is identified by its dotted path and version,
    the version of its installed package if it has one, and a digest of its module's source.
    """
    version = family.version_at(rows, config)
    if family in _built_in().values():
        return {"family": family.__name__, "version": version}
    key = {"family": path_of(family), "version": version, "source": _digest(family)}
    package = _package_version(family.__module__.partition(".")[0])
    return key | ({"package": package} if package else {})


def load_class(path: str) -> type[Recommender]:
    """The family at a dotted path; SettingsError names what is wrong with the path or the class."""
    if not DOTTED_PATH.fullmatch(path):
        raise SettingsError(f'{path!r} is not the path of a family; write it as "module:Class"')
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise SettingsError(
            f"{path!r}: there is no module {missing!r}; install its package, or add its folder to PYTHONPATH"
        ) from error
    except Exception as error:
        raise SettingsError(f"{path!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    try:
        family = attrgetter(attribute)(module)
    except AttributeError:
        raise SettingsError(f"{path!r}: {module_name} has no {attribute!r}{nearest(attribute, vars(module))}") from None
    if problem := _problem(family):
        raise SettingsError(f"{path!r} is not a family: {problem}")
    return family


def _problem(family: Any) -> str | None:
    """Why something can't be used as a family from outside; None where it can."""
    if not (isinstance(family, type) and issubclass(family, Recommender)):
        return "it is no subclass of pipeline.models.Recommender"
    if missing := sorted(getattr(family, "__abstractmethods__", ())):
        return f"it does not define {', '.join(missing)}"
    config = getattr(family, "Config", None)
    if not (isinstance(config, type) and issubclass(config, ModelConfig)):
        return "its Config is no subclass of pipeline.models.ModelConfig"
    if taken := [name for name in RESERVED if name in config.model_fields]:
        return f"its Config has the field {taken[0]!r}, which recipes use for something else"
    if family.blends and family not in _built_in().values():
        return "blends = True is for the built-in blend"
    return None


@cache
def _built_in() -> dict[str, type[Recommender]]:
    """Families of this package by name: each is defined in a module of its own."""
    package = __name__.rpartition(".")[0]
    folder = str(Path(__file__).parent)
    found: dict[str, type[Recommender]] = {}
    for name in sorted(each.name for each in pkgutil.iter_modules([folder]) if not each.ispkg):
        module = importlib.import_module(f"{package}.{name}")
        for family in vars(module).values():
            if isinstance(family, type) and issubclass(family, Recommender) and family.__module__ == module.__name__:
                if not (label := vars(family).get("family")):
                    continue
                if label in found:
                    raise TypeError(f"{path_of(family)} and {path_of(found[label])} are both called {label!r}")
                found[label] = family
    return dict(sorted(found.items()))


@cache
def _installed() -> dict[str, type[Recommender]]:
    """Families of entry points by name; one that can't be loaded is left out with a warning."""
    found = {}
    for name, entry in _entry_points().items():
        try:
            found[name] = load_class(entry.value)
        except SettingsError as error:
            log.warning("the installed family %r is ignored: %s", name, error)
    return found


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    """Entry points by name; a built-in family keeps its name."""
    found: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        owner = _built_in().get(entry.name) or found.get(entry.name)
        if owner is None:
            found[entry.name] = entry
        else:
            log.warning("the installed family %s = %s is ignored: its name is taken", entry.name, entry.value)
    return found


@cache
def _digest(family: type[Recommender]) -> str | None:
    try:
        return hashlib.sha256(Path(inspect.getfile(family)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):  # no file, as in a notebook
        return None


@cache
def _package_version(module: str) -> str | None:
    """Version of the installed package that has a top-level module."""
    packages = metadata.packages_distributions().get(module)
    return metadata.version(packages[0]) if packages else None
