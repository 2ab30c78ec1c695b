"""Merges data set, recipe, environment and --set into the settings tree. Errors name the source of the key."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from pipeline.config.settings import Settings
from pipeline.config.toml_files import find_toml, read_toml
from pipeline.core import paths
from pipeline.core.console import log_once
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.core.targets import Target

PREFIX = "NIGHTRECS_"
"""Prefix of environment variables that set a key."""
NOT_KEYS = {"NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT", "NIGHTRECS_TARGET", "NIGHTRECS_PROJECT"} | {
    f"NIGHTRECS_NOTIFY{end}" for end in ("", "_WEBHOOK", "_EMAIL", "_SMTP")
}

NO_MODELS = """a recipe names the models to fit, at least one, each in a table of its own, e.g.
  [models.popularity]
  [models.ease]
The families are popularity, ease, ials, mf and others; `nightrecs models` lists all with their hyperparameters."""


def load_settings(
    dataset: str,
    recipe: str = "nightly",
    overrides: list[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    target: Target | None = None,
) -> tuple[Settings, Path]:
    """The settings for a data set and a recipe (names or paths of TOML files), and the data set's file.

    `target`: where the night writes to; its own settings come after the recipe's. If it is not production, destinations
    of the recipe are left out: they are production's. Raises SettingsError.
    """
    dataset_file = find_toml(dataset, paths.DATASETS, "data set")
    recipe_file = find_toml(recipe, paths.RECIPES, "recipe")
    tree: dict[str, Any] = {}
    origin: dict[tuple[str, ...], str] = {}
    _merge(tree, {"dataset": read_toml(dataset_file)}, str(dataset_file), origin)
    _merge(tree, read_toml(recipe_file), str(recipe_file), origin)
    if target:
        if not target.production and tree.pop("publish", None):
            log_once(f"target {target.name}: [publish] of {recipe_file.name} is left out: it is production's")
        _merge(tree, target.settings, f"{target.file}: targets.{target.name}.set", origin)
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in NOT_KEYS:
            continue
        keys = name.removeprefix(PREFIX).lower().split("__")
        if _is_key(keys):
            _merge(tree, _nest(keys, _value(text)), f"environment variable {name}", origin)
        else:  # it may belong to another version or program, so it is not an error
            known = nearest(name, [*NOT_KEYS, *_variables(Settings, PREFIX)])
            log_once(f"the environment variable {name} is not known and is ignored{known}")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set {override!r}: write it as key.path=value, e.g. --set split.test=0.2")
        _merge(tree, _nest(key.strip().split("."), _value(text)), f"--set {override}", origin)
    tree.setdefault("recipe", recipe_file.stem)
    tree.setdefault("models", {})
    origin.setdefault(("models",), str(recipe_file))
    try:
        return Settings.model_validate(tree), dataset_file
    except ValidationError as error:
        raise SettingsError(explain(error, Settings, origin)) from None


def explain(
    error: ValidationError, model: type[BaseModel], origin: Mapping[tuple[str, ...], str] | str, prefix: str = ""
) -> str:
    """One line per problem: where it was set, the key (after `prefix`), what is wrong, the nearest known key."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        keys = tuple(str(part) for part in problem["loc"])
        where = origin if isinstance(origin, str) else _origin_of(keys, origin)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, keys[:-1])
            text = f"unknown key{nearest(keys[-1], known)}; known here: {', '.join(known)}"
        elif problem["type"] in ("too_short", "dict_type") and keys == ("models",):
            text = NO_MODELS
        elif problem["type"] == "missing":
            text = "is missing"
        elif isinstance(problem["input"], Mapping):  # a rule about several keys, which its message names
            text = problem["msg"].removeprefix("Value error, ")
            where = where if isinstance(origin, str) else _origin_of_named(text, keys, origin) or where
        else:
            text = f"{problem['msg']}, got {problem['input']!r}"
        key = prefix + ".".join(keys)
        lines.append(f"{where}: {key}: {text}" if key else f"{where}: {text}")
    return "\n".join(lines)


def _origin_of_named(text: str, keys: tuple[str, ...], origin: Mapping[tuple[str, ...], str]) -> str | None:
    """Where the first key that `text` names was set; of the keys below `keys`."""
    found = [
        (match.start(), -len(at), where)
        for at, where in origin.items()
        if at[: len(keys)] == keys
        and (match := re.search(rf"(?<![\w.]){re.escape('.'.join(at[len(keys) :]) or '.')}(?![\w])", text))
    ]
    return min(found)[2] if found else None


def _merge(
    tree: dict[str, Any],
    layer: Mapping[str, Any],
    where: str,
    origin: dict[tuple[str, ...], str],
    prefix: tuple[str, ...] = (),
) -> None:
    """Merge `layer` into `tree`; later values win, and tables merge key by key."""
    for key, value in layer.items():
        at = (*prefix, key)
        if isinstance(value, Mapping):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            origin.setdefault(at, where)
            _merge(tree[key], cast("Mapping[str, Any]", value), where, origin, at)
        else:
            tree[key] = value
            origin[at] = where


def _nest(keys: list[str], value: object) -> dict[str, Any]:
    nested = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return nested


def _value(text: str) -> Any:
    """The TOML value of a text, or the text itself if it is none, so that --set dataset.name=x needs no quotes."""
    try:
        found = tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["x"] if len(found) == 1 else text  # a text of several lines may hold other keys


def _origin_of(keys: tuple[str, ...], origin: Mapping[tuple[str, ...], str]) -> str:
    for end in range(len(keys), 0, -1):
        if keys[:end] in origin:
            return origin[keys[:end]]
    return "settings"


def _is_key(keys: list[str]) -> bool:
    """Whether the settings have this key. In tables whose keys the user chooses, every key is valid."""
    model: type[BaseModel] = Settings
    for at, key in enumerate(keys):
        field = model.model_fields.get(key)
        if field is None:
            return model.model_config.get("extra") == "allow"
        if getattr(field.annotation, "__origin__", None) is dict:
            section = next((t for t in _types(field.annotation) if _is_section(t)), None)
            inner = keys[at + 2 :]
            return section is None or not inner or inner[0] in section.model_fields or _allows_more(section)
        section = next((t for t in _types(field.annotation) if _is_section(t)), None)
        if section is None:
            return at == len(keys) - 1 or dict in [getattr(t, "__origin__", None) for t in _types(field.annotation)]
        model = section
    return True


def _allows_more(section: type[BaseModel]) -> bool:
    return section.model_config.get("extra") == "allow"


def _variables(model: type[BaseModel], before: str) -> Iterator[str]:
    """Names of the environment variables for the keys of a section and its subsections."""
    for key, field in model.model_fields.items():
        name = before + key.upper()
        section = next((t for t in _types(field.annotation) if _is_section(t)), None)
        if section is None:
            yield name
        elif getattr(field.annotation, "__origin__", None) is not dict:
            yield from _variables(section, f"{name}__")


def _known_keys(model: type[BaseModel], keys: tuple[str, ...]) -> list[str]:
    """Field names of the section that `keys` lead to."""
    path = iter(keys)
    for key in path:
        if key.isdecimal():  # a place in a list of sections
            continue
        field = model.model_fields.get(key)
        if field and getattr(field.annotation, "__origin__", None) is dict:
            next(path, None)  # of models.<label>, the label
        section = next((t for t in _types(field.annotation) if _is_section(t)), None) if field else None
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def _types(annotation: Any) -> list[Any]:
    return [annotation, *getattr(annotation, "__args__", ())]


def _is_section(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
