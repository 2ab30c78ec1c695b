"""Every two features of lists in one night: rules, masks, lengths, sources and counts hold, by the source's own rows."""

import datetime as dt
import itertools
import re

import polars as pl
import pytest

from pipeline.publishing import holdback
from pipeline.storage import journal
from tests.support.published_nights import without_mlflow, without_report_file
from tests.support.small_shop import SmallShop, read

OF_RECIPE = {
    "seen": {"hide": "", "allow": 'seen = "allow"\n', "hide_days": 'seen = "allow"\nhide_days = 5\n'},
    "attributes": {"no": "", "yes": '[attributes]\nitems = ["category", "brand"]\n'},
}
OF_EXPORT = {
    "length": {"short": "top_n = 8\n", "long": "top_n = 400\n"},
    "active": {"all": "", "recent": "active_days = 30\n"},
    "rules": {"no": "", "yes": 'exclude_where = "stock < 20"\nboost = [{ where = "price > 5", factor = 1.5 }]\n'},
    "fallback": {"global": "", "by": 'fallback_by = "country"\n'},
    "reasons": {"no": "", "yes": "reasons = 2\n"},
}
SECTIONS = {
    "holdback": {"no": "", "yes": "[export.holdback]\nshare = 0.4\n"},
    "explore": {"no": "", "yes": '[export.explore]\nshare = 0.25\nnew_days = 14\navailable_from = "launched"\n'},
    "by": {"no": "", "yes": '[export.by]\nattribute = "category"\ntop_n = 4\nvalues = 3\n'},
    "audiences": {"no": "", "yes": '[export.audiences]\ntop_n = 9\nattributes = ["brand"]\n'},
    "lists": {"no": "", "yes": '[lists.long]\ntop_n = 350\n[lists.email]\ntop_n = 3\nonly_where = "price < 4"\n'
                               "[lists.email.explore]\nshare = 0.3\navailable_from = \"launched\"\n"},
}  # fmt: skip
PLACING, OTHER = "ials", "ease"
"""Models of which one places items by their attributes."""
FACTORS = {"champion": {PLACING: "", OTHER: ""}} | OF_RECIPE | OF_EXPORT | SECTIONS
Combination = dict[str, str]
QUICK = (0, 1, 6)
"""The nights that are not slow: with all features by either model, and one that hides what users have."""


def pairwise() -> list[Combination]:
    """Few combinations in which every two levels of two factors meet; greedy, the fullest first."""
    names = sorted(FACTORS, key=lambda name: -len(FACTORS[name]))
    left = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in FACTORS[a] for y in FACTORS[b]}
    found = []
    while left:
        chosen: Combination = {}
        for name in names:
            gains = {level: sum(((other, known), (name, level)) in left for other, known in chosen.items())
                     for level in reversed(FACTORS[name])}  # fmt: skip
            open_ = {level: sum((name, level) in pair for pair in left) for level in gains}
            chosen[name] = max(gains, key=lambda level: (gains[level], open_[level]))
        left -= set(itertools.combinations(chosen.items(), 2))
        found.append(chosen)
    return found


def recipe(chosen: Combination) -> str:
    first = [levels[chosen[name]] for name, levels in OF_RECIPE.items()]
    export = [levels[chosen[name]] for name, levels in OF_EXPORT.items()]
    return "".join([*first, "[export]\n", *export, *(levels[chosen[name]] for name, levels in SECTIONS.items())])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        without_report_file(patch)
        yield SmallShop(tmp_path_factory.mktemp("combinations"))


def test_all_pairs_are_covered_by_few_nights():
    found = pairwise()
    met = {pair for each in found for pair in itertools.combinations(sorted(each.items()), 2)}
    wanted = {pair for a, b in itertools.combinations(sorted(FACTORS), 2)
              for pair in itertools.product([(a, x) for x in FACTORS[a]], [(b, y) for y in FACTORS[b]])}  # fmt: skip
    assert met == wanted and len(found) <= 12, len(found)


class Expected:
    """What the lists of a combination may have, from the source's rows alone."""

    def __init__(self, shop: SmallShop, chosen: Combination):
        events, products = shop.events, shop.truth.products
        newest = events["timestamp"].max()
        assert isinstance(newest, dt.datetime)
        bought = events.filter(type="purchase")
        if chosen["seen"] == "allow":
            bought = bought.clear()
        elif chosen["seen"] == "hide_days":
            bought = bought.filter(pl.col("timestamp") > newest - dt.timedelta(days=5))
        self.masked = bought.select("user_id", "item_id").unique()
        active = events.filter(pl.col("timestamp") >= newest - dt.timedelta(days=30))
        self.users = set((active if chosen["active"] == "recent" else events)["user_id"])
        self.newsletter = set(shop.truth.tastes.filter(kind="reader")["customer"])
        with_events = set(events.filter(pl.col("type").is_in(["view", "cart", "purchase"]))["item_id"])
        placed = chosen["attributes"] == "yes" and chosen["champion"] == PLACING
        self.fit = set(products["product"]) if placed else with_events
        out = set(products.filter(pl.col("stock") < 20)["product"]) if chosen["rules"] == "yes" else set()
        self.new = set(shop.truth.new) - out
        self.allowed = self.fit - out
        self.with_events = with_events - out
        self.cheap = set(products.filter(pl.col("price") < 4)["product"])
        self.held = set(holdback.held_users(pl.Series(sorted(self.users)), holdback.Holdback(share=0.4)))
        self.held = self.held if chosen["holdback"] == "yes" else set()

    def lengths(self, top_n: int, allowed: set[str], of_held: set[str] | None = None) -> dict[str, int]:
        """How many items each user gets."""
        seen = self.masked.filter(pl.col("item_id").is_in(list(allowed))).group_by("user_id").len()
        had = dict(seen.iter_rows())
        found = {user: min(top_n, len(allowed) - had.get(user, 0)) for user in self.users}
        if of_held is not None:
            seen = self.masked.filter(pl.col("item_id").is_in(list(of_held))).group_by("user_id").len()
            had = dict(seen.iter_rows())
            own = self.held - self.newsletter
            found |= {user: min(top_n, len(of_held) - had.get(user, 0)) for user in own & self.users}
        return found


