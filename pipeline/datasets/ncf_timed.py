"""The published NCF split with times: its train rows as far as the times at hand go, its test rows, its candidates."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.core.errors import UnreadableInput

TRAIN, TEST, CANDIDATES = "ml-1m.train.rating", "ml-1m.test.rating", "ml-1m.test.negative"
UNTIMED, TIMED = "ratings-no-timestamp.dat.gz", "ratings-timestamp-subset.dat.gz"


def write_ncf_timed(folder: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Write the three files, named as published, from those in `$NIGHTRECS_DATA/ml-1m`.

    Ids are the published ones: users less 1, items in the order in which they first appear. A train row is a rating
    that has a time and is not held out; no time is made up, so rows without one (31 % of the published train) are
    missing, and nothing that the published train lacks is there. Files that are there already are left alone.

    UnreadableInput where a file is missing, and where the rating held out of a user is not the latest.
    """
    if (folder / TRAIN).exists():  # written last
        return
    source = Path(environ.get("NIGHTRECS_DATA", "")) / "ml-1m"
    files = [source / UNTIMED, source / TIMED, source / "ncf" / TEST, source / "ncf" / CANDIDATES]
    if missing := [path for path in files if not path.exists()]:
        raise UnreadableInput(
            f"there is no {missing[0]}, of which the times are taken; name with --data the folder of a published "
            f"{TRAIN} that has times, or set NIGHTRECS_DATA"
        )
    items = read_dat(files[0]).select(raw_item=pl.col("item").unique(maintain_order=True)).with_row_index("item")
    rated = read_dat(files[1]).rename({"item": "raw_item"}).join(items, on="raw_item", maintain_order="left")
    timed = rated.select(pl.col("user") - 1, pl.col("item").cast(pl.Int64), "rating", "timestamp")
    columns = ["user", "item", "rating", "timestamp"]
    test = pl.read_csv(files[2], separator="\t", has_header=False, new_columns=columns)
    train = timed.join(test, on=["user", "item"], how="anti", maintain_order="left")
    ends = test.select("user", end="timestamp")
    if n := train.join(ends, on="user").filter(pl.col("timestamp") > pl.col("end")).height:
        raise UnreadableInput(f"{files[2]} holds out ratings that {n:,} of {files[1].name} are later than")
    for path in files[2:]:
        shutil.copyfile(path, folder / path.name)
    train.write_csv(folder / f".{TRAIN}", separator="\t", include_header=False)
    (folder / f".{TRAIN}").rename(folder / TRAIN)


def read_dat(path: Path) -> pl.DataFrame:
    """user, item, rating and, where there is a fourth field, timestamp of a file whose fields are parted by `::`."""
    lines = pl.read_csv(path, has_header=False, new_columns=["line"], separator="\n", quote_char=None)
    fields = lines.select(pl.col("line").str.split("::").list.to_struct(fields=["user", "item", "rating", "timestamp"]))
    return fields.unnest("line").cast(pl.Int64)
