"""A second count of what the models of a night gave: EASE, similar items and metrics from their definitions."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from tests.support.recount import ORDER, Published

TOLERANCE = 1e-3
"""Of scores that were computed in float32, relative to the largest."""


@dataclass(frozen=True)
class Matrix:
    """Ids, sorted by their bytes, and who has what: (U, I) of 0 and 1."""

    users: dict[str, int]
    items: dict[str, int]

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Matrix":
        """The ids of these rows."""
        ids = (sorted(set(rows[name]), key=str.encode) for name in ORDER)
        return cls(*({one: place for place, one in enumerate(of)} for of in ids))

    def places(self, rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Places of users and of items, (R,) each."""
        users, items = (
            rows[name].replace_strict(of, return_dtype=pl.Int64).to_numpy()
            for name, of in (("user", self.users), ("item", self.items))
        )
        return users, items

    def dense(self, rows: pl.DataFrame) -> np.ndarray:
        """(U, I) float32."""
        found = np.zeros((len(self.users), len(self.items)), dtype=np.float32)
        found[self.places(rows)] = 1
        return found


def ease_scores(x: np.ndarray, histories: np.ndarray, l2: float = 250.0) -> np.ndarray:
    """Histories (N, I) times the B that EASE learns from x (U, I), (N, I), in float64 (Steck 2019, eq. 8).

    By Woodbury's identity where there are fewer users than items.
    """
    x, histories = x.astype(np.float64), histories.astype(np.float64)
    if len(x) < x.shape[1]:
        right = np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), x)  # (U, I)
        diagonal = (1 - (x * right).sum(0)) / l2  # (I,) of P
        return histories - (histories - (histories @ x.T) @ right) / l2 / diagonal
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))  # (I, I) = P
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return histories @ weights


def metrics_at(scores: np.ndarray, mask: np.ndarray, held: np.ndarray, k: int = 10) -> dict[str, np.ndarray]:
    """Hit rate, recall and ndcg of each user, (U,), NaN without holdout; of equal scores the held-out items come last."""
    masked = np.where(mask > 0, -np.inf, scores)
    best = np.lexsort((held, -masked), axis=1)[:, :k]  # (U, k)
    hit = np.take_along_axis(held, best, 1) * np.isfinite(np.take_along_axis(masked, best, 1))  # (U, k)
    gains = 1 / np.log2(np.arange(2, k + 2))  # (k,)
    n_held = held.sum(1).astype(int)
    ideal = np.concatenate([[np.nan], np.cumsum(gains)])[np.minimum(n_held, k)]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {"hit_rate": (hit.sum(1) > 0) * 1.0, "recall": hit.sum(1) / n_held, "ndcg": (hit @ gains) / ideal}
    return {name: np.where(n_held > 0, values, np.nan) for name, values in found.items()}


