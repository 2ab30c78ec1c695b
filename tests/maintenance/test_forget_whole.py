"""`forget` leaves nothing: on homes made by hand, with odd ids, delimiters and nights, and an own search after it."""

import gzip
import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from pipeline.core import fault_injection
from pipeline.core.filesystem import delete
from pipeline.core.paths import CHECKOUT, Home
from pipeline.maintenance import forget, trace_decoders
from pipeline.schemas import tables
from pipeline.storage import forgotten_users, journal, warehouse
from pipeline.storage.generations import live_run_id
from tests.support.small_home import NIGHTS, OF_USERS, OLD, PUBLISHED, USER, Small, command, still_names

pytestmark = pytest.mark.night


IDS = st.text("ab19'\"\\,;^|:~é🎬 %<&-_.", min_size=16, max_size=26).filter(
    lambda text: text == text.strip() and len(set(text)) > 4 and any(letter.isalnum() for letter in text)
)
DELIMITERS = [",", "^", "::", "|", ";", "\t", "~~~~", "§", " "]


@pytest.mark.parametrize("examples", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_nothing_names_the_user_and_others_are_as_they_were(examples: int):
    @settings(max_examples=examples, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    @given(user=IDS, delimiter=st.sampled_from(DELIMITERS), quote=st.sampled_from(['"', "'", ""]), data=st.data())
    @example(user='it\'s "quoted", and ^ long', delimiter="^", quote="", data=None)
    def holds(user, delimiter, quote, data):
        leaves_nothing(user, delimiter, quote, data)

    holds()


def leaves_nothing(user: str, delimiter: str, quote: str, data: st.DataObject | None) -> None:
    draw = data.draw if data else (lambda strategy: [])
    others = ["u7", "other-user-000000001", f"{user}2", f"x{user}"]
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Home(Path(folder) / "home"), user, others, delimiter, quote)
        around = draw(st.lists(st.text("ab19'\"\\,;^|: é", max_size=12), max_size=4))
        small.build([delimiter.join([text, user, "3"]) for text in around])
        before = small.rows_of_others()
        assert still_names(small), "else the test looks at nothing"
        outcome = forget.forget(small.home, "tiny", user)
        assert outcome.left == []
        assert still_names(small) == []
        assert small.rows_of_others() == before
        assert live_run_id(small.home, "tiny") == PUBLISHED and not forgotten_users.pending(small.home, "tiny")


@pytest.mark.parametrize(("user", "delimiter"), [("42", "^"), ("i1", ","), ("a^b", "^"), ("it's", "::")])
def test_short_ids_are_proved_by_fields(user, delimiter):
    """An item, a count or a word may be the same; fields tell."""
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Home(Path(folder) / "home"), user, [f"{user}0", "zz"], delimiter).build([])
        before = small.rows_of_others()
        assert forget.forget(small.home, "tiny", user).left == []
        assert small.rows_of_others() == before
        for run_id in (OLD, PUBLISHED):
            with warehouse.connect(small.home.generation("tiny", run_id), read_only=True) as con:
                for table, column in OF_USERS.items():
                    where = f"{column} = $user" + (" AND kind = 'user'" if table == "biases" else "")
                    assert con.sql(f"SELECT * FROM {table} WHERE {where}", params={"user": user}).fetchall() == []
                assert con.sql("SELECT * FROM items").fetchall()[0][:2] == ("i1", "A title")
                raws = [raw for (raw,) in con.sql("SELECT raw FROM rejected_rows").fetchall()]
                assert not any(small.line(user) == raw for raw in raws) and (user == "i1" or small.line("zz") in raws)
        for run_id in NIGHTS:
            record = journal.read_run(small.home, "tiny", run_id)
            assert f"user_id {user}," not in str(record["reason"]) and user not in journal.ids_of(record).get(
                "user_id", []
            )
            assert f"user_id {user}," not in "\n".join(journal.notes(small.home, "tiny", run_id))
        with closing(sqlite3.connect(small.home.prefect / "prefect.db")) as con:
            assert con.execute("SELECT message FROM log").fetchall() == [
                ("warning: e.g. user_id (forgotten), item_id i1",)
            ]
        assert not list(small.home.warehouse.glob("*.wal*"))


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(Home(tmp_path / "home"), USER, ["u7", "other-user-000000001"], "^").build([])


PLACES = {
    "mlflow/new.bin": (b"\0\1\2 nobody knows this " + USER.encode(), True),
    "exports/list.csv": (f"user_id,item_id\n{USER},i1\n".encode(), False),
    "exports/packed.csv.gz": (gzip.compress(USER.encode()), True),
    "warehouse/tiny.note": (b"fine", False),
    "warehouse/lake/other/1_raw/a/x.txt": (USER.encode(), False),
    "mlflow/artifacts/tiny/a.safetensors": (USER.encode() + b"\0", True),
    "mlflow/artifacts/tiny/settings.json": (json.dumps({"keep_if": f"user_id <> '{USER}'"}).encode(), True),
}
"""Content of files that no code writes, and whether `forget` can't clear them."""


