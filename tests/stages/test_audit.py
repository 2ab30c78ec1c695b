"""The audit of what would be published: planted bad lists are refused, and the published tables stay."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from pipeline.core.errors import Refused
from pipeline.schemas import tables
from pipeline.stages import export
from pipeline.storage import journal
from tests.support.nights import ask
from tests.support.tastes import GOOD, one_night, record, write_log

FIRST = pl.col("user_id") == "u001"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """A folder with one published night, and that night."""
    folder = tmp_path_factory.mktemp("audit")
    write_log(folder / "data", n_users=60)
    return folder, one_night(folder)


def duplicated(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.with_columns(
        item_id=pl.when(FIRST).then(pl.col("item_id").first().over("user_id")).otherwise("item_id")
    )


def masked(lists: pl.DataFrame) -> pl.DataFrame:
    """What the user has seen, at the top of their list; `SEEN` is set by the test."""
    return lists.with_columns(
        item_id=pl.when(FIRST & (pl.col("rank") == 1)).then(pl.lit(SEEN["item"])).otherwise("item_id")
    )


def without_numbers(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.with_columns(score=pl.when(FIRST).then(float("nan")).otherwise("score"))


def infinite(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.with_columns(score=pl.when(FIRST & (pl.col("rank") == 1)).then(float("inf")).otherwise("score"))


def short(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.filter(~FIRST | (pl.col("rank") < 4))


def nobody(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.filter(~FIRST)


def invented(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.with_columns(item_id=pl.when(FIRST).then("item_id" + pl.lit("x")).otherwise("item_id"))


def gap(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.with_columns(rank=pl.when(FIRST & (pl.col("rank") == 5)).then(6).otherwise("rank").cast(pl.Int32))


SEEN: dict[str, str] = {}
PLANTED = {
    duplicated: "no_duplicates",
    masked: "nothing_seen",
    without_numbers: "scores_sound",
    infinite: "scores_sound",
    short: "every_user",
    nobody: "every_user",
    invented: "items_known",
    gap: "ranks_dense",
}


@pytest.mark.parametrize(("fault", "check"), PLANTED.items(), ids=lambda x: getattr(x, "__name__", x))
def test_what_a_bad_model_would_publish_is_refused(published, fault, check, tmp_path):
    folder, first = published
    SEEN["item"] = pl.read_csv(folder / "data" / "log.csv").filter(user="u001")["item"][0]
    before = ask(first, "select * from recommendations order by user_id, rank")

    def plants(call, stage, *args):
        result = stage(*args)
        return planted(result, tmp_path / "lists", fault) if stage is export.export_tables else result

    with pytest.raises(Refused, match=f"{check}: "):
        one_night(folder, GOOD, step=plants)
    night = journal.run_ids(first.home, first.dataset)[-1]
    checks = journal.read(first.home, first.dataset, tables.CHECKS, night)
    assert check in set(checks.filter(~pl.col("passed"), severity="error")["check_name"])
    assert ask(first, "select * from recommendations order by user_id, rank").equals(before)
    assert list(first.home.generations(first.dataset).glob(".*building*")) == []


def planted(lists: Path, copy: Path, fault) -> Path:
    """The export's folder with bad lists in it."""
    shutil.copytree(lists, copy)
    (file,) = copy.glob("recommendations-*.parquet")
    fault(pl.read_parquet(file)).write_parquet(file)
    return copy


def test_the_same_lists_without_a_fault_pass(published, tmp_path):
    folder, first = published

    def copies(call, stage, *args):
        result = stage(*args)
        return planted(result, tmp_path / "lists", lambda lists: lists) if stage is export.export_tables else result

    run = one_night(folder, GOOD, step=copies)
    assert record(run)["outcome"] == "published" and record(run)["logical_hash"] == record(first)["logical_hash"]


def test_a_coverage_bound_refuses(published):
    folder, first = published
    with pytest.raises(Refused, match=r"coverage_floor: .*min_coverage 1.*lower checks.min_coverage"):
        one_night(folder, "[gate]\nenabled = false\n[models.popularity]\n", "checks.min_coverage=1")
    shown = ask(first, "select coverage from coverage")["coverage"][0]
    assert shown > 0.3
    assert record(one_night(folder, GOOD, f"checks.min_coverage={shown}"))["outcome"] == "published"


def test_constant_scores_are_reported(published, tmp_path):
    folder, _ = published

    def plants(call, stage, *args):
        result = stage(*args)
        constant = lambda lists: lists.with_columns(score=pl.lit(0.5))  # noqa: E731
        return planted(result, tmp_path / "lists", constant) if stage is export.export_tables else result

    run = one_night(folder, GOOD, step=plants)
    assert any(n.startswith("warning: scores_differ") for n in journal.notes(run.home, run.dataset, run.run_id))
