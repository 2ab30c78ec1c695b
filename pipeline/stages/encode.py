"""Source ids become dense indices, and rows get the order that every later stage relies on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation.ids import ENCODED_PARQUET, codes_of, pair_hashes
from pipeline.schemas import tables
from pipeline.storage import lake

VERSION = 1


def encode_ids(run: Run, clean: Path) -> Path:
    """Write interactions.parquet (contract `encoded`), users.parquet and items.parquet (dense index, id)."""

    def write(folder: Path) -> lake.StageResult:
        rows, users, items = encode(pl.read_parquet(clean / "interactions.parquet"), run.settings.seed)
        rows = tables.ENCODED.check(rows, unique=False)  # the codes are one to one, and `clean` is unique
        rows.write_parquet(folder / "interactions.parquet", **ENCODED_PARQUET)
        users.write_parquet(folder / "users.parquet")
        items.write_parquet(folder / "items.parquet")
        info = {**lake.info(clean), "n_users": users.height, "n_items": items.height}
        return lake.StageResult(rows_in=rows.height, rows_out=rows.height, ledger={"kept": rows.height}, info=info)

    return lake.build(run, spec(run, clean), write)


def spec(run: Run, clean: Path) -> lake.Spec:
    """Key of `encode_ids`."""
    settings = {"seed": run.settings.seed}
    return lake.Spec(StageCall(StageName.ENCODE), "3_encoded", VERSION, settings, parents=(clean,))


def encode(clean: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rows, users and items. Indices follow the sorted source ids (by their UTF-8 bytes).

    Rows are ordered by user, then time, then a seeded hash of user and item: sources are often sorted by
    item, and a sequence model would learn that from rows of equal time.
    """
    with ThreadPoolExecutor(2) as both:
        (user_idx, user_ids), (item_idx, item_ids) = both.map(codes_of, (clean["user_id"], clean["item_id"]))
    columns = {name: clean[name] for name in ("rating", "timestamp", "positive")}
    rows = pl.DataFrame({"user_idx": user_idx, "item_idx": item_idx, **columns}).cast({"rating": pl.Float32})
    keys = moments(rows)
    order = keys.arg_sort()
    rows = rows[order]
    user, time = rows["user_idx"].to_numpy(), rows["timestamp"].to_physical().fill_null(-1).to_numpy()  # (R,) each
    again = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    if again.any():  # rows of equal user and time: only they need a hash
        tied = np.flatnonzero(np.append(again, False) | np.append(False, again))  # (T,)
        hashes = pair_hashes(rows[tied], user_ids, item_ids, seed, "tie")
        by_hash = pl.DataFrame({"key": keys[order[tied]], "hash": hashes}).select(pl.arg_sort_by("key", "hash"))
        places = np.arange(rows.height)
        places[tied] = tied[by_hash.to_series().to_numpy()]
        rows = rows[places]
    return rows, _index("user", user_ids), _index("item", item_ids)


def moments(rows: pl.DataFrame) -> pl.Series:
    """One Int64 for user and time, (R,), in their order, rows without a time first: one sort instead of two."""
    time = rows["timestamp"].to_physical()
    first = int(time.min() or 0)  # type: ignore[arg-type]
    since = time.fill_null(first).to_numpy(writable=True)  # (R,) microseconds; worked on in place: memory costs most
    since -= first
    # sources count in seconds or milliseconds
    parts = np.array_split(since, len(since) // 2**16 + 1)  # that fit the cache
    unit = next(unit for unit in (10**6, 1000, 1) if not any((part % unit).any() for part in parts))
    since //= unit
    users = rows["user_idx"].to_numpy()  # (R,)
    if _bits(since) + _bits(users) > 62:
        since = pl.Series(since).rank("dense").to_numpy().astype(np.int64)
    since += 1
    if time.null_count():
        since[time.is_null().to_numpy()] = 0
    keys = users.astype(np.int64)
    keys <<= _bits(since)
    keys |= since
    return pl.Series(keys)


def _bits(numbers: np.ndarray) -> int:
    return int(numbers.max(initial=0)).bit_length()


def _index(kind: str, ids: pl.Series) -> pl.DataFrame:
    frame = ids.alias(f"{kind}_id").to_frame().with_row_index(f"{kind}_idx")
    return frame.cast({f"{kind}_idx": pl.Int32})
