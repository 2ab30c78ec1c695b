"""split: parts are disjoint, complete, and never know what comes after them."""

import gzip

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.settings import Split
from pipeline.core.errors import ContractError, Refused, SettingsError, UnreadableInput
from pipeline.preparation import order_statistics, published_split, split_checks, splitters
from pipeline.preparation.encoding import encode_rows
from pipeline.schemas import tables
from pipeline.stages import clean, encode, split
from pipeline.storage import journal, lake
from tests.support.data_sets import data_set
from tests.support.stage_runs import make_run, raw, store


def encoded(*records: tuple):
    return encode_rows(raw(*records).with_columns(positive=pl.lit(True)), seed=42)


def parts_of(kind: str, source, seed: int = 42, **settings) -> dict[str, pl.DataFrame]:
    """The three parts, proved free of leaks."""
    rows, users, items = source
    wanted = Split(kind=kind, **settings)
    labels = splitters.label_rows(rows, splitters.Draw(users["user_id"], items["item_id"], seed), kind, wanted)
    parts = {name: rows.filter(labels == label) for label, name in enumerate(splitters.SPLITS)}
    split_checks.assert_no_leak(parts["train"], parts["valid"], parts["test"], kind)
    return parts


def sizes(parts) -> tuple[int, ...]:
    return tuple(part.height for part in parts.values())


pair_days = st.dictionaries(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdefgh")),
    st.integers(0, 5),
    min_size=1,
    max_size=32,
)
kinds = st.sampled_from(["global_time", "leave_one_out", "random"])


@pytest.mark.long
@given(
    pair_days,
    kinds,
    st.sampled_from([0, 0.1, 0.4]),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from(["user", "row"]),
)
def test_parts_are_disjoint_complete_and_in_order(pairs, kind, valid, test, by):
    source = encoded(*[(user, item, 1, day) for (user, item), day in pairs.items()])
    parts = parts_of(kind, source, valid=valid, test=test, by=by)
    together = pl.concat(parts.values())
    assert together.sort("user_idx", "item_idx").equals(source[0].sort("user_idx", "item_idx"))
    for part in parts.values():
        assert part.equals(source[0].join(part, on=["user_idx", "item_idx"], how="semi", maintain_order="left"))
    if not valid:
        assert parts["valid"].is_empty()
    if kind == "leave_one_out":
        for (user,), rows in together.group_by("user_idx"):
            n_test, n_valid = (parts[p].filter(pl.col("user_idx") == user).height for p in ("test", "valid"))
            assert n_test == (rows.height >= 2)
            assert n_valid == (rows.height >= 3 and valid > 0)
    if kind == "random" and by == "user":
        assert set(parts["train"]["user_idx"]) == set(together["user_idx"])


def test_global_time_cuts_at_quantiles_of_rows():
    source = encoded(*[(f"u{day % 7}", f"i{day}", 1, day) for day in range(100)])
    parts = parts_of("global_time", source, valid=0.1, test=0.2)
    assert sizes(parts) == (70, 10, 20)
    assert parts["train"]["timestamp"].max() < parts["valid"]["timestamp"].min()


