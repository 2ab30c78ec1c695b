"""State files that are damaged, webhooks that are none, links that lead back."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .child import CHECKOUT
from .files import ledger
from .ground import DATASET, Ground, rows
from .table import row


def command(ground: Ground, *words: str, **environ: str) -> tuple[int, str]:
    """Exit code and talk of a command in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--home", str(ground.home.root), *words],
        cwd=CHECKOUT, env={**clean, **environ}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr[-1500:]
    return ended.returncode, ended.stderr


@row(37, "torn run.json of an old night", "named, set aside; no command stops")
def torn_record(root: Path) -> str:
    ground = Ground(root)
    for number in range(3):
        ground.write(rows(40 + number))
        ground.night()
    oldest = ground.home.journal(DATASET) / ground.run_ids()[0] / "run.json"
    oldest.write_bytes(oldest.read_bytes()[:40])
    for words in (("status", DATASET), ("runs", DATASET), ("leaderboard", DATASET), ("gc", DATASET, "--dry-run")):
        code, output = command(ground, *words)
        assert code == 0, (words, code, output)
        assert (str(oldest) in output) == (words[0] in ("status", "runs", "gc")), (words, output)
    assert oldest.with_name("run.json.damaged").is_file(), "gc holds the lock"
    code, output = command(ground, "status", DATASET)
    assert code == 0 and "damaged" not in output, output
    oldest.write_bytes(b"")
    ground.write(rows(50))
    ended = ground.night(says="set aside as run.json.damaged-2")
    assert ground.promise() == ground.run_ids()[-1] and len(ground.run_ids()) == 3, ended.output[-400:]
    assert command(ground, "rollback", DATASET)[0] == 0
    return "status, runs, leaderboard, gc exit 0 and name it once; the night publishes; rollback goes on"


@contextmanager
def no_http() -> Iterator[str]:
    """An address whose server answers, but not in HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                connection.sendall(b"220 mail.example.org ESMTP\r\n")
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@row(38, "webhook that does not speak HTTP", "the exit code stays, no secret is shown")
def webhook_without_http(root: Path) -> str:
    ground = Ground(root)
    ground.write([])
    words = ["run", str(root / "tiny.toml"), "--recipe", str(root / "recipe.toml"), "--data", str(ground.source)]
    printed = []
    with no_http() as place:
        for name, value in (
            ("NIGHTRECS_NOTIFY_WEBHOOK", f"http://{place}/secret-of-the-hook"),
            ("NIGHTRECS_NOTIFY_WEBHOOK", f"http://{place}/secret-of-the-hook with a space"),
            ("NIGHTRECS_NOTIFY", f"http://{place}/secret-of-the-hook, json://me:secret-of-the-hook@{place}"),
        ):
            code, output = command(ground, *words, "--no-prefect", **{name: value})
            assert code == 3 and "did not take the message" in output, (code, output[-600:])
            assert "secret-of-the-hook" not in output, output
            printed.append(output.count("did not take the message"))
    assert ground.record()["outcome"] == "refused" and printed == [1, 1, 2], printed
    files = [path for path in ground.home.root.rglob("*") if path.is_file()]
    assert not [path for path in files if b"secret-of-the-hook" in path.read_bytes()]
    return "exit 3 each time, the trouble is shown without the URL, and no file holds it"


@row(39, "symlink loop in the source", "each file is read once")
def symlink_loop(root: Path) -> str:
    ground = Ground(root)
    toml = root / "tiny.toml"
    toml.write_text(toml.read_text().replace('files = ["*.csv"]', 'files = ["**/*.csv"]'))
    ground.write(rows())
    (ground.source / "loop").symlink_to(".")
    (ground.source / "sub").mkdir()
    (ground.source / "sub" / "up").symlink_to("..")
    (ground.source / "again.csv").symlink_to("a.csv")
    ground.night()
    assert ledger(ground, "ingest") == {"kept": len(rows())}, ledger(ground, "ingest")
    assert ledger(ground, "clean") == {"kept": len(rows())}
    assert ground.promise() == ground.run_ids()[-1]
    return f"{len(rows())} lines in the file, {len(rows())} rows read, no duplicate"
