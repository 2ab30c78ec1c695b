"""A budget keeps time for refits besides the champion's: of the runner-up, and of challengers of equal quality."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import loader
from pipeline.experiments.reserve import Reserve
from pipeline.experiments.workload import Shape
from tests.support.simulated_night import Machine, SimulatedNight, Speed

HELD, STEADIER = "export.holdback.share=0.05", 'gate.prefer="steadier"'
SECONDS = {"ease": 1.0, "ials": 10.0, "mf": 100.0, "multvae": 1000.0, "popularity": 0.0}
"""A refit of each model."""
ON_VALID = {"ease": 0.5, "mf": 0.4999, "ials": 0.499, "multvae": 0.3, "popularity": 0.1}


def test_a_night_with_held_back_users_ends_in_time(tmp_path, monkeypatch):
    """The two best models are long fits; without the runner-up's part this night would be late."""
    costs = Machine(Shape(92_000, 1_900, 17_600), Speed(1e11, 8e9, 6e3), lambda label: 1.0)
    costs.metrics = {"multvae": 0.9, "sasrec": 0.89, "ials": 0.8, "ease": 0.7, "mf": 0.6}  # type: ignore[attr-defined]
    night = SimulatedNight(tmp_path, 3.0, costs, blend_quality=0.01, overrides=(HELD,))
    assert 0.85 <= night.run(monkeypatch) <= 1.05
    assert len([title for title, _ in night.log if title.endswith("on all")]) == 2


def reserve_of(*overrides: str, gated: bool = True, published: str = "popularity_floor") -> Reserve:
    """A reserve that knows these models; `published`: the label of the published configuration."""
    reserve = object.__new__(Reserve)
    settings, _ = loader.load_settings("sample", "best", list(overrides), environ={})
    reserve.run = SimpleNamespace(settings=settings, home=Path())  # type: ignore[assignment]
    reserve.known = SimpleNamespace(  # type: ignore[assignment]
        best_first=list(ON_VALID), on_valid=ON_VALID, labels=[*ON_VALID, "blend"], blends=["blend"], gated=gated,
        refit=SECONDS.__getitem__, members=lambda blend: ["ease", "mf"],
    )  # fmt: skip
    reserve.__dict__["published_label"] = published
    return reserve


@pytest.mark.parametrize(
    ("overrides", "about", "label", "seconds"),
    [
        ((), {}, "", 0.0),
        ((HELD,), {"gated": False}, "", 100.0),  # mf is second
        ((HELD,), {"gated": False}, "ials", 100.0),  # ials may win, or stay below ease and mf
        ((HELD,), {"gated": False}, "blend", 0.0),  # the best two are its members, which are refitted with it
        ((STEADIER,), {"gated": False}, "", 0.0),  # nothing is published yet
        ((STEADIER,), {}, "", 110.0),  # within 1 % of the best: mf and ials; the best one's is the champion's
        ((STEADIER,), {}, "mf", 11.0),
        ((STEADIER, HELD), {}, "", 110.0),  # the second is one of them
        ((STEADIER, "gate.margin=0.0"), {}, "", 0.0),
        ((STEADIER, "gate.margin=0.0"), {"published": "ials"}, "", 100.0),  # not worse than the published one
        ((STEADIER, "gate.margin=0.0", HELD), {}, "", 100.0),
    ],
)
def test_other_refits_are_those_that_the_gate_and_the_holdback_need(overrides, about, label, seconds):
    assert reserve_of(*overrides, **about).other_refits(label) == seconds


def test_a_published_model_that_stays_leaves_its_place_to_the_best():
    """Then the runner-up is the best of tonight, whose refit may be longer than the second's."""
    reserve = reserve_of(HELD)
    reserve.known.refit = {**SECONDS, "ease": 500.0}.__getitem__  # type: ignore[method-assign]
    assert reserve.other_refits() == 500.0
