"""Files of a bucket or a web server are a source: they are downloaded, then read as any file."""

import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.paths import Home
from pipeline.sources import files
from pipeline.sources.connectors import object_stores
from pipeline.sources.connectors.problems import Where
from tests.support.fetched_source import Read, read, write_toml
from tests.support.s3_server import S3Server

PART = st.text("ab.", min_size=1, max_size=3).filter(lambda part: part not in (".", ".."))
KEYS = st.lists(PART, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(
    st.one_of(PART, st.sampled_from(["*", "a*", "*.b", "?", "[ab]", "[!a]*", "**"])), min_size=1, max_size=4
)


@given(keys=st.sets(KEYS, max_size=6), parts=PATTERNS)
def test_a_pattern_lists_at_least_what_it_matches_as_files(tmp_path_factory, keys: set[str], parts: list[str]):
    """What is downloaded is matched again as files."""
    pattern = "/".join(parts)
    folder = tmp_path_factory.mktemp("bucket")
    there = []
    for key in sorted(keys):
        try:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).touch(exist_ok=False)
            there.append(key)
        except OSError:  # one key is a folder of another
            continue
    try:
        local = files.find_files(folder, [pattern])
    except UnreadableInput:
        local = []
    matches = re.compile(object_stores._expression(pattern), re.DOTALL).fullmatch
    assert set(local) <= {key for key in there if matches(key)}


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("ftp://host/a.csv", "is not read"),
        ("s3://bucket", "names no file"),
        ("s3://bucket/folder/", "names no file"),
        ("https://user:hunter2@host/a.csv", "would be readable"),
        ("https://host/a.csv?token=hunter2", "without parameters"),
        ("https://host/*.csv", "without \\*"),
        ("http://example.com/a.csv", "use https://"),
    ],
)
def test_other_addresses_are_refused(tmp_path: Path, pattern: str, why: str):
    with pytest.raises(SettingsError, match=why) as refused:
        read(write_toml(tmp_path, {"files": [pattern]}), tmp_path / "home")
    assert "shop.toml: source.files" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("obstore")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


def put(s3: S3Server, bucket: str, key: str, text: str | bytes) -> None:
    s3.client().put_object(Bucket=bucket, Key=key, Body=text)


def test_files_of_a_bucket_are_read_as_files(s3: S3Server, bucket: str, tmp_path: Path):
    put(s3, bucket, "logs/2024/a.csv", "u,i,r\nann,x,1\nbob,,2\n")
    put(s3, bucket, "logs/2024/b ä.csv.gz", gzip.compress(b"u,i,r\nann,y,3\n"))
    put(s3, bucket, "logs/2024/deep/c.csv", "u,i,r\nann,z,4\n")
    put(s3, bucket, "logs/other.txt", "no")
    put(s3, bucket, "titles.csv", "i,title\nx,Ex\n")
    more = f'rating = "r"\n[items]\nfiles = ["s3://{bucket}/titles.csv"]\nid = "i"\ntitle = "title"\n'
    toml = write_toml(tmp_path, {"files": [f"s3://{bucket}/logs/2024/*.csv*"], "max_reject_rate": 1}, more)
    found = read(toml, tmp_path / "home")
    assert found.rows == [("ann", "x", 1.0), ("ann", "y", 3.0)]
    rejected = pl.read_parquet(found.folder / "rejected_rows.parquet")
    assert rejected.select("file", "line", "reason").rows() == [(f"s3://{bucket}/logs/2024/a.csv", 3, "empty_item")]
    assert pl.read_parquet(found.folder / "catalog.parquet")["title"].to_list() == ["Ex"]
    assert read(toml, tmp_path / "other").key == found.key
    everything = write_toml(tmp_path, {"files": [f"s3://{bucket}/logs/**/*.csv*"], "max_reject_rate": 1}, more)
    assert len(read(everything, tmp_path / "home").rows) == 3
    put(s3, bucket, "logs/2024/a.csv", "u,i,r\nann,x,2\n")
    assert read(toml, tmp_path / "home").key != found.key


def test_incremental_files_of_a_bucket_add_up(s3: S3Server, bucket: str, tmp_path: Path):
    put(s3, bucket, "a.csv", "u,i\nann,x\n")
    toml = write_toml(tmp_path, {"files": [f"s3://{bucket}/*.csv"], "mode": "incremental"})
    read(toml, tmp_path / "home")
    s3.client().delete_object(Bucket=bucket, Key="a.csv")
    put(s3, bucket, "b.csv", "u,i\nann,y\n")
    assert [row[1] for row in read(toml, tmp_path / "home").rows] == ["x", "y"]


