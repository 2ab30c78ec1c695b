"""Does something else while a block runs."""

import threading
from collections.abc import Callable


class at_the_same_time:
    """Run a function in a thread beside the block, and raise its error."""

    def __init__(self, function: Callable[[], None]):
        self.function, self.error = function, None

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.function()
        except BaseException as error:
            self.error = error

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        if self.error:
            raise self.error
