"""Writes the goldens: `python -m tests.goldens --write`; without it, says what differs. Exit code 1: something does."""

import argparse
import difflib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import static, store
from .nights import Nights

BEHAVIOUR: dict[str, Callable[[Nights], Any]] = {
    "commands": lambda _: static.commands(),
    "settings": lambda _: static.settings(),
    "families": lambda _: static.versions(),
    "fault_points": lambda _: static.fault_points(),
    "entry_points": lambda _: static.entry_points(),
    "flow": lambda _: static.flow(),
    "json_keys": Nights.json_keys,
    "exit_codes": Nights.exit_codes,
    "tables": Nights.tables,
    "vocabulary": Nights.vocabulary,
    "hashes": Nights.hashes,
    "logical_hash": Nights.logical_hash,
    "stages": Nights.stages,
    "lake": Nights.lake,
    "results": Nights.results,
    "journal": Nights.journal,
    "layout": Nights.layout,
    "mlflow": Nights.mlflow,
    "prefect": Nights.prefect,
}
TEXTS: dict[str, Callable[[Nights], str]] = {
    "help": lambda _: static.help_text(),
    "meanings": lambda _: static.meanings(),
    "comments": Nights.comments,
}


def broken(name: str, nights: Nights) -> list[str]:
    """What of a golden is gone or different."""
    present, golden = store.normalised(BEHAVIOUR[name](nights)), store.read(name)
    if name == "logical_hash":  # a line a machine
        golden = {key: value for key, value in (golden or {}).items() if key in present}
    return [f"no golden is called {name}"] if golden is None else list(store.broken(golden, present))


def add(name: str, nights: Nights) -> list[str]:
    """Write what is there now, unless something is gone or different, which is returned."""
    present, golden = store.normalised(BEHAVIOUR[name](nights)), store.read(name)
    if name == "logical_hash":
        present = {**(golden or {}), **present}
    found = [] if golden is None else list(store.broken(golden, present))
    if not found:
        store.write(name, present)
    return found


def text_differs(name: str, nights: Nights) -> list[str]:
    """The diff from a golden text to the present one."""
    path = store.TEXTS / f"{name}.txt"
    before = path.read_text("utf-8").splitlines() if path.exists() else []
    return list(difflib.unified_diff(before, TEXTS[name](nights).splitlines(), "golden", "present", lineterm="", n=1))


def main() -> int:
    """Print what differs, or write it down."""
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__)
    parser.add_argument("--write", action="store_true", help="add what is new to behaviour/, rewrite texts/")
    parser.add_argument("--only", help="these, e.g. commands,help")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [*BEHAVIOUR, *TEXTS]
    if unknown := set(wanted) - {*BEHAVIOUR, *TEXTS}:
        parser.error(f"no golden is called {', '.join(sorted(unknown))}; there are: {', '.join([*BEHAVIOUR, *TEXTS])}")
    for name in [name for name in os.environ if name.startswith("NIGHTRECS_")]:
        os.environ.pop(name)
    differs = False
    with tempfile.TemporaryDirectory(prefix="goldens-") as place:
        nights = Nights(Path(place))
        for name in wanted:
            if name in TEXTS:
                found = text_differs(name, nights)
                if found and options.write:
                    store.TEXTS.mkdir(exist_ok=True)
                    (store.TEXTS / f"{name}.txt").write_text(TEXTS[name](nights), "utf-8")
                    found = []
            else:
                found = (add if options.write else broken)(name, nights)
            differs |= bool(found)
            print(f"{name}: {'differs' if found else 'written' if options.write else 'as it was'}", *found, sep="\n  ")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
