"""What the processes of test_distributed.py do that end early; they import nothing else, which halves their start."""

import os
import time
from pathlib import Path

from torch import distributed

from pipeline.training.context import NotServable, ProcessGroup
from pipeline.training.distributed import FabricProcessGroup


def refuses(world: ProcessGroup) -> None:
    """The second process can't go on, for a reason that is meant for people; the first waits for it."""
    if world.rank == 1:
        raise NotServable("there is nothing to learn from")
    distributed.barrier()


def waits_to_be_ended(world: FabricProcessGroup, saved: Path) -> None:
    """Says that it is there, and leaves a file where a signal ends it."""
    try:
        world.send(os.getpid())
        while True:
            time.sleep(0.1)
    except KeyboardInterrupt:
        time.sleep(1.5)  # as a large checkpoint
        saved.touch()
        raise