def check_metrics(
    night: Published, parts: dict[str, pl.DataFrame], model: str, tolerance: float, l2: float = 250.0
) -> None:
    """The metrics of popularity or ease on test, in full ranking at 10, are those of the second count."""
    train, valid, test = parts.values()
    every = pl.concat(parts.values())
    counts = train.filter("positive").group_by("item").len("n")
    asked = set(test.filter("positive")["user"])
    ids = Matrix.of(every)
    x = ids.dense(train.filter("positive")) if model == "ease" else None
    scores = None if x is None else ease_scores(x, x, l2)
    popular = np.zeros(len(ids.items))
    popular[ids.places(counts.with_columns(user=pl.lit(next(iter(ids.users)))))[1]] = counts["n"].to_numpy()
    warm = set(train.filter("positive")["user"]) & asked
    found: dict[str, list[np.ndarray]] = {}
    for users in np.array_split(np.array(sorted(warm, key=str.encode)), max(1, len(warm) // 1000)):
        few = Matrix({user: place for place, user in enumerate(users.tolist())}, ids.items)
        mask, held = (
            few.dense(rows.filter(pl.col("user").is_in(users.tolist())))
            for rows in (pl.concat([train, valid]), test.filter("positive"))
        )
        own = popular + 0 * held if scores is None else scores[[ids.users[user] for user in users.tolist()]]
        for name, values in metrics_at(own, mask, held).items():
            found.setdefault(name, []).append(values)
    table = night.ask(
        "select metric, value, n from metrics where split = 'test' and protocol = 'full' and segment = 'all'"
        f" and cutoff = 10 and run_id = '{night.run_id}' and model = '{model}'"
    )
    published = {metric: (value, n) for metric, value, n in table.iter_rows()}
    for metric, blocks in found.items():
        value, n = published[metric]
        assert n == len(warm), (model, metric, n, len(warm))
        mean = np.concatenate(blocks).mean()
        assert abs(value - mean) <= tolerance, (model, metric, value, mean)


def check_ease_lists(
    lists: pl.DataFrame, rows: pl.DataFrame, readable: pl.DataFrame, left: pl.DataFrame, unlisted: set[str], l2: float
) -> None:
    """The published scores are EASE's of the second count, and no better item of the user is left out.

    `readable`: positive rows that `keep_if` keeps. Users that the filters left out have a list of the model by theirs.
    """
    ids = Matrix.of(left)
    histories = readable.filter(pl.col("item").is_in(list(ids.items)))
    asked = Matrix(Matrix.of(histories).users, ids.items)
    assert set(lists.filter(pl.col("source") == "model")["user"]) == set(asked.users), "users of the fallback"
    scores = ease_scores(ids.dense(left.filter("positive")), asked.dense(histories), l2)
    own = lists.filter(pl.col("source") == "model")
    users, items = asked.places(own)
    scale = np.abs(scores).max()
    assert np.abs(scores[users, items] - own["score"].to_numpy()).max() <= TOLERANCE * scale
    known = rows.filter(pl.col("user").is_in(list(asked.users)) & pl.col("item").is_in(list(ids.items)))
    scores[asked.places(known)] = -np.inf
    scores[:, [ids.items[item] for item in unlisted if item in ids.items]] = -np.inf
    scores[users, items] = -np.inf
    worst = np.full(len(scores), np.inf)
    np.minimum.at(worst, users, own["score"].to_numpy())
    assert (scores.max(1) <= worst + TOLERANCE * scale).all(), "a better item is left out"


def check_similar(night: Published, left: pl.DataFrame, unlisted: set[str], n_similar: int = 20) -> None:
    """Similar items by co-occurrence have the cosine of the user sets, and no nearer item is left out."""
    table = night.ask("select item_id as user, similar_item_id as item, rank, score, model from similar_items")
    assert table.height and not set(table["item"]) & unlisted
    assert table.filter(pl.col("user") == pl.col("item")).is_empty()
    if set(table["model"]) != {"cooccurrence"}:
        return
    ids = Matrix.of(left)
    x = sparse.csc_matrix((np.ones(left.height, dtype=np.float32), ids.places(left)))  # (U, I)
    norms = np.sqrt(np.asarray(x.sum(0)).ravel())
    places = Matrix(ids.items, ids.items)
    first, second = places.places(table)
    for start in range(0, len(ids.items), 1000):
        cosines = (x[:, start : start + 1000].T @ x).toarray() / np.outer(norms[start : start + 1000], norms)
        at = (first >= start) & (first < start + 1000)
        own, near = first[at] - start, second[at]
        scores = table["score"].to_numpy()[at]
        assert np.abs(cosines[own, near] - scores).max(initial=0) <= 1e-5
        worst = np.full(len(cosines), np.inf)
        np.minimum.at(worst, own, scores)
        n = np.bincount(own, minlength=len(cosines))
        worst[n < n_similar] = 0  # all that are similar are listed
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1
        cosines[own, near] = -1
        cosines[:, [ids.items[item] for item in unlisted if item in ids.items]] = -1
        assert (cosines.max(1) <= worst + 1e-5).all(), "a nearer item is left out"
