"""Reads, writes and compares the files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEHAVIOUR = Path(__file__).with_name("behaviour")
TEXTS = Path(__file__).with_name("texts")
EXACT = {"default", "const", "positionals"}
"""Lists under these keys are values; others are sets with an order, to which something may be added."""
NARROWING = {
    "required", "pattern", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength",
    "maxLength", "minItems", "maxItems",
}  # fmt: skip
"""Keys of a JSON schema that make values invalid which were valid without them."""


def read(name: str) -> Any:
    """A golden of behaviour; None where there is none yet."""
    path = BEHAVIOUR / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def write(name: str, value: Any) -> None:
    """Keep it, sorted by key, so that a diff shows what is new and nothing else."""
    BEHAVIOUR.mkdir(exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    (BEHAVIOUR / f"{name}.json").write_text(text + "\n", "utf-8")


def broken(golden: Any, present: Any, where: str = "") -> Iterator[str]:
    """What of `golden` is gone or different; what `present` has beyond it is fine, unless it narrows what is valid.

    A list may have more elements in between, but those of `golden`, or more of them, in their order; EXACT ones are
    what they were.
    """
    if isinstance(golden, dict) and isinstance(present, dict):
        for key, value in golden.items():
            if key in present:
                yield from broken(value, present[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: is gone"
        yield from (f"{where}/{key}: narrows what is valid" for key in NARROWING & present.keys() - golden.keys())
    elif isinstance(golden, list) and isinstance(present, list) and not EXACT & set(where.split("/")):
        rest = iter(present)
        missing = [each for each in golden if not any(not list(broken(each, other, where)) for other in rest)]
        if missing:
            yield f"{where}: {missing[0]!r} is gone, changed or elsewhere in the order; there are {present!r}"
    elif golden != present or type(golden) is not type(present):
        yield f"{where}: was {golden!r}, is {present!r}"


def normalised(value: Any) -> Any:
    """As JSON has it: no tuples, keys are text."""
    return json.loads(json.dumps(value))
