"""LensKit: implicit ALS and item-based neighbours, by its pipelines."""

import os

import exchange
import lenskit
import pandas as pd
import torch
from lenskit.als import ImplicitMFScorer
from lenskit.batch import recommend
from lenskit.data import from_interactions_df
from lenskit.knn import ItemKNNScorer
from lenskit.pipeline import topn_pipeline


def main() -> None:
    """Fit, list, report."""
    task = exchange.read()
    os.environ["LK_NUM_THREADS"] = str(task.threads)
    torch.set_num_threads(task.threads)
    rows = from_interactions_df(pd.DataFrame({"user_id": task.users, "item_id": task.items}))
    epochs = 12 if task.model == "als" else 1
    if task.model == "als":
        scorer = ImplicitMFScorer(embedding_size=task.dim, epochs=epochs)
    else:
        scorer = ItemKNNScorer(max_nbrs=20, feedback="implicit")
    pipeline = topn_pipeline(scorer, n=task.k)
    with task.timed("fit"):
        pipeline.train(rows)
    with task.timed("lists"):
        found = recommend(pipeline, list(range(task.n_users)), n=task.k, n_jobs=1).to_df()
    found = found.sort_values(["user_id", "rank"])
    lists = task.table(found["user_id"].to_numpy(), found["item_id"].to_numpy())
    task.done(lists, lenskit.__version__, epochs)


main()
