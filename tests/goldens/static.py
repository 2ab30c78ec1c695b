"""What can be read off the code without running a night."""

import argparse
import importlib
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.core.paths import CHECKOUT

MODULES = (
    "flows.cli", "flows.serve", "pipeline.datasets.synthetic", "pipeline.datasets.anime_like", "tests.faults",
    "tests.faults.soak", "tests.benchmarks",
)  # fmt: skip
"""Run by `python -m`."""
IMPORTS = (
    "flows.cli:main", "flows.cli:build_parser", "flows.notebook:Published", "flows.tasks:nightly",
    "nightrecs:Published", "nightrecs:run_frame",
)  # fmt: skip


def commands() -> dict[str, Any]:
    """Every command: its arguments by name, without what only people read."""
    parser = _parser()
    return {"nightrecs": _arguments(parser), **{name: _arguments(each) for name, each in _commands(parser).items()}}


def settings() -> dict[str, Any]:
    """Keys, types and defaults of the settings, of a data set's TOML and of each family, as JSON schema.

    As Pydantic of the pinned versions writes it.
    """
    from pipeline.config.settings import Settings
    from pipeline.models import MODELS

    schema = _schema(Settings)
    return {
        "dataset": schema["properties"].pop("dataset"),
        "settings": schema,
        "families": {name: _schema(family.Config) for name, family in MODELS.items()},
    }


def versions() -> dict[str, Any]:
    """Names and versions that enter the keys of the lake: of the families' classes."""
    from pipeline.models import MODELS

    return {name: {"class": family.__name__, "version": family.version} for name, family in MODELS.items()}


def fault_points() -> dict[str, Any]:
    """Where and how NIGHTRECS_FAULT can plant a fault."""
    from pipeline.core import fault_injection

    return {"points": list(fault_injection.POINTS), "actions": list(fault_injection.ACTIONS)}


def entry_points() -> dict[str, Any]:
    """Console scripts, modules to run and names to import, each as what it is found to be."""
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    found = {}
    for name in (*IMPORTS, *scripts.values()):
        module, _, attribute = name.partition(":")
        found[name] = type(getattr(importlib.import_module(module), attribute)).__name__
    return {"scripts": scripts, "modules": {name: _is_runnable(name) for name in MODULES}, "imports": found}


def flow() -> dict[str, Any]:
    """Prefect's flow and what can be passed to it."""
    from flows.tasks import nightly

    properties = nightly.parameters.model_dump()["properties"]
    defaults = {name: {"default": each.get("default")} for name, each in properties.items()}
    return {"name": nightly.name, "parameters": defaults}


def help_text() -> str:
    """`--help` of all commands, on a terminal of 100 columns."""
    with _columns(100):
        parser = _parser()
        texts = {"nightrecs": parser, **{f"nightrecs {name}": each for name, each in _commands(parser).items()}}
        return "\n".join(f"{'=' * 20} {name} --help\n{each.format_help()}" for name, each in texts.items())


def meanings() -> str:
    """Every key of the settings and of the families, and what it means."""
    from pipeline.config.settings import Settings
    from pipeline.models import MODELS

    lines = list(_meanings(Settings.model_json_schema(), ""))
    for name, family in MODELS.items():
        lines += _meanings(family.Config.model_json_schema(), f"models.{name}.")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    from flows.cli import build_parser

    return build_parser()


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices)


def _arguments(parser: argparse.ArgumentParser) -> dict[str, Any]:
    arguments, positionals = {}, []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        if not action.option_strings:
            positionals.append(action.dest)
        arguments[" ".join(action.option_strings) or action.dest] = {
            "action": type(action).__name__.strip("_"), "dest": action.dest, "nargs": action.nargs,
            "const": action.const, "default": action.default, "required": action.required,
            "choices": list(action.choices) if action.choices is not None else None,
            "type": _kind(action.type),
        }  # fmt: skip
    return {"positionals": positionals, "arguments": arguments}


def _kind(convert: Any) -> str | None:
    """The type that an argument becomes; of a function, that which it returns."""
    returned = getattr(convert, "__annotations__", {}).get("return", convert)
    return getattr(returned, "__name__", None)


def _schema(model: Any) -> Any:
    """Without texts and names of classes: references are replaced by what they refer to."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def plain(part: Any, is_map: bool = False) -> Any:
        if isinstance(part, list):
            return [plain(each) for each in part]
        if not isinstance(part, dict):
            return part
        if not is_map and "$ref" in part:
            rest = {key: value for key, value in part.items() if key != "$ref"}
            return {**plain(definitions[part["$ref"].rpartition("/")[2]]), **plain(rest)}
        kept = part if is_map else {k: v for k, v in part.items() if k not in ("title", "description")}
        return {key: value if key == "default" and not is_map else plain(value, key == "properties" and not is_map)
                for key, value in kept.items()}  # fmt: skip

    return plain(schema)


def _meanings(schema: dict[str, Any], before: str) -> Iterator[str]:
    definitions = schema.get("$defs", {})

    def walk(part: dict[str, Any], where: str) -> Iterator[str]:
        for name, each in part.get("properties", {}).items():
            yield f"{where}{name}: {' '.join(each.get('description', '-').split())}"
            for inner in (each, *each.get("anyOf", []), each.get("additionalProperties", {})):
                if isinstance(inner, dict) and "$ref" in inner:
                    label = f"{name}.LABEL." if inner is each.get("additionalProperties") else f"{name}."
                    yield from walk(definitions[inner["$ref"].rpartition("/")[2]], where + label)

    yield from walk(schema, before)


def _is_runnable(module: str) -> bool:
    """Whether `python -m` finds it, as a module with a main or a package with `__main__`."""
    place = CHECKOUT / module.replace(".", "/")
    if place.is_dir():
        return (place / "__main__.py").is_file()
    return "__main__" in place.with_suffix(".py").read_text("utf-8")


@contextmanager
def _columns(width: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
