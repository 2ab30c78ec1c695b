"""Splits the rows into train, valid and test, and checks that nothing leaks from one into another."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Published
from pipeline.config.queries import CONNECTION
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation import published_split, split_checks, split_parts, splitters
from pipeline.preparation.ids import ENCODED_PARQUET
from pipeline.preparation.seen import SeenRule
from pipeline.preparation.shards import RowsWriter, Shards
from pipeline.preparation.split_checks import Summary
from pipeline.preparation.split_parts import Decided, Shard, Wanted
from pipeline.preparation.split_shards import ShardedRows, WholeRows
from pipeline.sources import model_attributes
from pipeline.storage import journal, lake

VERSION = 1
OF_SHARDS = {"interactions": "rows", "users": "users"}
"""Files of `encoded` that are cut into shards, and the key of `shards` in its info that has their rows."""
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
        users, items = (pl.read_parquet(encoded / f"{n}.parquet") for n in ("users", "items"))
        info, pairs = lake.info(encoded), None
        if source:
            named = published_split.read_pairs(run.data, source.test, dataset, folder)
            pairs = published_split.encode_pairs(named, users, items)
            info["published_test"] = {"named": named.height, "found": pairs.height}
        how = Wanted(wanted, rule, run.settings.seed, items["item_id"], pairs)
        if cut := info.pop("shards", None):
            del users
            of = {name: Shards(encoded / f"{name}.parquet", cut[rows]) for name, rows in OF_SHARDS.items()}
            with lake.scratch(folder) as scratch:
                info |= _split(ShardedRows(of["interactions"], of["users"], how, scratch), encoded, folder)
        else:
            rows = pl.read_parquet(encoded / "interactions.parquet")
            info |= _split(WholeRows(rows, users["user_id"], how), encoded, folder)
        if source and source.candidates:
            listed = published_split.read_candidates(run.data, source.candidates, dataset.source.encoding, folder)
            users = pl.read_parquet(encoded / "users.parquet")
            lists, info["candidates"] = published_split.candidates_of(listed, users, items)
            lists.write_parquet(folder / "candidates.parquet")
        height = sum(info["rows"].values())
        return lake.StageResult(rows_in=height, rows_out=height, ledger={"kept": height}, info=info)

    split_dir = lake.build(run, spec(run, encoded), write)
    info = lake.info(split_dir)
    journal.update_run(run, split_kind=f"{info['kind']} ({info['reason']})")
    log.info(f"  {in_words(info)}")
    _note(run, info)
    return split_dir


def _split(data: WholeRows | ShardedRows, encoded: Path, folder: Path) -> dict[str, Any]:
    """Write the splits, shard by shard; returns what the folder's info says about them."""
    rule, untimed = data.wanted.rule, data.untimed
    rule.check_times(untimed, data.height)
    kind, reason = data.choose_kind()
    summary = Summary(kind, len(data.wanted.items), rule)
    for name in (model_attributes.ITEM_VALUES, model_attributes.NUMBERS):  # with `[attributes]`
        if (encoded / name).exists():
            shutil.copyfile(encoded / name, folder / name)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(RowsWriter(folder / f"{name}.parquet", **ENCODED_PARQUET))
            for name in splitters.SPLITS
        }
        if isinstance(data, ShardedRows):
            for part in data.divided(kind):
                summary.merge(part.frames.pop("by_item"), part.counts)
                for name, writer in writers.items():
                    writer.add(part.frames.pop(name))
        else:
            _divide(data, kind, summary, writers)
    _refuse_empty(summary)
    is_untimed = kind == "published" and untimed
    return {"kind": kind, "reason": reason, **summary.info(), **({"timed": False} if is_untimed else {})}


def _divide(data: WholeRows, kind: str, summary: Summary, writers: dict[str, RowsWriter]) -> None:
    """Label, check, count and write rows that are in memory; some are written while others are checked."""
    decided = Decided(kind, data.cuts if kind == "global_time" else None)
    with ThreadPoolExecutor(1) as background:
        for shard, labels in data.labelled(kind):
            rows, splits = split_parts.divide(shard.rows, labels, decided, summary)
            written = background.submit(_write, shard, splits, writers)
            split_parts.check(rows, labels, splits, decided, summary)
            written.result()


def _refuse_empty(summary: Summary) -> None:
    """Raise Refused if there is nothing to train or to test on."""
    rows, kind, n = summary.rows, summary.kind, sum(summary.rows.values())
    if not rows["train"] or not rows["test"]:
        empty = "to train on" if not rows["train"] else "to test on"
        raise Refused(f"a {kind} split of {n:,} rows leaves nothing {empty}; choose another split.kind")
    if summary.targets and not summary.targets["test"]:
        raise Refused(f"a {kind} split of {n:,} rows leaves no event of the target to test on")


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
        layout = dataset.source.model_dump(exclude={"files", "mode", "max_reject_rate", *CONNECTION})
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


def _write(shard: Shard, splits: dict[str, pl.DataFrame], writers: dict[str, RowsWriter]) -> None:
    """Add the splits of a shard to the files of `writers`."""
    for name, rows in splits.items():
        writers[name].add(shard.among_all(split_parts.checked(rows)))
