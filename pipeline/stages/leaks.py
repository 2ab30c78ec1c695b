"""The leakage audit: rereads the inputs of the night's models and metrics, and refuses where held-out data leaked."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

from pipeline.config.run import Run
from pipeline.core.errors import ContractError, Refused
from pipeline.evaluation import attribute_leaks, eval_task
from pipeline.models import MODELS, FitContext
from pipeline.models.popularity import Popularity
from pipeline.models.serialization import load
from pipeline.preparation import split_checks
from pipeline.preparation.seen import SeenRule
from pipeline.schemas import tables
from pipeline.storage import journal, lake
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import Normalizer

Rule = Callable[[Run, Path, list[Path]], list[str]]
RULES: dict[str, Rule] = {}
"""By name in the table `checks`; each returns its findings as sentences."""


def rule(function: Rule) -> Rule:
    """Register a rule as `leak_<name of the function>`."""
    RULES[f"leak_{function.__name__}"] = function
    return function


def audit_leaks(run: Run, split_dir: Path, fits: list[Path]) -> None:
    """Apply every rule to the split and the models evaluated on it; journal each as a check.

    `fits`: folders of the models whose metrics on valid and test are reported. Raises Refused on a leak.
    """
    with journal.stage(run, "leaks"):
        found = {name: check(run, split_dir, fits) for name, check in RULES.items()}
        journal.append(
            run,
            tables.CHECKS,
            [{"check_name": n, "severity": "error", "bad_rows": len(f), "passed": not f} for n, f in found.items()],
        )
        leaks = [f"{name}: {text}" for name, texts in found.items() for text in texts]
        if leaks:
            raise Refused("held-out data has leaked: " + "; ".join(leaks) + ". No metric of this night can be trusted.")


@rule
def split(run: Run, split_dir: Path, fits: list[Path]) -> list[str]:
    """No pair is in two splits, but for repeats; in splits by time, no row to learn from is later than one to find."""
    train, valid, test = (pl.read_parquet(split_dir / f"{name}.parquet") for name in ("train", "valid", "test"))
    info = lake.info(split_dir)
    try:
        split_checks.assert_no_leak(train, valid, test, info["kind"], SeenRule.of(info))
    except ContractError as error:
        return [str(error)]
    return []


@rule
def lineage(run: Run, split_dir: Path, fits: list[Path]) -> list[str]:
    """Every evaluated model was fitted on this split, and on no other rows."""
    rows = lake.info(split_dir)["rows"]
    found = []
    for folder in fits:
        manifest = lake.read_manifest(folder)
        label, fit = manifest["info"]["label"], manifest["info"]["fit"]
        allowed = eval_task.FITTED_ON.get(fit)
        if allowed is None or split_dir.name not in [Path(path).name for path in manifest["parents"]]:
            found.append(f"{label} was fitted on {fit!r} of {manifest['parents'][:1]}, not on this split")
        elif manifest["rows_in"] != sum(rows[name] for name in allowed):
            found.append(f"{label} was fitted on {manifest['rows_in']:,} rows, not those of {fit}")
    return found


@rule
def normalizer(run: Run, split_dir: Path, fits: list[Path]) -> list[str]:
    """Statistics of ratings are those of the rows fitted on; they are recomputed and compared.

    How to normalise is a setting of each fit: the published configuration keeps its own.
    """
    found = []
    for fit, folders in _by_fit(fits).items():
        expected: dict[tuple[str, tuple[float, float]], Normalizer] = {}
        for folder in folders:
            settings = lake.read_manifest(folder)["settings"]
            low, high = settings["normalize_to"]
            kind = settings["normalize"], (low, high)
            if kind not in expected:
                ratings = None if kind[0] == "none" else _rows(split_dir, fit).ratings
                expected[kind] = Normalizer.fit(kind[0], ratings, kind[1])
            if Normalizer.load(folder) != expected[kind]:
                label = lake.info(folder)["label"]
                found.append(f"{label} normalises ratings by statistics that are not those of {fit}")
    return found


@rule
def popularity(run: Run, split_dir: Path, fits: list[Path]) -> list[str]:
    """Counts of items are those of the rows fitted on; they are recounted and compared."""
    found = []
    counting = [folder for folder in fits if MODELS.get(lake.info(folder)["family"]) is Popularity]
    for fit, folders in _by_fit(counting).items():
        rows = _rows(split_dir, fit)
        for folder in folders:
            model = load(folder)
            assert isinstance(model, Popularity)
            own = Popularity(model.config, model.n_users, model.n_items)
            own.fit(rows, FitContext())
            if not torch.equal(own.counts, model.counts):
                found.append(f"{lake.info(folder)['label']} counts rows that are not those of {fit}")
    return found


@rule
def attributes(run: Run, split_dir: Path, fits: list[Path]) -> list[str]:
    """No number of the catalog that models read knows how often items were held out."""
    return [
        f"the catalog's {name!r} knows what was held out: its rank correlation with the events of items is "
        f"{total:.2f}, and {beyond:.2f} with the held-out ones beyond what train explains. Leave it out of "
        "attributes.items"
        for name, (total, beyond) in attribute_leaks.leaking(split_dir).items()
    ]


def _by_fit(fits: list[Path]) -> dict[str, list[Path]]:
    """Folders by the rows they were fitted on, so that these are read once; `lineage` reports other fits."""
    kinds = [lake.info(folder)["fit"] for folder in fits]
    return {
        fit: [f for f, kind in zip(fits, kinds, strict=True) if kind == fit]
        for fit in eval_task.FITTED_ON
        if fit in kinds
    }


def _rows(split_dir: Path, fit: str) -> Interactions:
    """The rows that a fit on `train` or `train+valid` learns from."""
    return eval_task.load_splits(split_dir, torch.device("cpu"), recency=True).fitted_on(fit)
