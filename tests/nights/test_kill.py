"""kill -9 in mid-night: the live file is whole, the next night goes on, and its hash is the undisturbed one.

A few of the fault points; `make faults` takes all of them.
"""

import pytest

from tests.faults.ground import Ground
from tests.faults.killed import after_a_published_night, kill_and_resume

POINTS = (
    "train:after_checkpoint",
    "audit:after_fill",
    "publish:before_replace",
    "publish:after_replace",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Ground, str]:
    return after_a_published_night(tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize("point", POINTS)
def test_kill(base: tuple[Ground, str], point: str):
    ground, expected = base
    kill_and_resume(ground, point, expected)
