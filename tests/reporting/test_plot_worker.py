"""A process of its own draws: failures are reported, plots are there, and it never outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.reporting.plots import figure, worker
from pipeline.reporting.plots.night import Picture
from pipeline.reporting.plots.worker import Drawer

pytestmark = pytest.mark.process

CURVE = {"label": "mine", "family": "mf", "history": [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]}


def curve(of: dict) -> Picture:
    return Picture("training.png", figure.training_curve, {"info": of})


def test_what_can_be_drawn_is_there_and_the_rest_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pipeline.py").touch()  # of somebody who works there
    monkeypatch.chdir(tmp_path)

    def unreadable() -> list[Picture]:
        raise OSError("no such model")

    unlike_json, without_history = curve({1j: 0}), curve({"label": "no history"})
    with Drawer() as drawer:
        drawer.ask([("a", unreadable), ("b", lambda: [unlike_json]), ("c", lambda: [without_history])])
        drawer.ask([(None, lambda: [curve(CURVE)])])
        ((of, path),) = drawer.drawn()
        assert of is None and path.name == "training.png" and path.read_bytes().startswith(b"\x89PNG")
        unread, unwritten, undrawn = drawer.failed()
        assert (unread, undrawn) == ("OSError: no such model", "KeyError: 'history'") and "TypeError" in unwritten
    assert not path.exists()


def test_one_that_takes_too_long_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "PATIENCE", 0.01)  # Python itself takes longer to start
    with Drawer() as drawer:
        drawer.ask([(None, lambda: [curve(CURVE)])])
        assert not list(drawer.drawn())
        assert drawer.failed() == ["drawing ended with code -9"]


def test_a_process_that_was_killed_is_reported():
    with Drawer() as drawer:
        drawer._process.kill()
        drawer._process.wait()
        drawer.ask([(None, lambda: [curve(CURVE)])])
        assert not list(drawer.drawn())
        assert drawer.failed() == ["drawing ended with code -9"]


def test_it_ends_with_its_parent_process(tmp_path: Path):
    code = (
        "from pipeline.reporting.plots.worker import Drawer; import time\n"
        f"drawer = Drawer(); open({str(tmp_path / 'pid')!r}, 'w').write(str(drawer._process.pid)); time.sleep(60)"
    )
    asker = subprocess.Popen([sys.executable, "-c", code])
    pid = _patiently(lambda: int((tmp_path / "pid").read_text()))
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    _patiently(lambda: _ended(pid))


def _ended(pid: int) -> bool:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    return True


def _patiently(look, seconds: float = 30.0):
    until = time.monotonic() + seconds
    while True:
        try:
            return look()
        except (OSError, ValueError, pytest.fail.Exception):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
