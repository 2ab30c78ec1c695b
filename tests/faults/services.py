"""Prefect and MLflow down, slow, locked, killed on the way; and that equal nights are equal."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .child import CHECKOUT
from .ground import WITH_GRADIENT, Ground, rows
from .killed import statuses
from .table import row

LATER = 60
"""Seconds that a night may take longer than undisturbed."""


class Elsewhere:
    """A night in a fresh process and session, with an environment of its own."""

    def __init__(self, ground: Ground, *words: str, **environ: str):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "--home",
            str(ground.home.root),
            "run",
            str(ground.root / "tiny.toml"),
        ]
        command += [
            "--recipe",
            str(ground.root / "recipe.toml"),
            "--data",
            str(ground.source),
            "--set",
            "threads=1",
            *words,
        ]
        ground.logs += 1
        self.log = ground.root / f"night-{ground.logs}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=CHECKOUT, env={**clean, **environ}, stdout=log, stderr=log, start_new_session=True
            )
        self.started = time.monotonic()

    def wait_for(self, text: str, seconds: float = 240) -> None:
        """Wait for a text in its output."""
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()[-500:]
            time.sleep(0.05)

    def end(self, code: int = 0, seconds: float = 400) -> tuple[str, float]:
        """Its output and seconds; it must end with `code`."""
        try:
            found = self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        output = self.log.read_text()
        assert found == code and "Traceback" not in output, f"exit {found}: {output[-800:]}"
        return output, time.monotonic() - self.started


@contextmanager
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers; AssertionError at the end if nobody connected."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"
        assert held, "the night never connected to the silent server"


def servers_of(session: int) -> list[int]:
    """Processes of a session other than its leader: Prefect's temporary server."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(after_name[3]) == session and int(entry.name) != session:
                found.append(int(entry.name))
    return found


@row(23, "Prefect API down / slow / dies mid-run", "night completes")
def prefect_gone(root: Path) -> str:
    ground = Ground(root, recipe=WITH_GRADIENT)
    ground.write(rows())
    _, undisturbed = Elsewhere(ground, "--no-prefect").end()
    printed = []
    output, seconds = Elsewhere(ground, PREFECT_API_URL="http://127.0.0.1:9/api").end()
    assert "does not answer); running without it" in output and seconds < undisturbed + LATER
    printed.append(f"down {seconds - undisturbed:+.0f} s")
    with silent_server() as address:
        output, seconds = Elsewhere(ground, PREFECT_API_URL=address).end()
    assert "does not answer); running without it" in output and seconds < undisturbed + LATER
    printed.append(f"slow {seconds - undisturbed:+.0f} s")
    assert ground.promise() == ground.run_ids()[-1]

    ground.write(rows(44))
    night = Elsewhere(ground)
    night.wait_for("  ingest ")
    servers = servers_of(night.process.pid)
    assert servers, "the night has no server of its own, so nothing can be killed"
    for server in servers:
        os.kill(server, signal.SIGKILL)
    died = time.monotonic()
    output, _ = night.end()
    late = time.monotonic() - died - undisturbed
    assert ground.promise() == ground.run_ids()[-1], output[-500:]
    assert late < LATER, f"server killed mid-run: {late:.0f} s later than undisturbed"
    printed.append(f"killed mid-run {late:+.0f} s")
    return f"published each time; against {undisturbed:.0f} s undisturbed: {', '.join(printed)}"


@row(24, "MLflow down / locked", "night completes, caught up next time")
def mlflow_gone(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    _, undisturbed = Elsewhere(ground, "--no-prefect").end()
    with silent_server() as address:
        night = Elsewhere(ground, "--no-prefect", MLFLOW_TRACKING_URI=address.removesuffix("/api"))
        output, slow = night.end()
        assert "MLflow did not take it" in output, output[-400:]
    output, down = Elsewhere(ground, "--no-prefect", MLFLOW_TRACKING_URI="http://127.0.0.1:9").end()
    assert "MLflow did not take it" in output
    holder = sqlite3.connect(ground.home.mlflow_db, isolation_level=None)
    holder.execute("begin exclusive")
    night = Elsewhere(ground, "--no-prefect")
    output, locked = night.end()
    holder.close()
    assert ground.promise() == ground.run_ids()[-1] and "MLflow did not take it" in output, output[-400:]
    assert statuses(ground) == ["FINISHED"]
    late = max(down, slow, locked) - undisturbed
    assert late < LATER, f"down {down:.0f} s, slow {slow:.0f} s, locked {locked:.0f} s, undisturbed {undisturbed:.0f} s"
    Elsewhere(ground, "--no-prefect").end()
    assert statuses(ground) == ["FINISHED"] * 5, statuses(ground)
    return f"down {down - undisturbed:+.0f} s, silent {slow - undisturbed:+.0f} s, locked {locked - undisturbed:+.0f} s; the next night logged all three"


@row(25, "same seed twice; 1 and 2 threads", "same logical hash; stated tolerance across thread counts")
def same_again(root: Path) -> str:
    recipe = WITH_GRADIENT + "[models.ials]\nepochs = 3\nembedding_dim = 4\n[gate]\nenabled = false\n"
    hashes, scores, metrics = {}, {}, {}
    for name, threads, seed in (("a", 1, 1), ("b", 1, 1), ("two", 2, 1), ("two again", 2, 1), ("other", 1, 2)):
        ground = Ground(root / name, recipe=recipe)
        ground.write(rows(120, 60))
        ground.night(f"threads={threads}", f"seed={seed}")
        hashes[name] = ground.record()["logical_hash"]
        scores[name] = dict(ground.ask("select user_id || ' ' || item_id, score from recommendations"))
        metrics[name] = dict(
            ground.ask("select concat_ws(' ', model, split, metric, cutoff, segment), value from metrics")
        )
    assert hashes["a"] == hashes["b"] and hashes["two"] == hashes["two again"], hashes
    assert hashes["other"] != hashes["a"]
    shared = set(scores["a"]) & set(scores["two"])
    apart = max(abs(scores["a"][k] - scores["two"][k]) / max(abs(scores["a"][k]), 1e-9) for k in shared)
    same = len(shared) / len(scores["a"])
    off = max(abs(v - metrics["two"][k]) for k, v in metrics["a"].items() if v == v)
    assert same > 0.99 and apart < 1e-3 and off < 0.01, f"{same:.4f} of the lists, {apart:g}, {off:g}"
    equal = "the same hash" if hashes["a"] == hashes["two"] else f"scores within {apart:.0e}, metrics within {off:.0e}"
    return f"same hash twice with 1 thread and twice with 2, another with another seed; 1 against 2 threads: {equal}"
