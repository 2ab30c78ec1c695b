"""What the gate measures of lists: the change of each user's list, for a sample, by the rules of the night."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.publishing import Holdback
from pipeline.publishing.holdback import held_users
from pipeline.reporting import formatting, markdown
from pipeline.schemas import tables
from pipeline.selection.incumbent import Configuration
from pipeline.selection.list_changes import Refits, changes_of, measure
from pipeline.storage import journal, warehouse
from tests.support.nights import ask
from tests.support.tastes import GOOD, one_night, record, write_log

LISTS = st.dictionaries(
    st.sampled_from("uvwx"), st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True), max_size=4
)
HELD = Holdback(share=0.2, salt="s")
STEADIER = """[models.other]
family = "item_knn"
[gate]
prefer = "steadier"
margin = 0.5
min_segment_users = 100000
"""


def as_frame(lists: dict[str, list[str]]) -> pl.DataFrame:
    rows = [(user, rank, item) for user, items in lists.items() for rank, item in enumerate(items, 1)]
    return pl.DataFrame(rows, schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}, orient="row")


@settings(max_examples=60, deadline=None)
@given(LISTS, LISTS)
def test_changes_are_those_of_sets_up_to_the_published_length(before: dict, now: dict):
    expected = {
        user: 1 - len(set(items) & set(cut)) / len(set(items) | set(cut))
        for user, items in before.items()
        if (cut := now.get(user, [])[: len(items)])
    }
    found = dict(changes_of(as_frame(before), as_frame(now)).iter_rows())
    assert found == pytest.approx(expected)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A night of ease; then its published lists are said to be those of item_knn, and ease competes with it."""
    folder = tmp_path_factory.mktemp("steadier")
    write_log(folder / "data")
    first = one_night(folder, GOOD, "gate.enabled=false")
    normalize = record(first)["champion_configuration"]["normalize"]
    said = Configuration(family="item_knn", normalize=normalize).completed().model_dump(mode="json")
    journal.update_run(first, champion="other", champion_configuration=said)
    return first, one_night(
        folder, GOOD + STEADIER, f"export.holdback={{ share = {HELD.share}, salt = '{HELD.salt}' }}"
    )


def test_the_gate_takes_the_model_that_keeps_the_lists(nights):
    _, second = nights
    verdict, notes = record(second)["gate"], journal.notes(second.home, second.dataset, second.run_id)
    assert (verdict["incumbent"], verdict["published"]) == ("other", "ease"), verdict["text"]
    cost = verdict["cost"]
    users = ask(second, "select user_id from users")["user_id"]
    n = len(users) - len(held_users(users, HELD))
    assert (cost["of"], cost["n"], cost["challenger"]) == ("lists", n, 0.0) and cost["incumbent"] > 0.2
    (row,) = [row for row in markdown.gate({"record": record(second)}) if "change of the published" in row["compared"]]
    assert row["compared"].startswith("ease − other") and row["users"] == str(n) and row["difference"].startswith("-")
    assert f"of {n} users: ease 0, incumbent" in str(formatting.cost(verdict))
    (note,) = [text for text in notes if text.startswith("list changes")]
    assert note.startswith(f"list changes of {n} users") and "ease 0" in note
    stages = journal.read(second.home, second.dataset, tables.STAGES, second.run_id)["stage"].to_list()
    assert {"train ease on all", "train other on all"} <= set(stages)


def test_the_measured_change_is_the_real_one(nights):
    """Of the incumbent: the difference of the lists that its refit makes and the published ones."""
    first, second = nights
    measured = record(second)["gate"]["cost"]["incumbent"]
    theirs = one_night_of_other(first)
    with warehouse.connect(first.home.generation(first.dataset, first.run_id), read_only=True) as con:
        before = con.sql("select user_id, rank, item_id from recommendations order by user_id, rank").pl()
    real = changes_of(before, theirs)["change"].to_numpy()
    assert measured == pytest.approx(real.mean(), abs=4 * real.std() / np.sqrt(len(real)))


def test_a_sample_is_drawn_by_seed(nights):
    first, second = nights
    at = {layer: journal.artifacts(second, second.run_id, layer)[0] for layer in ("1_raw", "3_encoded")}
    refit = next(at for at in journal.artifacts(second, second.run_id, "5_models") if at.name.startswith("other-all-"))
    refits = Refits(at["1_raw"], at["3_encoded"], {"other": refit})

    def measured(**update) -> np.ndarray:
        own = second.settings.gate.model_copy(update={"list_users": 40})
        settings = second.settings.model_copy(update={"gate": own, **update})
        found = measure(second.model_copy(update={"settings": settings}), first.run_id, refits)
        return found["other"]

    one = measured()
    assert len(one) == 40 and one.tolist() == measured().tolist() != measured(seed=2).tolist()
    assert (
        measure(second, None, refits)
        == {}
        == measure(second, "no-such-night", Refits(at["1_raw"], at["3_encoded"], {}))
    )


def one_night_of_other(first) -> pl.DataFrame:
    """Lists of a night that publishes item_knn on the same rows, in another home."""
    folder = first.home_root.parent
    beside = folder.parent / f"{folder.name}-other"
    (beside / "data").mkdir(parents=True)
    (beside / "data" / "log.csv").write_bytes((folder / "data" / "log.csv").read_bytes())
    run = one_night(beside, '[models.other]\nfamily = "item_knn"\n')
    return ask(run, "select user_id, rank, item_id from recommendations order by user_id, rank")
