"""Holdback: who is in it, what they get, and that the audit finds a mix-up."""

import dataclasses

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.publishing import Holdback
from pipeline.core.errors import UnreadableInput
from pipeline.publishing import explanation, holdback, on_request
from pipeline.storage import journal
from tests.support.published_nights import RECIPE, Dataset, without_mlflow, without_report_file

HELD = 'export.holdback={ share = 0.4, salt = "s" }'


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=30, unique=True), st.randoms())
def test_who_is_held_back_depends_on_the_id_only(users: list[str], random):
    users = [user.replace("\0", "0") for user in users]
    of = Holdback(share=0.3)
    found = set(holdback.held_users(pl.Series(users), of))
    shuffled = [*users, "another", *users]
    random.shuffle(shuffled)
    assert set(holdback.held_users(pl.Series(shuffled), of)) - {"another"} == found - {"another"}
    assert found <= set(holdback.held_users(pl.Series(users), Holdback(share=0.5))), "a larger share has them all"


def test_the_share_is_kept_and_salts_are_independent():
    users = pl.Series([f"u{n}" for n in range(20_000)])
    one, two = (set(holdback.held_users(users, Holdback(salt=salt))) for salt in "ab")
    assert abs(len(one) / 20_000 - 0.05) < 0.006 and abs(len(one & two) / len(one) - 0.05) < 0.03
    categorical = users.cast(pl.Categorical)
    assert set(holdback.held_users(categorical, Holdback(salt="a"))) == one


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A night without a holdback, one with it, and one of a recipe with one model."""
    data = Dataset(tmp_path_factory.mktemp("holdback"))
    (data.folder / "cheap.toml").write_text(RECIPE + '[models.other]\nfamily = "item_knn"\n[export]\ntop_n = 5\n')
    data.write()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT"):
            patch.delenv(name, raising=False)
        without_mlflow(patch)
        without_report_file(patch)
        plain, held = data.night(), data.night(HELD)
        (data.folder / "cheap.toml").write_text(RECIPE + "[export]\ntop_n = 5\n")
        return data, plain, held, data.night(HELD)


def lists(data: Dataset, run_id: str) -> pl.DataFrame:
    return data.ask("from recommendations order by user_id, rank", data.home.generation("tiny", run_id))


def test_held_back_users_get_the_lists_of_the_runner_up(nights):
    data, plain, held, _ = nights
    before, after = lists(data, plain), lists(data, held)
    mine = set(holdback.held_users(before["user_id"], Holdback(share=0.4, salt="s")))
    assert 3 < len(mine) < 15 and set(after.filter(source="holdback")["user_id"]) == mine
    champion = before["model"].unique().item()
    others = {"mf", "other"} - {champion}
    of_mine = after.filter(pl.col("user_id").is_in(mine))
    assert set(of_mine["model"]) == others and set(of_mine["source"]) == {"holdback"}
    columns = ["user_id", "rank", "item_id", "score", "source", "model"]
    rest = pl.col("user_id").is_in(mine).not_()
    assert after.filter(rest).select(columns).equals(before.filter(rest).select(columns)), "nobody else is touched"
    sizes = [frame.group_by("user_id").len().sort("user_id") for frame in (before, after)]
    assert sizes[0].equals(sizes[1]) and not of_mine.select(columns[:3]).equals(
        before.filter(~rest).select(columns[:3])
    )
    checks = data.ask("select check_name, passed from checks where run_id = max_run and severity = 'error'".replace(
        "max_run", f"'{held}'"), data.home.generation("tiny", held))  # fmt: skip
    assert checks["passed"].all() and "holdback_sound" in set(checks["check_name"])


def test_without_a_second_model_they_get_popular_items(nights):
    data, _, _, alone = nights
    found = lists(data, alone).filter(source="holdback")
    assert set(found["model"]) == {"popularity"}
    assert any("no second model" in text for text in journal.notes(data.home, "tiny", alone))
    seen = pl.read_csv(data.folder / "a.csv").select(user_id="user", item_id="item")
    assert found.join(seen, on=["user_id", "item_id"]).is_empty()
    scores = dict(pl.read_csv(data.folder / "a.csv").group_by("item").len().iter_rows())
    assert [scores[item] for item in found["item_id"]] == found["score"].to_list()


def test_a_list_on_request_is_that_of_the_runner_up_too(nights):
    """For every user it equals the published one: items, sources, models and scores; with a second model and without."""
    data, _, held, alone = nights
    for run_id in (held, alone):
        night, published = explanation.published_night(data.home, "tiny", run_id), lists(data, run_id)
        columns = ["rank", "item_id", "source", "model"]
        for (user,), mine in published.group_by("user_id", maintain_order=True):
            asked = on_request.list_of(night, str(user))
            assert asked.select(columns).rows() == mine.select(columns).rows()
            assert asked["score"].to_list() == pytest.approx(mine["score"].to_list(), rel=1e-4)
        assert "holdback" in set(published["source"])


def test_a_list_on_request_says_that_the_runner_up_is_not_known(nights):
    data, _, held, _ = nights
    user = lists(data, held).filter(source="holdback")["user_id"][0]
    night = explanation.published_night(data.home, "tiny", held)
    for lost, why in (
        (dataclasses.replace(night, runner_up=None, says_runner_up=False), "does not say which it was"),
        (dataclasses.replace(night, runner_up=data.folder / "gone"), "gone or damaged"),
    ):
        with pytest.raises(UnreadableInput, match=why):
            on_request.list_of(lost, user)
