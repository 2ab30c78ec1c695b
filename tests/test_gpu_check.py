"""`make gpu-check`, as far as a machine without a card can test it: a failing step does not stop the others."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.gpu import __main__ as check
from tests.benchmarks.gpu.steps import DEVICE_TESTS, ML1M, STEPS, Step, drawn, evaluation

CPU = torch.device("cpu")
MARK = "@pytest.mark" + ".device\n"


def steps(monkeypatch: pytest.MonkeyPatch, **runs: Any) -> None:
    for name, run in runs.items():
        monkeypatch.setitem(STEPS, name, Step(run, seconds=1))


def broken(message: str) -> Any:
    def run(device: torch.device, small: bool) -> dict[str, Any]:
        raise RuntimeError(message)

    return run


def test_a_step_that_raises_is_noted_and_the_next_one_runs(monkeypatch, capsys):
    steps(monkeypatch, bad=broken("no luck"), good=lambda device, small: {"value": 1})
    check.work(["bad", "good"], "cpu", True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == {"end": "bad", "found": {"failed": "RuntimeError: no luck"}}
    assert lines[3] == {"end": "good", "found": {"value": 1}}


def test_a_lost_device_ends_the_process_of_the_steps(monkeypatch, capsys):
    steps(monkeypatch, bad=broken("CUDA error: an illegal memory access"), good=lambda device, small: {})
    check.work(["bad", "good"], "cpu", True)
    assert '"good"' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "failed"),
    [("time.sleep(60)", "not done within 1 s"), ("sys.exit(3)", "the process ended with 3"), ("pass", "ended with 0")],
)
def test_a_step_that_hangs_or_dies_is_noted_and_earlier_results_are_kept(monkeypatch, end, failed):
    steps(monkeypatch, first=None, second=None)
    lines = ({"begin": "first"}, {"end": "first", "found": {"value": 1}}, {"begin": "second"})
    script = "import sys, time\n" + "".join(f"print('{json.dumps(line)}', flush=True)\n" for line in lines) + end
    kept: dict[str, Any] = {}
    check.supervise([sys.executable, "-c", script], ["first", "second"], kept.__setitem__)
    assert kept["first"] == {"value": 1} and failed in kept["second"]["failed"]


def test_the_tables_show_fits_with_their_steps_and_everything_else():
    fit = {"rows_a_second": 1234567.0, "epoch_s": 0.5, "busy": 0.91234}
    text = check.markdown({"machine": {"card": "X"}, "steps": {"mf": fit, "lists": {"failed": "no"}}})
    assert "| mf | 1,234,567 | 0.5 |" in text and "| 0.912 |" in text and "| lists | failed no |" in text


def test_device_tests_are_where_they_are_looked_for():
    root = Path(check.__file__).parents[3]
    marked = {str(path.relative_to(root)) for path in root.glob("tests/**/test_*.py") if MARK in path.read_text()}
    elsewhere = {"tests/cli/test_doctor.py", "tests/training/test_distributed.py"}  # need mlflow, two cards
    assert set(DEVICE_TESTS) == marked - elsewhere


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu-check"])
    assert check.main() == 2 and "sees no CUDA device" in capsys.readouterr().out


def test_drawn_rows_are_distinct_and_ordered_by_user_then_time():
    rows = drawn((400, 300, 5000), CPU, small=False)
    pairs = rows.users * rows.n_items + rows.items
    assert len(pairs.unique()) == len(rows) == 5000 and rows.timestamps is not None
    same = rows.users[1:] == rows.users[:-1]
    assert (rows.users.diff() >= 0).all() and (rows.timestamps.diff()[same] >= 0).all()


def test_a_step_on_little_data():
    found = evaluation(ML1M)(CPU, True)
    assert found["records"] == 171 and found["records_s"] > 0
