"""Homes that share a lake: one builds, the others fetch; two writers, kills, damage, users who are forgotten."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.lake import Lake
from pipeline.config.run import Run
from pipeline.core.errors import LakeDown, UnreadableInput
from pipeline.core.fault_injection import OF_SHARED_LAKE, Planted, planted
from pipeline.core.paths import CHECKOUT
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import forgotten_users, home_identity, journal, lake, shared_homes, shared_lake
from pipeline.storage.file_stores import AlreadyThere, Changed, Folder, StoreDown, StoreError
from pipeline.storage.shared_lake import SharedLake
from tests.support.stage_runs import make_run

SPEC = lake.Spec(StageCall(StageName.CLEAN), "2_clean", 1, {"a": 1})
LATER = lake.Spec(StageCall(StageName.ENCODE), "3_encode", 1, {"b": 1})


class Homes:
    """Homes below a folder, with one lake."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "shared"

    def run(self, name: str) -> Run:
        """A night of a home, open."""
        found = make_run(self.folder / name, lake={"url": f"file://{self.root}"})
        home_identity.settle(found.home)
        return found

    def keys(self) -> list[str]:
        """Everything in the lake."""
        return sorted(Folder(self.root).entries())

    def manifest(self) -> Path:
        """The one manifest in the lake."""
        (found,) = self.root.glob("three/2_clean/*/manifest.json")
        return found

    def stored(self, name: str = "a.txt") -> Path:
        """The one file of that name that its manifest names."""
        return self.manifest().parent / json.loads(self.manifest().read_text())["token"] / name


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


def writer(text: str, calls: list[str] | None = None) -> Callable[[Path], lake.StageResult]:
    def write(folder: Path) -> lake.StageResult:
        if calls is not None:
            calls.append(text)
        (folder / "deep").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "deep" / "b.bin").write_bytes(text.encode() * 3)
        return lake.StageResult(3, 2, {"kept": 2}, {"place": str(folder.parent / "x"), "text": text})

    return write


def warnings(run: Run) -> list[str]:
    return [line for line in journal.notes(run.home, run.dataset, run.run_id) if line.startswith("warning")]


def test_a_second_home_fetches_what_the_first_one_made(homes: Homes):
    one, two, calls = homes.run("one"), homes.run("two"), list[str]()
    first = lake.build(one, SPEC, writer("one", calls))
    after = lake.Spec(LATER.call, LATER.layer, 1, {}, (first,))
    lake.build(one, after, writer("later", calls))
    second = lake.build(two, SPEC, writer("two", calls))
    later = lake.build(two, lake.Spec(LATER.call, LATER.layer, 1, {}, (second,)), writer("two", calls))
    assert calls == ["one", "later"] and lake.is_complete(second) and lake.is_complete(later)
    assert (second / "deep" / "b.bin").read_bytes() == b"oneoneone"
    assert lake.info(second) == {"place": str(second.parent / "x"), "text": "one"}, "paths are those of this home"
    assert lake.read_manifest(later)["parents"] == [str(second)]
    assert lake.read_manifest(first) == {**lake.read_manifest(first), "parents": []}
    texts = [path.read_text() for path in homes.root.rglob("*.json")]
    assert not [text for text in texts if str(one.home.root) in text]
    before = homes.keys()
    lake.build(one, SPEC, writer("again", calls))
    lake.build(two, SPEC, writer("again", calls))
    assert len(calls) == 2 and homes.keys() == before and warnings(one) == warnings(two) == []


def test_without_a_url_nothing_is_shared_and_replays_make_everything_again(homes: Homes):
    calls = list[str]()
    lake.build(homes.run("one"), SPEC, writer("one", calls))
    plain = make_run(homes.folder / "plain")
    lake.build(plain, SPEC, writer("plain", calls))
    replay = homes.run("replay")
    lake.build(replay.model_copy(update={"as_of": replay.started_at}), SPEC, writer("replay", calls))
    own = lake.Spec(SPEC.call, SPEC.layer, 1, {"own": 1}, private=True)
    before = homes.keys()
    lake.build(homes.run("two"), own, writer("private", calls))
    assert calls == ["one", "plain", "replay", "private"] and homes.keys() == before


def test_what_was_made_without_a_lake_is_put_there_later(homes: Homes):
    alone = make_run(homes.folder / "one")
    home_identity.settle(alone.home)
    lake.build(alone, SPEC, writer("one"))
    shared = alone.model_copy(update={"settings": homes.run("x").settings})
    calls = list[str]()
    lake.build(shared, SPEC, writer("again", calls))
    lake.build(homes.run("two"), SPEC, writer("two", calls))
    assert calls == []


