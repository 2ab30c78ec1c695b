"""RecBole: BPR and EASE, fitted without its own evaluation."""

import logging

import exchange
import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

NAMES = {"bpr": "BPR", "ease": "EASE"}


def main() -> None:
    """Fit, list, report."""
    task = exchange.read()
    torch.set_num_threads(task.threads)
    folder = task.folder / "recbole"
    folder.mkdir(exist_ok=True)
    lines = [f"{user}\t{item}" for user, item in zip(task.users, task.items, strict=True)]
    for part, kept in (("train", lines), ("valid", lines[:1]), ("test", lines[:1])):  # it asks for all three
        (folder / f"recbole.{part}.inter").write_text("\n".join(["user_id:token\titem_id:token", *kept]) + "\n")
    epochs = 30 if task.model == "bpr" else 1
    settings = {
        "data_path": str(task.folder), "benchmark_filename": ["train", "valid", "test"], "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": task.dim, "epochs": epochs,
        "train_batch_size": 2048, "reg_weight": 250.0, "eval_step": 0, "show_progress": False, "state": "ERROR",
        "checkpoint_dir": str(folder), "reproducibility": True, "seed": 1,
    }  # fmt: skip
    config = Config(model=NAMES[task.model], dataset="recbole", config_dict=settings)
    init_seed(1, True)
    logging.disable(logging.WARNING)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    user_of = dataset.token2id("user_id", [str(user) for user in range(task.n_users)])  # (U,)
    known = np.unique(task.items)
    item_of = dataset.token2id("item_id", [str(item) for item in known])  # (I',)
    with task.timed("fit"):
        model = get_model(config["model"])(config, train.dataset)
        get_trainer(config["MODEL_TYPE"], config["model"])(config, model).fit(train, saved=False, verbose=False)
    model.eval()

    def scores(users: np.ndarray) -> np.ndarray:
        asked = Interaction({"user_id": torch.from_numpy(user_of[users])})
        with torch.no_grad():
            of = model.full_sort_predict(asked).view(len(users), -1).numpy()  # (B, 1 + I')
        every = np.full((len(users), task.n_items), -np.inf, dtype=np.float32)
        every[:, known] = of[:, item_of]
        return every

    with task.timed("lists"):
        lists = task.best(scores)
    task.done(lists, recbole.__version__, epochs)


main()
