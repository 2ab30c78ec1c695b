"""Cuts the rows into train, valid and test, and proves that nothing leaks from one into another."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Published
from pipeline.config.run import Run
from pipeline.config.settings import Split
from pipeline.core.console import log
from pipeline.core.errors import Refused, SettingsError
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation import published_split, split_checks, splitters
from pipeline.preparation.ids import ENCODED_PARQUET
from pipeline.preparation.splitters import PARTS
from pipeline.schemas import tables
from pipeline.storage import journal, lake

VERSION = 1
ENOUGH_WARM_USERS = 500
"""In test, for `auto` to choose a cut in time."""
WORTH_A_NOTE = 0.01
"""Share of test rows that ties decided."""
TIME_KINDS = ("global_time", "leave_one_out")


def split_interactions(run: Run, encoded: Path) -> Path:
    """Write train, valid, test.parquet (contract `encoded`, in its order), and published candidates.parquet.

    The folder's info has kind, reason, tie_share, cuts, rows, users, n_cold, n_users and n_items.
    Raises SettingsError for a split that the data can't have, Refused where train or test comes out empty.
    """
    dataset, wanted, source = run.settings.dataset, run.settings.split, _published(run)

    def write(folder: Path) -> lake.StageResult:
        rows, users, items = (pl.read_parquet(encoded / f"{n}.parquet") for n in ("interactions", "users", "items"))
        info, pairs = lake.info(encoded), None
        if source:
            named = published_split.read_pairs(run.data, source.test, dataset, folder)
            pairs = published_split.encode_pairs(named, users, items)
            info["published_test"] = {"named": named.height, "found": pairs.height}
        kind, reason = choose_kind(rows, wanted, pairs is not None)
        labels = splitters.label_rows(rows, users["user_id"], items["item_id"], kind, wanted, run.settings.seed, pairs)
        parts = {name: rows.filter(labels == label) for label, name in enumerate(PARTS)}
        if parts["train"].is_empty() or parts["test"].is_empty():
            empty = "to train on" if parts["train"].is_empty() else "to test on"
            raise Refused(f"a {kind} split of {rows.height:,} rows leaves nothing {empty}; choose another split.kind")
        with ThreadPoolExecutor(1) as aside:
            written = aside.submit(_write_parts, parts, folder)
            split_checks.assert_no_leak(parts["train"], parts["valid"], parts["test"], kind)
            figures = split_checks.describe(rows, labels, parts, kind)
            written.result()
        if source and source.candidates:
            listed = published_split.read_candidates(run.data, source.candidates, dataset.source.encoding, folder)
            lists, info["candidates"] = published_split.candidates_of(listed, users, items)
            lists.write_parquet(folder / "candidates.parquet")
        info |= {"kind": kind, "reason": reason, **figures}
        return lake.StageResult(rows_in=rows.height, rows_out=rows.height, ledger={"kept": rows.height}, info=info)

    built = lake.build(run, spec(run, encoded), write)
    info = lake.info(built)
    journal.update_run(run, split_kind=f"{info['kind']} ({info['reason']})")
    log.info(f"  {in_words(info)}")
    if info["tie_share"] >= WORTH_A_NOTE:
        journal.note(
            run,
            f"split: {info['tie_share']:.0%} of the test rows have the time of an earlier row of their user; "
            "a seeded hash decided which is held out",
        )
    return built


def spec(run: Run, encoded: Path) -> lake.Spec:
    """Key of `split_interactions`."""
    dataset = run.settings.dataset
    settings: dict[str, Any] = {**run.settings.split.model_dump(), "seed": run.settings.seed}
    if source := _published(run):
        layout = dataset.source.model_dump(exclude={"files", "mode", "max_reject_rate"})
        settings["columns"] = [dataset.columns.user, dataset.columns.item]
        settings |= {"layout": layout, "published": published_split.fingerprints(run.data, source)}
    return lake.Spec(StageCall(StageName.SPLIT), "4_split", VERSION, settings, parents=(encoded,))


def _published(run: Run) -> Published | None:
    """The data set's own split, where it is asked for."""
    return run.settings.dataset.published if run.settings.split.kind in ("auto", "published") else None


def in_words(info: dict[str, Any]) -> str:
    """`random (as set): train 80, valid 10, test 10`; of a cut in time also the day on which each part begins."""
    days = {name: f" from {cut[:10]}" for name, cut in info["cuts"].items()}
    rows = (f"{name} {n:,}{days.get(name, '')}" for name, n in info["rows"].items())
    return f"{info['kind']} ({info['reason']}): {', '.join(rows)}"


def _write_parts(parts: dict[str, pl.DataFrame], folder: Path) -> None:
    for name, part in parts.items():
        checked = tables.ENCODED.check(part, unique=False)  # `encoded` was unique
        checked.write_parquet(folder / f"{name}.parquet", **ENCODED_PARQUET)


def choose_kind(rows: pl.DataFrame, split: Split, has_published: bool) -> tuple[str, str]:
    """The kind of split and why; `auto` decides by the data. Raises SettingsError where it can't be."""
    untimed = rows["timestamp"].null_count()
    if split.kind == "published" and not has_published:
        raise SettingsError('split.kind = "published", but the data set has no [published] files')
    if split.kind in TIME_KINDS and untimed:
        raise SettingsError(
            f'split.kind = "{split.kind}" goes by time, but {untimed:,} of {rows.height:,} rows have none: '
            'name dataset.columns.timestamp, or set split.kind = "random"'
        )
    if split.kind in ("auto", "global_time", "random") and split.valid + split.test >= 1:
        share = f"split.valid + split.test = {split.valid + split.test:g}"
        raise SettingsError(f"{share} leaves nothing to train on; keep it below 1")
    if split.kind != "auto":
        return split.kind, "as set"
    if has_published:
        return "published", "the data set has a published split"
    if untimed:
        return "random", f"{untimed:,} of {rows.height:,} rows have no time"
    warm = split_checks.warm_users(rows, splitters.global_time(rows, split.valid, split.test))
    if warm >= ENOUGH_WARM_USERS:
        return "global_time", f"{warm:,} warm users in test"
    return (
        "leave_one_out",
        f"a cut in time would leave {warm:,} warm users in test, fewer than {ENOUGH_WARM_USERS}",
    )
