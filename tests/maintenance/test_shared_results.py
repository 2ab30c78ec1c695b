"""Homes that share a lake between nights: fetched instead of fitted, collected by need, cleared of a user."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from flows.cli.doctor import home as doctor
from flows.plan import OPEN, SHARED, Plan
from pipeline.config.publishing import Keep
from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.maintenance import forget, gc, shared_results
from pipeline.schemas import tables
from pipeline.storage import forgotten_users, home_identity, journal, lake, shared_homes
from pipeline.storage.file_stores import Folder, StoreDown
from tests.support.fetched_source import read, write_toml
from tests.support.published_nights import SECRET, Dataset, without_mlflow, without_report_file

SHARED_STAGES = ("ingest", "clean", "encode", "split", "profile", "train", "evaluate")


class Homes:
    """Homes below a folder, with one lake."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "shared"

    def night(self, name: str, run_id: str, key: str) -> Run:
        """A night of a home with one result, which names SECRET."""
        tree = {"dataset": {"name": "three"}, "models": {"popularity": {}}, "lake": {"url": f"file://{self.root}"}}
        at, chosen = self.folder / name, Settings.model_validate(tree)
        run = Run(run_id=run_id, home_root=at, data=at, settings=chosen, started_at=utcnow())
        home_identity.settle(run.home)
        journal.open_run(run)
        shared_results.begin(run, gc.needed_folders(run.home, "three"))

        def write(folder: Path) -> lake.StageResult:
            pl.DataFrame({"user_id": [SECRET, "b"], "item_id": ["x", "y"]}).write_parquet(
                folder / "interactions.parquet"
            )
            return lake.StageResult(rows_out=2)

        lake.build(run, lake.Spec(StageCall(StageName.CLEAN), "2_clean", 1, {"key": key}, head=key), write)
        journal.close_run(run, "published")
        shared_results.end(run, gc.needed_folders(run.home, "three"))
        return run

    @property
    def names(self) -> set[str]:
        """Heads of the complete results in the lake."""
        return {path.parent.name.split("-")[0] for path in self.root.glob("three/2_clean/*/manifest.json")}

    def age(self, days: float) -> None:
        """Make everything there so much older."""
        for path in self.root.rglob("*"):
            os.utime(path, (0, path.stat().st_mtime - days * shared_results.DAY))


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


def collect(run: Run, **keep: float) -> None:
    for each in gc.leftovers(run.home, "three", Keep.model_validate({"lake_nights": 1, "generations": 1, **keep})):
        each.remove()


def test_gc_keeps_what_any_home_needs_and_what_is_new(homes: Homes):
    homes.night("one", "20260101-000000", "a")
    one = homes.night("one", "20260102-000000", "b")
    two = homes.night("two", "20260103-000000", "c")
    homes.night("two", "20260104-000000", "d")
    homes.night("one", "20260105-000000", "e")
    assert homes.names == set("abcde")
    collect(one)
    assert homes.names == set("abcde"), "results are new: the other home may be about to need them"
    homes.age(2)
    shared = shared_results.current(one.home, "three")
    assert shared and [len(each.needed) for each in shared_homes.others(shared)] == [2]
    assert len(list(one.home.lake("three").glob("2_clean/*"))) == 1, "it can be fetched again"
    collect(one, lake_nights=2)
    assert homes.names == set("bcde")
    collect(one, days=3)
    assert homes.names == set("bcde")
    collect(two)
    assert homes.names == set("bde"), "what the first home needs, and said so, stays"
    path = next((homes.root / "three" / "homes").glob(f"{home_id(two)}*"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "at": "2020-01-01T00:00:00"}))
    collect(one)
    assert homes.names == {"e"} and not path.exists(), "a home that has been away for long needs nothing"


def home_id(run: Run) -> str:
    found = home_identity.read(run.home)
    assert found
    return found.id


def test_gc_removes_what_killed_nights_left(homes: Homes):
    one = homes.night("one", "20260101-000000", "a")
    two = homes.night("two", "20260102-000000", "a")
    (result,) = (homes.root / "three" / "2_clean").glob("a-*")
    whole = sorted(path for path in result.rglob("*") if path.is_file())
    mine, theirs, part = f"{home_id(one)[:8]}-1", f"{home_id(two)[:8]}-2", ".manifest.json.0123.part"
    for place in (result, result.with_name("half-0123")):
        for token in (mine, theirs):
            (place / token).mkdir(parents=True)
            (place / token / "x.parquet").write_text("half")
        (place / part).write_text("half")
    collect(one)
    assert not list(homes.root.rglob(mine)) and len(list(homes.root.rglob(theirs))) == 2, "the other may be at work"
    homes.age(2)
    collect(one)
    assert not list(homes.root.rglob(theirs)) and not list(homes.root.rglob(part))
    assert sorted(path for path in result.rglob("*") if path.is_file()) == whole


def test_a_lake_that_does_not_answer_leaves_gc_to_the_home(homes: Homes, monkeypatch: pytest.MonkeyPatch):
    one = homes.night("one", "20260101-000000", "a")
    homes.night("one", "20260102-000000", "b")
    monkeypatch.setattr(Folder, "entries", no_answer)
    collect(one)
    assert homes.names == {"a", "b"} and len(list(one.home.lake("three").glob("2_clean/*"))) == 1


def no_answer(*_: object) -> dict:
    raise StoreDown("no answer")


