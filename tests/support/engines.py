"""An engine without a cluster: parts in any order, each twice, and handed over as to another process."""

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.core import spread


class Elsewhere(spread.Engine):
    """Carries out parts at once; every third one fails there, after its files were written, and is done here."""

    def __init__(self, seed: int = 0):
        self.draw = random.Random(seed)
        self.records: dict[str, spread.Records] = {}
        self.parts: list[str] = []
        self.n_shards = 0
        """For tests of shards: the most that a stage cut its rows into."""

    @property
    def is_elsewhere(self) -> bool:
        return True

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        self.parts += [function.__name__] * len(calls)
        ended: dict[int, Any] = {}
        for number in self.draw.sample(range(len(calls)), len(calls)):
            own, call = pickle.loads(pickle.dumps((function, calls[number])))
            own(*call)  # a part whose process died may run again
            result = pickle.dumps(own(*call))
            if number % 3 != 1:
                ended[number] = pickle.loads(result)
        for number, call in enumerate(calls):
            yield ended[number] if number in ended else function(*call)

    def begin(
        self, name: str, function: Callable[..., spread.Records], call: tuple[Any, ...], after: Sequence[str] = ()
    ) -> None:
        assert set(after) <= self.records.keys()
        self.records[name] = pickle.loads(pickle.dumps(function(*call)))

    def finished(self, name: str) -> spread.Records:
        return self.records.get(name, {})
