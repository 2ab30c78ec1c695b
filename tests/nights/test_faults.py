"""The fault hook, faults that raise at every point of the line, and the cheap rows of the scorecard."""

import importlib
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from flows import conductor as line
from pipeline.core import fault_injection
from pipeline.core.errors import Refused
from pipeline.core.fault_injection import POINTS, Planted, fault, planted
from pipeline.core.filesystem import is_full
from pipeline.core.paths import CHECKOUT
from pipeline.publishing import holdback
from pipeline.storage import journal
from pipeline.tracking import server
from pipeline.training import checkpoint, loop
from tests.faults import child, plants
from tests.faults.__main__ import MODULES, attempt
from tests.faults.ground import DATASET, Ground, rows
from tests.faults.killed import AFTER_GOING_LIVE
from tests.faults.table import ROWS
from tests.faults.verdicts import plant
from tests.support.nights import without_report, without_views

RECIPE = '[split]\nkind = "leave_one_out"\n[models.popularity]\n'
CHEAP_ROWS = (6, 8, 27)
OF_A_FAMILY = ("train", "evaluate")
OF_THE_LINE = [p for p in POINTS if not re.search("search:|checkpoint|epoch", p)]
ERRORS = (
    "clean:before_manifest", "train:before_manifest", "evaluate:before_rename",
    "select:before_verdict", "export:before_manifest", "audit:after_fill",
    "publish:before_replace", "publish:before_close",
)  # fmt: skip
FULL = ("ingest:before_write", "train:before_write", "publish:before_rename", "journal:append")
"""Where the fast tests plant an error or a full disk; all points of both are among the slow ones."""
for module in MODULES:
    importlib.import_module(f"tests.faults.{module}")


def test_without_the_variable_a_point_is_nothing(monkeypatch):
    monkeypatch.delenv("NIGHTRECS_FAULT", raising=False)
    for point in POINTS:
        fault(point)
    fault_injection.check()


@pytest.mark.night
def test_the_lists_that_row_22_plants_reach_the_audit(monkeypatch, tmp_path):
    monkeypatch.setattr(holdback, "recommend", holdback.recommend)  # put back after the test
    plant("masked items")
    ground = Ground(tmp_path, RECIPE)
    ground.write(rows())
    with pytest.raises(Refused, match="nothing_seen: "):
        line.conduct(ground.prepared(), without_views)


@pytest.fixture
def a_module(monkeypatch, tmp_path) -> ModuleType:
    """A module with a function, and plants that are recorded."""
    monkeypatch.setattr(plants, "RECORDS", [])
    plants.begin(tmp_path / "record")
    module = ModuleType("a_module")
    vars(module)["double"] = lambda number: 2 * number
    return module


def test_a_plant_is_unmet_until_it_is_called(a_module, tmp_path):
    record = tmp_path / "record"
    plants.replace(a_module, "double", lambda double: lambda number: double(number) + 1, when=lambda number: number > 5)
    assert a_module.double(3) == 6 and plants.unmet(record) == ["a_module.double"]
    with pytest.raises(AssertionError, match=r"planted in vain, .*: a_module\.double"):
        child.Ended(0, "", 1.0, tuple(plants.unmet(record))).met()
    assert a_module.double(6) == 13 and plants.unmet(record) == []
    with pytest.raises(AttributeError):
        plants.replace(a_module, "halve", lambda _: abs)


def test_a_plant_reaches_those_who_copied_the_name(a_module, monkeypatch):
    from pipeline.core import run_ids
    from pipeline.experiments import stopping
    from pipeline.stages import search
    from pipeline.storage import lock

    for owner, name in ((stopping, "STALLED_AFTER"), (run_ids, "utcnow")):
        for module in [each for label, each in sys.modules.items() if label.startswith(("pipeline.", "flows."))]:
            if vars(module).get(name) is getattr(owner, name):
                monkeypatch.setattr(module, name, getattr(owner, name))  # put back after the test
    plants.set_constant(stopping, "STALLED_AFTER", 7)
    plants.replace(run_ids, "utcnow", lambda _: lambda: "now")
    assert search.STALLED_AFTER == 7 and lock.utcnow() == "now"


