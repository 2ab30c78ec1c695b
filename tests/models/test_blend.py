"""Blends: standardised sums, weights that are learnt only where that is better, members of a night."""

from pathlib import Path

import polars as pl
import pytest
import torch

from flows import conductor as line
from pipeline.core.stage_call import StageName
from pipeline.evaluation import ranking_metrics
from pipeline.experiments import budget
from pipeline.experiments.reserve import BLENDING, Reserve
from pipeline.models import blend as blend_module
from pipeline.models.base import Recommender
from pipeline.models.blend import Blend, BlendConfig
from pipeline.models.serialization import load
from pipeline.ranking.ranks import holdout_ranks
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from tests.support.models import Fixed
from tests.support.nights import ask
from tests.support.tastes import one_night, record, write_log

N_USERS, N_ITEMS = 400, 30
NOTHING = Interactions(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), N_USERS, N_ITEMS)
HISTORY = History.of_lists([[]] * N_USERS, N_ITEMS)
RECIPE = """
[models.ease]
l2 = 5.0
[models.item_knn]
[models.popularity]
[models.blend]
[evaluation]
fit_for_test = "train+valid"
"""


def blend_of(config: BlendConfig | None = None, **tables: torch.Tensor) -> Blend:
    """A blend of models of no family, of which `Blend.of` could not say how to make them again."""
    blend = Blend(config or BlendConfig(), *next(iter(tables.values())).shape)
    blend.models = torch.nn.ModuleList(map(Fixed, tables.values()))
    members = {name: {"family": "ease", "config": {}} for name in tables}
    blend.config = BlendConfig.model_validate({**blend.config.model_dump(), "members": members})
    blend.weights = list((blend.config.weights or dict.fromkeys(tables, 1.0)).values())
    return blend


def task(noise: dict[str, float], seed: int = 0) -> tuple[dict[str, torch.Tensor], History]:
    """Scores that see a user's one holdout item through noise, and that item."""
    random = torch.Generator().manual_seed(seed)
    wanted = torch.randint(N_ITEMS, (N_USERS, 1), generator=random)  # (U, 1)
    signal = torch.zeros(N_USERS, N_ITEMS).scatter(1, wanted, 1.0)  # (U, I)
    tables = {name: signal + sd * torch.randn(signal.shape, generator=random) for name, sd in noise.items()}
    return tables, History.of_lists(wanted.tolist(), N_ITEMS)


def context_of(holdout: History) -> FitContext:
    """Per-user NDCG@10 on that holdout."""

    def per_user(model: Recommender) -> torch.Tensor:
        ranks = holdout_ranks(model, torch.arange(N_USERS), HISTORY, None, holdout, 10, fallback=torch.zeros(N_ITEMS))
        return ranking_metrics.per_user(ranks, [10], ["ndcg"])["ndcg", 10]

    return FitContext(per_user=per_user)


@pytest.fixture(autouse=True)
def everyone_is_served(monkeypatch):
    monkeypatch.setattr(Fixed, "serves_everyone", True)
    monkeypatch.setattr(Blend, "serves_everyone", True)


def test_scores_are_standardised_and_added():
    tables = {"a": torch.tensor([[1.0, 2.0, 3.0]]), "b": torch.tensor([[100.0, 100.0, 400.0]])}
    blend = blend_of(BlendConfig(weights={"a": 3.0, "b": 1.0}), **tables)
    blend.fit(NOTHING, FitContext())
    got = blend.score(torch.tensor([0]), HISTORY)
    a, b = 1.5**0.5, 2**0.5
    expected = torch.tensor([[-0.75 * a - 0.25 / b, -0.25 / b, 0.75 * a + 0.25 * b]])
    torch.testing.assert_close(got, expected)
    assert blend.config.weights == {"a": 0.75, "b": 0.25}
    torch.testing.assert_close(blend.score(torch.tensor([0]), HISTORY, torch.tensor([[2, 0]])), expected[:, [2, 0]])


