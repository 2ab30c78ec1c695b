"""No damaged state file stops a command: every kind of file, every kind of damage, every command that reads at start."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from flows.cli import main
from pipeline.config.run import moment_of, new_run_id, utcnow
from pipeline.core.console import log_once
from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import DAMAGED
from pipeline.schemas import tables
from pipeline.sources import incremental
from pipeline.storage import forgotten_users, journal, lake, operation_log

pytestmark = pytest.mark.night


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].rstrip())


def no_json(path: Path) -> None:
    path.write_text("this is not JSON\n")


def of_another_type(path: Path) -> None:
    path.write_text("[1, null]\n")


def of_wrong_values(path: Path) -> None:
    """Objects of the same keys, in which nothing is what it should be."""
    whole = path.read_text()
    try:
        path.write_text(json.dumps({key: [{}] for key in json.loads(whole)}))
    except ValueError:
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        path.write_text("".join(json.dumps({key: [{}] for key in line}) + "\n" for line in lines))


def no_utf8(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{\x80}\n")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unreadable(path: Path) -> None:
    path.chmod(0)


DAMAGES: list[Callable[[Path], None]] = [
    emptied, torn, no_json, of_another_type, of_wrong_values, no_utf8, a_folder, unreadable,
]  # fmt: skip
IN_A_NIGHT = (emptied, of_wrong_values, a_folder)
"""Damages over which the fast tests run a whole night."""
OF_A_NIGHT = ("run.json", "settings.json", "metrics.jsonl", "stages.jsonl", "checks.jsonl", "notes.txt", "folders.txt")
OF_THE_HOME = ("operations", "schedule", "up", "lock", "manifest")
LOOKING = (
    ("runs", "tiny"), ("leaderboard", "tiny"), ("schedule",), ("report", "tiny"), ("gc", "tiny", "--dry-run"),
    ("recommend", "tiny", "u01"),
)  # fmt: skip
ODD = (("status", "tiny"), ("up", "--check"))
"""They exit 3 where something is not well, which some damages are."""


class Place:
    """The nights of a home and where its state files are."""

    def __init__(self, data, nights: list[str]):
        self.data, self.nights, self.home = data, nights, data.home
        at = self.home.journal("tiny")
        self.files = {name: at / nights[0] / name for name in OF_A_NIGHT}
        self.files["operations"] = self.home.operations("tiny")
        self.files["schedule"] = self.home.warehouse / "schedules" / "tiny.json"
        self.files["up"] = self.home.warehouse / "up.json"
        self.files["lock"] = self.home.lock("tiny")
        self.files["manifest"] = sorted(self.home.lake("tiny").glob("2_clean/*/manifest.json"))[0]
        operation_log.record(self.home, "tiny", "gc", removed={})
        self.files["schedule"].parent.mkdir()
        content = {"name": "tiny", "dataset": "tiny.toml", "cron": "0 3 * * *"}
        self.files["schedule"].write_text(json.dumps(content))
        self.files["up"].write_text(json.dumps({"pid": 2**22 + 1, "urls": {}}))
        for name in ("notes.txt", "folders.txt"):
            with self.files[name].open("a") as file:
                file.write("one\ntwo\n")
        for path in self.files.values():
            assert path.is_file(), path

    def says(self, *words: str) -> tuple[int, str]:
        log_once.cache_clear()
        err = io.StringIO()
        with redirect_stderr(err), redirect_stdout(io.StringIO()):
            code = self.data.command(*words)
        return code, err.getvalue()

    @contextmanager
    def damaged(self, path: Path, damage: Callable[[Path], None]) -> Iterator[None]:
        """As it was afterwards, whatever the command did to it."""
        kept = path.read_bytes()
        damage(path)
        try:
            yield
        finally:
            for aside in path.parent.glob(f"{path.name}{DAMAGED}*"):
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(kept)


@pytest.fixture(scope="module")
def place(_four_nights, tmp_path_factory) -> Place:
    from tests.support.published_nights import copied

    data, nights = _four_nights
    return Place(copied(data, tmp_path_factory.mktemp("bad") / "four"), list(nights))


def all_pairs():
    """Each file with each damage; every damage and every file is among the fast ones."""
    for row, kind in enumerate([*OF_A_NIGHT, *OF_THE_HOME]):
        for column, damage in enumerate(DAMAGES):
            fast = kind == "run.json" or (row + column) % len(DAMAGES) == 0
            yield pytest.param(kind, damage, marks=() if fast else pytest.mark.slow, id=f"{kind}-{damage.__name__}")


@pytest.mark.parametrize(("kind", "damage"), all_pairs())
def test_no_damage_stops_a_command_that_looks(place: Place, kind: str, damage):
    path = place.files[kind]
    for words in (*LOOKING, *ODD):
        with place.damaged(path, damage):
            code, output = place.says(*words)
        assert code in ((0, 3) if words in ODD else (0,)), (words, code, output)
        assert "Traceback" not in output and "This should not happen" not in output, (words, output)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not unreadable], ids=lambda damage: damage.__name__)
def test_a_damaged_night_is_named_once_and_set_aside_by_who_holds_the_lock(place: Place, damage):
    path = place.files["run.json"]
    with place.damaged(path, damage):
        assert str(path) in place.says("status", "tiny")[1]
        code, output = place.says("gc", "tiny")
        assert code == 0 and output.count("left out") == 1 == output.count("set aside as run.json.damaged"), output
        assert str(path) not in place.says("gc", "tiny")[1], "it was reported before"
        assert len(journal.run_ids(place.home, "tiny")) == len(place.nights) - 1


@pytest.mark.parametrize(
    "damage",
    [pytest.param(d, marks=() if d in IN_A_NIGHT else pytest.mark.slow, id=d.__name__) for d in DAMAGES],
)
def test_night_rollback_and_gc_over_a_home_of_damaged_files(four_nights, damage, monkeypatch):
    place = Place(*four_nights)
    for name, path in place.files.items():
        if name != "lock" or damage is not a_folder:  # a night's own lock is made again
            damage(path)
    for stray in ("old", "99991231T235959.999Z-ffff", "20260101T000000.000Z-aaaa.bak"):
        shutil.copytree(place.home.journal("tiny") / place.nights[1], place.home.journal("tiny") / stray)
    late = place.home.journal("tiny") / "99991231T235959.999Z-ffff" / "run.json"
    late.write_text(late.read_text().replace(place.nights[1], "99991231T235959.999Z-ffff"))
    log_once.cache_clear()
    night = place.data.night("models.mf.epochs=2")
    assert place.data.live_night() == night and night > place.nights[-1]
    assert place.says("rollback", "tiny")[0] == 0 and place.data.live_night() == place.nights[-1]
    assert place.says("gc", "tiny")[0] == 0
    assert place.data.ask("select count(*) n from runs")["n"].item() >= 3


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not unreadable], ids=lambda damage: damage.__name__)
def test_a_damaged_list_of_the_forgotten_refuses_the_night(place: Place, damage):
    """An empty list is not the same as a list that can't be read."""
    forgotten_users.add(place.home, "tiny", "u01")
    path, before = place.home.forgotten("tiny"), place.nights
    words = ["run", str(place.data.folder / "tiny.toml"), "--recipe", str(place.data.folder / "cheap.toml")]
    with place.damaged(path, damage):
        for command in ([*words, "--no-prefect"], ["forget", "tiny", "u02"]):
            code, output = place.says(*command)
            assert code == 2 and str(path) in output and "backup" in output, (code, output)
        assert "the next night will not run" in json.dumps(health(place))
        assert place.says("runs", "tiny")[0] == 0
    *_, last = ids = journal.run_ids(place.home, "tiny")
    assert journal.read_run(place.home, "tiny", last)["outcome"] == "crashed" and set(before) < set(ids)
    assert "u01" in forgotten_users.read(place.home, "tiny")
    path.unlink()