def test_rows_of_equal_time_go_together_into_the_later_part():
    source = encoded(*[(f"u{n}", "i", 1, n // 10) for n in range(40)])  # ten rows a day, four days
    assert sizes(parts_of("global_time", source, valid=0.3, test=0.05)) == (20, 10, 10)


def test_of_equal_times_leave_one_out_takes_what_the_seeded_order_says():
    rows, users, items = encoded(*[("u", f"i{i}", 1, 0) for i in range(9)], ("u", "old", 1, -1))
    parts = parts_of("leave_one_out", (rows, users, items))
    assert parts["test"].rows() == [rows.rows()[-1]]
    assert parts["valid"].rows() == [rows.rows()[-2]]


def test_tie_share_counts_users_whose_last_row_is_one_of_several_of_its_time():
    source = encoded(("u", "a", 1, 0), ("u", "b", 1, 2), ("u", "c", 1, 2), ("v", "a", 1, 0), ("v", "b", 1, 1),
                     ("w", "a", 1, 5))  # fmt: skip
    labels = splitters.leave_one_out(source[0], valid=True)
    assert split_checks.tie_share(source[0], labels, splitters.TEST) == 0.5  # of u and v; w has none
    assert split_checks.tie_share(source[0], labels, splitters.VALID) == 0


def test_random_rounds_fairly_so_that_small_users_sometimes_give_a_row():
    source = encoded(*[(f"u{u}", f"i{i}", 1, None) for u in range(2000) for i in range(3)])
    train, valid, test = sizes(parts_of("random", source, valid=0.1, test=0.1))
    assert abs(valid - 600) < 60 and abs(test - 600) < 60
    assert train + valid + test == 6000
    per_user = parts_of("random", source, valid=0.1, test=0.1)["test"]["user_idx"].value_counts()["count"]
    assert set(per_user) == {1}
    again = parts_of("random", source, valid=0.1, test=0.1)["test"]
    other = parts_of("random", source, seed=43, valid=0.1, test=0.1)["test"]
    assert again["user_idx"].value_counts()["count"].equals(per_user)
    assert not other.equals(again)


def test_random_takes_the_exact_share_of_users_with_many_rows_and_of_all_rows():
    source = encoded(*[(f"u{u}", f"i{i}", 1, None) for u in range(5) for i in range(40)])
    per_user = parts_of("random", source, valid=0.1, test=0.2)
    assert set(per_user["test"]["user_idx"].value_counts()["count"]) == {8}
    assert set(per_user["valid"]["user_idx"].value_counts()["count"]) == {4}
    assert sizes(parts_of("random", source, valid=0.1, test=0.2, by="row")) == (140, 20, 40)
    assert len(set(per_user["test"]["item_idx"])) > 20  # not the same items of every user


def test_auto_decides_by_what_the_data_has():
    def days(n_users: int):  # users who come every day
        return encoded(*[(f"u{u}", f"i{d}", 1, d) for u in range(n_users) for d in range(5)])[0]

    wanted = Split(valid=0.2, test=0.2)
    assert splitters.choose_kind(days(500), wanted, False) == ("global_time", "500 warm users in test")
    kind, reason = splitters.choose_kind(days(499), wanted, False)
    assert kind == "leave_one_out" and "499 warm users" in reason
    kind, reason = splitters.choose_kind(encoded(("u", "a", 1, None), ("u", "b", 1, 1))[0], wanted, False)
    assert kind == "random" and "1 of 2 rows have no time" in reason
    assert splitters.choose_kind(days(500), wanted, True)[0] == "published"


@pytest.mark.parametrize(
    ("settings", "days", "output"),
    [
        (
            {"kind": "global_time"},
            None,
            "needs times, but 1 of 1 rows have none: set dataset.columns.timestamp",
        ),
        ({"kind": "leave_one_out"}, None, "needs times"),
        ({"kind": "published"}, 0, r"no \[published\] files"),
        (
            {"kind": "random", "valid": 0.5, "test": 0.5},
            0,
            r"split.valid \+ split.test = 1 leaves nothing to train",
        ),
    ],
)
def test_a_split_that_the_data_cannot_have_names_the_setting(settings, days, output):
    with pytest.raises(SettingsError, match=output):
        splitters.choose_kind(encoded(("u", "a", 1, days))[0], Split(**settings), False)


def frame(*triples: tuple) -> pl.DataFrame:
    """Encoded rows from (user, item, day)."""
    day = pl.col("timestamp") * 86_400_000_000
    rows = pl.DataFrame(triples, schema=["user_idx", "item_idx", "timestamp"], orient="row")
    return rows.with_columns(pl.col("user_idx", "item_idx").cast(pl.Int32), day.cast(tables.TIME))


EMPTY = frame((0, 0, 0)).clear()


@pytest.mark.parametrize(
    ("train", "valid", "test", "kind"),
    [
        (frame((0, 0, 0)), EMPTY, frame((0, 0, 1)), "random"),
        (frame((0, 1, 0)), frame((0, 0, 0)), frame((0, 0, 1)), "random"),
        (frame((0, 0, 1)), EMPTY, frame((1, 1, 1)), "global_time"),
        (frame((0, 0, 0)), frame((1, 1, 2)), frame((1, 0, 2)), "global_time"),
        (frame((0, 0, 5)), EMPTY, frame((0, 1, 4)), "leave_one_out"),
        (frame((0, 0, 0)), frame((0, 2, 5)), frame((0, 1, 4)), "leave_one_out"),
        (frame((0, 0, 0)), EMPTY, frame((0, 1, 4), (0, 2, 4)), "leave_one_out"),
    ],
)
def test_every_leak_is_found(train, valid, test, kind):
    with pytest.raises(ContractError, match="split: "):
        split_checks.assert_no_leak(train, valid, test, kind)


def night(run, rows: pl.DataFrame):
    """Split folder of a night on raw rows."""
    return split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, store(run, rows))))


def test_the_kind_its_reason_and_the_sizes_are_logged_each_night(tmp_path, capsys):
    rows = raw(*[(f"u{n % 7}", f"i{n}", 1, n) for n in range(20)])
    run = make_run(tmp_path, split={"kind": "global_time"})
    for _ in range(2):  # the second time it is in the lake
        night(run, rows)
        output = capsys.readouterr().err
        assert "  global_time (as set): train 16, valid 2 from 2026-01-17, test 2 from 2026-01-19\n" in output
    night(make_run(tmp_path / "other", split={"kind": "random", "valid": 0, "by": "row"}), rows)
    assert "  random (as set): train 18, valid 0, test 2\n" in capsys.readouterr().err


