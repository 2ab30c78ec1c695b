"""Garbage collection, put off while big packages are imported."""

import atexit
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager

BIG = 100
"""Modules from which on an import counts as big."""


@contextmanager
def paused() -> Generator[None]:
    """No garbage collection in the block, which imports packages; afterwards none of what they made.

    The hundred thousands of objects of an import stay until the process ends, and to look through them again and
    again takes a third of the time of importing MLflow. They are set aside by `gc.freeze` where the block imported
    much; where everything was there already, as at a later call, nothing is.
    """
    was_enabled, n_modules = gc.isenabled(), len(sys.modules)
    gc.collect(1)  # what is garbage now would stay; the oldest generation takes too long
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) >= n_modules + BIG:
            gc.freeze()
            atexit.register(gc.unfreeze)  # else duckdb reports what is not collected at the end as leaks
        if was_enabled:
            gc.enable()
