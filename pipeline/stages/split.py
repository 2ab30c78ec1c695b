"""Splits the rows into train, valid and test, and checks that nothing leaks from one into another."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Published
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation import published_split, split_checks, splitters
from pipeline.preparation.ids import ENCODED_PARQUET
from pipeline.preparation.seen import SeenRule
from pipeline.schemas import tables
from pipeline.sources import model_attributes
from pipeline.storage import journal, lake

VERSION = 1
ANNOUNCED = 0.2
"""Share of the events to find from which on a warning says that earlier events give them away."""
WORTH_A_NOTE = 0.01
"""Share of test rows decided by ties in time, from which on a note says so."""


def split_interactions(run: Run, encoded: Path) -> Path:
    """Write train, valid and test.parquet (contract `encoded`, in its order); of a published split also
    candidates.parquet, and with `[attributes]` item_values and attribute_numbers.parquet of `encoded`.

    The folder's info has kind, reason, tie_share, cuts, rows, users, n_cold, n_users and n_items.
    Raises SettingsError if the data do not allow this kind of split, Refused if train or test is empty.
    """
    dataset, wanted, source = run.settings.dataset, run.settings.split, _published(run)
    rule = SeenRule.of(run.settings)

    def write(folder: Path) -> lake.StageResult:
        rows, users, items = (pl.read_parquet(encoded / f"{n}.parquet") for n in ("interactions", "users", "items"))
        info, pairs = lake.info(encoded), None
        if source:
            named = published_split.read_pairs(run.data, source.test, dataset, folder)
            pairs = published_split.encode_pairs(named, users, items)
            info["published_test"] = {"named": named.height, "found": pairs.height}
        rule.check_times(rows)
        kind, reason = splitters.choose_kind(rows, wanted, pairs is not None)
        ids, seed = (users["user_id"], items["item_id"]), run.settings.seed
        if rule.allow and kind == "random":
            labels = splitters.random_repeats(rows, *ids, wanted, seed)
        else:
            labels = splitters.label_rows(rows, *ids, kind, wanted, seed, pairs)
        if "target" in rows.columns:
            rows, info["repeated_targets"] = splitters.without_repeated_targets(rows, labels, kind, rule)
            info["targets"] = {
                name: int((rows["target"].to_numpy() & (labels == label)).sum())
                for label, name in enumerate(splitters.SPLITS)
            }
        splits = {name: rows.filter(labels == label) for label, name in enumerate(splitters.SPLITS)}
        if "target" in rows.columns and kind != "global_time":
            info["announced"] = split_checks.announced(splits)
        _refuse_empty(splits, kind, info)
        with ThreadPoolExecutor(1) as background:
            written = background.submit(_write_splits, splits, encoded, folder)
            split_checks.assert_no_leak(splits["train"], splits["valid"], splits["test"], kind, rule)
            statistics = split_checks.describe(rows, labels, splits, kind)
            written.result()
        if source and source.candidates:
            listed = published_split.read_candidates(run.data, source.candidates, dataset.source.encoding, folder)
            lists, info["candidates"] = published_split.candidates_of(listed, users, items)
            lists.write_parquet(folder / "candidates.parquet")
        info |= {"kind": kind, "reason": reason, **statistics, **_found_again(rule, splits)}
        if kind == "published" and rows["timestamp"].null_count():
            info["timed"] = False
        return lake.StageResult(rows_in=rows.height, rows_out=rows.height, ledger={"kept": rows.height}, info=info)

    split_dir = lake.build(run, spec(run, encoded), write)
    info = lake.info(split_dir)
    journal.update_run(run, split_kind=f"{info['kind']} ({info['reason']})")
    log.info(f"  {in_words(info)}")
    _note(run, info)
    return split_dir


def _refuse_empty(splits: dict[str, pl.DataFrame], kind: str, info: dict[str, Any]) -> None:
    """Raise Refused if there is nothing to train or to test on."""
    n = sum(rows.height for rows in splits.values())
    if splits["train"].is_empty() or splits["test"].is_empty():
        empty = "to train on" if splits["train"].is_empty() else "to test on"
        raise Refused(f"a {kind} split of {n:,} rows leaves nothing {empty}; choose another split.kind")
    if not info.get("targets", {"test": 1})["test"]:
        raise Refused(f"a {kind} split of {n:,} rows leaves no event of the target to test on")


def _found_again(rule: SeenRule, splits: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """What the folder's info says about repeats: nothing where they are hidden."""
    return {**rule.key, "found_again": split_checks.found_again(splits)} if rule.allow else {}