def test_the_stage_writes_three_parts_their_statistics_and_the_reason(tmp_path):
    run = make_run(tmp_path)
    folder = night(run, raw(("u", "a", 1, 0), ("u", "b", 2, 1), ("u", "c", 3, 1), ("v", "z", 4, 1), ("v", "a", 1, 0)))
    parts = {name: tables.ENCODED.check(pl.read_parquet(folder / f"{name}.parquet")) for name in splitters.SPLITS}
    assert sizes(parts) == (2, 1, 2)
    info = lake.info(folder)
    assert (info["kind"], info["n_users"], info["n_items"], info["tie_share"]) == ("leave_one_out", 2, 4, 0.5)
    assert info["rows"] == {"train": 2, "valid": 1, "test": 2}
    assert info["n_cold"]["test"] == {"users": 0, "items": 2, "rows": 2}
    recorded = journal.read_run(run.home, run.dataset, run.run_id)
    assert recorded["split_kind"].startswith("leave_one_out (a cut in time would leave")
    assert "50%" in journal.notes(run.home, run.dataset, run.run_id)[0]
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER).filter(pl.col("stage") == "split")
    assert ledger.select("reason", "rows").rows() == [("kept", 5)]


@pytest.mark.parametrize(
    ("kind", "rows", "output"),
    [
        (
            "global_time",
            [("u", "a", 1, 0), ("v", "b", 1, 0), ("w", "c", 1, 0)],
            "global_time split of 3 rows .* train",
        ),
        ("leave_one_out", [("u", "a", 1, 0), ("v", "b", 1, 0)], "leaves nothing to test on"),
        ("random", [("u", "a", 1, None)], "leaves nothing to test on"),
    ],
)
def test_a_part_that_comes_out_empty_is_refused(tmp_path, kind, rows, output):
    with pytest.raises(Refused, match=output):
        night(make_run(tmp_path, split={"kind": kind}), raw(*rows))


def test_equal_nights_write_equal_parts_whatever_the_order_of_the_file(tmp_path):
    rows = raw(*[(f"u{n % 17}", f"i{n % 23}", n, n % 5) for n in range(300)])
    some = rows.unique(["user_id", "item_id"], maintain_order=True)
    folders = [
        night(make_run(tmp_path / name, split={"kind": "random"}), data)
        for name, data in (("a", some), ("b", some.reverse()))
    ]
    for name in splitters.SPLITS:
        first, second = (pl.read_parquet(folder / f"{name}.parquet") for folder in folders)
        assert first.equals(second)


def published_dataset(folder) -> dict:
    """Files of a published split, like NCF's, and the data set that reads them."""
    (folder / "test.tsv").write_text("u\tb\t1\nv\ta\t1\nnobody\ta\t1\n")
    with gzip.open(folder / "negatives.gz", "wt") as file:
        file.write("(u,b)\tc\td\tnew\tb\t\n(v,a)\td\n(nobody,a)\tb\n")
    return {
        "source": {
            "files": ["*.tsv"],
            "header": False,
            "column_names": ["user", "item", "n"],
            "delimiter": "\t",
        },
        "published": {"train": "train.tsv", "test": "test.tsv", "candidates": "negatives.gz"},
    }


def test_a_published_split_takes_its_test_pairs_and_candidates(tmp_path):
    run = make_run(tmp_path, dataset=published_dataset(tmp_path), split={"valid": 0})
    rows = raw(*[(u, i, 1, None) for u, i in ("ua", "ub", "uc", "va", "vb", "vd")])
    folder = night(run, rows)
    info = lake.info(folder)
    assert (info["kind"], info["rows"]) == ("published", {"train": 4, "valid": 0, "test": 2})
    assert info["published_test"] == {"named": 3, "found": 2}
    assert pl.read_parquet(folder / "test.parquet").select("user_idx", "item_idx").rows() == [(0, 1), (1, 0)]
    lists = pl.read_parquet(folder / "candidates.parquet")
    assert lists.schema == {"user_idx": pl.Int32, "item_idx": pl.List(pl.Int32)}
    assert lists.rows() == [(0, [2, 3]), (1, [3])]  # `new` is unknown, b is u's positive
    assert info["candidates"] == {"users": 2, "candidates": 3, "lines_with_positive": 1, "unknown_items": 1}
    assert not list(folder.glob("*.txt"))


