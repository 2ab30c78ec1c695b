"""The invented shop: what is bought is not what is looked at, and only a night that knows the events finds it."""

from pathlib import Path

import polars as pl
import pytest
import torch

from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.core import paths
from pipeline.core.bootstrap import Difference, paired_difference
from pipeline.datasets.shop_log import BOT_VIEWS, Shop, draw_shop, write_shop
from pipeline.evaluation import ranking_metrics
from pipeline.evaluation.eval_task import EvalTask, Splits, eval_task, load_splits
from pipeline.experiments.families import weighed_by_data
from pipeline.models import MODELS, FitContext
from pipeline.models.ops.attribute_map import place_new_items
from pipeline.ranking.ranks import holdout_ranks
from pipeline.stages import clean, encode, ingest, split
from pipeline.storage import lake
from pipeline.training.interactions import History, Interactions
from tests.support.stage_runs import make_run

SMALL = Shop(users=900, items=240, views=30)
TOML = loader.read_toml(paths.DATASETS / "shop-synthetic.toml")


def split_of(folder: Path, seed: int, shop: Shop, **tree) -> Path:
    """The split of a shop's log, by time; `tree`: further settings."""
    write_shop(folder, seed, shop)
    by_time = {"kind": "global_time", "valid": 0, "test": 0.2}
    run = make_run(folder / "home", folder, dataset=TOML, split=by_time, **tree)
    raw = ingest.read_source(run)
    return split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, raw), raw))


def compared(split_dir: Path, family: str, **keys) -> tuple[float, float, Difference]:
    """Purchase ndcg@10 on test of a model that knows the events and of one that does not; what was bought is masked.

    The latter learns from the same rows before the test, one per user and item, all alike.
    """
    splits = load_splits(split_dir, torch.device("cpu"))
    kind = MODELS[family].Config
    known = weighed_by_data(kind.model_validate(keys), Dataset.model_validate(TOML))
    values = []
    for config in (known, kind.model_validate({**keys, "use_weights": False})):
        task = eval_task(splits, "test", "train")
        rows = splits.fitted_on("train") if config is known else without_events(splits)
        model = MODELS[family](config, splits.n_users, splits.n_items)
        model.fit(rows, FitContext(seed=1))
        history = task.history if config is known else rows.history()[task.users]
        values.append(ndcg(model, task, history))
    with_events, without = values
    return float(with_events.nanmean()), float(without.nanmean()), paired_difference(with_events, without)


def without_events(splits: Splits) -> Interactions:
    rows = splits.frames["train"].unique(["user_idx", "item_idx"], keep="last", maintain_order=True)
    plain = rows.drop("event", "quantity", "target", "masks")
    return Interactions.of_frame(plain, splits.n_users, splits.n_items)


def ndcg(model, task: EvalTask, history: History) -> torch.Tensor:
    ranks = holdout_ranks(model, task.users, history, task.mask, task.holdout, 10, fallback=task.popular)
    values = ranking_metrics.per_user(ranks, [10], ["ndcg"])["ndcg", 10]
    return torch.where(ranks.warm, values, torch.nan)


def test_the_log_is_the_same_every_time_and_says_what_it_is():
    events, products = draw_shop(7, SMALL)
    assert events.equals(draw_shop(7, SMALL)[0]) and not events.equals(draw_shop(8, SMALL)[0])
    assert events["event_time"].is_sorted() and products.height == SMALL.items + SMALL.new
    counts = dict(events["event_type"].value_counts().iter_rows())
    assert counts["view"] > 10 * counts["purchase"] > 0 and counts["cart"] > counts["remove_from_cart"] > 0
    assert events.filter(user_id="bot").height == BOT_VIEWS
    assert events.filter(pl.col("quantity").is_not_null())["event_type"].unique().to_list() == ["purchase"]
    bought = events.filter(event_type="purchase").select("user_id", "product_id").unique()
    viewed = events.filter(event_type="view").select("user_id", "product_id").unique()
    assert bought.join(viewed, on=["user_id", "product_id"], how="anti").is_empty()


def test_events_find_what_is_bought(tmp_path):
    """The planted truth: views are of dreams, purchases of needs."""
    split_dir = split_of(tmp_path, 1, SMALL)
    assert lake.info(split_dir)["targets"]["test"] > 200
    with_events, without, difference = compared(split_dir, "ease", l2=50.0)
    assert difference.ci_low > 0 and difference.p_value < 0.05, (with_events, without, difference)
    popular = compared(split_dir, "popularity")[2]
    assert popular.value > 0
    task = eval_task(load_splits(split_dir, torch.device("cpu")), "test", "train")
    assert len(task.mask.items) < len(task.history.items) / 2


def test_new_products_go_to_those_who_need_them(tmp_path):
    """Product n of the new ones is of category n % 12 and brand n // 12; users buy two categories, mostly of a brand."""
    splits = load_splits(split_of(tmp_path, 1, SMALL, attributes={"items": True}), torch.device("cpu"))
    train, first = splits.fitted_on("train"), splits.n_items - SMALL.new
    config = weighed_by_data(MODELS["ials"].Config.model_validate({"embedding_dim": 16, "epochs": 4}), Dataset(**TOML))
    model, context = MODELS["ials"](config, splits.n_users, splits.n_items), FitContext(attributes=splits.attributes)
    model.fit(train, context)
    assert splits.attributes is not None
    assert place_new_items(model, train, context) >= SMALL.new
    bought = train.held_out()
    kinds = splits.attributes.values.dense()  # (I, A): 4 brands, then 12 categories
    tastes = torch.zeros(splits.n_users, 16).index_add_(0, bought.users, kinds[bought.items])  # (U, 16)
    clear = (torch.bincount(bought.users, minlength=splits.n_users) >= 3).nonzero().squeeze(1)  # (B,)
    assert len(clear) > 50
    with torch.no_grad():
        best = model.score(clear, train.history()[clear])[:, first:].argmax(1) + first  # (B,)
    fits = kinds[best][:, 4:].argmax(1)  # (B,) category of the best new product
    needed = tastes[clear][:, 4:].gather(1, fits[:, None]) > 0  # (B, 1): the user has bought of it
    assert needed.float().mean() > 0.5, "two of twelve categories are needed: a sixth by chance"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_events_find_what_is_bought_in_a_large_shop(tmp_path, seed):
    split_dir = split_of(tmp_path, seed, Shop())
    for family in ("popularity", "ease", "item_knn", "rp3beta", "slim", "ials", "mf"):
        with_events, without, difference = compared(split_dir, family)
        print(f"seed {seed} {family}: {without:.4f} -> {with_events:.4f}, {difference}")
        assert difference.ci_low > 0 and difference.p_value < 0.05, family
