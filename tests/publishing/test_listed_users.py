"""Users who get lists: the same histories and masks in blocks and parts of any size."""

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.publishing import listed_users
from pipeline.stages import clean, encode
from pipeline.storage import lake
from pipeline.training.interactions import History, Interactions
from tests.support.stage_runs import DAY, make_run, store

EVENTS = {"column": "kind", "weights": {"view": 0.2, "purchase": 1.0}, "target": ["purchase"]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"dataset": {"filter": {"min_user_interactions": 4}}},
    "positive": {"dataset": {"filter": {"user_fraction": 0.5}, "feedback": {"positive_if": "rating >= 3"}}},
    "events": {"dataset": {"events": EVENTS, "filter": {"min_user_interactions": 5, "min_item_interactions": 2}}},
    "active": {"dataset": {"columns": {"timestamp": "t"}}, "export": {"active_days": 3}},
}


def log() -> pl.DataFrame:
    draw = np.random.default_rng(5)
    n = 400
    return pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in draw.choice(60, n, p=draw.dirichlet(np.ones(60)))],
            "item_id": [f"i{n}" for n in draw.integers(0, 40, n)],
            "rating": draw.integers(1, 6, n).astype(float),
            "timestamp": [DAY + dt.timedelta(days=int(day)) for day in draw.integers(0, 20, n)],
            "source_kind": draw.choice(["view", "purchase", "share"], n),
        }
    )


def rows_of(history: History, n: int) -> list[list[tuple]]:
    ends, items = history.offsets.tolist(), history.items.tolist()
    facts = history.facts
    of = [facts.kinds, facts.quantities, facts.ages] if facts else []
    more = list(zip(*(each.tolist() for each in of if each is not None), strict=True)) or [()] * len(items)
    assert len(ends) == n + 1
    return [list(zip(items[a:b], more[a:b], strict=True)) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("case", CASES)
def test_blocks_and_parts_change_nothing(case: str, tmp_path: Path, monkeypatch):
    run, rows = make_run(tmp_path, **CASES[case]), log()
    cleaned = clean.clean_interactions(run, store(run, rows))
    encoded = encode.encode_ids(run, cleaned)
    shape, items = lake.info(encoded), pl.read_parquet(encoded / "items.parquet")
    frame = pl.read_parquet(encoded / "interactions.parquet")
    known = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], recency=True)

    def all_users(per_block: int, per_part: int, among: pl.Series | None = None) -> dict[str, tuple]:
        monkeypatch.setattr(listed_users, "ROWS_PER_BLOCK", per_block)
        monkeypatch.setattr(listed_users, "USERS_PER_PART", per_part)
        found = {}
        for part in listed_users.users_of(run, known, rows, encoded, items, among):
            n = len(part.ids)
            assert 0 < n <= per_part
            of = zip(part.ids, part.index.tolist(), rows_of(part.history, n), rows_of(part.mask, n), strict=True)
            found |= {user: rest for user, *rest in of}
        return found

    whole = all_users(10**6, 10**6)
    assert list(whole) == sorted(whole) and len(whole) > 20
    if case != "active":
        assert {user for user, (index, *_) in whole.items() if index < 0}, "some users are not in the fit"
        assert set(whole) == set(rows["user_id"])
    for user, (_, _, mask) in whole.items():
        own = rows.filter(user_id=user)
        events = run.settings.dataset.events
        own = own.filter(pl.col("source_kind").is_in(events.masks)) if events else own
        known_items = items["item_id"].to_list()
        assert [known_items[item] for item, _ in mask] == [i for i in own["item_id"] if i in known_items]
    for per_block, per_part in ((1, 1), (30, 7), (100, 7), (10**6, 7)):
        assert all_users(per_block, per_part) == whole
    some = pl.Series(["u3", "u30", "nobody", "u59"])
    assert all_users(30, 2, some) == {user: rest for user, rest in whole.items() if user in set(some)}
