"""Where a fit starts from: the same fit of the published night, where `warm_start` is set, or random values.

The key of the earlier fit is part of the key of a warm one, so the same history of nights gives the same results. A
fit is cold where there is no such earlier fit (another configuration, another family, its results deleted by `forget`
or `gc`), in replays, and every `cold_every` nights.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall
from pipeline.models import Recommender
from pipeline.models.serialization import load
from pipeline.storage import journal, lake
from pipeline.storage.generations import live_run_id
from pipeline.training.warm import PreviousFit

SETTING = "warm_start"
"""Name of the key in the settings of a warm fit's spec, and in its info."""
RULES = 2
"""Version of how warm fits are shortened, in their keys. 2: gradient fits have a lower rate and validate the start."""


@dataclass(frozen=True)
class WarmStart:
    """The fit that another one starts from."""

    folder: Path
    nights: int
    """Number of warm fits since the last cold one, with the one that starts here."""
    cold_epochs: int | None
    """Best epoch of the last cold fit."""
    cold_seconds: float | None
    """Seconds of the last cold fit."""

    def saved(self, seconds: float, epochs: int) -> str:
        """What the start saves, as a sentence; `seconds` and `epochs` of the fit that started here."""
        cold = f" instead of the {self.cold_seconds:.1f} s of the last cold fit" if self.cold_seconds else ""
        start = "from the state of the published night"
        if epochs:
            learnt = f"{epochs:,} epoch{'s' * (epochs > 1)} {start}"
        else:
            learnt = f"the new rows are folded in {start}, and no epoch after that was better"
        return f"{seconds:.1f} s{cold}, {learnt} (warm start {self.nights} since the last cold fit)"

    def info(self) -> dict[str, Any]:
        """What the lake keeps of it."""
        return {
            "from": self.folder.name, "nights": self.nights,
            "cold_epochs": self.cold_epochs, "cold_seconds": self.cold_seconds,
        }  # fmt: skip


def resolve(run: Run, cold: lake.Spec, family: type[Recommender]) -> tuple[lake.Spec, WarmStart | None]:
    """The key of a fit, given that of a cold one, and where the fit starts from; None: it is cold.

    A fit of the published night on the same rows is the result itself, so nothing is fitted again. Reads the lake and
    the journal, and writes nothing.
    """
    if not run.settings.warm_start or run.as_of is not None or not family.rows_of_state:
        return cold, None
    found = published_fit(run, cold)
    if found is None:
        return cold, None
    manifest = lake.read_manifest(found)
    before = manifest["info"].get(SETTING)
    if _names(manifest["parents"]) == _names(cold.parents):
        settings, call = manifest["settings"], replace(cold.call, warm=before is not None)
        return replace(cold, call=call, settings=settings), None
    nights = before["nights"] + 1 if before else 1
    if nights >= run.settings.cold_every or encoded_of(run, found) is None:
        return cold, None
    info = manifest["info"]
    cold_epochs = before["cold_epochs"] if before else info.get("best_epoch")
    cold_seconds = before["cold_seconds"] if before else info.get("seconds")
    start = WarmStart(found, nights, cold_epochs, cold_seconds)
    settings = {**cold.settings, SETTING: {"from": manifest["key"], "nights": nights, "rules": RULES}}
    return replace(cold, call=replace(cold.call, warm=True), settings=settings), start


def resolve_refit(
    run: Run, cold: lake.Spec, family: type[Recommender], train_fit: Path
) -> tuple[lake.Spec, WarmStart | None, int | None]:
    """As `resolve`, for the refit of `train_fit`; also its number of epochs, None for families without epochs.

    Where the fit on train is cold, so is its refit. Where only the refit is cold, since that configuration was not
    published before, it gets the epochs of the last cold fit on train: those of the warm one are too few.
    """
    info = lake.info(train_fit)
    warm = info.get(SETTING)
    if not warm:
        return cold, None, info["best_epoch"]
    spec, start = resolve(run, cold, family)
    is_warm = spec.call.warm
    return spec, start, info["best_epoch"] if is_warm else warm["cold_epochs"]


def published_fit(run: Run, cold: lake.Spec) -> Path | None:
    """The complete fit of the published night with the title, the settings and the version of `cold`."""
    live = live_run_id(run.home, run.dataset)
    if live is None:
        return None
    head = lake.folder_of(run, cold).name.removesuffix(cold.key)
    for folder in journal.artifacts(run, live, cold.layer):
        if folder.name.startswith(head) and lake.is_complete(folder):
            manifest = lake.read_manifest(folder)
            own = {name: value for name, value in manifest["settings"].items() if name != SETTING}
            title = replace(StageCall.parse(manifest["stage"]), warm=False).title
            if (title, manifest["version"], own) == (cold.call.title, cold.version, _as_json(cold.settings)):
                return folder
    return None


def encoded_of(run: Run, folder: Path) -> Path | None:
    """The encoded rows that a fit or a split rests on; None where they are gone."""
    root = run.home.lake(run.dataset)
    while not (folder / "users.parquet").exists() or not (folder / "items.parquet").exists():
        try:
            parents = lake.read_manifest(folder)["parents"]
        except (OSError, ValueError, KeyError):
            return None
        if not parents:
            return None
        folder = root.joinpath(*Path(parents[0]).parts[-2:])  # the home may have been moved
    return folder


def previous(run: Run, start: WarmStart, data: Path) -> PreviousFit:
    """The state of the earlier fit; `data`: the split or the encoded rows of tonight. Maps source ids."""
    then, now = encoded_of(run, start.folder), encoded_of(run, data)
    if then is None or now is None:
        raise FileNotFoundError(f"the ids of {start.folder if then is None else data} are gone")
    state = load(start.folder).state_dict()
    return PreviousFit(state, places(then, now, "user"), places(then, now, "item"))


def places(then: Path, now: Path, kind: str) -> torch.Tensor:
    """Index in `then` of each id of `now`, (N,); -1 for new ones. Both are results of `encode`."""
    before, wanted = (pl.read_parquet(at / f"{kind}s.parquet") for at in (then, now))
    index, name = f"{kind}_idx", f"{kind}_id"
    known = before.select(pl.col(name).cast(pl.String), place=pl.col(index).cast(pl.Int64))
    found = wanted.sort(index).select(pl.col(name).cast(pl.String))
    found = found.join(known, on=name, how="left", maintain_order="left")["place"].fill_null(-1)
    return torch.from_numpy(found.to_numpy(writable=True))


def _names(paths: Any) -> list[str]:
    return [Path(path).name for path in paths]


def _as_json(value: Any) -> Any:
    """The value as a manifest holds it."""
    return json.loads(json.dumps(dict(value), default=str))
