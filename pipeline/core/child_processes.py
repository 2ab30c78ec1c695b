"""Starts child processes so that they import this code, and never a `flows/` of the user's in the current folder."""

import os
import sys
from collections.abc import Mapping, MutableMapping

from pipeline.core.paths import CHECKOUT


def command(module: str, *arguments: str) -> list[str]:
    """`python -m module` with this Python, without the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment for child processes and their children: this code is importable, the current folder is not searched.

    An installed package needs no entry: site-packages first on the path could hide the standard library.
    """
    found = {**environ, "PYTHONSAFEPATH": "1"}
    if "site-packages" not in CHECKOUT.parts and "dist-packages" not in CHECKOUT.parts:
        earlier = [place for place in environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(CHECKOUT), *earlier]))
    return found


def share(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set this environment for all processes that this one starts, including those that libraries start."""
    environ.update(environment(environ))
