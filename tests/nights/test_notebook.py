"""The API for notebooks: what it shows is what is published, and own lists are measured as models are."""

import polars as pl
import pytest

from flows import conductor as line
from flows.notebook import Published
from flows.prepare import prepare
from pipeline.core.errors import UnreadableInput

pytestmark = pytest.mark.usefixtures("lean_nights")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    home = tmp_path_factory.mktemp("notebook")
    (home / "quick.toml").write_text("[models.popularity]\n[models.ease]\n[gate]\nenabled = false\n")
    run = prepare(recipe=str(home / "quick.toml"), home=str(home))
    line.conduct(run, line.plainly)
    return Published("sample", home)


def test_tables_and_queries_are_frames(night):
    assert night.table("recommendations").height == night.sql("select count(*) n from recommendations")["n"][0]
    got = night.recommend(["u0001", "u0002"], top_n=3)
    assert got["user_id"].unique(maintain_order=True).to_list() == ["u0001", "u0002"] and got.height == 6
    assert night.recommend("u0001", top_n=3).equals(got.filter(user_id="u0001"))
    with pytest.raises(ValueError, match="not allowed as a name"):
        night.table("recommendations; drop table users")


def test_unknown_users_are_named(night):
    """Nobody would look for them in an empty frame."""
    with pytest.warns(UserWarning, match=r"not in the published tables of sample: 'one', '2'$"):
        assert night.recommend(["one", "u0001", 2], top_n=1)["user_id"].to_list() == ["u0001"]
    with pytest.raises(ValueError, match=r"'one'\. Ids are the source's"):
        night.recommend("one")
    with pytest.raises(ValueError, match="'4' and 2 more"):
        night.recommend(range(7))
    assert night.recommend([]).is_empty()


def test_a_perfect_list_is_perfect_and_an_empty_one_is_nothing(night):
    held = night.holdout("valid")
    perfect = held.with_columns(rank=pl.int_range(1, pl.len() + 1).over("user_id"))
    metrics = night.evaluate(perfect, cutoffs=(200,))
    assert dict(metrics.filter(metric="recall").select("metric", "value").iter_rows())["recall"] == 1
    nothing = night.evaluate(perfect.head(0))
    assert nothing.filter(metric="hit_rate")["value"][0] == 0


def test_lists_of_any_kind_of_frame_have_the_same_metrics(night):
    held = night.holdout("valid").with_columns(rank=pl.int_range(1, pl.len() + 1).over("user_id"))
    own = night.evaluate(held, cutoffs=(2,))
    text = held.cast({"rank": pl.String})  # "10" is after "2"
    for lists in (held.to_pandas(), held.to_arrow(), held.lazy(), held.to_dict(as_series=False), text):
        assert night.evaluate(lists, cutoffs=(2,)).equals(own)


def test_a_models_own_lists_have_the_models_metric(night):
    """Popularity on train by hand: the metrics are those of the leaderboard."""
    parts, encoded = (night._folder(name) for name in ("parts", "encoded"))
    train = pl.read_parquet(parts / "train.parquet").filter("positive")
    items = pl.read_parquet(encoded / "items.parquet")
    top = (
        train.group_by("item_idx")
        .len()
        .sort(["len", "item_idx"], descending=[True, False])
        .join(items, on="item_idx", maintain_order="left")
    )
    users = pl.read_parquet(encoded / "users.parquet").select("user_id")
    lists = users.join(top.select("item_id").with_row_index("rank"), how="cross")
    own = night.evaluate(lists, cutoffs=(10,)).filter(metric="ndcg")
    theirs = night.sql(
        "select value, n from metrics where model = 'popularity' and split = 'valid' and protocol = 'full' "
        "and metric = 'ndcg' and cutoff = 10 and segment = 'all'"
    )
    assert own["n"][0] == theirs["n"][0]
    assert own["value"][0] == pytest.approx(theirs["value"][0], abs=0.01)  # ties count against a model


def test_any_two_models_are_compared(night):
    """The numbers are those of the table that the night made; swapped, they change sign."""
    for split in ("valid", "test"):
        ours = night.compare("popularity", "ease", split)
        theirs = night.sql("from comparisons where split = $split", split=split).row(0, named=True)
        assert (theirs["model"], theirs["other"]) == ("popularity", "ease")
        assert ours["value"] == pytest.approx(theirs["difference"]) and ours["value"] < 0
        assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((theirs["ci_low"], theirs["ci_high"]))
        swapped = night.compare("ease", "popularity", split)
        assert swapped["value"] == pytest.approx(-ours["value"]) and swapped["n"] == ours["n"] == theirs["n"]
    with pytest.raises(ValueError, match="'slim' has no values by user on valid; models that have: popularity, ease"):
        night.compare("slim", "ease")
    with pytest.raises(ValueError, match="split is one of"):
        night.compare("popularity", "ease", "train")
    with pytest.raises(ValueError, match="it is one model"):
        night.compare("ease", "ease")


def test_mistakes_are_reported(night, tmp_path):
    with pytest.raises(ValueError, match="missing: rank"):
        night.evaluate(pl.DataFrame({"user_id": ["u0001"], "item_id": ["b0001"]}))
    with pytest.raises(ValueError, match=r"is not part of the night, e\.g\. 'nobody'"):
        night.evaluate(pl.DataFrame({"user_id": ["nobody"], "item_id": ["b0001"], "rank": [1]}))
    one = {"user_id": ["u0001"], "item_id": ["b0001"]}
    for lists, printed in (
        (5, "need the columns user_id, item_id, rank; .*'int'"),
        ({**one, "rank": ["first"]}, "need the columns .*first"),
        ({**one, "rank": [None]}, "1 rows have no rank"),
    ):
        with pytest.raises(ValueError, match=printed):
            night.evaluate(lists)
    with pytest.raises(UnreadableInput, match="nothing is published"):
        Published("sample", tmp_path)
    with pytest.raises(UnreadableInput, match="did you mean 'sample'"):
        Published("smaple", night.home.root)