def test_a_constant_that_nobody_reads_is_no_plant(a_module):
    vars(a_module)["NOBODY_READS_THIS"] = 1
    with pytest.raises(AssertionError, match="nobody reads"):
        plants.set_constant(a_module, "NOBODY_READS_THIS", 2)
    with pytest.raises(AttributeError):
        plants.set_constant(loop, "NO_SUCH_SECONDS", 0.0)


def test_a_command_that_never_comes_to_its_plants_fails_its_row(tmp_path):
    words = ["--home", str(tmp_path / "home"), "datasets"]
    with pytest.raises(AssertionError, match=r"holdback\.recommend, publish:before_replace:kill"):
        child.Night(words, tmp_path / "log", "publish:before_replace:kill", before=partial(plant, "NaN")).end()


def test_rows_change_nothing_behind_the_back_of_plants():
    files = sorted((CHECKOUT / "tests" / "faults").glob("*.py"))
    assert not [place for path in files if path.name != "plants.py" for place in plants.by_hand(path)]
    assert len(list(plants.by_hand(CHECKOUT / "tests" / "faults" / "plants.py"))) == 3


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("publish:before_renam:kill", "did you mean 'publish:before_rename'"),
        ("publish:before_rename:explode", "the actions are kill, error, full"),
        ("publish:before_rename", "point:action"),
        ("publish:before_rename:kill@0", "point:action"),
        ("kill", "point:action"),
    ],
)
def test_a_fault_that_is_none_is_a_usage_error(monkeypatch, tmp_path, capsys, wanted, says):
    from flows.cli import main

    monkeypatch.setenv("NIGHTRECS_FAULT", wanted)
    assert main(["--home", str(tmp_path), "run", "--no-prefect"]) == 2
    assert says in capsys.readouterr().err


def test_a_fault_strikes_once_at_its_passing():
    with planted("clean:before_write:error@3"):
        for struck in (False, False, True, False):
            fault("clean:before_manifest")
            if not struck:
                fault("clean:before_write")
                continue
            with pytest.raises(Planted):
                fault("clean:before_write")
    with planted("clean:before_write:full"), pytest.raises(OSError) as error:
        fault("clean:before_write")
    assert is_full(error.value)
    assert not is_full(ValueError("half full"))