def health(place: Place) -> dict:
    from flows.cli.status import health

    return health(place.home, "tiny", place.nights[-1])


@pytest.mark.parametrize("name", ["seen.json", "waiting.json"])
@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not unreadable], ids=lambda damage: damage.__name__)
def test_a_damaged_list_of_files_that_were_read_is_not_an_empty_one(tmp_path, damage, name):
    incremental.write_seen(tmp_path, {"0" * 64: "a.csv", "1" * 64: "b.csv"}, {})
    if name == "seen.json":
        incremental.judge(tmp_path, is_refused=False)
    damage(incremental.folder(tmp_path) / name)
    with pytest.raises(UnreadableInput, match=f"{name} is damaged"):
        incremental.read_seen(tmp_path)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not unreadable], ids=lambda damage: damage.__name__)
def test_a_damaged_result_of_the_lake_is_none(place: Place, damage):
    path = place.files["manifest"]
    assert lake.is_complete(path.parent)
    with place.damaged(path, damage):
        assert not lake.is_complete(path.parent)
    assert lake.is_complete(path.parent)


@pytest.mark.parametrize("damage", [no_json, of_another_type, no_utf8, a_folder], ids=lambda damage: damage.__name__)
def test_a_damaged_study_is_set_aside(tmp_path, damage, capsys):
    from pipeline.experiments import study
    from pipeline.experiments.space import Choices

    path = tmp_path / "study.jsonl"

    def run() -> int:
        trials, _ = study.Search(
            path, {"x": Choices([1, 2, 3])}, lambda params, report: float(params["x"]),
            lambda done: "enough" if len(done) == 2 else None, "random",
        ).run()  # fmt: skip
        return len(trials)

    assert run() == 2
    whole = path.read_bytes()
    damage(path)
    if path.is_file():
        path.write_bytes(path.read_bytes() + whole)
    assert run() == 2
    assert "set aside as study.jsonl.damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not unreadable], ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path, damage):
    import torch

    from pipeline.training import checkpoint

    model, path = torch.nn.Linear(2, 2), tmp_path / "checkpoint"
    kept = checkpoint.snapshot(model, {}, [], checkpoint.Progress(epoch=3), "me")
    checkpoint.write(path, kept)
    other = torch.nn.Linear(3, 3)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assert checkpoint.read(path, other, [], "me") is None, "of another shape"
    if damage is of_wrong_values:
        checkpoint.write(path, (kept[0], {**kept[1], "plain": "[]"}))
    else:
        damage(path)
    assert checkpoint.read(path, model, [], "me") is None
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_ids_follow_every_night_and_no_stray(run):
    now = utcnow()
    strays = ["old", "", "99991231T235959.999Z-ffff", "20269999T000000.000Z-aaaa", "x" * 300]
    first = new_run_id(now, strays)
    assert moment_of(first) and first < new_run_id(now, [first, *strays]) < "2999"
    for stray in strays[:1] + strays[2:4]:
        shutil.copytree(journal.folder(run), journal.folder(run).with_name(stray))
    assert journal.run_ids(run.home, run.dataset) == [run.run_id]
    journal.close_stale(run.home, run.dataset)
    assert journal.read(run.home, run.dataset, tables.RUNS)["run_id"].to_list() == [run.run_id]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_not_set_aside(place: Place):
    path = place.files["run.json"]
    with place.damaged(path, unreadable):
        code, output = place.says("gc", "tiny")
        assert code == 0 and str(path) in output and path.exists()


