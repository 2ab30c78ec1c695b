"""Memory of this machine, or of the container that this process runs in."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

GIB = 2**30
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, as in malloc.h of the GNU C library."""
_KEPT, _OWN_PAGES = 128 * 2**20, 32 * 2**20
"""Free bytes that stay at the end of the heap, and the size (the largest) from which on a block has its own pages."""
CGROUPS = Path("/sys/fs/cgroup")


@cache
def total_memory() -> int:
    """Bytes of memory that this process may use: those of the machine, or the lowest limit of its control groups."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(CGROUPS, Path("/proc/self/cgroup"))])


def available_memory() -> tuple[int, int]:
    """Available (as the kernel estimates it) and total bytes."""
    total, info = total_memory(), Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, total), total
    return total, total


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Let the C library keep up to 128 MB per arena that were freed for the next arrays; returns whether it does.

    By default it returns most of it at once, and the kernel clears a page each time that it is handed out again: a
    quarter of the page faults of the data stages. Does nothing if the environment sets MALLOC_ variables or
    glibc's tunables for it, which are the user's, or with another C library.
    """
    is_set = any(name.startswith("MALLOC_") for name in environ) or "glibc.malloc" in environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or is_set:
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return all([mallopt(_MMAP_THRESHOLD, _OWN_PAGES), mallopt(_TRIM_THRESHOLD, _KEPT)])


def parse_bytes(text: str) -> int:
    """Bytes of `4GB`, `512 MiB` or `1.5tb`; ValueError explains the format."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    try:
        assert match is not None
        number, unit, binary = match.groups()
        return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit or " "))
    except (AssertionError, ValueError):
        raise ValueError(f'memory_limit = {text!r}: write it as "4GB" or "512MiB"') from None


def _limits(root: Path, membership: Path) -> Iterator[int]:
    """Limits of the process's control group and of its parents, version 2 or 1; none where nothing is limited."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            group, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            group, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            try:
                text = group.joinpath(*parts[:depth], file).read_text().strip()
            except OSError:  # in a container the path may be that of the host; the container's own group is the root
                continue
            if text.isdigit():
                yield int(text)
