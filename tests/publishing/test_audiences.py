"""Audiences: the running best of every item, planted fans, users with long histories, rules, and what reads the tables."""

import math
from functools import cache

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import conductor
from flows.notebook import Published
from pipeline.core.errors import SettingsError
from pipeline.models import MODELS, FitContext, Recommender
from pipeline.publishing.attribute_values import Values
from pipeline.publishing.audiences import PRIOR, Audiences, Best
from pipeline.publishing.listed_users import Users
from pipeline.training.interactions import History, Interactions
from tests.support.nights import without_report
from tests.support.published_nights import RECIPE, SECRET, START, Dataset, without_mlflow

TASTES, PER_TASTE, LIGHT, HEAVY, NEW = 4, 15, 60, 12, 20
"""Items of taste t are t, t + 4, …; light users have a few items of one taste, heavy ones many of all, new ones one."""
USERS = LIGHT + HEAVY + NEW


def planted() -> Interactions:
    draw, users, items = torch.Generator().manual_seed(1), [], []
    n_items = TASTES * PER_TASTE
    for user in range(USERS):
        if user < LIGHT:
            own = torch.randperm(PER_TASTE, generator=draw)[: 4 + user % 3] * TASTES + user % TASTES
        else:
            own = torch.randperm(n_items, generator=draw)[: 40 if user < LIGHT + HEAVY else 1]
        users += [user] * len(own)
        items += own.tolist()
    return Interactions(torch.tensor(users), torch.tensor(items), USERS, n_items)


@cache
def fitted(family: str) -> tuple[Recommender, History]:
    train = planted()
    config = {"embedding_dim": 8} if family == "ials" else {}
    model = MODELS[family](MODELS[family].Config.model_validate(config), train.n_users, train.n_items)
    model.fit(train, FitContext())
    return model.eval().requires_grad_(False), train.history()


