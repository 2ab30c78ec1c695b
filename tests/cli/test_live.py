"""What a terminal shows of a running night, what is left of it there, and that everybody else gets plain lines."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.live import Count, LiveLine, clock
from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.paths import CHECKOUT
from pipeline.storage import journal
from tests.support.published_nights import Dataset, without_mlflow
from tests.support.signals import default_signals

pytestmark = pytest.mark.usefixtures("lean_nights")
LONG = '[split]\nkind = "leave_one_out"\n[models.mf]\nembedding_dim = 4\nepochs = 100000\npatience = 100000\n'
SEARCHED = (
    '[split]\nkind = "leave_one_out"\n[models.mf]\nepochs = 15\nbatch_size = 2\n[models.mf.search]\nl2 = [0.1, 0.2]\n'
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    without_mlflow(monkeypatch)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    made = Dataset(tmp_path / "d")
    made.write()
    return made


def words_of(data: Dataset) -> list[str]:
    toml, recipe = (str(data.folder / name) for name in ("tiny.toml", "cheap.toml"))
    return ["run", toml, "--recipe", recipe, "--no-prefect", "--set", "threads=1"]


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> str:
    """All output to the terminal that stderr was during the action."""
    ours, theirs = pty.openpty()
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.extend(read_all(ours)))
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
        patch.setattr(sys, "stderr", terminal)
        action()
    reader.join(20)
    os.close(ours)
    return b"".join(output).decode()


def read_all(descriptor: int):
    """Until nobody has the other end open."""
    while True:
        try:
            yield os.read(descriptor, 65536)
        except OSError:
            return


def screen(output: str) -> list[str]:
    """The lines a terminal shows in the end. Knows what a live line needs, and nothing that could leave garbage."""
    lines, row, column = [""], 0, 0
    for found in re.finditer(r"\x1b\[(\d*)(?:;\d+)*([A-Za-z])|[\r\n]|[^\x1b\r\n]+|\x1b", output):
        text, (number, what) = found[0], found.groups()
        if text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text == "\r":
            column = 0
        elif what == "A":
            row -= int(number or 1)
        elif what == "K":
            assert number == "2", text
            lines[row] = ""
        elif text.startswith("\x1b"):
            assert what == "m", f"unknown to this terminal: {text!r}"
        else:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def without_times(lines: list[str]) -> list[str]:
    """Two nights differ in their times, ids and homes."""
    lines = [re.sub(r"\d{8}T\S+", "NIGHT", line) for line in lines if line.strip()]
    return [
        re.sub(r" +\d+\.\d s$", " TIME", re.sub(r"/\S+", "PATH", re.sub(r", \d+\.\d s$", "", line))) for line in lines
    ]


def test_a_terminal_shows_stages_and_epochs_and_keeps_the_plain_lines(data: Dataset, monkeypatch, capsys):
    from pipeline.stages import train  # imports torch

    monkeypatch.setattr(train, "SECONDS_BETWEEN_LINES", 1e9)  # however busy the machine is
    (data.folder / "cheap.toml").write_text(SEARCHED)
    output = at_a_terminal(monkeypatch, lambda: data.command(*words_of(data)))
    assert not capsys.readouterr().out
    for stage in ("ingest", "clean", "profile", "evaluate mf", "publish"):
        assert re.search(rf"\x1b\[1m{stage} +\x1b\[0m [^\r]*0:0\d", output), stage
    assert re.search(r"epoch \d+/15.*loss \d.*valid \d.*168 rows.*[\d,]+ rows/s", output)
    assert re.search(r"trial [12]/2.*epoch \d+/15.*left", output)
    second = Dataset(data.folder.parent / "again")
    second.write()
    (second.folder / "cheap.toml").write_text(SEARCHED)
    assert second.command(*words_of(second)) == 0
    plain = capsys.readouterr().err
    assert "\x1b" not in plain and "\r" not in plain
    assert without_times(screen(output)) == without_times(plain.splitlines())
    assert screen(output)[-2].endswith("recommend tiny u00")


def test_without_colour_there_is_progress_and_dumb_terminals_get_lines(data: Dataset, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    output = at_a_terminal(monkeypatch, lambda: data.command(*words_of(data), "--until", "train"))
    assert "epoch 1/1" in output and not re.search(r"\x1b\[[\d;]*3\dm|38;5", output)
    monkeypatch.setenv("TERM", "dumb")
    output = at_a_terminal(monkeypatch, lambda: data.command(*words_of(data), "--until", "train"))
    assert "train mf" in output and "\x1b" not in output and "epoch" not in output


def test_json_has_no_live_line(data: Dataset, monkeypatch, capsys):
    output = at_a_terminal(monkeypatch, lambda: data.command(*words_of(data), "--json"))
    assert "train mf" in output and "\x1b" not in output
    assert json.loads(capsys.readouterr().out)["outcome"] == "published"


def test_rich_is_not_even_imported_without_a_terminal(data: Dataset):
    code = f"import sys, flows.cli; flows.cli.main({['--home', str(data.home_root), *words_of(data)]!r} + "
    code += "['--until', 'ingest']); sys.exit('rich' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_whatever_ends_it_leaves_the_terminal_as_it_was(data: Dataset, number: int, code: int):
    (data.folder / "cheap.toml").write_text(LONG)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "--home", str(data.home_root), *words_of(data)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=theirs, preexec_fn=default_signals)
    os.close(theirs)
    output, sent = "", False
    for part in read_all(ours):
        output += part.decode()
        if not sent and re.search(r"epoch \d{2,}/100000", output):
            process.send_signal(number)
            sent = True
    os.close(ours)
    assert process.wait(60) == code
    assert "\x1b[?" not in output, (
        "no mode of the terminal is touched, not even the cursor: a kill could not put it back"
    )
    if number != signal.SIGKILL:
        last = [line for line in screen(output) if line]
        assert not [line for line in last if "epoch" in line] and last[-1].startswith("nightrecs: "), last[-3:]


def test_an_error_takes_the_line_away(run: Run, monkeypatch, data: Dataset):
    line = LiveLine(Console(file=io.StringIO(), force_terminal=True, width=120))
    with pytest.raises(ZeroDivisionError), progress.listening(line), journal.stage(run, "clean"):
        assert line.live
        raise ZeroDivisionError
    assert line.live is None and not progress.listener().shows_epochs


# ── the words of the line ──


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch):
    """A line without a terminal, and its clock."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made = LiveLine(Console(file=io.StringIO(), width=120))
    made.stage, made.began = "train mf", 100.0
    return made, now


