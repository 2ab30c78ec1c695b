"""Which models of a recipe a night would leave out for the size of its data, by the rule of their fits."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.run import Run
from pipeline.experiments.families import family_of, rows_of
from pipeline.models.base import FitSize
from pipeline.storage import lake
from pipeline.training.device import memory_budget, resolve_device


@dataclass(frozen=True)
class LeftOut:
    """A model, and why it would not be fitted."""

    model: str
    why: str


def size_of(run: Run, parts: Path | None, rows: int | None) -> FitSize | None:
    """Size of the fits on a split `parts`; None: it is not there yet.

    With `rows`, those of a source of so many: users grow with the rows, items do not.
    """
    if parts is None or not lake.is_complete(parts):
        return None
    info, trained = lake.info(parts), rows_of(parts)
    assert trained is not None
    device = resolve_device(run.settings.device)
    memory = memory_budget(run.settings.memory_limit, device)
    found = FitSize(info["n_users"], info["n_items"], trained, device.type == "cuda", memory)
    if rows is None:
        return found
    share = rows / max(sum(info["rows"].values()), 1)
    return replace(found, users=max(1, round(share * found.users)), rows=max(1, round(share * trained)))


def left_out(run: Run, size: FitSize) -> list[LeftOut]:
    """The models of the recipe that refuse data of this size."""
    found: list[LeftOut] = []
    for label in run.settings.models:
        family, config = family_of(run.settings, label)
        if reason := family.refusal(config, size):
            found.append(LeftOut(label, reason))
    return found