def audiences_of(family: str, top_n: int, allowed=None, values=None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of items and of values; users are named by their number, items too."""
    model, known = fitted(family)
    names = pl.Series([str(user) for user in range(USERS)])
    found = Audiences(model, top_n, allowed, values or {})
    parts = torch.arange(USERS).split(30)
    found.collect(Users(names.gather(part.numpy()), part, known[part], known[part]) for part in parts)
    return found.of_items(pl.Series([str(item) for item in range(known.n_items)])), found.of_values()


@pytest.mark.parametrize("family", ["ease", "ials", "item_knn"])
def test_the_audience_of_an_item_are_its_fans_and_neither_heavy_nor_new_users(family):
    def shares(found: pl.DataFrame) -> tuple[float, float, float]:
        user, item = (found[name].cast(pl.Int64).to_numpy() for name in ("user_id", "item_id"))
        fans = (user < LIGHT) & (user % TASTES == item % TASTES)
        return fans.mean(), ((user >= LIGHT) & (user < LIGHT + HEAVY)).mean(), (user >= LIGHT + HEAVY).mean()

    model, known = fitted(family)
    fans, heavy, new = shares(audiences_of(family, 5)[0])
    assert fans > 0.75 and heavy < 0.15 and new < 0.12, (fans, heavy, new)  # of all users 65 %, 13 % and 22 %
    raw = model.score(torch.arange(USERS), known).masked_fill(known.dense() > 0, -torch.inf)  # (U, I)
    best = raw.topk(5, dim=0).indices.T.flatten()  # (5 I,)
    item = torch.arange(TASTES * PER_TASTE).repeat_interleave(5)
    plain = pl.DataFrame({"user_id": best.numpy(), "item_id": item.numpy()})
    assert shares(plain)[1] > 0.35  # by raw scores heavy users fill the audiences


def test_who_has_an_item_is_not_in_its_audience_and_excluded_items_have_none():
    allowed = torch.arange(TASTES * PER_TASTE) != 7
    found, _ = audiences_of("ease", 100, allowed)
    train = planted()
    had = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    pairs = set(found.select(pl.col("user_id", "item_id").cast(pl.Int64)).iter_rows())
    assert not pairs & had and "7" not in found["item_id"].unique().to_list()
    wanted = {(u, i) for u in range(USERS) for i in range(TASTES * PER_TASTE) if i != 7} - had
    assert pairs == wanted  # 100 are more than there are


def test_the_audience_of_a_value_are_the_fans_of_its_items():
    index = torch.arange(TASTES * PER_TASTE)
    order = torch.argsort(index % TASTES, stable=True)
    names = pl.Series([f"taste{taste}" for taste in range(TASTES)])
    _, found = audiences_of("ease", 10, values={"taste": Values(names, index[order], (index % TASTES)[order])})
    assert found.group_by("value").len()["len"].to_list() == [10] * TASTES
    user = found["user_id"].cast(pl.Int64)
    taste = found["value"].str.strip_prefix("taste").cast(pl.Int64)
    assert ((user < LIGHT) & (user % TASTES == taste)).sum() > 36


NUMBERS = st.sampled_from([-math.inf, -math.inf, -3e38, -2.5, -1.0, -0.0, 0.0, 1e-45, 1.0, 2.5, 3e38])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=60), st.integers(1, 5), st.data())
def test_the_running_best_is_the_best_of_all(rows, n, data):
    """In tiles of any size; equal scores go to the earlier user; -inf is never listed."""
    scores = torch.tensor(rows, dtype=torch.float32).reshape(-1, 3)
    best, start = Best(3, n, torch.device("cpu")), 0
    while start < len(scores):
        size = data.draw(st.integers(1, 40))
        part = torch.arange(start, min(start + size, len(scores)))
        best.add(scores[part], part)
        start += size
    found = best.frame(pl.Series([f"u{user}" for user in range(len(scores))], dtype=pl.String))
    for group in range(3):
        own = found.filter(group=group)
        there = [(-score, user) for user, score in enumerate(scores[:, group].tolist()) if score > -math.inf]
        wanted = sorted(there)[:n]
        assert own["user_id"].to_list() == [f"u{user}" for _, user in wanted]
        assert own["score"].to_list() == [-score for score, _ in wanted] and own["rank"].to_list() == list(
            range(1, len(wanted) + 1)
        )


@pytest.mark.parametrize("family", ["ease", "ials"])
def test_audiences_are_those_of_all_scores_at_once(family):
    """Items and values by the formulas in the module's docstring, on one dense matrix; events of a user repeat."""
    model, known = fitted(family)
    twice = History(known.offsets * 2, torch.cat([torch.cat([own, own]) for own in known.items.split(known.lengths.tolist())]), known.n_items)  # fmt: skip
    n_items = known.n_items
    allowed = torch.arange(n_items) % 7 != 0
    member = torch.tensor([(value, item) for value in range(3) for item in range(n_items) if item % 4 in (value, 3)])
    values = Values(pl.Series(["a", "b", "c"]), member[:, 1], member[:, 0])
    names = pl.Series([str(user) for user in range(USERS)])
    found = Audiences(model, 6, allowed, {"kind": values})
    parts = torch.arange(USERS).split(30)
    found.collect(Users(names.gather(part.numpy()), part, known[part], twice[part]) for part in parts)

    scores = model.score(torch.arange(USERS), known).double()  # (U, I)
    free = (known.dense() == 0) & allowed  # (U, I): those that may be listed to the user
    left = free.sum(1, keepdim=True)
    away = scores - torch.where(free, scores, 0).sum(1, keepdim=True) / left
    variance = torch.where(free, away.square(), 0).sum(1, keepdim=True) / left
    typical = variance[:30].flatten().sort().values[14]  # of the first part
    z, listable = away / (variance + typical).sqrt(), free
    of_items = torch.where(listable, z, -math.inf)
    is_of = torch.zeros(n_items, 3, dtype=torch.double).index_put_((member[:, 1], member[:, 0]), torch.tensor(1.0).double())  # fmt: skip
    few = listable.double() @ is_of
    of_values = (torch.where(listable, z, 0) @ is_of / (few + PRIOR)).masked_fill(few == 0, -math.inf)
    tables_found = found.of_items(pl.Series([str(item) for item in range(n_items)])), found.of_values()
    for got, key, dense in zip(tables_found, ("item_id", "value"), (of_items, of_values), strict=True):
        best = dense.topk(6, dim=0)  # (6, G) each
        for at in range(dense.shape[1]):
            name = str(at) if key == "item_id" else "abc"[at]
            own = got.filter(pl.col(key) == name)
            wanted = best.values[:, at][best.values[:, at] > -math.inf]
            assert own["score"].to_list() == pytest.approx(wanted.tolist(), abs=2e-5), (key, name)
            mine = dense[own["user_id"].cast(pl.Int64).to_numpy(writable=True), at]
            assert mine.tolist() == pytest.approx(wanted.tolist(), abs=2e-5), "the users are those with these scores"


class Shifted(torch.nn.Module):
    """A model whose scores of some items are others."""

    def __init__(self, model: Recommender, items: torch.Tensor):
        super().__init__()
        self.model, self.items = model, items
        self.reads_history, self.serves_everyone = model.reads_history, model.serves_everyone
        self.needs_ratings = model.needs_ratings

    def score(self, users, history):
        return self.model.score(users, history).masked_fill(self.items, 1e4)


def test_what_a_rule_excludes_changes_no_audience():
    """However high its scores are: it is in no list, so nothing stands out against it."""
    model, known = fitted("ease")
    allowed, names = torch.arange(known.n_items) % 7 != 0, pl.Series([str(user) for user in range(USERS)])
    one = Values(pl.Series(["a"]), torch.arange(known.n_items), torch.zeros(known.n_items, dtype=torch.long))
    tables_of = []
    for each in (model, Shifted(model, ~allowed)):
        found = Audiences(each, 9, allowed, {"kind": one})  # type: ignore[arg-type]
        found.collect([Users(names, torch.arange(USERS), known, known)])
        tables_of.append((found.of_items(pl.Series([str(at) for at in range(known.n_items)])), found.of_values()))
    for plain, shifted in zip(*tables_of, strict=True):
        assert plain.equals(shifted) and plain.height > 0


SECTIONS = '[items]\nfiles = ["catalog/items.csv"]\nid = "item"\ntitle = "name"\nattributes = { kinds = "|" }\n'


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """30 users of two tastes, SECRET among them, in a published night with audiences."""
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = Dataset(tmp_path_factory.mktemp("shop"))
        toml = shop.folder / "tiny.toml"
        toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + SECTIONS)
        (shop.folder / "cheap.toml").write_text(
            RECIPE.replace("mf]\nembedding_dim = 4\nepochs = 1", "ease]")
            + "[export]\nexclude_where = \"item_id = 'i04'\"\n[export.audiences]\ntop_n = 9\nattributes = ['kinds']\n"
        )
        lines = [
            f"{SECRET if user == 3 else f'u{user:02d}'},i{(user % 2 + 2 * ((user + n) % 10)):02d},4,{START + n}"
            for user in range(30)
            for n in range(6)
        ]
        (shop.folder / "a.csv").write_text("\n".join(["user,item,rating,t", *lines, ""]))
        (shop.folder / "catalog").mkdir()
        items = [f"i{n:02d},Thing {n},{'odd' if n % 2 else 'even'}" for n in range(20)]
        (shop.folder / "catalog" / "items.csv").write_text("\n".join(["item,name,kinds", *items, ""]))
        assert conductor.conduct(shop.prepare(), without_report) == "published"
        yield shop


