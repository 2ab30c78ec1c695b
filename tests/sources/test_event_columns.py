"""The column of event types is found by its name or its words; ratings in words, categories and titles are not."""

import pytest

from pipeline.sources.sniffing.event_columns import event_column


def rows_of(*texts: str) -> list[list[str]]:
    return [[f"u{n % 7}", f"i{n % 11}", texts[n % len(texts)], str(1_700_000_000 + n)] for n in range(60)]


@pytest.mark.parametrize("name", ["", "event_type", "Behavior", "type", "unknown"])
@pytest.mark.parametrize(
    "texts", [("pv", "cart", "buy", "fav"), ("view", "addtocart", "transaction"), ("Add to Cart", "Purchase", "View")]
)
def test_known_words_are_events_whatever_the_name(name, texts):
    found = event_column(["user", "item", name, "time"], rows_of(*texts))
    assert found and found.at == 2 and set(found.counts) == set(texts) and sum(found.counts.values()) == 60


@pytest.mark.parametrize("texts", [("0", "1", "2", "3"), ("AA", "BB"), ("clickout item", "interaction item rating")])
def test_a_known_name_is_enough(texts):
    assert event_column(["user", "item", "action_type", "time"], rows_of(*texts))
    assert event_column(["user", "item", "x", "time"], rows_of(*texts)) is None


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("vote", ("up", "down")), ("liked", ("True", "False")), ("", ("like", "dislike")), ("event", ("yes", "no")),
        ("genre", ("Drama", "Comedy")), ("category", ("1", "2", "3")), ("", ("1", "2", "3")), ("title", ("Sale", "Heat")),
        ("event", tuple(f"concert {n}" for n in range(60))), ("event", ("",)), ("saved", ("play",)),
    ],
)  # fmt: skip
def test_other_columns_are_none(name, texts):
    assert event_column(["user", "item", name, "time"], rows_of(*texts)) is None


def test_a_column_with_a_role_is_left_out():
    rows = [["view", "view", *row] for row in rows_of("x")]
    assert event_column(["event", "action", "user", "item", "x", "time"], rows, taken={0}).at == 1  # type: ignore
    assert event_column([], []) is None
