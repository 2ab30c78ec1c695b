"""The model families as Markdown, from their docstrings and configs: `markdown()` is README.md of this package."""

import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.models.base import ModelConfig, Recommender
from pipeline.models.registry import MODELS
from pipeline.training.optimizers import TrainingConfig

INTRODUCTION = """# Model families

A recipe names the models of a night. Each `[models.<label>]` is one model of the family `family`, by default the label:

```toml
[models.ease]
l2 = 500.0

[models.ials_wide]
family = "ials"
embedding_dim = 256
```

This page is generated from the code. `nightrecs models` prints the same hyperparameters as a table.
"""

ADDING = '''## How to add a family

A family is one file. Put a module with a subclass of `pipeline.models.Recommender` into this package and give the class
a name for recipes, `family`. It is found by itself; the conformance suite, `nightrecs models` and this page cover it
without a further edit. (Its golden files are written by `python -m tests.goldens --write`.)

```python
"""Item counts: the simplest family (Author, "Title", VENUE YEAR)."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.models import FitContext, ModelConfig, Recommender
from pipeline.training.interactions import History, Interactions


class CountsConfig(ModelConfig):
    """Hyperparameters of `Counts`."""

    power: PositiveFloat = 1.0
    """Exponent of the counts."""


class Counts(Recommender):
    """score(u, i) = n_i ^ power."""

    family = "counts"
    Config = CountsConfig
    personal = False

    def __init__(self, config: CountsConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.register_buffer("counts", torch.zeros(n_items))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Count."""
        self.to(context.device)
        self.counts = train.item_counts() ** self.config.power  # (I,)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        scores = self.counts.expand(len(users), -1)  # (B, I)
        return scores if items is None else scores.gather(1, items)
```

- All state is in `state_dict()`: parameters and registered buffers. It is saved as safetensors.
- Every random number depends on `context.seed` alone.
- `fit` raises `NotServable`, with the reason, if the family can't be used on this data. The night continues without it.
- A family with gradient steps has a `TrainingConfig` and calls `pipeline.training.loop.fit_by_gradient`, which brings
  early stopping, checkpoints, schedules, mixed precision and several devices.
- Increase `version` when a change of the code changes what the family learns or scores: it is part of the lake's keys.
  A change of large fits only goes into `later_versions`, with the rows from which it holds.

### A family outside of this repository

A package can bring a family by an entry point, under a name of its choice:

```toml
[project.entry-points."nightrecs.models"]
counts = "mypackage.counts:Counts"
```

A recipe can also name the class itself, without any package metadata:

```toml
[models.counts]
family = "mypackage.counts:Counts"
power = 0.5
```

The module must be importable wherever nights run, also those that `nightrecs up` schedules: install the package into
the same environment, or add its folder to `PYTHONPATH`. The lake's keys of such a family contain its dotted path, its
`version`, the version of its package and a digest of its module, so a changed module is fitted again. Loading a
published model of the family needs the module, too.

The conformance suite takes the same names:

```python
import pytest

from pipeline.models import conformance


@pytest.mark.parametrize("check", conformance.CHECKS)
def test_conformance(check):
    check("mypackage.counts:Counts")
```
'''


def markdown(families: Mapping[str, type[Recommender]] | None = None) -> str:
    """Families with description, needs and hyperparameters, and how to add one; by default the built-in families."""
    if families is None:
        families = {name: family for name, family in MODELS.items() if family.family == name}
    parts = [INTRODUCTION, _overview(families)]
    parts += [_section(name, family) for name, family in families.items()]
    if any(issubclass(family.Config, TrainingConfig) for family in families.values()):
        text = "Hyperparameters of all families with gradient steps, unless the table of the family has other defaults."
        parts.append(f"## Training\n\n{text}\n\n{_table(TrainingConfig)}")
    return "\n".join([*parts, ADDING])


def hyperparameters(config: type[ModelConfig]) -> list[dict[str, str]]:
    """Name, allowed values, default and meaning of every key of a config, as text."""
    properties = config.model_json_schema()["properties"]
    return [
        {
            "hyperparameter": name,
            "values": _values(properties[name]),
            "default": default_of(config, name),
            "meaning": " ".join((field.description or "").split()),
        }
        for name, field in config.model_fields.items()
    ]