HOSTILE = ("../../other/x", "/etc/passwd", "a/b", "..", ".", "", "a b", "x\n", "é", "a" * 65, "a\x1b[31m")
COMMANDS = [
    ["sql", "NAME", "select 1"], ["recommend", "NAME", "u"], ["similar", "NAME", "i"], ["explain", "NAME", "u", "i"],
    ["leaderboard", "NAME"], ["runs", "NAME"], ["status", "NAME"], ["report", "NAME"], ["rollback", "NAME"],
    ["gc", "NAME"], ["forget", "NAME", "u"], ["schedule", "NAME", "--remove"], ["run", "NAME"],
    ["replay", "NAME", "--as-of", "2026-01-01"], ["schedule", "NAME", "--cron", "0 3 * * *"],
    ["run", "--recipe", "NAME"], ["run", "--set", "recipe='NAME'"], ["run", "--set", "dataset.name='NAME'"],
    ["run", "--set", "models.'NAME'.family='popularity'"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_a_name_is_no_path(tmp_path, capsys, command):
    """Another home's file lies where the name would lead to; nothing is read or removed there, nothing is written."""
    outside = tmp_path / "other" / "x.json"
    outside.parent.mkdir()
    for path in (outside, outside.with_suffix(".duckdb"), outside.with_suffix(".toml")):
        path.write_text("{}")
    home = tmp_path / "homes" / "mine"
    for name in HOSTILE:
        if (name, command[0]) == ("", "gc") or (command[-1] == "recipe='NAME'" and name in ("a b", "é", "a" * 65)):
            continue  # all data sets; a file's name may have blanks
        words = [word.replace("NAME", name) for word in command]
        assert main(["--home", str(home), *words]) == 2, (name, capsys.readouterr().err)
        output = capsys.readouterr()
        assert "\x1b" not in output.err + output.out and "Traceback" not in output.err
    assert outside.exists() and not (home / "warehouse").exists()
