"""Published files that somebody writes to: through a query, directly, or by a client that opened them for writing."""

import subprocess
import sys
from pathlib import Path

from pipeline.storage.generations import live_run_id

from .ground import DATASET, Ground, rows
from .table import row

WRITER = "import duckdb, sys, time; con = duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(300)"


def published(root: Path) -> Ground:
    """A home with one published night."""
    ground = Ground(root)
    ground.write(rows())
    ground.night()
    return ground


def command(ground: Ground, *words: str) -> subprocess.CompletedProcess[str]:
    """A `nightrecs` command in a process of its own."""
    line = [sys.executable, "-m", "flows.cli", "--home", str(ground.home.root), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@row(
    28,
    "a query that writes: `COPY` of a forged log, hidden in EXPLAIN or a CTE, `CHECKPOINT`",
    "exit 2, no byte changed",
)
def writing_queries(root: Path) -> str:
    ground = published(root)
    live = ground.home.live(DATASET)
    before, there = live.read_bytes(), sorted(live.parent.iterdir())
    queries = [
        f"copy (select 'x'::blob) to '{live}.wal' (format blob)",
        f"copy (select 1) to '{live}' (format csv, use_tmp_file false)",
        f"explain analyze copy (select 'x'::blob) to '{live}.wal' (format blob)",
        f"with x as (copy (select 1) to '{live}.wal') select 1",
        f"attach '{live}' as x",
        "from checkpoint()",
    ]
    for query in queries:
        ended = command(ground, "sql", DATASET, query)
        assert ended.returncode == 2 and "not allowed here" in ended.stderr, f"{query}: {ended}"
        assert live.read_bytes() == before and sorted(live.parent.iterdir()) == there, query
    assert ground.promise() == ground.run_ids()[-1]
    return f"{len(queries)} statements: exit 2, the statement named; live file and folder byte by byte as before"


@row(29, "live file overwritten, or changed by a client", "named, unhealthy, restored from the generation")
def changed_live_file(root: Path) -> str:
    ground = published(root)
    live, night = ground.home.live(DATASET), ground.run_ids()[0]
    before = live.read_bytes()
    for name, content in (("12 bytes", b"a,b\n1,2\n3,4\n"), ("a flipped bit", bytes([before[0] ^ 1]) + before[1:])):
        live.chmod(0o640)
        live.write_bytes(content)
        status = command(ground, "status", DATASET)
        assert status.returncode == 3 and "was changed after it was published" in status.stdout, f"{name}: {status}"
        printed = command(ground, "gc", DATASET)
        assert printed.returncode == 0 and "restored from its generation" in printed.stderr, f"{name}: {printed}"
        assert live.read_bytes() == before and ground.promise() == night, name
    live.chmod(0o640)
    live.write_bytes(b"")
    ground.write(rows()[:3])  # refused
    ground.night(code=3)
    assert "restored from its generation" in ground.notes(), ground.notes()
    assert live.read_bytes() == before and ground.promise() == night
    return "status exits 3 and names the file; gc and a night, refused itself, restore it byte by byte"


@row(30, "live file held open for writing by another process", "readers go on and name it; nights publish")
def held_by_a_writer(root: Path) -> str:
    ground = published(root)
    live, night = ground.home.live(DATASET), ground.run_ids()[0]
    live.chmod(0o640)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(live)], stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout and client.stdout.readline() == "open\n"
            for words in (("sql", DATASET, "from coverage"), ("recommend", DATASET, "u1"), ("leaderboard", DATASET)):
                ended = command(ground, *words)
                assert ended.returncode == 0 and f"process {client.pid}" in ended.stderr, f"{words}: {ended}"
                assert f"reading generation {night}" in ended.stderr, ended.stderr
            ended = command(ground, "status", DATASET)
            assert ended.returncode == 3 and f"process {client.pid}" in ended.stdout, ended
            ground.night()
            assert live_run_id(ground.home, DATASET) == ground.promise() == ground.run_ids()[-1] != night
        finally:
            client.kill()
    return "sql, recommend and leaderboard read the generation and name the process; status exits 3; the next night publishes"
