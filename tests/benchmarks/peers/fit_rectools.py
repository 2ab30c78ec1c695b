"""RecTools: EASE, and SASRec by PyTorch Lightning."""

import logging
import warnings

import exchange
import numpy as np
import pandas as pd
import rectools
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


def main() -> None:
    """Fit, list, report."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    task = exchange.read()
    torch.set_num_threads(task.threads)
    columns = {Columns.User: task.users, Columns.Item: task.items, Columns.Weight: 1.0}
    columns[Columns.Datetime] = pd.to_datetime(task.timestamps, unit="s")
    rows = Dataset.construct(pd.DataFrame(columns))
    epochs = 5 if task.model == "sasrec" else 1
    if task.model == "sasrec":
        model = SASRecModel(
            n_blocks=2, n_heads=2, n_factors=task.dim, session_max_len=100, epochs=epochs, batch_size=32, lr=0.001,
            dropout_rate=0.2, loss="softmax", item_net_block_types=(IdEmbeddingsItemNet,),
        )  # fmt: skip
    else:
        model = EASEModel(regularization=250.0, num_threads=task.threads)
    with task.timed("fit"):
        model.fit(rows)
    with task.timed("lists"):
        found = model.recommend(np.arange(task.n_users), rows, k=task.k, filter_viewed=True)
    found = found.sort_values([Columns.User, Columns.Rank])
    lists = task.table(found[Columns.User].to_numpy(), found[Columns.Item].to_numpy())
    task.done(lists, rectools.__version__, epochs)


main()