def all_hyperparameters() -> list[dict[str, Any]]:
    """One record per hyperparameter of every family: family, hyperparameter, default, meaning."""
    return [
        {
            "family": name,
            "hyperparameter": key,
            "default": "required" if field.is_required() else field.get_default(call_default_factory=True),
            "meaning": field.description,
        }
        for name, family in MODELS.items()
        for key, field in family.Config.model_fields.items()
    ]


def default_of(config: type[ModelConfig], name: str) -> str:
    """A default as TOML writes it; `unset` for None, `required` where there is none."""
    field = config.model_fields[name]
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "unset" if default is None else json.dumps(default)


def needs(family: type[Recommender]) -> list[str]:
    """What a family needs and which users it serves, one sentence each."""
    found = []
    if family.blends:
        found.append("Needs two other fitted models.")
    if family.needs_time:
        found.append("Needs timestamps.")
    if family.needs_ratings:
        found.append("Needs ratings.")
    if family.serves_everyone:
        found.append("Serves all users alike.")
    elif family.reads_history:
        found.append("Serves any user with a history, including users that the fit has not seen.")
    elif family.blends:
        found.append("Serves the users that all of its members serve.")
    else:
        found.append("Serves users of the fit.")
    found.append(_new_items(family))
    if issubclass(family.Config, TrainingConfig):
        found.append("Fitted by gradient steps: see [Training](#training).")
    return found


def _new_items(family: type[Recommender]) -> str:
    """Whether a family serves items without events, a sentence."""
    if family.learnt_of_items is not Recommender.learnt_of_items:
        return "With `[attributes]` serves items without events, by their attributes."
    if family.blends:
        return "Serves items without events if one of its members does."
    if "attribute_weight" in family.Config.model_fields:
        return "With `[attributes]` and `attribute_weight` serves items without events, by their attributes."
    return "Does not serve items without events."


def _overview(families: Mapping[str, type[Recommender]]) -> str:
    lines = ["| family | what it is |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| [`{name}`](#{name}) | {_escaped(_title(each))} |" for name, each in families.items()), ""]
    )


def _section(name: str, family: type[Recommender]) -> str:
    about = [_escaped(" ".join(part.split())) for part in _module_doc(family).split("\n\n")]
    about.append(_escaped(" ".join(inspect.cleandoc(family.__doc__ or "").split("\n\n")[0].split())))
    return f"## {name}\n\n" + "\n\n".join([*about, " ".join(needs(family)), _table(family.Config)])


def _module_doc(family: type[Recommender]) -> str:
    return inspect.cleandoc(sys.modules[family.__module__].__doc__ or family.__doc__ or "")


def _title(family: type[Recommender]) -> str:
    return " ".join(_module_doc(family).split("\n\n")[0].split())


def _table(config: type[ModelConfig]) -> str:
    """Without what is the same for all families with gradient steps."""
    shared = set()
    if issubclass(config, TrainingConfig) and config is not TrainingConfig:
        shared = {tuple(row.values()) for row in hyperparameters(TrainingConfig)}
    rows = [row for row in hyperparameters(config) if tuple(row.values()) not in shared]
    lines = ["| hyperparameter | values | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row['hyperparameter']}` | {_escaped(row['values'])} | `{row['default']}` | {_escaped(row['meaning'])} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _values(schema: dict[str, Any]) -> str:
    """Allowed values in words, from a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    match schema.get("type"):
        case "boolean":
            return "true, false"
        case "integer" | "number" as kind:
            bounds = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
            limits = [f"{sign} {schema[key]:g}" for key, sign in bounds if key in schema]
            return " ".join([kind, ", ".join(limits)]).strip()
        case "array":
            return "list"
        case "object":
            return "table"
        case kind:
            return str(kind)


def _escaped(text: str) -> str:
    """Plain text for a table cell; parts in backticks stay code."""
    parts = text.split("`")
    for at, part in enumerate(parts):
        for mark in ("|",) if at % 2 else ("\\", "|", "*", "<", "["):
            part = part.replace(mark, f"\\{mark}")
        parts[at] = part
    return "`".join(parts)
