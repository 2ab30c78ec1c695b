"""Doctor's checks of the installation and the machine. Each yields (status, finding, fix)."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.core import paths
from pipeline.core.memory import GIB, available_memory
from pipeline.core.paths import Home
from pipeline.maintenance.free_space import existing, made_bytes
from pipeline.preparation.capacity import Capacity
from pipeline.storage import warehouse
from pipeline.storage.generations import live_run_id

Lines = Iterator[tuple[str, str, str]]
DISK, MEMORY = (1 * GIB, 5 * GIB), 2 * GIB
"""Below these, in bytes: free disk with which a night fails, or may fail; memory with which it may fail."""


def python(home: Home) -> Lines:
    """The interpreter."""
    wanted, found = requirements()[0], ".".join(map(str, sys.version_info[:3]))
    good = wanted.contains(found)
    yield "ok" if good else "fail", f"Python {found}", "" if good else f"install Python {wanted}"


def packages(home: Home) -> Lines:
    """The required packages, and whether their versions are tested ones."""
    for need in requirements()[1]:
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield "fail", f"{need.name} is not installed", f"pip install '{need}' -c constraints.txt"
            continue
        good = need.specifier.contains(version, prereleases=True)
        text = f"{need.name} {version}"
        if good:
            yield "ok", text, ""
        else:
            yield "fail", f"{text}, not {need.specifier}", f"pip install '{need}' -c constraints.txt"


def requirements() -> tuple[SpecifierSet, list[Requirement]]:
    """Version ranges of Python and packages, from pyproject.toml in a checkout, else from the installed metadata."""
    file = paths.CHECKOUT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text())["project"]
        return SpecifierSet(project["requires-python"]), [Requirement(d) for d in project["dependencies"]]
    about = importlib.metadata.metadata("nightrecs")
    needs = [Requirement(text) for text in importlib.metadata.requires("nightrecs") or []]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return SpecifierSet(about["Requires-Python"]), needs


def disk(home: Home) -> Lines:
    """Free space where the home is, or will be. A night writes its tables twice, a generation and the live file, and
    results in the lake."""
    free = shutil.disk_usage(existing(home.warehouse)).free
    written = max((_night_bytes(home, path) for path in home.warehouse.glob("*.duckdb")), default=0)
    fix = "free some space: nightrecs gc"
    status = "fail" if free < max(DISK[0], written) else "warn" if free < DISK[1] + written else "ok"
    needed = f"; a night writes {written / GIB:.1f} GiB of tables and results" if written >= GIB else ""
    yield status, f"{free / GIB:.1f} GiB free for {home.root}{needed}", "" if status == "ok" else fix


def _night_bytes(home: Home, live: Path) -> int:
    """What the night of a live file wrote, in bytes."""
    run_id = live_run_id(home, live.stem)
    return 2 * live.stat().st_size + (made_bytes(home, live.stem, run_id) if run_id else 0)


def memory(home: Home) -> Lines:
    """Available memory, as the kernel estimates it."""
    free, total = available_memory()
    good, rows = free >= MEMORY, Capacity(0, 1.0, None, total).rows_that_fit
    fix = "close other programs, lower memory_limit, or sample users with dataset.filter.user_fraction"
    yield (
        "ok" if good else "warn",
        f"{free / GIB:.1f} of {total / GIB:.1f} GiB available; it takes about {rows / 1e6:,.0f} million rows",
        "" if good else fix,
    )


def threads(home: Home) -> Lines:
    """Cores that this process may use, and variables that limit or exceed them."""
    cores = len(os.sched_getaffinity(0))
    limits = {n: os.environ[n] for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS") if n in os.environ}
    limited = "".join(f", {name}={value}" for name, value in limits.items())
    over = any(value.isdigit() and int(value) > cores for value in limits.values())
    yield "warn" if over else "ok", f"{cores} cores{limited}", f"set them to {cores} at most" if over else ""


def devices(home: Home) -> Lines:
    """Number of CUDA devices, and whether NIGHTRECS_DEVICES of them can fit a model together."""
    import torch

    from pipeline.training import distributed, launcher
    from pipeline.training.device import resolve_device

    there, wanted = torch.cuda.device_count(), os.environ.get("NIGHTRECS_DEVICES", "1")
    text = f"{there or 'no'} CUDA device{'s' * (there != 1)}, devices = {wanted}"
    try:
        device = resolve_device(os.environ.get("NIGHTRECS_DEVICE", "auto"))
        distributed.check(int(wanted), device)
        if int(wanted) > 1:
            met = launcher.launch(distributed.meet, int(wanted), device, lambda: None)
            text += f": {met} processes work together by {'nccl' if device.type == 'cuda' else 'gloo'}"
    except (ValueError, RuntimeError) as error:
        yield "fail", f"{text}: {str(error).splitlines()[0]}", "repair it, or set NIGHTRECS_DEVICES=1"
        return
    yield "ok", text, ""


def duckdb(home: Home) -> Lines:
    """Write a database as a night does, and read it."""
    from pipeline.storage.generations import OLDEST_READABLE

    try:
        with tempfile.TemporaryDirectory(dir=existing(home.warehouse), prefix=".doctor-") as folder:
            file = Path(folder) / "probe.duckdb"
            with warehouse.connect() as con:
                con.execute(f"ATTACH {warehouse.literal(file)} AS probe (STORAGE_VERSION '{OLDEST_READABLE}')")
                con.execute("CREATE TABLE probe.numbers AS SELECT range AS n FROM range(1000)")
                con.execute("DETACH probe")
            with warehouse.connect(file, read_only=True) as con:
                total = con.sql("SELECT sum(n) FROM numbers").fetchall()[0][0]
    except (warehouse.DatabaseError, OSError) as error:
        yield "fail", f"can't write and read a database: {error}", "reinstall duckdb; check the disk"
        return
    good = total == 499_500
    text = f"wrote and read a file of storage version {OLDEST_READABLE}"
    yield (
        "ok" if good else "fail",
        text if good else f"read {total}, wrote 499500",
        "" if good else "check the disk",
    )


CHECKS = {
    "python": python,
    "packages": packages,
    "disk": disk,
    "memory": memory,
    "threads": threads,
    "devices": devices,
    "duckdb": duckdb,
}
