"""Targets: named places that nights write to, so that experiments of a person stay apart from production.

The project file `nightrecs.toml`, in the current folder or one above it, has them:

    [targets.prod]
    home = "/srv/nightrecs"
    production = true
    [targets.dev]
    home = "~/nightrecs-dev"
    set = { "dataset.filter.user_fraction" = 0.1 }

A target is a home of its own: its tables, journal, health and rollbacks. In MLflow the experiments and models of a
target that is not production have its name at their end (`shop.dev`), so it may share a server with production.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest

FILE = "nightrecs.toml"
TARGET, PROJECT = "NIGHTRECS_TARGET", "NIGHTRECS_PROJECT"
"""Environment variables: the target, and the path of the project file instead of looking for it."""
KEYS = ("home", "production", "set")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Target:
    """A place that nights write to."""

    name: str
    home: Path
    production: bool
    """Its names in MLflow are those without a target; recipes may publish to destinations beyond the home."""
    settings: Mapping[str, Any]
    """Keys of the settings tree that it changes, nested."""
    file: Path | None
    """The project file; None if only the home says which target it is."""


def chosen(environ: Mapping[str, str] = os.environ) -> Target | None:
    """The target of NIGHTRECS_TARGET, which `--target` sets; None if there is none.

    Raises SettingsError that lists the known ones if it is unknown, or if the project file is missing or wrong.
    """
    name = environ.get(TARGET)
    if not name:
        return None
    file = project_file(environ)
    if file is None:
        raise SettingsError(
            f"target {name!r}: there is no {FILE} in {Path.cwd()} or a folder above it. Write one with\n"
            f'  [targets.{name}]\n  home = "/path/of/its/own"'
        )
    known = read(file)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise SettingsError(f"{file} has no target {name!r}{nearest(name, known)}; there are: {listed}")
    return known[name]


def project_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """NIGHTRECS_PROJECT, else the nearest `nightrecs.toml` in the current folder or above. SettingsError if missing."""
    if named := environ.get(PROJECT):
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise SettingsError(f"{PROJECT}: there is no file {path}")
        return path
    here = Path.cwd()
    return next((path for folder in (here, *here.parents) if (path := folder / FILE).is_file()), None)


def read(file: Path) -> dict[str, Target]:
    """The targets of a project file by name. Raises SettingsError with file and key."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{file} can't be read: {error.strerror}") from None
    _known_keys(file, "", content, ("targets",))
    tables = content.get("targets", {})
    if not isinstance(tables, dict):
        raise SettingsError(f"{file}: targets: write a table for each, such as [targets.dev]")
    targets: dict[str, Target] = {}
    for name, table in cast("dict[str, Any]", tables).items():
        target = _target(file, name, table)
        same = next((each.name for each in targets.values() if each.home == target.home), None)
        if same is not None:
            raise SettingsError(f"{file}: targets.{name}.home is that of targets.{same}: each has a home of its own")
        targets[name] = target
    return targets


def _target(file: Path, name: str, table: Any) -> Target:
    where = f"targets.{name}"
    if not isinstance(table, dict):
        raise SettingsError(f"{file}: {where}: write a table, [{where}]")
    table = cast("dict[str, Any]", table)
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{file}: {where}: a name has 1 to 64 of the characters A-Z a-z 0-9 _ -")
    _known_keys(file, f"{where}.", table, KEYS)
    home, production, settings = table.get("home"), table.get("production", False), table.get("set", {})
    if not isinstance(home, str) or not home:
        raise SettingsError(f'{file}: {where}.home: name the folder that it writes to, e.g. "~/nightrecs-{name}"')
    if not isinstance(production, bool):
        raise SettingsError(f"{file}: {where}.production is true or false")
    if not isinstance(settings, dict):
        raise SettingsError(f"{file}: {where}.set: write a table of settings, [{where}.set]")
    place = (file.parent / Path(home).expanduser()).resolve()
    return Target(name, place, production, _nested(cast("dict[str, Any]", settings)), file)


def _known_keys(file: Path, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise SettingsError(
                f"{file}: {prefix}{key}: unknown key{nearest(key, known)}; known here: {', '.join(known)}"
            )


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys as nested tables: `{"a.b": 1}` is `{"a": {"b": 1}}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        at, (*parents, last) = found, key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        value = _nested(cast("dict[str, Any]", value)) if isinstance(value, dict) else value
        if isinstance(value, dict) and isinstance(at.get(last), dict):
            at[last].update(value)
        else:
            at[last] = value
    return found
