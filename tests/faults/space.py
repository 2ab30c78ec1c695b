"""No space, no permission, bytes that are not what was written."""

import gzip
import os
import re
from pathlib import Path
from typing import Any

from pipeline.core.fault_injection import BUILT, POINTS
from pipeline.storage import lake, warehouse

from . import plants
from .ground import DATASET, WITH_GRADIENT, WITH_SEARCH, Ground, rows
from .killed import AFTER_GOING_LIVE
from .table import row

FULL = [*(f"{stage}:before_manifest" for stage in BUILT), *(p for p in POINTS if p.startswith(("audit:", "publish:")))]
FILE_LIMITS = (6_000, 20_000, 60_000, 200_000, 1_000_000)
"""Bytes: from a journal that still fits to a database that doesn't."""
SAID = re.compile(r"no space left|file too large|No space is left", re.IGNORECASE).search


@row(
    7,
    "no space (file-size limit, injected ENOSPC) in each stage",
    "clear error, nothing partial under a final name, resumable",
)
def no_space(root: Path) -> str:
    base = Ground(root / "base", recipe=WITH_SEARCH)
    base.write(rows(300, 200))
    base.night()
    base.write(rows(400, 200))
    undisturbed = Ground(root / "undisturbed").copy_of(base)
    undisturbed.night()
    (old,) = base.run_ids()
    faults: list[dict[str, Any]] = [{"fault": f"{point}:full"} for point in FULL]
    faults += [{"max_file": size} for size in FILE_LIMITS]
    ended_in = set()
    for number, fault in enumerate(faults):
        ground = Ground(root / str(number)).copy_of(base)
        point = str(fault.get("fault", "")).removesuffix(":full")
        ended = ground.night(code=0 if point in AFTER_GOING_LIVE else 1, **fault)
        assert SAID(ended.output), f"{fault}: {ended.output[-300:]}"
        live = ground.promise()
        assert live == (ground.run_ids()[-1] if point in AFTER_GOING_LIVE else old), f"{fault}: {live} is live"
        if "max_file" in fault:
            ended_in.add(len(ground.skipped()))
        ground.night()
        assert ground.promise() == ground.run_ids()[-1]
        assert ground.record()["logical_hash"] == undisturbed.record()["logical_hash"], fault
    assert len(ended_in) >= 3, f"the limits of file size all hit the same stage: {ended_in}"
    return f"{len(FULL)} injected, {len(FILE_LIMITS)} file-size limits: what to do is printed, exit 1 unless the tables are live, live file whole, same hash next time"


def probe_is_denied() -> None:
    """For root, who may write anywhere."""

    def denied(self: Path, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(self))

    plants.replace(Path, "write_text", lambda _: denied, when=lambda self, *_, **__: self.name.startswith(".probe"))


@row(8, "home not writable (probe; injected where the user is root)", "preflight error, exit 2")
def not_writable(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    is_root = os.geteuid() == 0
    if not is_root:
        ground.home.root.mkdir(mode=0o500)
    ended = ground.night(code=2, says="can't write to the home", before=probe_is_denied if is_root else None)
    assert "Permission denied; choose another with --home" in ended.output and not ground.run_ids()
    blocked = Ground(root / "blocked")
    blocked.write(rows())
    blocked.home.root.write_text("a file, not a folder")
    blocked.night(code=2, says="can't write to the home")
    return (
        f"exit 2 before anything is read, names the home and --home ({'injected, user is root' if is_root else 'real'})"
    )


@row(9, "flipped byte in any lake file", "found by hash, stage rebuilt")
def flipped(root: Path) -> str:
    ground = Ground(root, recipe=WITH_GRADIENT)
    ground.write(rows())
    ground.night()
    expected = ground.record()["logical_hash"]
    files = sorted(
        p for p in ground.home.lake(DATASET).glob("[1-7]_*/[!.]*-*/**/*") if p.is_file() and p.stat().st_size
    )
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x01
        path.write_bytes(content)
        folder = next(parent for parent in path.parents if (parent / lake.MANIFEST).exists())
        if lake.is_complete(folder):  # a blank between two values of the manifest, and the like
            assert path.name == lake.MANIFEST, f"{path.name}: the flip was not found"
            raise AssertionError(f"{path}: the flip was not found")
    ground.night()
    assert not [stage for stage, was_there in ground.skipped().items() if was_there], ground.skipped()
    assert ground.record()["logical_hash"] == expected and ground.promise()
    one = next(p for p in files if p.parent.parent.name == "2_clean" and p.suffix == ".parquet")
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 0x01
    one.write_bytes(content)
    ground.night()
    again = [stage for stage, was_there in ground.skipped().items() if not was_there]
    assert "clean" in again and "ingest" not in again and "encode" not in again, again
    assert ground.record()["logical_hash"] == expected and ground.promise()
    return f"all {len(files)} files, manifests too: each flip found, the stage (alone) rebuilt, same hash"


@row(10, "truncated Parquet / gzip", "file named, exit 2")
def truncated(root: Path) -> str:
    kinds = {"parquet": "a.parquet", "gzip": "a.csv.gz", "zstd": "a.csv.zst"}
    for kind, name in kinds.items():
        ground = Ground(root / kind)
        plain = ground.write(rows(300))
        text = plain.read_bytes()
        with warehouse.connect() as con:
            read = f"select * from read_csv({warehouse.literal(plain)}, all_varchar = true)"
            if kind != "gzip":
                to = warehouse.literal(ground.source / name)
                form = "(format parquet)" if kind == "parquet" else "(format csv, compression zstd)"
                con.execute(f"copy ({read}) to {to} {form}")
        plain.unlink()
        path = ground.source / name
        whole = gzip.compress(text) if kind == "gzip" else path.read_bytes()
        toml = ground.root / "tiny.toml"
        toml.write_text(toml.read_text().replace("*.csv", name))
        path.write_bytes(whole)
        ground.night(words=("--until", "split"))
        path.write_bytes(whole[: len(whole) * 2 // 3])
        ended = ground.night(code=2, words=("--until", "split"))
        assert name in ended.output and "copy it again" in ended.output, ended.output
    return "Parquet, gzip, zstd: exit 2, names the file, says to copy it again"