def check_list(rows: pl.DataFrame, expected: Expected, allowed: set[str], lengths: dict[str, int]) -> None:
    """One list of every user."""
    assert dict(rows.group_by("user_id").len().iter_rows()) == {user: n for user, n in lengths.items() if n}
    ranks = rows.group_by("user_id").agg(pl.col("rank").sort(), pl.col("item_id").n_unique().alias("n"))
    assert all(own == [*range(1, n + 1)] for own, n in ranks.select("rank", "n").iter_rows())
    assert rows.join(expected.masked, on=["user_id", "item_id"]).is_empty(), "nothing hidden"
    drawn = rows.filter(source="explore")
    assert set(drawn["item_id"]) <= expected.new and not (drawn["rank"] == 1).any()
    assert set(rows.filter(pl.col("source") != "explore")["item_id"]) <= allowed


EVERYTHING = {name: [*levels][-1] for name, levels in FACTORS.items()} | {"champion": PLACING}
NIGHTS = [
    pytest.param(chosen, id="-".join(chosen.values()), marks=[] if n in QUICK else [pytest.mark.slow])
    for n, chosen in enumerate([EVERYTHING, *pairwise()])
]


@pytest.mark.parametrize("chosen", NIGHTS)
def test_a_combination_keeps_every_promise(shop, chosen):
    run = shop.night(recipe(chosen), chosen["champion"])
    expected = Expected(shop, chosen)
    yes = {name: level == "yes" for name, level in chosen.items()}
    lists = read(run, "from recommendations")
    top_n = 8 if chosen["length"] == "short" else 400
    of_held = expected.with_events & expected.allowed  # one of the two models places no item by its attributes
    check_list(lists, expected, expected.allowed, expected.lengths(top_n, expected.allowed, of_held))
    is_open = yes["explore"] and not (top_n == 400 and expected.new <= expected.allowed)  # else all have all new items
    sources = {"model", "fallback"} | ({"holdback"} if yes["holdback"] else set())
    assert sources <= set(lists["source"]) <= sources | {"explore"}
    assert ("explore" in set(lists["source"])) == is_open or yes["holdback"]
    assert set(lists.filter(source="fallback")["user_id"]) == expected.newsletter & expected.users
    assert set(lists.filter(source="holdback")["user_id"]) == (expected.held - expected.newsletter) & expected.users
    assert (
        set(lists.filter(source="model")["model"])
        == {chosen["champion"]}
        != set(lists.filter(source="holdback")["model"])
    )
    further = read(run, "from recommendations_in")
    assert bool(further.height) == yes["lists"]
    notes = journal.notes(run.home, run.dataset, run.run_id)
    if yes["lists"]:
        long, email = further.filter(list="long"), further.filter(list="email")
        check_list(long, expected, expected.allowed, expected.lengths(350, expected.allowed))
        cheap = expected.allowed & expected.cheap
        check_list(email, expected, cheap, expected.lengths(3, cheap))
        assert set(email.filter(source="explore")["item_id"]) <= expected.cheap
        assert any(
            f"long {long.height:,} rows (top 350), email {email.height:,} rows (top 3)" in note for note in notes
        )
    if yes["explore"]:
        (note,) = [note for note in notes if note.startswith("explore: ")]
        counts = re.findall(r"[\d,]+", note)
        assert counts[0].replace(",", "") == str(lists.filter(source="explore").height), note
        assert counts[1].replace(",", "") == str(lists.height), note
    by = read(run, "from recommendations_by")
    assert bool(by.height) == yes["by"] and set(by["user_id"]) == (expected.users if yes["by"] else set())
    assert by.join(expected.masked, on=["user_id", "item_id"]).is_empty() and set(by["item_id"]) <= expected.allowed
    if yes["by"] and chosen["fallback"] == "by":  # who gets the own country's list gets lists by category like it
        order = dict(
            read(run, "select value, list(item_id order by rank) from fallback_items group by all").iter_rows()
        )
        country = dict(shop.truth.customers.iter_rows())
        for (user, value), own in by.sort("rank").group_by("user_id", "value", maintain_order=True):
            if user in expected.newsletter and country[str(user)]:
                ranked = [item for item in order[country[str(user)]] if item in set(own["item_id"])]
                known = [item for item in own["item_id"] if item in ranked]
                assert known == ranked, (user, value)
    people = read(run, "select * from audiences")
    assert bool(people.height) == yes["audiences"]
    assert (
        people.join(expected.masked, on=["user_id", "item_id"]).is_empty()
        and set(people["item_id"]) <= expected.allowed
    )
    assert set(people["user_id"]) <= expected.users - expected.newsletter
    why = read(run, "select user_id, rank, sum(share) as total from reasons group by all")
    of_model = lists.filter(source="model").select("user_id", "rank")
    assert why.join(of_model, on=["user_id", "rank"], how="anti").is_empty()
    assert bool(why.height) == yes["reasons"] and ((why["total"] - 1).abs() < 1e-6).all()