def test_of_two_writers_the_first_counts_and_the_other_says_so(homes: Homes):
    one, two = homes.run("one"), homes.run("two")

    def write_late(folder: Path) -> lake.StageResult:
        lake.build(one, SPEC, writer("first"))  # while this one is being made
        return writer("second")(folder)

    folder = lake.build(two, SPEC, write_late)
    assert (folder / "a.txt").read_text() == "first" and lake.is_complete(folder)
    assert ["differs from the one made here, in a.txt, deep/b.bin" in line for line in warnings(two)] == [True]
    assert not list(folder.parent.glob(".*")) and warnings(one) == []
    three = homes.run("three")

    def write_same(folder: Path) -> lake.StageResult:
        lake.build(one, LATER, writer("same"))
        return writer("same")(folder)

    lake.build(three, LATER, write_same)
    assert warnings(three) == []


def test_many_writers_at_once_end_with_one_result(homes: Homes):
    runs = [homes.run(f"home{number}") for number in range(6)]
    barrier, folders = threading.Barrier(len(runs)), dict[str, str]()

    def make(run: Run) -> None:
        def write(folder: Path) -> lake.StageResult:
            barrier.wait(10)
            return writer(run.home.root.name)(folder)

        folders[run.home.root.name] = (lake.build(run, SPEC, write) / "a.txt").read_text()

    threads = [threading.Thread(target=make, args=(run,)) for run in runs]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(folders) == len(runs) and len(set(folders.values())) == 1
    assert len(homes.keys()) == 3, "files of the others are removed"


@pytest.mark.parametrize("point", [*OF_SHARED_LAKE, "lake:mid_upload:2", "lake:mid_fetch:2"])
def test_whatever_ends_a_night_the_next_one_is_whole(homes: Homes, point: str):
    """An error, as a kill at each point: test_a_kill_leaves_no_half_result does that in a process."""
    place, _, visit = point.removeprefix("lake:").partition(":")
    one, two, calls = homes.run("one"), homes.run("two"), list[str]()
    fetches = place in ("mid_fetch", "before_place")
    if fetches:
        lake.build(one, SPEC, writer("same"))
    with planted(f"lake:{place}:error{f'@{visit}' if visit else ''}"), pytest.raises(Planted):
        lake.build(two if fetches else one, SPEC, writer("same", calls))
    complete = [path for path in homes.root.glob("three/*/*/manifest.json")]
    assert len(complete) == (fetches or place == "after_shared_manifest")
    for run in (two, one):
        folder = lake.build(run, SPEC, writer("same", calls))
        assert lake.is_complete(folder) and (folder / "a.txt").read_text() == "same"
    assert warnings(one) == warnings(two) == [] and homes.manifest().exists()


@pytest.mark.process
@pytest.mark.parametrize("point", ["lake:mid_upload", "lake:after_shared_manifest", "lake:mid_fetch"])
def test_a_kill_leaves_no_half_result(homes: Homes, point: str):
    calls = list[str]()
    if point == "lake:mid_fetch":
        lake.build(homes.run("zero"), SPEC, writer("one"))
    code = (
        "import sys; from pathlib import Path; from tests.storage import test_shared_lake as t; "
        "t.lake.build(t.Homes(Path(sys.argv[1])).run('one'), t.SPEC, t.writer('one'))"
    )
    environment = {**os.environ, "NIGHTRECS_FAULT": f"{point}:kill", "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, "-c", code, str(homes.folder)]
    done = subprocess.run(words, env=environment, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal_of_one = homes.folder / "one" / "warehouse" / "journal" / "three" / "r1"
    journal_of_one.rename(journal_of_one.with_name("r0"))
    one = homes.run("one")
    lake.remove_leftovers(one.home, one.dataset)
    folder = lake.build(one, SPEC, writer("one", calls))
    assert lake.is_complete(folder) and homes.stored().read_text() == "one" and calls == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_there_is_noticed_and_mended(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    homes = Homes(tmp_path_factory.mktemp("homes"))
    lake.build(homes.run("one"), SPEC, writer("one"))
    path = data.draw(st.sampled_from([homes.manifest(), homes.stored(), homes.stored("deep/b.bin")]))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "empty", "gone"])):
        case "flip":
            path.write_bytes(
                content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :]
            )
        case "cut":
            path.write_bytes(content[:at])
        case "empty":
            path.write_bytes(b"")
        case _:
            path.unlink()
    calls = list[str]()
    two = homes.run("two")
    folder = lake.build(two, SPEC, writer("one", calls))
    assert lake.is_complete(folder) and (folder / "deep" / "b.bin").read_text() == "oneoneone"
    assert calls == ["one"], "what is damaged is never used"
    three = homes.run("three")
    assert lake.is_complete(lake.build(three, SPEC, writer("three", calls))) and calls == ["one"]


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "", "manifest.json"])
def test_a_manifest_there_never_leads_out_of_its_folder(homes: Homes, name: str):
    lake.build(homes.run("one"), SPEC, writer("one"))
    content = json.loads(homes.manifest().read_text())
    del content["own_hash"]
    for changed in ({"files": {name: "0" * 64}}, {"token": name}):
        homes.manifest().write_text(
            json.dumps({**content, **changed, "own_hash": shared_lake._hash({**content, **changed})})
        )
        two = homes.run(f"two{len(changed)}{'files' in changed}")
        calls = list[str]()
        lake.build(two, SPEC, writer("one", calls))
        assert calls == ["one"]
    assert not (homes.folder / "out.txt").exists()


