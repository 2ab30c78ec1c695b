"""The sample shop with few customers, and nights of it with any combination of lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.datasets.sample_shop import Sizes, draw_sample_shop, write_sample_shop
from pipeline.storage import warehouse
from tests.support.nights import without_views

SIZES, SEED = Sizes(shoppers=60, lapsed=6, readers=6, trips=8), 5
MODELS = """[models.ease]
l2 = 20.0
[models.ials]
embedding_dim = 8
epochs = 3
[split]
kind = "global_time"
[gate]
enabled = false
"""


class SmallShop:
    """Its files in a folder, with a home; `night` publishes one."""

    def __init__(self, folder: Path):
        self.folder, self.truth = folder, draw_sample_shop(SEED, SIZES)
        write_sample_shop(folder / "data", SEED, SIZES)
        time = pl.from_epoch("time", time_unit="s").cast(pl.Datetime("us"))
        self.events = self.truth.events.select("type", user_id="customer", item_id="product", timestamp=time)

    def night(self, settings: str, champion: str) -> Run:
        """Publish a night with these keys of a recipe by this model, whatever is best on so few rows."""

        def step(call: StageCall, stage: Callable, *args: Any) -> Any:
            found = without_views(call, stage, *args)
            return champion if call.place is StageName.SELECT else found

        recipe = self.folder / "combined.toml"
        recipe.write_text(settings + MODELS)
        data, home = str(self.folder / "data"), str(self.folder / "home")
        run = prepare("sample-shop", str(recipe), data, home, ["threads=1"])
        assert line.conduct(run, step) == "published"
        return run


def read(run: Run, query: str) -> pl.DataFrame:
    """Of the tables that the night published."""
    with warehouse.connect(run.home.generation(run.dataset, run.run_id), read_only=True) as con:
        return con.sql(query).pl()