def test_a_constant_member_says_nothing():
    tables = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[5.0, 5.0]])}
    blend = blend_of(**tables)
    blend.fit(NOTHING, FitContext())
    torch.testing.assert_close(blend.score(torch.tensor([0]), HISTORY), torch.tensor([[-0.5, 0.5]]))


def test_a_bad_member_loses_its_weight():
    tables, holdout = task({"good": 0.4, "bad": 5.0})
    blend = blend_of(**tables)
    context = context_of(holdout)
    equal = context.per_user(blend).mean()
    blend.fit(NOTHING, context)
    assert blend.config.weights["good"] > 0.8 and sum(blend.weights) == pytest.approx(1)
    assert context.per_user(blend).mean() > equal
    before = [model.asked for model in blend.models]
    blend.fit(NOTHING, FitContext())
    assert blend.config.weights["good"] > 0.8, "a refit, which has no valid, keeps them"
    assert [model.asked for model in blend.models] == before


def test_equal_weights_stay_where_others_are_not_significantly_better():
    tables, holdout = task({"a": 0.5, "b": 0.5, "c": 0.5})
    blend = blend_of(**tables)
    blend.fit(NOTHING, context_of(holdout))
    assert list(blend.config.weights.values()) == pytest.approx([1 / 3] * 3)


def test_members_are_asked_once_while_weights_are_learnt_if_memory_allows():
    tables, holdout = task({"good": 0.4, "bad": 5.0})
    blend = blend_of(**tables)
    blend.fit(NOTHING, context_of(holdout))
    assert [model.asked for model in blend.models] == [N_USERS, N_USERS]
    weights = blend.config.weights
    again = blend_of(**tables)
    context = context_of(holdout)
    context.memory = 1000
    again.fit(NOTHING, context)
    assert again.models[0].asked > N_USERS and again.config.weights == weights


@pytest.mark.parametrize("metrics, proven", [(1, False), (2, True), (10, True), (30, True), (1000, True)])
def test_the_deadline_ends_the_learning_with_what_is_proven(metrics: int, proven: bool, monkeypatch):
    """A second a figure: one is the equal weights', the next the good model's alone; 24 pick on one half."""
    tables_, holdout = task({"good": 0.4, "bad": 5.0})
    blend, context, now = blend_of(**tables_), context_of(holdout), [0.0]
    monkeypatch.setattr(blend_module.time, "monotonic", lambda: now[0])
    measured = context.per_user

    def slow(model: Recommender) -> torch.Tensor:
        now[0] += 1
        return measured(model)

    context.per_user, context.deadline = slow, float(metrics)
    blend.fit(NOTHING, context)
    assert now[0] <= metrics and sum(blend.weights) == pytest.approx(1)
    assert (blend.config.weights["good"] > 0.8) == proven, blend.config.weights
    assert context.cut_short == (metrics < 25 or now[0] == metrics)


def test_a_deadline_that_is_over_leaves_equal_weights():
    tables_, holdout = task({"good": 0.4, "bad": 5.0})
    blend, context = blend_of(**tables_), context_of(holdout)
    context.deadline = -1.0
    blend.fit(NOTHING, context)
    assert blend.config.weights == {"good": 0.5, "bad": 0.5} and context.cut_short
    assert [model.asked for model in blend.models] == [0, 0]


def test_members_are_the_best_of_those_that_are_wanted():
    families = {"plain": "popularity", "knn": "item_knn", "ease": "ease", "old": "blend", "slim": "slim"}
    ranked = ["slim", "plain", "ease", "knn"]
    of = {most: leaderboard.members_of(BlendConfig(most=most), families, ranked) for most in (None, 2, 9)}
    assert of == {None: ["knn", "ease", "slim"], 2: ["ease", "slim"], 9: ["knn", "ease", "slim"]}, (
        "in the night's order"
    )
    named = BlendConfig(of=("knn", "plain", "mf", "ease"), most=2)
    assert leaderboard.members_of(named, families, ranked) == ["plain", "ease"], "popularity where it is asked for"
    assert leaderboard.members_of(BlendConfig(most=2), families, ["knn"]) == ["knn", "ease"], (
        "unmeasured ones come last"
    )
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        BlendConfig(most=1)


