"""Families of Nightrecs, with their defaults but for what the peers are given too."""

import exchange
import torch

from pipeline.models import MODELS, FitContext
from pipeline.ranking.recommend import ServeInputs, make_lists
from pipeline.training.interactions import Interactions

SETTINGS = {
    "als": ("ials", {"epochs": 12}),
    "bpr": ("mf", {"epochs": 15}),
    "ease": ("ease", {"l2": 250.0}),
    "item_knn": ("item_knn", {"neighbors": 20}),
    "next_item": ("next_item", {}),
    "sasrec": ("sasrec", {"epochs": 5, "max_length": 100}),
}
WIDE = ("als", "bpr", "sasrec")
"""Models of vectors."""


def main() -> None:
    """Fit, list, report."""
    task = exchange.read()
    torch.set_num_threads(task.threads)
    users, items = torch.from_numpy(task.users), torch.from_numpy(task.items)
    times = torch.from_numpy(task.timestamps) * 1_000_000
    train = Interactions(users, items, task.n_users, task.n_items, timestamps=times)
    name, settings = SETTINGS[task.model]
    wide = {"embedding_dim": task.dim} if task.model in WIDE else {}
    model = MODELS[name](MODELS[name].Config(**settings, **wide), task.n_users, task.n_items)
    with task.timed("fit"):
        model.fit(train, FitContext())
    model.eval()
    with task.timed("lists"), torch.no_grad():
        history = train.history()
        inputs = ServeInputs(torch.arange(task.n_users), history, history, train.item_counts())
        lists, _ = make_lists(model, inputs, task.k)
    task.done(lists.items.numpy(), "this checkout", int(settings.get("epochs", 1)))


main()
