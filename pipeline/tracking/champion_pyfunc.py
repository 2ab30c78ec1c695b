"""Code of the registered model: user ids in, top-N lists out. MLflow runs this file; nothing is pickled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from pipeline.models.serialization import load
from pipeline.preparation.seen import SeenRule
from pipeline.ranking.ranks import top_k
from pipeline.ranking.servable import servable
from pipeline.training.interactions import History, Interactions


class Champion(PythonModel):
    """Serves the refitted champion of one night from its safetensors and its encoded interactions."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the artifacts; MLflow calls this by its exact name."""
        encoded = Path(context.artifacts["encoded"])
        self.model = load(Path(context.artifacts["model"]), torch.device("cpu"))
        self.users = pl.read_parquet(encoded / "users.parquet")
        self.items = pl.read_parquet(encoded / "items.parquet")["item_id"]
        settings = json.loads(Path(context.artifacts["settings"]).read_text())
        frame = pl.read_parquet(encoded / "interactions.parquet")
        rows = Interactions.of_frame(frame, self.users.height, len(self.items), recency=True)
        self.allowed = servable(self.model, rows, encoded)
        self.history = rows.history()
        hides = SeenRule.of(settings).hides(frame["timestamp"], frame["timestamp"].max())  # type: ignore[arg-type]
        seen = rows.select(torch.from_numpy(hides.to_numpy(writable=True))).masking()
        self.seen = History.of(seen.users, seen.items, rows.n_users, rows.n_items)
        self.popular = rows.fallback_counts()
        self.top_n = settings["export"]["top_n"]

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Column user_id -> user_id, rank, item_id, score, source; unknown users get popular items."""
        k = min((params or {}).get("top_n") or self.top_n, len(self.items))
        asked = pl.DataFrame({"user_id": [str(user) for user in model_input["user_id"]]}, schema={"user_id": pl.String})
        index = asked.join(self.users, on="user_id", how="left", maintain_order="left")["user_idx"]
        users = torch.from_numpy(index.fill_null(-1).cast(pl.Int64).to_numpy(writable=True))  # (N,)
        no_events = torch.zeros(1, dtype=torch.long)
        rows = torch.where(users >= 0, users, len(self.history))
        lists = top_k(
            self.model,
            users,
            _with_empty_row(self.history, no_events)[rows],
            _with_empty_row(self.seen, no_events)[rows],
            k,
            allowed=self.allowed,
            fallback=self.popular,
        )
        flat = pl.DataFrame(
            {
                "user": torch.arange(len(users)).repeat_interleave(k).numpy(),
                "rank": torch.arange(1, k + 1).repeat(len(users)).numpy(),
                "item": lists.items.flatten().numpy(),
                "score": lists.scores.flatten().double().numpy(),
                "source": pl.Series(lists.from_fallback.repeat_interleave(k).numpy()),
            }
        ).filter(pl.col("item") >= 0)
        return flat.select(
            asked["user_id"].gather(flat["user"]).alias("user_id"),
            "rank",
            self.items.gather(flat["item"]).alias("item_id"),
            "score",
            pl.when("source").then(pl.lit("fallback")).otherwise(pl.lit("model")).alias("source"),
        ).to_pandas()


def _with_empty_row(history: History, no_events: torch.Tensor) -> History:
    """The history with one more row, without events, for users unknown to the model."""
    return replace(history, offsets=torch.cat([history.offsets, history.offsets[-1:] + no_events]))


set_model(Champion())