def test_given_weights_are_not_learnt():
    tables, holdout = task({"good": 0.4, "bad": 5.0})
    blend = blend_of(BlendConfig(weights={"good": 1.0, "bad": 3.0}), **tables)
    blend.fit(NOTHING, context_of(holdout))
    assert blend.config.weights == {"good": 0.25, "bad": 0.75}


def test_one_model_or_no_weight_is_no_blend():
    from pipeline.models.conformance import checkerboard, fit

    train = checkerboard()
    ease = fit("ease", train)
    with pytest.raises(NotServable, match="there is ease"):
        Blend.of(BlendConfig(), {"ease": ease})
    with pytest.raises(NotServable, match="two fitted models with weights"):
        Blend.of(BlendConfig(weights={"third": 1.0}), {"ease": ease, "knn": fit("item_knn", train)})


def blend_wins(call, stage, *args):
    """The line's step, but whichever is chosen, the blend is published."""
    result = line.plainly(call, stage, *args)
    return "blend" if call.stage is StageName.SELECT else result


def test_a_night_refits_a_blends_members_and_publishes_it(tmp_path: Path):
    write_log(tmp_path / "data", n_users=120)
    run = one_night(tmp_path, RECIPE, "dataset.filter.user_fraction=0.8", step=blend_wins)
    fits = {}
    for path in run.home.lake(run.dataset).glob("5_models/*/manifest.json"):
        info = lake.info(path.parent)
        fits[info["label"], info["fit"]] = path.parent
    chosen = lake.info(fits["blend", "train"])
    weights = chosen["config"]["weights"]
    assert set(chosen["members"]) == set(weights) == {"ease", "item_knn"}, "popularity is the same for everyone"
    for fit in ("train+valid", "all"):
        refit = lake.info(fits["blend", fit])
        kept = {label: weight for label, weight in weights.items() if weight}
        assert refit["config"]["weights"] == pytest.approx(kept)
        assert refit["members"] == {label: fits[label, fit].name for label in kept}
    assert {"ease", "item_knn", "popularity", "blend"} <= set(record(run)["choice"]["values"])
    made = ask(run, "select distinct model, source from recommendations")
    assert made.rows() == [("blend", "model")]
    blend = load(fits["blend", "all"]).eval()
    newcomer = History.of_lists([[0, 3, 6]], blend.n_items)
    with torch.no_grad():
        scores = blend.score(torch.tensor([-1]), newcomer)[0]  # (I,)
    assert scores[9::3].mean() > scores[1::3].mean(), "a user the fit never saw is served by the members"


def test_members_that_could_not_be_fitted_are_left_out(tmp_path: Path):
    write_log(tmp_path / "data", n_users=60)
    recipe = """
[models.ease]
[models.item_knn]
[models.ials]
use_weights = true
[models.three]
family = "blend"
of = ["ease", "ials", "item_knn"]
[models.two]
family = "blend"
of = ["ease", "ials"]
"""
    run = one_night(tmp_path, recipe)
    assert "needs a rating column" in record(run)["left_out"]["ials"]
    assert "a blend needs two fitted models" in record(run)["left_out"]["two"]
    assert "three" in record(run)["choice"]["values"]


BUDGETED = """
[budget]
minutes = 4
[models.popularity]
[models.ease]
l2 = 5.0
[models.ease.search]
l2 = [2.0, 20.0]
[models.worse]
family = "mf"
epochs = 1
learning_rate = 1e-6
embedding_dim = 2
[models.item_knn]
[models.blend]
most = 2
"""


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("budgeted")
    write_log(folder / "data", n_users=120)
    return one_night(folder, BUDGETED, step=blend_wins)


