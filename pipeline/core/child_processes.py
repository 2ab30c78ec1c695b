"""How child processes find this code: never in the current folder, where a user may have a `flows/` of their own."""

import os
import sys
from collections.abc import Mapping, MutableMapping

from pipeline.core.paths import CHECKOUT


def command(module: str, *arguments: str) -> list[str]:
    """`python -m module` with this Python, without the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For child processes, and for theirs: the current folder is not searched for modules, the place of this code is.

    An installed package is found by itself: putting site-packages first would let it hide the standard library.
    """
    found = {**environ, "PYTHONSAFEPATH": "1"}
    if "site-packages" not in CHECKOUT.parts and "dist-packages" not in CHECKOUT.parts:
        earlier = [place for place in environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(CHECKOUT), *earlier]))
    return found


def share(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set it for all processes that this one starts, those that libraries start included."""
    environ.update(environment(environ))