def test_every_point_is_in_the_code_and_the_other_way_round():
    code = "\n".join(path.read_text() for path in (CHECKOUT / "pipeline").rglob("*.py") if path.name != "faults.py")
    named = set(re.findall(r'fault\("([\w:]+)"\)', code))
    built = {
        f"{stage}:{place}"
        for stage in fault_injection.BUILT
        for place in re.findall(r'fault\(f"{stage}:(\w+)"\)', code)
    }
    assert (
        named | built
        == {
            *POINTS,
            *fault_injection.OF_FORGET,
            *fault_injection.OF_BACKUP,
            *fault_injection.OF_DELIVERY,
            *fault_injection.OF_SHARED_LAKE,
            *fault_injection.OF_FETCH,
            *fault_injection.OF_FETCH,
        }
        and len(POINTS) >= 15
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Ground, str]:
    """A home with a published night, older than the sources; and the hash that tonight has, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "USERS_URI", "http://127.0.0.1:9")
        ground = Ground(tmp_path_factory.mktemp("faults") / "base", recipe=RECIPE)
        ground.write(rows(30))
        night(ground)
        ground.write(rows(34))
        undisturbed = Ground(ground.root.parent / "undisturbed").copy_of(ground)
        night(undisturbed)
    return ground, undisturbed.record()["logical_hash"]


def night(ground: Ground) -> None:
    run = ground.prepared()
    assert line.conduct(run, without_report) == "published"


def planted_everywhere():
    for action, fast in (("error", ERRORS), ("full", FULL)):
        for point in OF_THE_LINE:
            yield pytest.param(point, action, marks=() if point in fast else pytest.mark.slow, id=f"{point}:{action}")


@pytest.mark.parametrize(("point", "action"), planted_everywhere())
def test_an_error_at_any_point_keeps_the_promise(base, tmp_path, monkeypatch, point, action):
    monkeypatch.setattr(server, "USERS_URI", "http://127.0.0.1:9")
    ground, expected = Ground(tmp_path).copy_of(base[0]), base[1]
    (old,) = ground.run_ids()
    raised: Exception | None = None
    with planted(f"{point}:{action}"):
        try:
            night(ground)
        except (Planted, OSError) as error:
            raised = error
    goes_on = point.split(":")[0] in OF_A_FAMILY and action == "error"
    if goes_on:  # a family fails alone; what is published now takes part as the incumbent
        assert raised is None and "Planted" in str(ground.record()["left_out"])
    elif point in AFTER_GOING_LIVE:  # readers have the new tables: a warning, and the exit code of a published night
        assert raised is None
        notes = journal.notes(ground.home, DATASET, ground.run_ids()[-1])
        assert any("the night's outcome stands" in note and "planted at" in note for note in notes) or (
            point == "register:before_log"  # which notes it by itself
        )
    else:
        assert isinstance(raised, Planted if action == "error" else OSError)
    live = ground.promise()
    assert live == (ground.run_ids()[-1] if point in AFTER_GOING_LIVE or goes_on else old)
    assert ground.record()["outcome"] == ("crashed" if live == old else "published")
    night(ground)
    assert ground.promise() == ground.run_ids()[-1] and ground.record()["logical_hash"] == expected


def test_a_full_disk_while_the_journal_is_closed_hides_nothing(base, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "USERS_URI", "http://127.0.0.1:9")
    ground = Ground(tmp_path).copy_of(base[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, planted("export:before_write:error"):
        patch.setattr(journal, "close_run", full)
        patch.setattr(journal, "keep_traceback", full)
        with pytest.raises(Planted):
            night(ground)
    assert ground.record()["outcome"] == "running"
    night(ground)
    assert ground.record(-2)["outcome"] == "crashed", "the next night closes it"


def test_a_signal_in_training_leaves_the_last_finished_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "USERS_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(checkpoint, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SNAPSHOT_SHARE", 1e9)  # however busy the machine is
    ground = Ground(tmp_path, recipe=RECIPE + "[models.mf]\nepochs = 6\nembedding_dim = 4\n")
    ground.write(rows(20))
    run_epoch, ran = loop.Stepper.run_epoch, []

    def ended(self, epoch: int) -> float:
        if epoch == 4 and 4 not in ran:
            ran.append(4)
            raise KeyboardInterrupt
        ran.append(epoch)
        return run_epoch(self, epoch)

    monkeypatch.setattr(loop.Stepper, "run_epoch", ended)
    with pytest.raises(KeyboardInterrupt):
        night(ground)
    (left,) = ground.home.lake("tiny").glob("5_models/.checkpoint-*")
    ran.remove(4)
    ran.append(4)
    del ran[:-1]
    night(ground)
    assert ran[1] == 4 and not left.exists(), "epochs 1 to 3 are not run again"
    resumed = ground.record()["logical_hash"]
    shutil.rmtree(ground.home.root)
    night(ground)
    assert ground.record()["logical_hash"] == resumed


@pytest.mark.parametrize("number", CHEAP_ROWS)
def test_row(tmp_path, number):
    passed, observed = attempt(ROWS[number], debug=False)
    assert passed, observed


def test_the_scorecard_has_every_row_and_tells_of_a_failure(capsys, monkeypatch):
    from tests.faults import __main__ as scorecard
    from tests.faults.table import Row

    assert sorted(ROWS) == list(range(1, 45))

    def fails(root: Path) -> str:
        raise AssertionError("a | b")

    monkeypatch.setitem(ROWS, 99, Row(99, "a fault", "is survived", fails))
    monkeypatch.setitem(ROWS, 98, Row(98, "another", "is survived", lambda root: "survived"))
    monkeypatch.setattr("sys.argv", ["faults", "--only", "98,99"])
    assert scorecard.main() == 1
    output = capsys.readouterr().out
    assert "| 99 | a fault | is survived | AssertionError: a \\| b | **NO** |" in output
    assert "| 98 | another | is survived | survived | yes |" in output and "1 of 2 rows pass" in output
    monkeypatch.setattr("sys.argv", ["faults", "--only", "98"])
    assert scorecard.main() == 0