def test_time_left_is_by_the_last_units(line):
    made, now = line
    for epoch in range(1, 5):
        now[0] += 2
        made.advance("epoch", epoch, 10, {"loss": 0.5}, epoch * 1000)
    now[0] += 1
    assert list(made.words(now[0])) == ["0:09", "epoch 4/10", "~0:11 left", "loss 0.5", "4,000 rows", "500 rows/s"]
    for epoch in range(5, 20):  # it becomes slow: the first ones don't count any more
        now[0] += 30
        made.advance("epoch", epoch, None)
    assert "left" not in " ".join(made.words(now[0]))
    made.advance("epoch", 20, 22)
    assert made.counts["epoch"].left(now[0]) == pytest.approx(2 * 30, rel=0.2)


def test_a_fit_that_goes_on_is_not_thought_fast(line):
    made, now = line
    made.advance("trial", 0, 20)
    now[0] += 5
    made.advance("trial", 13, 20)  # twelve of them were of another night
    assert made.counts["trial"].left(now[0]) == 7 * 5


def test_an_inner_unit_restarts_with_the_outer_one(line):
    made, now = line
    made.advance("trial", 0, 3)
    for trial in range(1, 3):
        for epoch in range(1, 5):
            now[0] += 1
            made.advance("epoch", epoch, 4)
        assert "epoch 4/4" in list(made.words(now[0]))
        made.advance("trial", trial, 3, {"rmse": 1 / 3})
        assert list(made.words(now[0])) == [f"0:0{4 * trial}", f"trial {trial}/3", f"~0:0{12 - 4 * trial} left",
                                            "rmse 0.3333"]  # fmt: skip
    now[0] += 1
    made.advance("epoch", 1, 4)
    assert made.counts["epoch"].left(now[0]) == 3


def test_what_is_not_known_is_not_shown(line):
    made, now = line
    assert list(made.words(now[0])) == ["0:00"]
    made.advance("file", 1, None)
    assert list(made.words(now[0])) == ["0:00", "file 1"]
    assert Count(1, 5, {}).left(now[0]) is None
    assert [clock(seconds) for seconds in (0.9, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
