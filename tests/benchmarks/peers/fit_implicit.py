"""`implicit`: ALS by conjugate gradients and BPR by Hogwild, both in C++."""

import exchange
import implicit
import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy.sparse import csr_matrix


def main() -> None:
    """Fit, list, report."""
    task = exchange.read()
    ones = np.ones(len(task.users), dtype=np.float32)
    rows = csr_matrix((ones, (task.users, task.items)), shape=(task.n_users, task.n_items))
    epochs = 12 if task.model == "als" else 100
    if task.model == "als":
        model = AlternatingLeastSquares(
            factors=task.dim,
            iterations=epochs,
            alpha=4.33,
            regularization=1.0,
            num_threads=task.threads,
            random_state=1,
        )
    else:
        model = BayesianPersonalizedRanking(
            factors=task.dim, iterations=epochs, learning_rate=0.05, num_threads=task.threads, random_state=1
        )
    with task.timed("fit"):
        model.fit(rows, show_progress=False)
    with task.timed("lists"):
        lists, _ = model.recommend(np.arange(task.n_users), rows, N=task.k)
    task.done(lists, implicit.__version__, epochs)


main()