def test_an_object_is_downloaded_again_only_if_it_changed(s3: S3Server, bucket: str, tmp_path: Path):
    home = tmp_path / "home"
    for key, text in (("a.csv", "u,i\nann,x\n"), ("b.csv", "u,i\nbob,y\n")):
        put(s3, bucket, key, text)
    one = f"s3://{bucket}/one.txt"
    put(s3, bucket, "one.txt", "u,i\neve,z\n")
    toml = write_toml(tmp_path, {"files": [f"s3://{bucket}/*.csv", one], "mode": "incremental"})
    assert downloaded(read(toml, home)) == (["a.csv", "b.csv", "one.txt"], 3)
    assert downloaded(read(toml, home)) == ([], 3)
    put(s3, bucket, "a.csv", "u,i\ncid,x\n")  # of the same size
    assert downloaded(read(toml, home)) == (["a.csv"], 4)
    put(s3, bucket, "c.csv", "u,i\ndan,w\n")
    assert downloaded(read(toml, home)) == (["c.csv"], 5)
    assert downloaded(read(toml, tmp_path / "other"))[0] == ["a.csv", "b.csv", "c.csv", "one.txt"]
    snapshot = write_toml(tmp_path, {"files": [f"s3://{bucket}/*.csv"]}, name="all")
    assert downloaded(read(snapshot, home)) == downloaded(read(snapshot, home)) == (["a.csv", "b.csv", "c.csv"], 3)
    for path in (Home(home).lake("shop") / "1_raw" / "files").glob("*/interactions.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    put(s3, bucket, "d.csv", "u,i\nfay,v\n")
    with pytest.raises(UnreadableInput, match="has to be read again"):  # what a.csv was at first
        read(toml, home)
    put(s3, bucket, "e.csv", "u,i\nann,x\n")
    names, rows = downloaded(read(toml, home))
    assert (names, rows) == (["a.csv", "b.csv", "c.csv", "d.csv", "e.csv", "one.txt"], 6), "damaged rows are read again"


def downloaded(found: Read) -> tuple[list[str], int]:
    """Names of the files that were downloaded, and rows in all."""
    names = [path.name for path in (found.run.data / "s3:").rglob("*") if path.is_file()]
    return sorted(names), len(found.rows)


def test_what_is_not_there_is_said(s3: S3Server, bucket: str, tmp_path: Path):
    for pattern, why in (
        (f"s3://{bucket}/none.csv", "there is no s3://"),
        (f"s3://{bucket}/none*.csv", "nothing matches"),
        ("s3://no-such-bucket-here/a*.csv", "NoSuchBucket"),
    ):
        with pytest.raises(UnreadableInput, match=why) as error:
            read(write_toml(tmp_path, {"files": [pattern]}), tmp_path / "home")
        assert "shop.toml: source.files" in str(error.value)
        assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in str(error.value)


def test_keys_that_would_leave_the_folder_are_refused(tmp_path: Path):
    for key in ("../x.csv", "a//b.csv", "a/./b.csv"):
        with pytest.raises(UnreadableInput, match="empty part"):
            object_stores._target(tmp_path, "s3", "bucket", key, Where(tmp_path / "shop.toml", "source"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_answer_is_an_error_within_ten_seconds(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UnreadableInput, match=r"can't be read.*check the network"):
            read(write_toml(tmp_path, {"files": [f"s3://{bucket}/*.csv"]}), tmp_path / "home")
        assert time.monotonic() - started < 10


@pytest.mark.connectors
def test_a_file_of_a_web_server_is_read(tmp_path: Path):
    pytest.importorskip("obstore")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "plays of june.csv").write_text("u,i\nann,x\n")
    with web_server(tmp_path / "www") as url:
        found = read(write_toml(tmp_path, {"files": [f"{url}/plays%20of%20june.csv"]}), tmp_path / "home")
        assert found.rows == [("ann", "x", None)]
        with pytest.raises(UnreadableInput, match="there is no http://"):
            read(write_toml(tmp_path, {"files": [f"{url}/none.csv"]}), tmp_path / "home")


def test_without_the_extra_the_command_to_install_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'nightrecs[connectors]'")):
        read(write_toml(tmp_path, {"files": ["s3://bucket/a.csv"]}), tmp_path / "home")