def test_the_night_publishes_and_the_command_shows_them(shop, capsys):
    rows = shop.ask("from audiences")
    assert rows["rank"].max() == 9 and "i04" not in rows["item_id"].to_list() and rows["item_id"].n_unique() == 19
    shown = shop.printed(capsys, "audience", "tiny", "i01")
    assert [row["rank"] for row in shown] == list(range(1, 10))
    assert (
        shown == shop.ask("select rank, user_id, score from audiences where item_id = 'i01' order by rank").to_dicts()
    )
    odd = shop.printed(capsys, "audience", "tiny", "--attribute", "kinds", "--value", "odd", "-n", "5")
    assert len(odd) == 5 and all(row["user_id"] == SECRET or int(row["user_id"][1:]) % 2 for row in odd), odd
    assert shop.ask("select title from audiences_titled where item_id = 'i01'")["title"][0] == "Thing 1"
    night = Published("tiny", shop.home_root)
    assert night.audience("i01").to_dicts() == shown
    assert night.audience(attribute="kinds", value="odd", top_n=5).to_dicts() == odd


def test_what_can_not_be_asked_is_said(shop, capsys):
    assert shop.command("audience", "tiny") == 2 and "either an item" in capsys.readouterr().err
    assert shop.command("audience", "tiny", "i01", "--attribute", "kinds") == 2
    capsys.readouterr()
    assert shop.command("audience", "tiny", "i04") == 0 and "no audience" in capsys.readouterr().err
    assert shop.command("audience", "tiny", "i4") == 2 and "did you mean" in capsys.readouterr().err
    assert shop.command("audience", "tiny", "--attribute", "kind", "--value", "odd") == 2
    assert "there are audiences of kinds (did you mean 'kinds'?)" in capsys.readouterr().err
    assert shop.command("audience", "tiny", "--attribute", "kinds", "--value", "ood") == 2
    assert "(did you mean 'odd'?)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="either an item"):
        Published("tiny", shop.home_root).audience()


def test_a_forgotten_user_is_in_no_audience(shop):
    named = "select count(*) from audiences where user_id = '{0}'"
    assert shop.ask(named.format(SECRET)).item() > 0
    others = shop.ask(f"select * from audiences where user_id <> '{SECRET}' order by all")
    assert shop.command("forget", "tiny", SECRET) == 0
    assert shop.ask(named.format(SECRET)).item() == 0
    assert shop.ask(f"select count(*) from attribute_audiences where user_id = '{SECRET}'").item() == 0
    assert shop.ask("select * from audiences order by all").equals(others)


def test_an_unknown_attribute_is_refused_before_the_night(shop):
    with pytest.raises(SettingsError, match=r"export\.audiences\.attributes\[0\].*no attribute 'kindz'"):
        shop.prepare("export.audiences.attributes=['kindz']")
