"""Splits that a data set publishes itself: the pairs of its test file, and the candidates to rank them among."""

import re
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Dataset, Published
from pipeline.core.errors import UnreadableInput
from pipeline.schemas.reasons import Reason
from pipeline.sources.dialect import read_layout
from pipeline.sources.files import find_files, fingerprint, unpack
from pipeline.sources.line_reader import exploded, records
from pipeline.sources.plain_text import prepare

_POSITIVE = re.compile(r"\((.*),(.*)\)").fullmatch


def fingerprints(data: Path, published: Published) -> list[str]:
    """Content hashes of the files that the stage `split` reads."""
    patterns = [pattern for pattern in (published.test, published.candidates) if pattern]
    return [fingerprint(data / name) for pattern in patterns for name in find_files(data, [pattern])]


def read_pairs(data: Path, pattern: str, dataset: Dataset, scratch: Path) -> pl.DataFrame:
    """`user_id` and `item_id` of every readable row of the files; `[source]` and `[columns]` describe their layout."""
    wanted = {"user": dataset.columns.user, "item": dataset.columns.item}
    frames = []
    for name in find_files(data, [pattern]):
        if name.endswith(".parquet"):
            columns = [pl.col(column).cast(pl.String).alias(f"{role}_id") for role, column in wanted.items()]
            frames.append(pl.read_parquet(data / name, columns=list(wanted.values())).select(columns))
            continue
        plain, reading = prepare(data / name, name, dataset.source, scratch / "published.txt")
        layout = read_layout(plain, name, reading, wanted)
        if layout is None:
            raise UnreadableInput(f"{name} is empty; dataset.published needs a file with rows")
        at = layout.positions
        rows = [
            (record[at["user"]], item)
            for _, _, record in records(plain, layout)
            if not isinstance(record, Reason)
            for item in exploded(record[at["item"]], layout.explode)
        ]
        frames.append(pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String}, orient="row"))
        (scratch / "published.txt").unlink(missing_ok=True)
    return pl.concat(frames)


def read_candidates(data: Path, pattern: str, encoding: str, scratch: Path) -> pl.DataFrame:
    """The candidates of all files, in the columns of `parse_candidates`."""
    frames = []
    for name in find_files(data, [pattern]):
        plain = unpack(data / name, scratch / "published.txt")
        frames.append(parse_candidates(plain.read_text(encoding), name))
        (scratch / "published.txt").unlink(missing_ok=True)
    return pl.concat(frames)


def parse_candidates(text: str, name: str) -> pl.DataFrame:
    """`line`, `user_id`, `positive_id`, `item_id`: one row per negative of lines `(user,item)\\tnegative\\t…`."""
    heads, negatives = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        head, *rest = line.rstrip("\t").split("\t")
        match = _POSITIVE(head)
        if match is None:
            message = f"{name}, line {number}: the line does not start with (user,item), the format of NCF's files"
            raise UnreadableInput(message, {"raw": [head[:80]]})
        heads.append((number, *match.groups()))
        negatives.append(rest)
    schema = {"line": pl.Int64, "user_id": pl.String, "positive_id": pl.String}
    frame = pl.DataFrame(heads, schema=schema, orient="row")
    return frame.with_columns(pl.Series("item_id", negatives, dtype=pl.List(pl.String))).explode("item_id")


def encode_pairs(pairs: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Distinct `user_idx`, `item_idx` of the pairs whose user and item both have an index, sorted."""
    known = pairs.join(users, on="user_id").join(items, on="item_id")
    return known.select("user_idx", "item_idx").unique().sort("user_idx", "item_idx")


def candidates_of(
    parsed: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A sorted list of `item_idx` for every `user_idx`, and counts of what was dropped.

    Users and items without an index are dropped, and candidates that are also a positive of the same user (156 lines
    of the published NCF file have one): an item can't be right and wrong at once.
    """
    positives = encode_pairs(parsed.select("user_id", item_id="positive_id"), users, items)
    own = parsed.filter(pl.col("item_id") == pl.col("positive_id"))["line"].n_unique()
    listed = encode_pairs(parsed.drop_nulls("item_id"), users, items)
    wrong = listed.join(positives, on=["user_idx", "item_idx"], how="anti")
    lists = wrong.sort("user_idx", "item_idx").group_by("user_idx", maintain_order=True).agg("item_idx")
    unknown = parsed.filter(~pl.col("item_id").is_in(items["item_id"].implode()))["item_id"].n_unique()
    return lists, {
        "users": lists.height,
        "candidates": wrong.height,
        "lines_with_positive": own,
        "unknown_items": unknown,
    }