def test_a_published_split_draws_valid_from_the_rest(tmp_path):
    dataset = published_dataset(tmp_path)
    timed = night(make_run(tmp_path, dataset=dataset), raw(*[(u, i, 1, ord(i)) for u in "uv" for i in "abcd"]))
    latest = pl.read_parquet(timed / "valid.parquet").select("user_idx", "item_idx").rows()
    assert latest == [(0, 3), (1, 3)]
    home = tmp_path / "untimed"
    run = make_run(home, data=tmp_path, dataset=dataset, split={"kind": "published", "valid": 0.5})
    parts = lake.info(night(run, raw(*[(u, i, 1, None) for u in "uv" for i in "abcdefghi"])))["rows"]
    assert parts == {"train": 8, "valid": 8, "test": 2}


def test_changed_test_pairs_make_a_new_folder(tmp_path):
    run = make_run(tmp_path, dataset=published_dataset(tmp_path))
    rows = raw(*[(u, i, 1, None) for u in "uv" for i in "abcd"])
    before = night(run, rows)
    (tmp_path / "test.tsv").write_text("u\tc\t1\n")
    assert night(run, rows) != before


def test_a_candidates_line_that_is_none_is_named():
    with pytest.raises(UnreadableInput, match="neg, line 2: the line does not start with"):
        published_split.parse_candidates("(1,2)\t3\n3\t4\n", "neg")


def test_a_seed_decides_the_holdout_of_44_percent_of_ml_100k(tmp_path):
    names = ["user_id", "item_id", "rating", "seconds"]
    rows = pl.read_csv(data_set("ml-100k") / "u.data", separator="\t", has_header=False, new_columns=names)
    time = pl.from_epoch("seconds", "s").cast(tables.TIME)
    rows = rows.with_columns(
        pl.col("user_id", "item_id").cast(pl.String), pl.col("rating").cast(pl.Float64), timestamp=time
    )
    info = lake.info(night(make_run(tmp_path), tables.RAW.check(rows)))
    assert info["kind"] == "leave_one_out"
    assert info["rows"] == {"train": 98_114, "valid": 943, "test": 943}
    assert info["tie_share"] == pytest.approx(0.44, abs=0.005)


def test_the_candidates_of_ncf(tmp_path):
    folder = data_set("ml-1m") / "ncf"
    parsed = published_split.read_candidates(folder, "ml-1m.test.negative", "utf-8", tmp_path)
    assert parsed.height == 6040 * 99
    ids = pl.concat([parsed["item_id"], parsed["positive_id"]]).unique().sort()
    items = pl.DataFrame({"item_id": ids}).with_row_index("item_idx").cast({"item_idx": pl.Int32})
    users = pl.DataFrame({"user_id": parsed["user_id"].unique().sort()}).with_row_index("user_idx")
    lists, metrics = published_split.candidates_of(parsed, users.cast({"user_idx": pl.Int32}), items)
    assert metrics["lines_with_positive"] == 156
    assert lists["item_idx"].list.len().sum() == metrics["candidates"] < 6040 * 99
    assert np.all(lists["user_idx"].to_numpy() == np.arange(6040))


@pytest.mark.parametrize(("kind", "day", "warns"), [("auto", None, True), ("random", None, False), ("auto", 3, False)])
def test_a_random_split_that_nobody_asked_for_is_a_warning(tmp_path, kind, day, warns):
    rows = raw(*[(f"u{u}", f"i{i}", 1, day) for u in range(5) for i in range(8)])
    run = make_run(tmp_path, split={"kind": kind})
    encoded_dir = encode.encode_ids(run, clean.clean_interactions(run, store(run, rows)))
    for _ in range(2):
        split.split_interactions(run, encoded_dir)
    notes = [note for note in journal.notes(run.home, run.dataset, run.run_id) if note.startswith("warning: split")]
    assert len(notes) == 2 * warns
    assert all("40 of 40 rows have no time" in note and 'split.kind = "random"' in note for note in notes)


@given(st.lists(st.integers(0, 50) | st.integers(0, 10**15), min_size=1, max_size=200), st.booleans(), st.data())
def test_the_number_at_a_place_is_that_of_a_sort(numbers, ascending, data):
    values = np.array(sorted(numbers) if ascending else numbers)
    place = data.draw(st.integers(0, len(values) - 1))
    with pytest.MonkeyPatch.context() as patch:  # samples and margins that miss the place, too
        patch.setattr(order_statistics, "SAMPLED", data.draw(st.sampled_from([3, 20, 1000])))
        patch.setattr(order_statistics, "MARGIN", data.draw(st.sampled_from([0, 1, 5])))
        assert order_statistics.at_place(values, place) == np.sort(values)[place]
