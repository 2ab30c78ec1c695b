"""A change of taste: `realised` sees it the day after, while the split of that night still praises the champion."""

import itertools
from pathlib import Path

import pytest

from pipeline.config.run import Run
from pipeline.evaluation.realised import DIFFERENCE
from pipeline.schemas import tables
from pipeline.storage import journal
from tests.support.taste_change import write_days
from tests.support.tastes import one_night, record

CHANGE = 40
RECIPE = "[models.ease]\nl2 = 20.0\n[models.popularity]\nwindow_days = 30\n[evaluation]\ncutoffs = [10]\n"
SETTINGS = ("split.kind=global_time", "export.top_n=10")


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Three nights, whose data end before the last day of the old taste, after it, and a day into the new one."""
    folder = tmp_path_factory.mktemp("change")
    made, first = [], 0
    for last in (CHANGE - 1, CHANGE, CHANGE + 1):
        write_days(folder / "data", first, last, CHANGE)
        made.append(one_night(folder, RECIPE, *SETTINGS))
        first = last
    return made


def realised_by(run: Run) -> dict:
    """What a night found about the lists of the night before: published minus popularity in the day after."""
    rows = journal.read(run.home, run.dataset, tables.REALISED, run.run_id)
    return rows.filter(list_source=DIFFERENCE, segment="all", metric="ndcg", cutoff=10, horizon_days=1).row(
        0, named=True
    )


def alarms(run: Run) -> int:
    checks = journal.read(run.home, run.dataset, tables.CHECKS, run.run_id)
    return checks.filter(check_name="realised_above_floor", passed=False).height


def test_realised_sees_the_change_before_a_split_does(nights: list[Run]):
    before, old, new = nights
    assert realised_by(old)["run_id"] == before.run_id and realised_by(old)["ci_low"] > 0, "the champion is good"
    assert realised_by(new)["run_id"] == old.run_id and realised_by(new)["ci_high"] < 0, "and then it is not"
    assert [alarms(run) for run in nights] == [0, 0, 1]
    compared = journal.read(new.home, new.dataset, tables.COMPARISONS, new.run_id)
    valid, test = (compared.filter(split=split, model="popularity", other="ease").row(0, named=True)
                   for split in ("valid", "test"))  # fmt: skip
    assert valid["is_real"] and valid["ci_high"] < 0, "valid of the same night still finds popularity worse"
    assert test["difference"] < 0, "and so does test"
    assert record(new)["gate"]["decision"] == "kept" and record(new)["champion"] == "ease"


def test_files_of_days_are_parts_of_one_log(tmp_path: Path):
    for name, ends in (("whole", [0, 6]), ("parts", [0, 2, 6])):
        for first, last in itertools.pairwise(ends):
            write_days(tmp_path / name, first, last, change=4, users=12)
    rows = {name: [text for file in sorted((tmp_path / name).iterdir()) for text in file.read_text().split()[1:]]
            for name in ("whole", "parts")}  # fmt: skip
    assert rows["whole"] == rows["parts"] and len(rows["whole"]) == len(set(rows["whole"]))
