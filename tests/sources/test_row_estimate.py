"""Rows of a source before it is read."""

import gzip
import random
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.config.dataset import Dataset, Source
from pipeline.sources import row_estimate

ROWS = 60_000


@pytest.fixture(scope="module")
def text() -> str:
    drawn = random.Random(1)
    lines = (f"u{drawn.randrange(10**6)},{drawn.randrange(10**4)},{drawn.randrange(5)}" for _ in range(ROWS))
    return "user,item,rating\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.zip", "utf16.csv", "cr.csv"])
def test_text_is_estimated_from_its_size(tmp_path: Path, text: str, name: str):
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(text.encode())
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", text)
    else:
        encoded = text.replace("\n", "\r") if name == "cr.csv" else text
        path.write_bytes(encoded.encode("utf-16" if name == "utf16.csv" else "utf-8"))
    found = row_estimate.in_files([path])
    assert not found.is_exact
    assert found.rows == pytest.approx(ROWS, rel=0.15)
    assert found.text.startswith("about ")


def test_parquet_is_counted(tmp_path: Path):
    pl.DataFrame({"user": range(7)}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"user": range(5)}).write_parquet(tmp_path / "b.parquet")
    dataset = Dataset(name="d", source=Source(files=["*.parquet"]))
    assert row_estimate.estimate(dataset, tmp_path) == row_estimate.RowCount(12, True)


@pytest.mark.parametrize("content", [None, b"\x1f\x8b broken", b""])
def test_what_cannot_be_estimated_is_left_to_ingest(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    found = row_estimate.estimate(Dataset(name="d", source=Source(files=["a.csv"])), tmp_path)
    assert found is None or found.rows == 0
