"""Whole nights on odd, tiny data: what is served, to whom, and what is refused with a reason."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from flows import conductor as line
from flows.cli import main
from flows.prepare import prepare
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageName
from pipeline.storage import journal
from tests.support import nights
from tests.support.nights import QUICK
from tests.support.published_nights import without_mlflow

HOSTILE = [" 7", "007", "7", "7.0", "🎬", 'a "b"', "'; drop table users; --", "NULL", "nan", "É", "É", "a,b"]


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of such a night would be the start of a tracking database that no test here looks at."""
    without_mlflow(monkeypatch)


def write(folder: Path, records: list[tuple], header: str = "user,item,rating,timestamp", name: str = "a.csv"):
    """A CSV with every value quoted."""
    quoted = (",".join('"' + str(v).replace('"', '""') + '"' for v in r) for r in records)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *quoted]) + "\n")


def toml_of(
    folder: Path, extra: str = "", columns: str = 'rating = "rating"\ntimestamp = "timestamp"', source=""
) -> str:
    path = folder / "odd.toml"
    path.write_text(f'name = "odd"\n[source]\nfiles = ["*.csv"]\n{source}\n[columns]\n{columns}\n{extra}')
    return str(path)


def one_night(folder: Path, toml: str, *overrides: str, recipe: str = ""):
    """A published night, by default of a cheap recipe; `ask` queries its tables."""
    if not recipe:
        recipe = str(folder / "cheap.toml")
        Path(recipe).write_text(nights.CHEAP)
    quick = QUICK if recipe == "nightly" else ["threads=1"]
    run = nights.one_night(folder / "home", toml, recipe, *quick, *overrides, step=nights.without_report)
    return run, partial(nights.ask, run)


def grid(n_users: int, n_items: int, keep: Callable[[int, int], bool] = lambda u, i: (u + i) % 3 != 0) -> list[tuple]:
    """Rows of user u and item i where `keep`, at times of their own."""
    pairs = [(u, i) for u in range(n_users) for i in range(n_items) if keep(u, i)]
    return [(f"u{u}", f"i{i}", 1 + (u * i) % 5, 1_000_000 + 977 * n) for n, (u, i) in enumerate(pairs)]


def assert_everybody_is_served(ask: Callable[[str], pl.DataFrame], records: list[tuple], items: set[str] | None = None):
    """min(top_n, unseen items that may be listed) distinct items each, none of them seen."""
    seen: dict[str, set[str]] = {}
    for user, item, *_ in records:
        seen.setdefault(str(user), set()).add(str(item))
    items = {str(r[1]) for r in records} if items is None else items
    assert set(ask("select user_id from users")["user_id"]) == set(seen)
    rows = ask("select user_id, item_id from recommendations").rows()
    lists = {user: [i for u, i in rows if u == user] for user in seen}
    for user, listed in lists.items():
        assert not set(listed) & seen[user], f"{user!r} gets what they have seen"
        assert set(listed) <= items and len(set(listed)) == len(listed), user
        assert len(listed) == min(20, len(items - seen[user])), user
    assert len(rows) == sum(map(len, lists.values())), "lists of nobody"


def random_split(test: float = 0.3) -> tuple[str, ...]:
    return "split.kind=random", "split.by=row", f"split.test={test}"


@pytest.mark.parametrize(
    ("records", "overrides"),
    [
        (grid(1, 12, lambda u, i: True), ("split.kind=leave_one_out",)),
        (grid(2, 2, lambda u, i: True), random_split()),
        (grid(9, 6, lambda u, i: u == 4 or (u + i) % 3 > 0), ("split.kind=leave_one_out",)),
    ],
    ids=["one user", "two by two", "one has seen all"],
)
def test_tiny_data_is_served(tmp_path, records, overrides):
    write(tmp_path, records)
    _, ask = one_night(tmp_path, toml_of(tmp_path), *overrides, recipe="nightly")
    assert_everybody_is_served(ask, records)


@pytest.mark.parametrize(
    ("records", "overrides"),
    [
        (grid(12, 1, lambda u, i: True), random_split()),
        (grid(2, 2, lambda u, i: True), ("split.kind=leave_one_out",)),
    ],
    ids=["one item", "two by two"],
)
def test_where_nothing_can_be_measured_only_a_single_model_is_published(tmp_path, records, overrides):
    write(tmp_path, records)
    toml = toml_of(tmp_path)
    with pytest.raises(Refused, match="name one model only"):
        one_night(tmp_path, toml, *overrides)
    recipe = tmp_path / "single.toml"
    recipe.write_text("[models.popularity]\n")
    _, ask = one_night(tmp_path, toml, *overrides, recipe=str(recipe))
    assert_everybody_is_served(ask, records)


def test_all_users_cold_in_test(tmp_path):
    early = grid(10, 8)
    late = [(f"new{u}", item, r, t + 10**7) for u, (_, item, r, t) in enumerate(early[:12])]
    write(tmp_path, early + late)
    _, ask = one_night(
        tmp_path, toml_of(tmp_path), "split.kind=global_time", f"split.test={12 / len(early + late):.6f}"
    )
    assert ask("select count(distinct user_id) n from recommendations where user_id like 'new%'")["n"][0] == 12
    assert_everybody_is_served(ask, early + late)


