"""Runs parts of a night on a Ray cluster, ahead of the line; whatever happens there, the night goes on.

The night's process never speaks with Ray itself: see fanout.py.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flows.orchestration import cluster_access, host_fits, remote_calls
from flows.orchestration.cluster_access import Door
from flows.orchestration.cluster_messages import ALIVE, DIED, DONE, LOST, READY, HostFit, Wanted
from flows.orchestration.cluster_process import Gone, RayProcess
from flows.orchestration.remote_calls import Outcome
from pipeline.config.run import Run
from pipeline.core import progress, spread
from pipeline.storage import journal

START_SECONDS = 90.0
"""For connecting and a look at every machine; an address that does not answer is noticed in a tenth of it."""
PATIENCE = 60.0
"""Seconds without a sign of life, after which the cluster counts as lost."""

PROBES = "0_probe"
"""Folder of the lake for the files that every machine must see; a killed night's are removed as its unfinished ones."""


class Died(RuntimeError):
    """The process that carried out a part died, whenever it was tried."""


class Cluster(spread.Engine):
    """The cluster of `[scale]`. It is connected when the first part is there; a lost one is not asked again."""

    def __init__(self, run: Run):
        self.run = run
        self.process: RayProcess | None = None
        self.lost = False
        self.slots, self.count = 0, 0
        self.begun: dict[str, int] = {}
        self.ended: dict[int, Outcome | Died] = {}

    @property
    def is_elsewhere(self) -> bool:
        """Whether the cluster is not lost."""
        return not self.lost

    def begin(
        self, name: str, function: Callable[..., spread.Records], call: tuple[Any, ...], after: Sequence[str] = ()
    ) -> None:
        """As `Engine.begin`."""
        if self._connected():
            self.begun[name] = self._submit(function, call, [self.begun[other] for other in after])

    def finished(self, name: str) -> spread.Records:
        """As `Engine.finished`. Raises Died."""
        if name not in self.begun:
            return {}
        ended = self._wait(self.begun[name])
        if isinstance(ended, Died):
            raise ended
        if ended.error:
            journal.note(self.run, f"{name} failed in the cluster, so it is done here: {ended.error}")
        return ended.result or {}

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """As `Engine.each`. A part that fails there is carried out here."""
        if len(calls) < 2 or not self._connected():
            yield from super().each(function, calls)
            return
        numbers = [self._submit(function, call) for call in calls]
        for done, (number, call) in enumerate(zip(numbers, calls, strict=True)):
            ended = self._wait(number)
            if isinstance(ended, Died) or ended.error:
                why = str(ended) if isinstance(ended, Died) else ended.error
                if not self.lost:
                    journal.note(self.run, f"a part failed in the cluster, so it is done here: {why}")
                yield function(*call)
            else:
                journal.take(self.run, ended.entries)
                yield ended.result
            progress.listener().advance("part", done + 1, len(calls))

    def together(
        self,
        function: Callable[..., Any],
        hosts: int,
        on_message: Callable[..., None],
        arguments: tuple[Any, ...],
    ) -> Any:
        """As `Engine.together`."""
        if not self._connected():
            raise spread.Unavailable("the cluster was lost")
        with self._wanted() as wanted:
            layer = self.run.home.lake(self.run.dataset) / "5_models"
            scratch = layer / f".scratch-{secrets.token_hex(8)}"  # the next night removes one that is left
            request = HostFit(function, arguments, hosts, scratch)
            try:
                return host_fits.fit(wanted, request, on_message)
            except spread.Unavailable as why:
                on_cpu = remote_calls.kind_of(self.run.settings.device) == "cpu"
                instead = f"; {hosts} processes of this one do it instead" if on_cpu else ""
                journal.note(self.run, f"warning: not fitted on {hosts} machines: {why}{instead}")
                raise

    def close(self) -> None:
        """Let go of the cluster; what still runs there is ended."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def _submit(self, function: Callable[..., Any], call: tuple[Any, ...], after: Sequence[int] = ()) -> int:
        self.count += 1
        try:
            if self.process is not None:
                self.process.send(self.count, function, call, after)
        except Gone as why:
            self._lose(str(why))
        return self.count

    def _wait(self, number: int) -> Outcome | Died:
        while number not in self.ended:
            if self.lost:
                return Outcome(error="the cluster was lost")
            self._hear()
        return self.ended[number]

    def _connected(self) -> bool:
        """Whether the cluster is there; connects at the first call."""
        if self.lost or self.process is not None:
            return not self.lost
        with self._wanted() as wanted:
            self._start(wanted)
        return not self.lost

    @contextmanager
    def _wanted(self) -> Generator[Wanted]:
        """What the night needs of the cluster; the probe is there while the block runs."""
        settings, token = self.run.settings, secrets.token_hex(8)
        probe = self.run.home.lake(self.run.dataset) / PROBES / f".probe.{token}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text(text := secrets.token_hex(16))
            door = cluster_access.find(self.run.home, settings.scale.address)
            yield Wanted(door.address, door.token, probe, text, settings.device, settings.threads)
        finally:
            probe.unlink(missing_ok=True)

    def _start(self, wanted: Wanted) -> None:
        self.process = RayProcess("flows.orchestration.fanout", Door(wanted.address, wanted.token), PATIENCE)
        self.process.wait_longer(START_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        try:
            self.process.send(wanted)
        except Gone as why:
            self._lose(str(why))
        while not self.slots and not self.lost:
            self._hear()
            if time.monotonic() > deadline and not self.lost:
                self._lose(f"the cluster at {wanted.address} was not ready after {START_SECONDS:.0f} s")

    def _hear(self) -> None:
        """Take one message, if there is one within a second."""
        assert self.process is not None
        try:
            message = self.process.receive()
        except Gone as why:
            return self._lose(str(why))
        if message is None:
            return None
        kind, *content = message
        if kind == READY:
            hosts, self.slots = content
            journal.note(self.run, f"cluster: {len(hosts)} machines, {self.slots} parts at once")
        elif kind == LOST:
            self._lose(content[0])
        elif kind == DONE:
            self.ended[content[0]] = content[1]
        elif kind == DIED:
            self.ended[content[0]] = Died(f"its process in the cluster died: {content[1]}")
        else:
            assert kind == ALIVE
            gone, left = content
            for host in gone:
                journal.note(
                    self.run, f"warning: cluster: {host} went away, {left} left; its parts run again elsewhere"
                )
        return None

    def _lose(self, why: str) -> None:
        self.lost = True
        journal.note(self.run, f"warning: the night goes on without the cluster: {why}")
        self.close()
