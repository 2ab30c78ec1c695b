"""Finds and reads the TOML files of data sets and recipes, and checks names."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
NAME_IN_WORDS = "1 to 64 of the characters A-Z a-z 0-9 _ -, the first a letter or a digit"
"""Names become parts of paths, so they hold no separator and no dot."""


def check_name(name: str, what: str, advice: str = "") -> str:
    """Return `name` if it is allowed as part of a path, else raise SettingsError."""
    if not re.fullmatch(NAME, name) or "\n" in name:
        raise SettingsError(f"{name!r} is not the name of a {what}: a name has {NAME_IN_WORDS}{advice}")
    return name


def is_shipped_name(name: str) -> bool:
    """Whether a data set or a recipe is given by the name of a shipped one, not by the path of a file."""
    return not name.endswith(".toml") and os.sep not in name


def find_toml(name: str, folder: Path, what: str) -> Path:
    """Path of a shipped TOML by its name, or of any other by its path. Raises SettingsError if there is none."""
    if not is_shipped_name(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise SettingsError(f"{what} file {path} does not exist")
        return path.resolve()
    shipped = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name not in shipped:
        raise SettingsError(
            f"no {what} is called {name!r}{nearest(name, shipped)}; there are: {', '.join(shipped)}. "
            f"One of your own is given by its file, e.g. ./{name}.toml"
        )
    return shipped[name]


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file, with a byte order mark or without. Raises SettingsError with file, line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8: {error}") from None
