"""Files that come twice, late, reordered, relabelled."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.schemas.reasons import Reason

from .ground import CHEAP, DATASET, HEADER, Ground, refused, rows
from .table import row

DAY = 86_400


def newest(ground: Ground, layer: str) -> Path:
    """The folder of the lake that was made last."""
    return max(
        (p for p in ground.home.lake(DATASET).glob(f"{layer}/[!.]*-*") if p.is_dir()),
        key=lambda p: p.stat().st_mtime_ns,
    )


def pairs(ground: Ground) -> pl.DataFrame:
    """What the newest cleaning kept, sorted."""
    rows = pl.read_parquet(newest(ground, "2_clean") / "interactions.parquet")
    return rows.cast({"user_id": pl.String, "item_id": pl.String}).sort("user_id", "item_id")


def ledger(ground: Ground, stage: str) -> dict[str, int]:
    """Rows by reason, of the last night."""
    query = "select reason, rows from row_ledger where stage = $stage and run_id = $run_id and rows > 0"
    return dict(ground.ask(query, stage=stage, run_id=ground.run_ids()[-1]))


@row(11, "same file twice, or renamed (incremental)", "counted once")
def same_file_twice(root: Path) -> str:
    ground = Ground(root, source='mode = "incremental"')
    path = ground.write(rows())
    ground.night()
    first, total = ground.record()["logical_hash"], ledger(ground, "ingest")
    shutil.copy(path, ground.source / "again.csv")
    ground.night()
    assert ledger(ground, "ingest") == total
    path.rename(ground.source / "renamed.csv")
    (ground.source / "again.csv").unlink()
    ground.night()
    assert ledger(ground, "ingest") == total and ground.record()["logical_hash"] == first
    ground.write(rows(start=2_000_000)[:10], "new.csv")
    ground.night()
    assert ledger(ground, "ingest")["kept"] == total["kept"] + 10
    return f"{total['kept']} rows each night, same hash; a new file of 10 adds 10"


@row(12, "duplicate events", "deterministic keep-latest")
def duplicates(root: Path) -> str:
    plain = rows()
    later = [(u, i, 6 - r, t + DAY) for u, i, r, t in plain[::3]]
    kept, hashes = [], []
    for number, records in enumerate(([*plain, *later], [*later, *plain], [*reversed(later), *reversed(plain)])):
        ground = Ground(root / str(number))
        ground.write(records)
        ground.night()
        kept.append(pairs(ground))
        hashes.append(ground.record()["logical_hash"])
        assert ledger(ground, "clean") == {"kept": len(plain), "duplicate": len(later)}
    ratings = dict(kept[0].select(pl.concat_str("user_id", "item_id"), "rating").rows())
    assert all(ratings[u + i] == r for u, i, r, _ in later), "an earlier event was kept"
    assert kept[0].equals(kept[1]) and kept[1].equals(kept[2]) and len(set(hashes)) == 1, hashes
    return f"{len(later)} of {len(plain) + len(later)} rows dropped, the latest kept, same hash in three file orders"


@row(13, "late and backdated rows", "included, no leak into history")
def late_rows(root: Path) -> str:
    interleaved = [(u, i, r, 50_000_000 + n * 7919 % 100_000) for n, (u, i, r, _) in enumerate(rows())]
    for kind in ("leave_one_out", "global_time"):
        ground = Ground(root / kind, recipe=CHEAP.replace("leave_one_out", kind), source='mode = "incremental"')
        ground.write(interleaved)
        ground.night()
        backdated = [(u, f"late-{i}", r, t - 40_000_000) for u, i, r, t in interleaved[::9]]
        ground.write(backdated, "late.csv")
        ground.night()
        assert ledger(ground, "ingest")["kept"] == len(rows()) + len(backdated)
        parts = {n: pl.read_parquet(newest(ground, "4_split") / f"{n}.parquet") for n in ("train", "valid", "test")}
        assert sum(part.height for part in parts.values()) == len(rows()) + len(backdated)
        for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test")):
            if kind == "global_time":
                before: Any = parts[earlier]["timestamp"].max()
                assert before < parts[later]["timestamp"].min(), f"{earlier} reaches into {later}"
                continue
            last = parts[earlier].group_by("user_idx").agg(last=pl.max("timestamp"))
            both = parts[later].join(last, on="user_idx").filter(pl.col("last") > pl.col("timestamp"))
            assert both.is_empty(), f"{earlier} holds rows after those of {later}"
    return f"{len(backdated)} rows 460 days late: all counted, none of them after a held-out row in train"


@row(15, "header swapped, missing, extra; delimiter changed", "by name, or refused")
def headers(root: Path) -> str:
    first = Ground(root / "first")
    first.write(rows())
    first.night()
    expected = first.record()["logical_hash"]
    swapped = Ground(root / "swapped")
    swapped.write([(t, r, i, u) for u, i, r, t in rows()], header=HEADER[::-1])
    extra = Ground(root / "extra")
    extra.write(
        [(u, "x", i, r, "", t) for u, i, r, t in rows()], header=("user", "junk", "item", "rating", "more", "t")
    )
    other = Ground(root / "delimiter")
    other.write(rows(), delimiter=";")
    for ground in (swapped, extra, other):
        ground.night()
        assert ground.record()["logical_hash"] == expected, f"{ground.root.name}: read differently"
    before = first.run_ids()[-1]
    first.write([(u, i, r, t) for u, i, r, t in rows()], header=("user", "item", "stars", "t"))
    first.night(code=2, says="no column 'rating'")
    first.write(rows()[1:], header=tuple(map(str, rows()[0])))
    first.night(code=2, says="no column 'user'")
    set_once = Ground(root / "set", source='delimiter = ","')
    set_once.write(rows(), delimiter=";")
    set_once.night(code=2, says="no column")
    assert first.promise() == before
    return "swapped, extra, other delimiter: same hash; a column or the header missing, or another delimiter than set: exit 2, named"


@row(17, "rejects over the limit", "exit 3, old tables stay")
def too_many_rejects(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night()
    before = ground.promise()
    good = rows()
    ground.write([*good, *[("u1", "i1", "five", t) for *_, t in good[: len(good) // 10]]])
    reason = refused(ground, before)
    assert "max_reject_rate" in reason and Reason.RATING_NOT_A_NUMBER in reason, reason
    return f"exit 3: {reason.split(';')[0]}; the old night stays live"
