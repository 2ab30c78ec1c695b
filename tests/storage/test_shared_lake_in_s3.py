"""A shared lake in a bucket of a server: conditional puts of several writers, kills, damage, no key in any message."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.lake import Lake
from pipeline.config.run import Run
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import CHECKOUT, Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import buckets, home_identity, lake, shared_homes
from pipeline.storage.file_stores import StoreError
from pipeline.storage.shared_lake import SharedLake
from tests.support.s3_server import S3Server
from tests.support.stage_runs import make_run

SPEC = lake.Spec(StageCall(StageName.CLEAN), "2_clean", 1, {"a": 1})
obstore = pytest.importorskip("obstore")


class Homes:
    """Homes below a folder, with one lake in a bucket."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url = folder, url

    def run(self, name: str) -> Run:
        """A night of a home, open."""
        found = make_run(self.folder / name, lake={"url": self.url})
        home_identity.settle(found.home)
        return found

    def shared(self, name: str) -> SharedLake:
        """The lake, as a home sees it."""
        home = Home(self.folder / name)
        home_identity.settle(home)
        return SharedLake(home, "three", Lake(url=self.url))


@pytest.fixture
def homes(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Homes:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return Homes(tmp_path, f"s3://{s3.new_bucket()}/some/lake")


def writer(text: str, calls: list[str] | None = None) -> Callable[[Path], lake.StageResult]:
    def write(folder: Path) -> lake.StageResult:
        if calls is not None:
            calls.append(text)
        (folder / "deep").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "deep" / "big.bin").write_bytes(text.encode() * 3_000_000)
        return lake.StageResult(3, 2, {"kept": 2}, {"text": text})

    return write


def test_six_homes_at_once_end_with_one_result_and_later_ones_fetch_it(homes: Homes):
    runs = [homes.run(f"home{number}") for number in range(6)]
    barrier, folders = threading.Barrier(len(runs)), list[Path]()

    def make(run: Run) -> None:
        def write(folder: Path) -> lake.StageResult:
            barrier.wait(30)
            return writer(run.home.root.name)(folder)

        folders.append(lake.build(run, SPEC, write))

    threads = [threading.Thread(target=make, args=(run,)) for run in runs]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(folders) == len(runs) and len({(folder / "a.txt").read_text() for folder in folders}) == 1
    shared = homes.shared("other")
    assert len(shared.store.entries("2_clean/")) == 3
    calls = list[str]()
    folder = lake.build(homes.run("last"), SPEC, writer("last", calls))
    assert lake.is_complete(folder) and calls == []
    key = next(key for key in shared.store.entries("2_clean/") if key.endswith("big.bin"))
    obstore.put(shared.store.store, f"some/lake/three/{key}", b"damaged")  # type: ignore[attr-defined]
    text = (folder / "a.txt").read_text()
    assert lake.is_complete(lake.build(homes.run("more"), SPEC, writer(text, calls))) and calls == [text]
    assert lake.is_complete(lake.build(homes.run("most"), SPEC, writer("most", calls))) and calls == [text]


@pytest.mark.parametrize("point", ["mid_upload", "before_shared_manifest", "after_shared_manifest", "mid_fetch"])
def test_a_home_killed_at_any_point_goes_on(homes: Homes, point: str):
    if point == "mid_fetch":
        lake.build(homes.run("zero"), SPEC, writer("one"))
    code = (
        "import sys; from pathlib import Path; from tests.storage import test_shared_lake_in_s3 as t; "
        "t.lake.build(t.Homes(Path(sys.argv[1]), sys.argv[2]).run('one'), t.SPEC, t.writer('one'))"
    )
    environment = {**os.environ, "NIGHTRECS_FAULT": f"lake:{point}:kill", "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, "-c", code, str(homes.folder), homes.url]
    done = subprocess.run(words, env=environment, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    calls, at = list[str](), homes.folder / "one" / "warehouse" / "journal" / "three" / "r1"
    at.rename(at.with_name("r0"))
    one = homes.run("one")
    assert len(lake.remove_leftovers(one.home, one.dataset)) == (point == "mid_fetch")
    assert lake.is_complete(lake.build(one, SPEC, writer("one", calls))) and calls == []
    assert lake.is_complete(lake.build(homes.run("two"), SPEC, writer("two", calls))) and calls == []


def test_lists_that_homes_share_are_swapped_not_overwritten(homes: Homes):
    first, second = homes.shared("one"), homes.shared("two")
    assert "only if absent" in first.probe() and first.store.entries() == {}
    shared_homes.register(first, ["2_clean/a"])
    shared_homes.register(second, ["2_clean/b"])
    shared_homes.register(first, ["2_clean/c"])
    assert [sorted(each.needed) for each in shared_homes.others(second)] == [["2_clean/c"]]


def test_no_key_reaches_a_message(homes: Homes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buckets, "_retries", lambda: {"max_retries": 0})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETSECRET")
    for endpoint in ("http://127.0.0.1:1", "http://example.org", "https://key:hidden-key@example.org"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(UnreadableInput, match=r"lake.url s3://.*environment") as error:
            homes.shared("one").check()
        secrets = ("AKIASECRETSECRET", "testing-secret", "hidden-key")
        assert not any(secret in str(error.value) for secret in secrets)
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"pip install 'nightrecs\[connectors\]'"):
        homes.shared("one").probe()


@pytest.mark.parametrize("odd", ["//foreign", "/5_models//x", "/5_models/m-1//x", "/5_models/m-1/token//x"])
def test_folder_markers_and_odd_keys_of_other_tools_hide_nothing(s3: S3Server, homes: Homes, odd: str):
    """Many tools make empty objects that stand for a folder; a script may make a key with an empty part."""
    store = homes.shared("one").store
    assert store.any_key() is None
    own = [
        "1_raw/r-1/manifest.json",
        "5_models/m-1/manifest.json",
        "5_models/m-1/token/a",
        "5_models/m-2/manifest.json",
    ]
    own += ["5_models/m-1/token/empty", "homes/a.json", "forgotten.json", "7_x/y/token/deep/b"]
    client, bucket = s3.client(), homes.url.split("/")[2]
    prefix = "some/lake/three"
    for folder in ("", "/5_models", "/5_models/m-1", "/5_models/m-1/token", "/9_none"):
        client.put_object(Bucket=bucket, Key=f"{prefix}{folder}/", Body=b"")
    assert store.any_key() is None
    for key in own:
        store.create(key, b"" if key.endswith("empty") else b"content")
    client.put_object(Bucket=bucket, Key=f"{prefix}/5_models/m-1/token/a/", Body=b"")
    assert list(store.entries()) == sorted(own) and store.odd_key is None
    assert store.entries()["5_models/m-1/token/a"].bytes == 7
    client.put_object(Bucket=bucket, Key=f"{prefix}{odd}", Body=b"x")
    assert list(store.entries()) == sorted(own)
    assert store.odd_key and "//" in store.odd_key
    assert list(store.entries("1_raw/")) == own[:1]
    store.remove(own)
    assert store.entries() == {}