def test_new_places_are_searched_and_what_can_not_be_cleared_is_named(small, capsys):
    root = small.home.root
    for name, (content, _) in PLACES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    exported = root / "exports" / "list.parquet"
    pl.DataFrame({"user_id": [USER, "u7"], "note": ["x", f"like {USER}"]}).write_parquet(exported)
    assert command(small, "forget", "tiny", USER) == 3
    error = capsys.readouterr().err
    assert USER not in error and exported.name not in error
    for name, (_, left) in PLACES.items():
        assert (name in error) == left, name
    assert pl.read_parquet(exported).rows() == [("u7", f"like {forgotten_users.REDACTED}")]
    other = root / "warehouse/lake/other/1_raw/a/x.txt"
    assert other.read_text() == USER, "another data set's user"
    assert command(small, "status", "tiny") == 3
    assert "1 forget of a user not done" in capsys.readouterr().out.replace("\n", " ")
    (pending,) = forgotten_users.pending(small.home, "tiny")
    assert stat.S_IMODE(pending.path.stat().st_mode) == 0o600
    for name, (_, left) in PLACES.items():
        assert (name in " ".join(pending.left)) == left, name
        if left:
            (root / name).unlink()
    assert command(small, "gc", "tiny", "--keep-days", "1000") == 0, "the next command finishes it"
    other.unlink()
    assert not forgotten_users.pending(small.home, "tiny") and still_names(small) == []


def test_a_database_in_use_is_named(small, capsys, monkeypatch):
    monkeypatch.setattr(trace_decoders, "LOCK_SECONDS", 0.1)
    path = small.home.prefect / "prefect.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("BEGIN IMMEDIATE")
        assert command(small, "forget", "tiny", USER) == 3
    output = capsys.readouterr().err
    assert "prefect.db" in output and USER not in output
    assert command(small, "forget", "tiny", USER) == 0 and still_names(small) == []


def test_a_generation_that_can_not_be_read_is_named_and_never_goes_live(small, capsys):
    path = small.home.generation("tiny", OLD)
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:5000])
    assert command(small, "forget", "tiny", USER) == 3 and OLD in capsys.readouterr().err
    assert command(small, "rollback", "tiny", "--to", OLD) == 3
    assert live_run_id(small.home, "tiny") == PUBLISHED


KILLED = """
import json, os, sys
from pathlib import Path
from pipeline.core.paths import Home
from pipeline.maintenance import forget

children = []
for fault, root in json.loads(sys.argv[1]):
    child = os.fork()  # the imports are the expensive part, and no thread runs yet
    if not child:
        try:
            os.environ["NIGHTRECS_FAULT"] = fault
            forget.forget(Home(Path(root)), "tiny", sys.argv[2])
        finally:
            os._exit(1)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_a_killed_forget_is_finished_by_the_next_command(small, tmp_path, capsys):
    """At every point, and at the first and a later step; then rollback, which must not bring the user back."""
    points = [f"{point}:kill" for point in fault_injection.OF_FORGET] + [
        "forget:after_swap:kill@2",
        "forget:after_step:kill@4",
    ]
    kept = tmp_path / "kept"
    subprocess.run(["cp", "-a", str(small.home.root), str(kept)], check=True)
    homes = [(fault, tmp_path / f"home-{number}") for number, fault in enumerate(points)]
    for _, root in homes:
        subprocess.run(["cp", "-a", str(kept), str(root)], check=True)
    words = [sys.executable, "-c", KILLED, json.dumps([(fault, str(root)) for fault, root in homes]), USER]
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == [-9] * len(homes), done.stderr[-2000:]
    for fault, root in homes:
        other = Small(Home(root), USER, small.others)
        assert len(forgotten_users.pending(other.home, "tiny")) == 1, fault
        assert command(other, "status", "tiny") == 3 and "forget of a user not done" in capsys.readouterr().out
        assert command(other, "rollback", "tiny") == 0, fault
        assert live_run_id(other.home, "tiny") == OLD
        assert still_names(other) == [], fault
        assert not forgotten_users.pending(other.home, "tiny")
        delete(root)


def test_rollback_refuses_a_generation_that_names_somebody_who_is_being_forgotten(small, monkeypatch, capsys):
    def fails(*_):
        raise OSError("no space")

    monkeypatch.setitem(forget.STEPS, "published files", fails)
    assert command(small, "forget", "tiny", USER) == 3 and "published files: OSError" in capsys.readouterr().err
    assert command(small, "rollback", "tiny") == 3 and "still names a user" in capsys.readouterr().err
    assert live_run_id(small.home, "tiny") == PUBLISHED
    monkeypatch.undo()
    assert command(small, "rollback", "tiny") == 0 and still_names(small) == []
    assert live_run_id(small.home, "tiny") == OLD


def test_reasons_and_notes_keep_ids_apart(run):
    journal.note(run, "warning: seen: 1 bad row", {"user_id": ["u7"], "item_id": []})
    journal.close_run(run, "refused", "seen: 1 bad row", {"user_id": ["u7"]})
    record = journal.read_run(run.home, run.dataset, run.run_id)
    assert record["reason"] == "seen: 1 bad row" and record["reason_ids"] == [{"column": "user_id", "value": "u7"}]
    assert journal.read(run.home, run.dataset, tables.RUNS)["reason"].item() == "seen: 1 bad row"
    assert journal.notes(run.home, run.dataset, run.run_id) == ["warning: seen: 1 bad row"]
