"""What a model costs every night: the seconds of its fit, and of the fits that it is blended of."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.storage import lake

FITS = "5_models"
"""Layer of the lake that has the fits."""


def by_label(evaluated: Iterable[Path]) -> dict[str, float]:
    """Seconds of the fit on train by label, for folders of `evaluate`. Labels without a known time are left out."""
    found: dict[str, float] = {}
    for folder in evaluated:
        fits = _fits_of(folder)
        seconds = seconds_of(fits[0]) if fits else None
        if seconds is not None:
            found[lake.info(folder)["label"]] = seconds
    return found


def seconds_of(fit: Path) -> float | None:
    """Seconds of a fit with its members; None where one of them does not say so."""
    try:
        parts = [lake.info(fit).get("seconds"), *(seconds_of(member) for member in _fits_of(fit))]
    except (OSError, ValueError, KeyError):
        return None
    known = [float(part) for part in parts if isinstance(part, int | float)]
    return sum(known) if len(known) == len(parts) else None


def _fits_of(folder: Path) -> list[Path]:
    """Parents that are fits: of an evaluation, the fit on train comes first; of a fit on train, the members."""
    parents = [Path(parent) for parent in lake.read_manifest(folder)["parents"]]
    return [folder.parents[1] / FITS / parent.name for parent in parents if parent.parent.name == FITS]
