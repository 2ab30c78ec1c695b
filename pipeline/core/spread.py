"""Independent parts of a night: one after another in this process, or on other machines by an engine.

Stages ask for parts through `engine()` and do not know which engine it is. Whatever an engine does, a stage's result is
the same: it fills the lake ahead of the stages, and what it did not complete, the stages build.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Records = dict[str, list[tuple[str, Any]]]
"""Journal entries of stages that ran elsewhere, by the stage's title."""


class Unavailable(Exception):
    """An engine can't do what it is asked for; the text says why."""


class Engine:
    """Runs every part when it is asked for, in this process. Other engines override all methods."""

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of `function(*call)` for every call, in order.

        `function` is a module's own, may run again or twice at once, and writes files by a rename; arguments and
        results are paths and small objects.
        """
        return (function(*call) for call in calls)

    def begin(
        self, name: str, function: Callable[..., Records], call: tuple[Any, ...], after: Sequence[str] = ()
    ) -> None:
        """Start `function(*call)` elsewhere, if there is such a place, once those of the names `after` have ended.

        It returns the journal entries of the stages that it carried out. `name` is unique.
        """

    def finished(self, name: str) -> Records:
        """Wait for what was begun under this name. Empty if nothing was, or if it did not succeed."""
        return {}

    def together(
        self,
        function: Callable[..., Any],
        hosts: int,
        on_message: Callable[..., None],
        arguments: tuple[Any, ...],
    ) -> Any:
        """The result of `function(world, *arguments)` in the first of `hosts` processes, each on another machine.

        They run at once and exchange tensors by torch.distributed. `on_message(*message)` receives what the first one
        sends. A function that lost a process runs again. Raises Unavailable where that many machines can't be had, and
        what the function raises, as `training.launcher.launch` does.
        """
        raise Unavailable("there is no cluster")

    @property
    def is_elsewhere(self) -> bool:
        """Whether parts may run at the same time, on other machines."""
        return False


_engine: ContextVar[Engine] = ContextVar("engine", default=Engine())  # noqa: B039


def engine() -> Engine:
    """The engine of this context."""
    return _engine.get()


@contextmanager
def using(new: Engine) -> Generator[None]:
    """Give parts to `new` while the block runs."""
    token = _engine.set(new)
    try:
        yield
    finally:
        _engine.reset(token)