def test_the_filtered_are_served_and_never_listed(tmp_path):
    records = [*grid(12, 9), ("rare user", "i1", 5, 3_000_000), ("u1", "rare item", 5, 3_000_001)]
    write(tmp_path, records)
    filters = "[filter]\nmin_user_interactions = 3\nmin_item_interactions = 3\n"
    _, ask = one_night(tmp_path, toml_of(tmp_path, filters))
    assert_everybody_is_served(ask, records, {f"i{i}" for i in range(9)})


def test_rows_that_are_not_kept_mask_but_are_no_item_of_their_own(tmp_path):
    records = [*grid(12, 9), ("u1", "hated", 1, 3_000_000), ("u2", "hated", 1, 3_000_001)]
    write(tmp_path, records)
    _, ask = one_night(tmp_path, toml_of(tmp_path, '[feedback]\nkeep_if = "rating >= 2"\n'))
    kept = {r[1] for r in records if r[2] >= 2}
    assert "hated" not in kept
    assert_everybody_is_served(ask, records, kept)


def test_users_outside_the_sample_are_served(tmp_path):
    records = grid(40, 9)
    write(tmp_path, records)
    _, ask = one_night(tmp_path, toml_of(tmp_path, "[filter]\nuser_fraction = 0.3\n"))
    assert ask("select rows from row_ledger where reason = 'user_not_sampled'")["rows"][0] > 0
    assert_everybody_is_served(ask, records)


def test_ids_are_kept_to_the_byte(tmp_path):
    records = [
        (user, item, 1 + (u + i) % 5, 1_000_000 + 31 * (u * len(HOSTILE) + i))
        for u, user in enumerate(HOSTILE)
        for i, item in enumerate(HOSTILE)
        if (u + i) % 3
    ]
    write(tmp_path, records)
    _, ask = one_night(tmp_path, toml_of(tmp_path))
    assert set(ask("select user_id from users")["user_id"]) == set(HOSTILE)
    assert set(ask("select item_id from items")["item_id"]) == set(HOSTILE)
    assert_everybody_is_served(ask, records)


def test_sentinels_duplicates_and_seen_items(tmp_path):
    records = grid(12, 9)
    unrated = [(u, i, -1, t) for u, i, _, t in records[:6]]
    again = [(u, i, 2, t + 10**6) for u, i, _, t in records[10:20]]
    write(tmp_path, [*unrated, *records[6:], *again])
    _, ask = one_night(tmp_path, toml_of(tmp_path, "[feedback]\nmissing_ratings = [-1]\n"))
    ledger = dict(ask("select reason, rows from row_ledger where stage = 'clean' and rows > 0").rows())
    assert ledger == {"kept": len(records), "duplicate": 10}
    assert_everybody_is_served(ask, records)


def test_untimed_data(tmp_path):
    records = grid(12, 9)
    write(tmp_path, [r[:2] for r in records], "user,item")
    _, ask = one_night(tmp_path, toml_of(tmp_path, columns=""))
    assert_everybody_is_served(ask, records)
    assert ask("select first_timestamp is null as none from interactions_summary")["none"][0]


def test_a_second_file_is_added_up(tmp_path):
    first, second = grid(12, 9), grid(14, 10, lambda u, i: (u + i) % 3 == 0)
    write(tmp_path, first, name="1.csv")
    toml = toml_of(tmp_path, source='mode = "incremental"')
    one_night(tmp_path, toml)
    (tmp_path / "1.csv").unlink()  # it has been read
    write(tmp_path, second, name="2.csv")
    _, ask = one_night(tmp_path, toml)
    assert_everybody_is_served(ask, first + second)
    assert ask("select rows from interactions_summary")["rows"][0] == len(first + second)


def test_where_every_family_fails_the_night_is_refused_with_the_reasons(tmp_path):
    write(tmp_path, grid(12, 9))

    def fails(call, stage, *args):
        if call.stage is StageName.TRAIN:
            raise MemoryError("out of memory")
        return stage(*args)

    run = prepare(toml_of(tmp_path), "nightly", None, str(tmp_path / "home"), QUICK)
    with pytest.raises(Refused, match="no model could be fitted"):
        line.conduct(run, fails)
    assert journal.read_run(run.home, "odd", run.run_id)["outcome"] == "refused"
    assert "ease failed (MemoryError): out of memory" in journal.notes(run.home, "odd", run.run_id)
    assert not run.home.live("odd").exists()


def test_no_usable_family_exits_3(tmp_path, capsys):
    write(tmp_path, [r[:2] for r in grid(12, 9)], "user,item")
    recipe = tmp_path / "only.toml"
    recipe.write_text('[models.popularity_recent]\nfamily = "popularity"\nwindow_days = 30\n')
    night = ["run", toml_of(tmp_path, columns=""), "--recipe", str(recipe), "--no-prefect"]
    assert main(["--home", str(tmp_path / "home"), *night]) == 3
    output = capsys.readouterr().err
    assert "popularity_recent" in output and "Traceback" not in output
