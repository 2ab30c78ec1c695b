"""Real data sets, where they are at hand."""

import os
from pathlib import Path

import pytest

from pipeline.core.paths import CHECKOUT

DATA = (CHECKOUT / os.environ.get("NIGHTRECS_DATA", "../shared/data")).resolve()


def data_set(name: str) -> Path:
    """Folder of a real data set; skips the test where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at hand; set NIGHTRECS_DATA")
    return folder
