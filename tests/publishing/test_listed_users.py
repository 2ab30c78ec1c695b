"""Users who get lists: the same histories and masks in blocks and parts of any size."""

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.preparation.row_names import RowNames
from pipeline.publishing import explanation, listed_users
from pipeline.stages import clean, encode
from pipeline.storage import lake
from pipeline.training.interactions import History, Interactions
from tests.support.models import Fixed
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


@pytest.mark.parametrize(
    "dataset",
    [{"feedback": {"positive_if": "rating >= 3"}}, {"feedback": {"keep_if": "rating > 1"}}, {"events": EVENTS},
     {"feedback": {"kind": "implicit", "repeats": "sum"}}],
    ids=str,
)  # fmt: skip
def test_users_whom_the_filters_left_out_have_the_history_of_a_fit_without_filters(dataset: dict, tmp_path: Path):
    """For the night and on request alike."""
    rows = log()
    minutes = np.random.default_rng(1).permutation(rows.height)
    rows = rows.with_columns(timestamp=pl.Series([DAY + dt.timedelta(minutes=int(at)) for at in minutes]))
    by_user: list[dict[str, list[tuple]]] = []
    for name, filters in (("all", {}), ("few", {"min_user_interactions": 8})):
        run = make_run(tmp_path / name, dataset={**dataset, "filter": filters})
        raw = store(run, rows)
        cleaned = clean.clean_interactions(run, raw)
        encoded = encode.encode_ids(run, cleaned)
        items, shape = pl.read_parquet(encoded / "items.parquet")["item_id"], lake.info(encoded)
        frame = pl.read_parquet(encoded / "interactions.parquet")
        known = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], recency=True)

        def named(history: History, items: pl.Series = items) -> list[tuple]:
            """Item, and event type and quantity if there are any; ages differ where the newest row is left out."""
            (own,) = rows_of(history, 1)
            return [(items[item], fact[:-1]) for item, fact in own]

        index = pl.DataFrame({"item_id": items, "item_idx": range(len(items))})
        parts = list(listed_users.users_of(run, known, rows, encoded, index))
        of_night = {user: named(part.history[torch.tensor([at])]) for part in parts for at, user in enumerate(part.ids)}
        by_user.append(of_night)
        if name == "few":
            left_out = {u for part in parts for u, at in zip(part.ids, part.index.tolist(), strict=True) if at < 0}
            names = RowNames.of(run, lake.info(cleaned).get("column_types"))
            night = explanation.Night("r1", "m", Fixed(torch.zeros(1, 1)), run.settings, raw, encoded,
                                      encoded / "interactions.parquet", names=names)  # fmt: skip
            for user in sorted(left_out):
                of, history = explanation.history_of(night, user, rows.filter(user_id=user), items)
                assert of == -1
                assert [item for item, _ in named(history)] == [item for item, _ in of_night[user]], user
            listed = set(items)
    assert len(left_out) > 20
    for user in left_out:
        assert by_user[1][user] == [row for row in by_user[0][user] if row[0] in listed], user
