"""Memory of the machine or of its container, and sizes in words."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import memory
from pipeline.core.memory import parse_bytes, total_memory
from pipeline.core.paths import CHECKOUT


def test_sizes_in_words():
    assert [parse_bytes(text) for text in ("4GB", "512 MiB", "1.5kb", "100")] == [4 * 10**9, 2**29, 1500, 100]
    for text in ("four", "4XB", "", "1.2.3GB"):
        with pytest.raises(ValueError, match="write it as"):
            parse_bytes(text)


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "max", "memory.max": "9000"}, {2000, 9000}),
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "1000"}, {1000, 2000}),
        ("0::/../host/only", {"memory.max": "3000"}, {3000}),
        ("5:cpu,memory:/a\n3:cpuset:/a", {"memory/a/memory.limit_in_bytes": "500"}, {500}),
        ("3:cpuset:/a", {"memory.max": "1"}, set()),
        ("0::/", {}, set()),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, membership: str, files: dict[str, str], limits: set[int]):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(membership + "\n")
    assert set(memory._limits(tmp_path, tmp_path / "cgroup")) == limits


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_limits", lambda *_: iter([2**28]))
    total_memory.cache_clear()
    try:
        assert total_memory() == 2**28
        assert memory.available_memory()[0] <= 2**28
    finally:
        total_memory.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt of the GNU C library")
def test_freed_memory_is_kept_unless_the_user_has_set_how():
    code = (
        "import resource, sys\nfrom pipeline.core.memory import keep_freed_memory\n"
        "assert keep_freed_memory({'MALLOC_ARENA_MAX': '1'}) is False\n"
        "kept = sys.argv[1] == 'no' or keep_freed_memory({})\n"
        "for _ in range(10):\n    rows = [bytes(2**21) and bytearray(2**21) for _ in range(8)]\n    del rows\n"
        "print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True, cwd=CHECKOUT)
        for asked in ("no", "yes")
    ]
    (_, without), (kept, faults) = (map(int, run.stdout.split()) for run in runs)
    assert not kept or faults < 0.6 * without
