"""Describes the model families and their hyperparameters, for `nightrecs models` and the README of this package."""

import sys
from inspect import getdoc
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.models import MODELS


def hyperparameters() -> list[dict[str, Any]]:
    """One record per hyperparameter: family, hyperparameter, default, meaning. Without a default it is `required`."""
    return [
        {"family": name, "hyperparameter": key, "default": default_of(field), "meaning": field.description}
        for name in MODELS
        for key, field in MODELS[name].Config.model_fields.items()
    ]


def default_of(field: FieldInfo) -> Any:
    """The value that a field has if a recipe does not set it."""
    return "required" if field.is_required() else field.get_default(call_default_factory=True)


def markdown() -> str:
    """A section per family: what its module says in its first line, and a table of hyperparameters."""
    return "\n\n".join(_section(name) for name in MODELS) + "\n"


def _section(name: str) -> str:
    summary = (getdoc(sys.modules[MODELS[name].__module__]) or "").partition("\n\n")[0]
    rows = [
        f"| `{key}` | {_code(default_of(field))} | {_cell(field.description or '')} |"
        for key, field in MODELS[name].Config.model_fields.items()
    ]
    table = ["| hyperparameter | default | meaning |", "|---|---|---|", *rows] if rows else ["No hyperparameters."]
    return "\n".join([f"### `{name}`", "", " ".join(summary.split()), "", *table])


def _code(value: Any) -> str:
    if value is None or value == "required":
        return "" if value is None else value
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
