"""Published files that somebody changed, or holds open for writing: noticed, named, restored, and read around."""

import json
import os
import shutil

import pytest

from flows.cli import main
from pipeline.config.run import Run
from pipeline.core.errors import Held
from pipeline.core.fault_injection import Planted, planted
from pipeline.core.filesystem import is_full, sha256
from pipeline.core.paths import Home
from pipeline.maintenance import forget
from pipeline.maintenance.rollback import between_nights, roll_back
from pipeline.sources.user_traces import Person
from pipeline.storage import checksums, copying, forgotten_users, journal, lake, reader, warehouse
from pipeline.storage.generations import go_live, live_run_id, restore_live
from tests.support.small_tables import night, publish, writer


@pytest.fixture
def nights(run) -> tuple[Run, Run]:
    """Two published nights."""
    publish(run)
    journal.update_run(run, outcome="published")
    second = night(run, 2)
    publish(second)
    return run, second


def command(run: Run, *words: str) -> int:
    return main(["--home", str(run.home.root), *words])


def damage(live, how: str) -> None:
    live.chmod(0o640)
    match how:
        case "emptied":
            live.write_bytes(b"")
        case "overwritten":
            live.write_bytes(b"a,b\n1,2\n3,4\n")
        case "flipped":  # size and time as they were
            stat, data = live.stat(), bytearray(live.read_bytes())
            data[len(data) // 2] ^= 1
            live.write_bytes(data)
            os.utime(live, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        case "rows changed":
            with warehouse.connect(live) as con:
                con.execute("update recommendations set item_id = 'forged'")


def test_live_file_and_generation_are_two_files_with_one_content(nights):
    run, second = nights
    live, generation = run.home.live("tiny"), run.home.generation("tiny", second.run_id)
    assert not live.samefile(generation) and live.read_bytes() == generation.read_bytes()
    assert live.stat().st_nlink == generation.stat().st_nlink == 1
    record = checksums.read(run.home, "tiny")
    assert set(record.generations) == {run.run_id, second.run_id}
    assert record.generations[second.run_id] == [sha256(generation)] == [record.live[0].sha256]
    assert live_run_id(run.home, "tiny") == second.run_id


@pytest.mark.parametrize("how", ["emptied", "overwritten", "flipped", "rows changed"])
@pytest.mark.parametrize("by", ["command", "night"])
def test_a_changed_live_file_is_named_and_restored(nights, capsys, how, by):
    run, second = nights
    live, before = run.home.live("tiny"), run.home.live("tiny").read_bytes()
    assert command(run, "status", "tiny", "--json") == 0, capsys.readouterr()
    damage(live, how)
    capsys.readouterr()
    if how != "flipped":
        assert command(run, "sql", "tiny", "select distinct item_id from recommendations", "--json") == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == [{"item_id": "i1"}] and "reading generation" in printed.err
    assert command(run, "status", "tiny", "--json") == 3
    printed = json.loads(capsys.readouterr().out)
    assert any("tiny.duckdb was changed after it was published" in problem for problem in printed["problems"]), printed
    assert printed["live"] == second.run_id
    if by == "command":
        with between_nights(run.home, "tiny", "gc"):
            pass
        output = capsys.readouterr().err
    else:
        output = "\n".join(restore_live(run.home, "tiny", "tonight"))
    assert "was changed after it was published" in output and "restored from its generation" in output
    assert live.read_bytes() == before and live_run_id(run.home, "tiny") == second.run_id
    assert command(run, "status", "tiny", "--deep") == 0 and restore_live(run.home, "tiny") == []


def test_large_files_are_read_whole_only_where_asked(nights, monkeypatch, capsys):
    run, _ = nights
    monkeypatch.setattr(checksums, "SMALL", 0)
    with monkeypatch.context() as patch:
        patch.setattr(lake, "sha256", lambda path: pytest.fail(f"read {path}"))
        assert command(run, "status", "tiny") == 0
    damage(run.home.live("tiny"), "flipped")
    assert command(run, "status", "tiny") == 0, "size and time are as they were"
    assert command(run, "status", "tiny", "--deep") == 3
    damage(run.home.live("tiny"), "overwritten")
    assert command(run, "status", "tiny") == 3


def test_a_changed_generation_is_no_way_back(nights, capsys):
    run, second = nights
    generation = run.home.generation("tiny", run.run_id)
    damage(generation, "rows changed")
    assert command(run, "status", "tiny", "--deep") == 3
    output = capsys.readouterr().out
    assert f"{run.run_id}.duckdb was changed after it was published" in output and "`rollback` refuses it" in output
    before = run.home.live("tiny").read_bytes()
    assert command(run, "rollback", "tiny") == 3 and "was changed after it was published" in capsys.readouterr().err
    assert run.home.live("tiny").read_bytes() == before and live_run_id(run.home, "tiny") == second.run_id


def test_a_forged_log_is_reported_bypassed_and_set_aside(nights, capsys):
    run, second = nights
    live = run.home.live("tiny")
    for suffix in checksums.LOGS:
        live.with_name(live.name + suffix).write_bytes(b"forged")
    assert command(run, "status", "tiny") == 3 and "tiny.duckdb.wal is next to" in capsys.readouterr().out
    assert command(run, "sql", "tiny", "select distinct run_id from recommendations", "--json") == 0
    printed = capsys.readouterr()
    assert (
        json.loads(printed.out) == [{"run_id": second.run_id}] and f"reading generation {second.run_id}" in printed.err
    )
    output = restore_live(run.home, "tiny", "tonight")
    assert len(output) == len(checksums.LOGS) and not checksums.logs(live)
    assert len(list(live.parent.glob("*.stray-before-tonight"))) == len(checksums.LOGS)
    assert command(run, "status", "tiny") == 0


def test_while_somebody_writes_readers_get_the_generation(nights, capsys):
    run, second = nights
    live = run.home.live("tiny")
    client = writer(live)
    try:
        for words in (
            ("sql", "tiny", "from recommendations"), ("recommend", "tiny", "u1"), ("similar", "tiny", "i1"),
            ("leaderboard", "tiny"),
        ):  # fmt: skip
            assert command(run, *words, "--json") == 0
            printed = capsys.readouterr()
            assert json.loads(printed.out) and f"process {client.pid}" in printed.err
            assert f"reading generation {second.run_id}, the same night" in printed.err
        assert command(run, "status", "tiny") == 3 and f"process {client.pid}" in capsys.readouterr().out
        with pytest.raises(Held, match=f"held by process {client.pid}"):
            reader.open_file(live)
        run.home.generation("tiny", second.run_id).unlink()
        for words in (("sql", "tiny", "from recommendations"), ("recommend", "tiny", "u1"), ("leaderboard", "tiny")):
            assert command(run, *words) == 4
            output = capsys.readouterr().err
            assert (
                f"held by process {client.pid}" in output
                and "read-only" in output
                and "should not happen" not in output
            )
    finally:
        client.kill()
        client.wait()


def test_a_live_file_that_nothing_can_be_read_from(nights, capsys, monkeypatch):
    run, second = nights
    run.home.generation("tiny", second.run_id).unlink()
    monkeypatch.setenv(reader.MEMORY_LIMIT, "plenty")
    assert command(run, "sql", "tiny", "select 1") == 2 and "NIGHTRECS_MEMORY_LIMIT='plenty'" in capsys.readouterr().err
    monkeypatch.delenv(reader.MEMORY_LIMIT)
    damage(run.home.live("tiny"), "overwritten")
    for words in (("sql", "tiny", "select 1"), ("recommend", "tiny", "u1"), ("leaderboard", "tiny")):
        assert command(run, *words) == 2 and "nightrecs status tiny" in capsys.readouterr().err
    (output,) = restore_live(run.home, "tiny")
    assert "its generation is missing" in output
    publish(third := night(run, 3))
    assert live_run_id(run.home, "tiny") == third.run_id and command(run, "status", "tiny", "--deep") == 0


def test_homes_of_earlier_versions_are_understood_and_separated(nights):
    """There the live name is a hard link to its generation, and nothing is recorded."""
    run, second = nights
    live, generation = run.home.live("tiny"), run.home.generation("tiny", second.run_id)
    run.home.checksums("tiny").unlink()
    live.unlink()
    os.link(generation, live)
    assert live_run_id(run.home, "tiny") == second.run_id and checksums.live_trouble(run.home, "tiny", True) is None
    assert reader.generation_of_live(run.home, "tiny") is None
    assert command(run, "status", "tiny") == 0
    with between_nights(run.home, "tiny", "gc"):
        assert not live.samefile(generation) and live_run_id(run.home, "tiny") == second.run_id
    third = night(run, 3)
    publish(third)
    live.unlink()
    os.link(generation, live)  # rolled back by an earlier version
    assert live_run_id(run.home, "tiny") == second.run_id and checksums.live_trouble(run.home, "tiny", True) is None
    assert restore_live(run.home, "tiny") == [] and live_run_id(run.home, "tiny") == second.run_id
    assert not live.samefile(generation)
    entry = roll_back(run.home, "tiny")
    assert entry["to"] == run.run_id == live_run_id(run.home, "tiny")
    assert set(checksums.read(run.home, "tiny").generations) == {run.run_id, second.run_id, third.run_id}


@pytest.mark.parametrize("preserving", [True, False])
def test_a_copied_home_knows_its_live_night(nights, tmp_path, preserving):
    run, second = nights
    copy = shutil.copy2 if preserving else shutil.copyfile
    shutil.copytree(run.home.root, tmp_path / "copy", copy_function=copy)
    there = Home(tmp_path / "copy")
    assert live_run_id(there, "tiny") == second.run_id and checksums.live_trouble(there, "tiny") is None
    assert restore_live(there, "tiny") == [] and checksums.live_entry(there, "tiny")


def test_a_swap_that_was_cut_short_leaves_a_known_night(nights):
    run, second = nights
    for place, expected in (("before", second.run_id), ("after", run.run_id)):
        with planted(f"publish:{place}_replace:error"), pytest.raises(Planted):
            go_live(run.home, "tiny", run.run_id)
        assert len(checksums.read(run.home, "tiny").live) == 2
        assert live_run_id(run.home, "tiny") == expected and restore_live(run.home, "tiny") == []


@pytest.mark.parametrize(
    "place", ["publish:before_link", "publish:before_replace", "publish:after_replace", "os.replace"]
)
def test_a_forget_that_was_killed_leaves_the_user_nowhere_once_it_is_called_again(nights, monkeypatch, place):
    run, second = nights
    home, person = run.home, Person("u1", forgotten_users.add(run.home, "tiny", "u1"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if place == "os.replace":
            patch.setattr(forget.os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                forget.from_tables(home, "tiny", person, forget.Outcome())
        else:
            with planted(f"{place}:error"), pytest.raises(Planted):
                forget.from_tables(home, "tiny", person, forget.Outcome())
    assert restore_live(home, "tiny") == [], "neither half is taken for a changed file"
    forget.from_tables(home, "tiny", person, forget.Outcome())
    for path in (home.live("tiny"), *(home.generation("tiny", of.run_id) for of in nights)):
        with reader.open_file(path) as con:
            assert con.sql("select count(*) from users where user_id = 'u1'").fetchall() == [(0,)], path
            assert con.sql("select count(*) from users").fetchall() == [(19,)]
    record = checksums.read(home, "tiny")
    assert [len(of) for of in record.generations.values()] == [1, 1] and len(record.live) == 1
    assert record.generations[second.run_id] == [record.live[0].sha256]
    assert command(run, "status", "tiny", "--deep") == 0


def test_copies_are_independent_and_count_their_space(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x" * 100_000)
    copying.copy_file(source, target, 0o440)
    assert target.read_bytes() == source.read_bytes() and target.stat().st_mode & 0o777 == 0o440
    source.write_bytes(b"y")
    assert target.stat().st_size == 100_000
    monkeypatch.setattr(copying, "FICLONE", 0)  # as on a file system without shared blocks
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="needs 1 bytes") as full:
        copying.copy_file(source, tmp_path / "c", 0o440)
    assert is_full(full.value) and not (tmp_path / "c").exists()