def _note(run: Run, info: dict[str, Any]) -> None:
    """Note which events are not held out, how many repeat earlier ones, and what ties decided."""
    if repeated := info.get("repeated_targets"):
        journal.note(run, f"split: {repeated:,} held-out events repeat an earlier one, {_why_not_counted(info)}")
    for part, (again, held) in info.get("found_again", {}).items():
        share = f" ({again / held:.0%})" if held else ""
        journal.note(run, f"split: {again:,} of {held:,} events to find in {part}{share} repeat earlier ones")
    _note_random(run, info)
    _note_announced(run, info)
    if info["tie_share"] >= WORTH_A_NOTE:
        journal.note(
            run,
            f"split: {info['tie_share']:.0%} of the test rows have the same time as an earlier row of their user; "
            "a seeded hash decided which one is held out",
        )


def _why_not_counted(info: dict[str, Any]) -> str:
    if not info.get("seen"):
        return "which the mask hides: not counted"
    if not info["hide_days"]:
        return "of the same split: counted once"
    return f"of the same split or of the {info['hide_days']} days before, which hide_days hides: not counted"


def _note_random(run: Run, info: dict[str, Any]) -> None:
    """Warn if rows are held out at random only because they have no times, which nobody asked for."""
    if run.settings.split.kind == "auto" and info["kind"] == "random":
        journal.note(
            run,
            f"warning: split: random, not by time, since {info['reason']}: the metrics say how well known ratings are "
            "completed, not how well the future is predicted. Set dataset.columns.timestamp, or split.kind = "
            '"random" if that is meant',
        )
    elif info["kind"] == "published" and run.settings.split.valid and not info.get("timed", True):
        journal.note(run, "split: the rows have no times, so valid is drawn at random from the published train")


def _note_announced(run: Run, info: dict[str, Any]) -> None:
    """Warn if many events to find follow soon after another event of the same user and item, which models may read."""
    for part, (near, held) in info.get("announced", {}).items():
        if near < ANNOUNCED * held or not near:
            continue
        hours = split_checks.ANNOUNCED_WITHIN.total_seconds() / 3600
        journal.note(
            run,
            f"warning: split: {near:,} of {held:,} events to find in {part} ({near / held:.0%}) follow an event of "
            f"another type of the same user and item within {hours:.0f} hours, which a {info['kind']} split leaves in "
            f"the history: metrics on {part} are too high, since a night does not know what happens after it. Set "
            'split.kind = "global_time", or compare models with `nightrecs replay --from … --to …`',
        )
        return


def spec(run: Run, encoded: Path) -> lake.Spec:
    """Key of `split_interactions`."""
    dataset = run.settings.dataset
    settings: dict[str, Any] = {**run.settings.split.model_dump(), "seed": run.settings.seed}
    settings |= SeenRule.of(run.settings).key
    if source := _published(run):
        layout = dataset.source.model_dump(exclude={"files", "mode", "max_reject_rate"})
        settings["columns"] = [dataset.columns.user, dataset.columns.item]
        settings |= {"layout": layout, "published": published_split.fingerprints(run.data, source)}
    return lake.Spec(StageCall(StageName.SPLIT), "4_split", VERSION, settings, parents=(encoded,))


def _published(run: Run) -> Published | None:
    """The data set's own split, if `split.kind` allows it."""
    return run.settings.dataset.published if run.settings.split.kind in ("auto", "published") else None


def in_words(info: dict[str, Any]) -> str:
    """`random (as set): train 80, valid 10, test 10`; for a cut in time also the first day of valid and test."""
    days = {name: f" from {cut[:10]}" for name, cut in info["cuts"].items()}
    rows = (f"{name} {n:,}{days.get(name, '')}" for name, n in info["rows"].items())
    return f"{info['kind']} ({info['reason']}): {', '.join(rows)}"


def _write_splits(splits: dict[str, pl.DataFrame], encoded: Path, folder: Path) -> None:
    for name in (model_attributes.ITEM_VALUES, model_attributes.NUMBERS):  # with `[attributes]`
        if (encoded / name).exists():
            shutil.copyfile(encoded / name, folder / name)
    for name, rows in splits.items():
        checked = tables.encoded(rows).check(rows, unique=False)  # `encoded` has no duplicates
        checked.write_parquet(folder / f"{name}.parquet", **ENCODED_PARQUET)
