"""A budget is used, and not exceeded, on machines and data of any size and with wrong forecasts."""

import zlib
from collections.abc import Callable

import pytest

from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import workload
from pipeline.experiments.device_speed import Speed, measured
from pipeline.experiments.workload import Shape, Work
from pipeline.models import MODELS
from tests.support.simulated_night import SimulatedNight

MACHINES = {
    "2 cores": Speed(1e11, 8e9, 6e3),
    "16 cores": Speed(8e11, 5e10, 6e3),
    "GPU": Speed(2e13, 1e12, 4e3),
}
SHAPES = {
    "ml-1m": Shape(1_000_000, 6_000, 3_700),
    "gowalla": Shape(1_027_000, 29_858, 40_981),
    "lastfm": Shape(92_000, 1_900, 17_600),
    "beauty": Shape(198_000, 22_363, 12_101),
    "20m": Shape(20_000_000, 138_000, 27_000),
}


def mixed(label: str) -> float:
    """A factor from 0.5 to 2, another one for every label."""
    return 2.0 ** (zlib.crc32(label.encode()) % 1000 / 500 - 1)


ERRORS: dict[str, Callable[[str], float]] = {
    "right": lambda label: 1.0,
    "slow": lambda label: 2.0,
    "fast": lambda label: 0.5,
    "mixed": mixed,
}
NIGHTS = [
    ("2 cores", "ml-1m", 12.0, "mixed"),
    ("2 cores", "gowalla", 30.0, "right"),
    ("2 cores", "lastfm", 12.0, "slow"),
    ("2 cores", "beauty", 8.0, "fast"),
    ("2 cores", "20m", 40.0, "slow"),
    ("16 cores", "gowalla", 12.0, "slow"),
    ("GPU", "gowalla", 2.5, "mixed"),
    ("GPU", "20m", 6.0, "slow"),
]


@pytest.mark.parametrize(("machine", "shape", "minutes", "error"), NIGHTS)
def test_most_of_the_budget_is_used_and_no_more_and_what_fits_is_not_skipped(
    tmp_path, monkeypatch, machine, shape, minutes, error
):
    night = SimulatedNight(tmp_path, minutes, SHAPES[shape], MACHINES[machine], ERRORS[error])
    used = night.run(monkeypatch)
    assert 0.85 <= used <= 1.05
    for label, (at, seconds) in night.skipped.items():
        assert seconds > 0.3 * (60 * minutes - at), f"{label} would have fitted"
    calls = [StageCall.parse(title) for title, _ in night.log]
    fits = [call.label for call in calls if call.stage is StageName.TRAIN and call.fit == "train" and not call.tuned]
    firsts = [label for label in fits if label not in ("blend", "popularity_floor")]
    seconds = {label: night.fit_seconds(label or "") / ERRORS[error](label or "") for label in firsts}
    assert [seconds[label] for label in firsts[1:]] == sorted((seconds[x] for x in firsts[1:]), key=round)
    searched = [place for place, call in enumerate(calls) if call.stage is StageName.SEARCH]
    assert not searched or min(searched) > max(place for place, call in enumerate(calls)
                                               if call.label == firsts[-1] and call.stage is StageName.TRAIN
                                               and call.fit == "train" and not call.tuned)  # fmt: skip


def test_wide_catalogs_make_ease_dear_and_few_items_make_it_cheap():
    speed = MACHINES["2 cores"]

    def seconds(family: str, shape: str) -> float:
        return speed.seconds(workload.of_fit(family, MODELS[family].Config(), SHAPES[shape]))

    assert seconds("ease", "gowalla") > 20 * seconds("ials", "gowalla")
    assert seconds("ease", "ml-1m") < seconds("ials", "ml-1m") < seconds("mf", "ml-1m") < seconds("sasrec", "ml-1m")


@pytest.mark.parametrize("family", sorted(MODELS))
def test_more_data_is_more_work_for_every_family(family):
    config, small = MODELS[family].Config(), Shape(1000, 100, 50)
    speed, large = MACHINES["2 cores"], Shape(100_000, 5_000, 2_500)
    for work in (workload.of_fit, workload.of_evaluation):
        assert 0 < speed.seconds(work(family, config, small)) < speed.seconds(work(family, config, large))


def test_the_probe_measures_this_device():
    speed = measured("cpu")
    assert min(speed.products, speed.moved, speed.steps) > 0 and measured("cpu") is speed
    assert speed.seconds(Work(2 * speed.products, speed.moved, speed.steps)) == pytest.approx(4)