def test_under_a_budget_the_best_of_the_night_are_blended_last(budgeted):
    values = record(budgeted)["choice"]["values"]
    assert leaderboard.best_first(budgeted) == sorted(values, key=values.get, reverse=True)
    folder = next(
        path.parent
        for path in budgeted.home.lake(budgeted.dataset).glob("5_models/blend-train-*/manifest.json")
        if lake.info(path.parent)["fit"] == "train"
    )
    assert set(lake.info(folder)["config"]["members"]) == {"ease", "item_knn"}, "mf is worse, popularity impersonal"
    stages = journal.read(budgeted.home, budgeted.dataset, tables.STAGES, budgeted.run_id)["stage"].to_list()
    blend_at = next(at for at, stage in enumerate(stages) if stage.startswith("train blend"))
    assert any(at < blend_at for at, stage in enumerate(stages) if stage.startswith("search "))
    fits = [at for at, stage in enumerate(stages) if stage.startswith("train ") and " on all" not in stage]
    untuned = [at for at in fits if "tuned" not in stages[at] and "popularity" not in stages[at] and at != blend_at]
    assert max(untuned) < blend_at, "only what improved after the blend is fitted later"
    assert set(ask(budgeted, "select distinct model from recommendations")["model"]) == {"blend"}


def test_the_time_that_a_blend_needs_is_kept_for_it(budgeted):
    """Its evaluation and its refit take as long as its members'; searches and other fits leave that time alone."""
    known = budget.Timings(budgeted)
    known.stages = tables.STAGES.empty().vstack(
        tables.STAGES.check(
            pl.DataFrame(
                [
                    {"run_id": budgeted.run_id, "stage": stage, "seconds": seconds, "skipped": False}
                    for stage, seconds in TIMED.items()
                ],
                schema=tables.STAGES.schema,
            )
        )
    )
    assert known.members("blend") == ["ease", "item_knn"]
    assert known.evaluation("blend") == 3.0 + 5.0
    assert known.learning("blend") == 3 * 8.0
    members = known.refit("ease") + known.refit("item_knn")
    assert members > 0 and known.refit("blend") == members, "the lake has what each fit of tonight took"
    del known.by_title
    known.stages = known.stages.vstack(known.stages[:1].with_columns(stage=pl.lit("train blend on all"), seconds=4.0))
    assert known.refit("blend") == pytest.approx(4.0 + members)
    kept = Reserve(budgeted)
    kept.known = known
    assert kept.blends_to_come() == [] and kept.before_refit("ease") == 3.0 + kept.gate, "the blend is fitted already"
    end = kept.cautious(4.0 + members + kept.publishing("blend"))
    assert kept.after_blend("blend") == pytest.approx(8.0 + kept.gate + max(kept.shortest_end, end))
    del known.calls_of_tonight
    known.all_stages = known.all_stages.filter(~pl.col("stage").str.contains("blend"))
    assert kept.blends_to_come() == ["blend"]
    blending = min(24.0 + 8.0 + max(0.0, end - kept.shortest_end), BLENDING * kept.budget)
    assert kept.before_refit("ease") == pytest.approx(3.0 + kept.gate + blending)


TIMED = {
    "train ease": 10.0, "train ease on all": 20.0, "evaluate ease": 3.0, "train item_knn": 8.0,
    "evaluate item_knn": 5.0, "train worse": 1.0, "evaluate worse": 1.0, "train popularity": 0.5,
}  # fmt: skip


def test_scores_kept_while_weights_are_learned_are_those_of_the_same_users():
    """With sampled candidates a user fills a row per event, so tiles of one length may begin with the same user."""
    tables, _ = task({"a": 1.0, "b": 2.0})
    blend = blend_of(**tables)
    tiles = [torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])]
    plain = [blend.score(users, HISTORY[users]) for users in tiles]
    blend._known = {}
    for _ in range(2):
        for users, expected in zip(tiles, plain, strict=True):
            assert torch.equal(blend.score(users, HISTORY[users]), expected)
    assert len(blend._known) == 6