def test_forgetting_reaches_the_lake_or_stays_open(homes: Homes, monkeypatch: pytest.MonkeyPatch):
    run = homes.night("one", "20260101-000000", "a")
    homes.night("two", "20260101-000000", "b")
    plain = Folder.entries
    monkeypatch.setattr(Folder, "entries", no_answer)
    left = "\n".join(forget.forget(run.home, "three", SECRET).left)
    assert f"file://{homes.root}/three may name the user: no answer" in left and "could not be searched" in left
    assert str(run.home.lakes("three")) in left, "how to go on where it is gone for good"
    monkeypatch.setattr(Folder, "entries", plain)
    monkeypatch.setattr(shared_results, "forget", lambda home, dataset: 0)
    listed = forgotten_users.read(run.home, "three")
    person = forget._person(run.home, "three", SECRET, listed)
    found = shared_results.search(run.home, "three", person)
    assert len(found) == 2 and all("interactions.parquet: " in line and SECRET not in line for line in found)
    monkeypatch.undo()
    monkeypatch.setattr(Folder, "odd_key", "three//x")
    (odd,) = (line for line in shared_results.search(run.home, "three", person) if "empty part" in line)
    assert "three//x" in odd and "remove it" in odd
    monkeypatch.undo()
    assert forget.finish(run.home, "three") == [] and homes.names == set()
    assert not [path for path in homes.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_the_first_forget_of_a_home_needs_the_list_of_the_others(homes: Homes, monkeypatch: pytest.MonkeyPatch):
    one, two = homes.night("one", "20260101-000000", "a"), homes.night("two", "20260101-000000", "b")
    forget.forget(one.home, "three", "b")
    with monkeypatch.context() as patch:
        patch.setattr(shared_homes, "shared_list", no_answer)
        with pytest.raises(UnreadableInput, match="nothing was begun: no answer"):
            forget.forget(two.home, "three", SECRET)
    assert not two.home.forgotten("three").exists()
    assert forget.forget(two.home, "three", SECRET).left == []
    assert "b" in forgotten_users.read(two.home, "three")


def test_rows_of_an_incremental_source_stay_known_in_each_home(tmp_path: Path):
    toml = write_toml(tmp_path, {"files": ["*.csv"], "mode": "incremental"})
    shared = f"lake.url=file://{tmp_path}/shared"
    (tmp_path / "a.csv").write_text("u,i\nann,x\n")
    for home in ("one", "two"):
        assert len(read(toml, tmp_path / home, shared).rows) == 1
    (tmp_path / "a.csv").rename(tmp_path / "gone")
    (tmp_path / "b.csv").write_text("u,i\nbob,y\n")
    for home in ("one", "two"):
        assert [row[:2] for row in read(toml, tmp_path / home, shared).rows] == [("ann", "x"), ("bob", "y")]


@pytest.mark.night
def test_a_night_of_a_second_home_fits_nothing_and_both_forget_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    one, two = (sharing(tmp_path / name, tmp_path / "shared") for name in ("one", "two"))
    first = one.night()
    planned = {each.call.title: each.state for each in Plan(two.prepare(), "evaluate").stages}
    assert planned["ingest"] == planned["train mf"] == SHARED and planned["evaluate mf"] in (SHARED, OPEN)
    second = two.night()
    assert len(made_itself(one, first)) >= 7 and made_itself(two, second) == set()
    hashes = {journal.read_run(data.home, "tiny", i)["logical_hash"] for data, i in ((one, first), (two, second))}
    assert len(hashes) == 1
    query = "from recommendations select user_id, rank, item_id, score order by all"
    assert one.ask(query).equals(two.ask(query))
    assert [status for status, *_ in doctor.shared_lake(one.home)] == ["ok"]
    assert one.command("forget", "tiny", SECRET) == 0
    assert "shared lake: " in capsys.readouterr().out
    assert SECRET in two.ask("select user_id from users")["user_id"].to_list()
    assert two.command("status", "tiny") == 0 and "has forgotten 1 users since" in capsys.readouterr().out
    third = two.night()
    assert SECRET not in two.ask("select user_id from users")["user_id"].to_list()
    assert two.command("status", "tiny") == 0 and "has forgotten" not in capsys.readouterr().out
    assert "1 users were forgotten in another home" in "\n".join(journal.notes(two.home, "tiny", third))
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").write_text("no folder")
    words = ("run", str(one.folder / "tiny.toml"), "--recipe", str(one.folder / "cheap.toml"), "--no-prefect")
    assert [status for status, *_ in doctor.shared_lake(Home(one.home_root))] == ["fail"]
    assert one.command(*words) == 2
    assert f"lake.url file://{tmp_path}/shared/tiny" in capsys.readouterr().err
    home = Home(one.home_root)
    ended = [journal.read_run(home, "tiny", name)["outcome"] for name in journal.run_ids(home, "tiny")]
    assert ended == ["published", "crashed"], "nothing was made, and it is told"


def sharing(folder: Path, root: Path) -> Dataset:
    made = Dataset(folder)
    with (folder / "cheap.toml").open("a") as file:
        file.write(f'[lake]\nurl = "file://{root}"\n')
    made.write()
    return made


def made_itself(data: Dataset, run_id: str) -> set[str]:
    """Stages that made a result which others could have made."""
    made = journal.read(data.home, "tiny", tables.STAGES, run_id).filter(~pl.col("skipped"))["stage"]
    return {name for name in made if name.split()[0] in SHARED_STAGES}