def test_a_lake_that_does_not_answer_ends_the_night_and_what_was_made_stays(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
):
    one, calls, tries = homes.run("one"), list[str](), list[str]()
    monkeypatch.setattr(shared_lake, "PAUSES", (0.0, 0.0))
    plain = Folder.put

    def down(store: Folder, key: str, path: Path) -> None:
        tries.append(key)
        raise StoreDown("no answer from key AKIA")

    monkeypatch.setattr(Folder, "put", down)
    with pytest.raises(LakeDown, match=r"file://.*no answer.*run again when it answers"):
        lake.build(one, SPEC, writer("one", calls))
    assert len(tries) == 3
    monkeypatch.setattr(Folder, "put", plain)
    lake.build(one, SPEC, writer("one", calls))
    assert calls == ["one"] and homes.stored().read_text() == "one"


def test_a_place_that_can_not_be_written_or_has_no_conditional_put_is_named_before_the_night(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
):
    run = homes.run("one")
    shared = SharedLake(run.home, run.dataset, run.settings.lake)
    assert "only if absent" in shared.probe() and homes.keys() == []
    monkeypatch.setattr(
        Folder, "create", lambda store, key, content: store.swap(key, content, (store.read(key) or ("", None))[1])
    )
    with pytest.raises(StoreError, match="ignores `If-None-Match`"):
        shared.probe()
    assert homes.keys() == []
    (homes.folder / "file").touch()
    wrong = SharedLake(run.home, run.dataset, Lake(url=f"file://{homes.folder}/file"))
    with pytest.raises(UnreadableInput, match=r"lake.url file://.*nightrecs doctor.*lake.url=none"):
        wrong.check()


def test_homes_agree_on_users_who_are_forgotten(homes: Homes):
    one, two = homes.run("one"), homes.run("two")
    shared = [SharedLake(run.home, run.dataset, run.settings.lake) for run in (one, two)]
    listed = forgotten_users.add(one.home, "three", "ann")
    assert shared_homes.agree_on_forgotten(shared[0]) is None
    folder = lake.build(two, SPEC, writer("two"))
    assert lake.is_complete(folder) and not list(homes.root.glob("three/2_clean/*/*")), "two does not know of ann yet"
    assert "1 users were forgotten in another home" in (shared_homes.agree_on_forgotten(shared[1]) or "")
    assert forgotten_users.read(two.home, "three") == listed
    lake.build(two, SPEC, writer("two"))
    assert homes.manifest().exists()
    forgotten_users.add(two.home, "three", "bob")
    assert shared_homes.agree_on_forgotten(shared[1]) is None and shared_homes.agree_on_forgotten(shared[0])
    assert forgotten_users.read(one.home, "three") == forgotten_users.read(two.home, "three")
    assert not [path for path in homes.root.rglob("*") if path.is_file() and b"ann" in path.read_bytes()]
    third = homes.run("third")
    forgotten_users.add(third.home, "three", "cid")
    with pytest.raises(StoreError, match="forgotten users separately"):
        shared_homes.agree_on_forgotten(SharedLake(third.home, "three", third.settings.lake))


def test_files_of_a_folder_are_made_once_and_swapped_once(tmp_path: Path):
    store, wins, barrier = Folder(tmp_path), list[int](), threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait(10)
        try:
            store.create("deep/key", b"%d" % number)
            wins.append(number)
        except AlreadyThere:
            pass

    def swap(number: int, version: str) -> None:
        barrier.wait(10)
        try:
            store.swap("deep/key", b"s%d" % number, version)
            wins.append(number)
        except Changed:
            pass

    def all_at_once(action: Callable[..., None], *more: str) -> bytes:
        wins.clear()
        threads = [threading.Thread(target=action, args=(number, *more)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(10)
        assert len(wins) == 1
        found = store.read("deep/key")
        assert found
        return found[0]

    assert all_at_once(race) == b"%d" % wins[0]
    assert all_at_once(swap, (store.read("deep/key") or (b"", ""))[1]) == b"s%d" % wins[0]
    assert list(store.entries()) == ["deep/key"]


@pytest.mark.parametrize(
    "url",
    [
        "shop",
        "http://x/y",
        "s3://key:word@bucket/x",
        "s3://b",
        "file://host/x",
        "file:///",
        "file:///a/../b",
        "s3://bucket/x?y=1",
    ],
)
def test_other_urls_are_refused(url: str):
    with pytest.raises(ValueError):
        Lake(url=url)
