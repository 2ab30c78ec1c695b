"""The process that gives a night's parts to a Ray cluster. Only this module and fanout_hosts.py import Ray.

It is a child of the night's process: Ray ends a process whose cluster goes away, and waits minutes for an address that
nobody answers. Neither may happen to a night. Messages are tuples, over a pair of connected sockets; see cluster.py.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import grpc

from flows.orchestration import remote_calls
from flows.orchestration.cluster_messages import ALIVE, DIED, DONE, LOST, READY, Wanted
from flows.orchestration.cluster_process import RETRIES

CONNECT_SECONDS = 8.0
GRACE = 8.0
"""Seconds for the last checkpoints of fits whose night has ended."""
LOOK = 5.0
"""Seconds between two looks at the cluster's machines."""
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


class Unusable(Exception):
    """The cluster can't be used; the text says why."""


def check_door(address: str, token: str) -> None:
    """Raise Unusable where nobody answers, where the token is wrong, or where the cluster asks for none."""

    def answer(*metadata: tuple[str, str]) -> grpc.StatusCode:
        with grpc.insecure_channel(address) as channel:
            ask = channel.unary_unary(CHECK_ALIVE, request_serializer=bytes, response_deserializer=bytes)
            try:
                ask(b"", timeout=CONNECT_SECONDS / 2, metadata=metadata)
            except grpc.RpcError as error:
                return error.code()  # type: ignore[no-any-return]
        return grpc.StatusCode.OK

    found = answer(("authorization", f"Bearer {token}"))
    if found is grpc.StatusCode.UNAUTHENTICATED:
        raise Unusable(f"the cluster at {address} refuses the token (RAY_AUTH_TOKEN)")
    if found is not grpc.StatusCode.OK:
        raise Unusable(f"no Ray cluster answers at {address} (scale.address)")
    if answer() is grpc.StatusCode.OK:
        raise Unusable(
            f"the cluster at {address} asks for no token, so anyone who reaches its port can run code on its machines: "
            "start every machine of it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )


class Client:
    """A connection to a cluster whose machines are all fit for the night."""

    def __init__(self, wanted: Wanted):
        """Raises Unusable."""
        check_door(wanted.address, wanted.token)
        import ray

        self.ray, self.threads = ray, wanted.threads
        try:
            ray.init(address=wanted.address, log_to_driver=False, configure_logging=False)
        except (Exception, SystemExit) as error:
            raise Unusable(f"Ray can't connect to {wanted.address}: {error}") from None
        self.running: dict[Any, int] = {}
        """Number of the part by Ray's reference."""
        self.begun: dict[int, Any] = {}
        """Reference by number, of those that others may wait for."""
        self.on_gpu = remote_calls.kind_of(wanted.device) not in ("cpu", "mps")
        self._check_machines(wanted)

    def machines(self) -> list[dict[str, Any]]:
        """Ray's records of the machines that are there."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def names(self) -> dict[str, str]:
        """Host names of the machines that are there, by Ray's number of each."""
        return {node["NodeID"]: node["NodeManagerHostname"] for node in self.machines()}

    @property
    def slots(self) -> int:
        """Parts that run at once."""
        return sum(int(node["Resources"].get("CPU", 0)) // self.cores() for node in self.machines())

    def cores(self) -> int:
        """Cores of a part: no more than the largest machine has."""
        most = max((int(node["Resources"].get("CPU", 0)) for node in self.machines()), default=0)
        if not most:
            raise Unusable("no machine of the cluster has a core left")
        return min(self.threads or most, most)

    def _check_machines(self, wanted: Wanted) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        code, device = remote_calls.code(), remote_calls.kind_of(wanted.device)
        look = self.ray.remote(num_cpus=0)(remote_calls.look)
        looks = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                wanted.probe, wanted.text, wanted.device
            )
            for node in self.machines()
        ]
        try:
            found: list[remote_calls.Machine] = self.ray.get(looks, timeout=60)
        except Exception as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            why = _reason(error) if _is_out_of_memory(error) else last[0]
            raise Unusable(f"a machine of the cluster does not answer: {why}") from None
        for machine in found:
            if why := machine.differs(code, device):
                raise Unusable(why)

    def submit(
        self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...], after: Sequence[int]
    ) -> None:
        """Start a part, once the parts with the numbers `after` have ended."""
        task = self.ray.remote(
            num_cpus=self.cores(), num_gpus=int(self.on_gpu), max_retries=RETRIES, scheduling_strategy="SPREAD"
        )(remote_calls.call)
        reference = task.remote(function, arguments, *(self.begun[other] for other in after))
        self.running[reference], self.begun[number] = number, reference

    def stop(self) -> None:
        """Interrupt the parts that still run: their fits write a last checkpoint, as on a signal."""
        busy = min(len(self.running), self.slots) * self.cores()
        expected, deadline = self._free() + busy, time.monotonic() + GRACE
        for reference in self.running:
            self.ray.cancel(reference)  # its result counts as there at once
        while busy and self._free() < expected and time.monotonic() < deadline:
            time.sleep(0.2)

    def _free(self) -> float:
        return float(self.ray.available_resources().get("CPU", 0))

    def ended(self) -> list[tuple[Any, ...]]:
        """Messages about the parts that ended since, after at most a second."""
        if not self.running:
            return []
        messages: list[tuple[Any, ...]] = []
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=0.5)
        for reference in ready:
            number = self.running.pop(reference)
            try:
                messages.append((DONE, number, self.ray.get(reference)))
            except Exception as error:
                messages.append((DIED, number, _reason(error)))
        return messages


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if _is_out_of_memory(error):
        text += " (threads sets how many parts share a machine, memory_limit what a fit may take of it)"
    return text


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def serve(parent: Connection) -> None:
    """Serve the night until it closes the connection."""
    client, looked = None, 0.0
    try:
        wanted: Wanted
        (wanted,) = parent.recv()
        client = Client(wanted)
        parent.send((READY, list(client.names().values()), client.slots))
        there = client.names()
        while True:
            while parent.poll(0 if client.running else 0.5):
                client.submit(*parent.recv())
            for message in client.ended():
                parent.send(message)
            if time.monotonic() - looked > LOOK:
                client.cores()  # raises Unusable where no machine is left
                now = client.names()
                parent.send((ALIVE, [name for machine, name in there.items() if machine not in now], len(now)))
                there, looked = now, time.monotonic()
    except Unusable as reason:
        parent.send((LOST, str(reason)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the night has ended
    finally:
        if client is not None:
            with suppress(Exception):  # where the cluster is lost
                client.stop()
            client.ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    serve(Connection(int(sys.argv[1])))
