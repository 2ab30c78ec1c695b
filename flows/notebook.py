"""API for notebooks: published tables as Polars frames, comparisons, and evaluation of your own lists.

>>> from flows.notebook import Published
>>> night = Published("sample")
>>> night.table("recommendations_titled").head(3)
>>> night.sql("select * from leaderboard where split = 'test'")
>>> night.recommend(["u0001", "u0002"], top_n=5)
>>> night.compare("ease", "ials")                # is one better, user by user?
>>> night.evaluate(my_lists)                     # user_id, item_id, rank, in a frame of Polars or pandas
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch

from pipeline.config.run import Run
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.datasets.names import dataset_name, unknown_dataset
from pipeline.evaluation import per_user, ranking_metrics
from pipeline.evaluation.eval_task import eval_task, load_splits
from pipeline.ranking.ranks import Ranks
from pipeline.ranking.recommend import Lists
from pipeline.selection import comparison
from pipeline.storage import home_identity, journal, lake, reader, warehouse
from pipeline.storage.generations import live_run_id
from pipeline.training.interactions import History


class Published:
    """The live tables of a data set, read-only. An object keeps its night; a new object sees a newer one."""

    def __init__(self, dataset: str, home: str | Path | None = None):
        """`home`: as for the command, see paths.Home.resolve. UnreadableInput if nothing is published."""
        self.dataset, self.home = dataset_name(dataset), Home.resolve(home)
        home_identity.check(self.home)
        live = live_run_id(self.home, self.dataset)
        if live is None:
            raise UnreadableInput(unknown_dataset(self.home, self.dataset))
        self.run_id = live
        kept = self.home.generation(self.dataset, live)
        self.file = kept if kept.exists() else self.home.live(self.dataset)

    def sql(self, query: str, **params: Any) -> pl.DataFrame:
        """Rows of a query; `$name` is bound to the argument of that name. UnreadableInput if the query fails."""
        with reader.open_file(self.file) as con:
            return reader.ask(con, query, params)

    def table(self, name: str) -> pl.DataFrame:
        """A whole table or view."""
        return self.sql(f"from {warehouse.identifier(name)}")

    def recommend(self, users: str | Sequence[str], top_n: int = 10) -> pl.DataFrame:
        """The published lists of users: user_id, rank, item_id, title, score, source.

        Warnings name unknown users and known ones without a list; ValueError if all are unknown.
        """
        wanted = list(dict.fromkeys([users] if isinstance(users, str) else map(str, users)))
        known = set(self.sql("select user_id from users where list_contains($users, user_id)", users=wanted)["user_id"])
        if unknown := [user for user in wanted if user not in known]:
            shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else "")
            message = f"not in the published tables of {self.dataset}: {shown}"
            if not known:
                raise ValueError(f"{message}. Ids are the source's: table('users')['user_id'] has them all")
            warnings.warn(message, stacklevel=2)
        lists = self.sql(
            "select user_id, rank, item_id, title, score, source from recommendations_titled "
            "where list_contains($users, user_id) and rank <= $n order by user_id, rank",
            users=wanted, n=top_n,
        )  # fmt: skip
        if top_n > 0 and (without := sorted(known - set(lists["user_id"]))):
            warnings.warn(
                f"{len(without):,} known users of {self.dataset} got no list at night (export.active_days), such as "
                f"{without[0]!r}; the command `nightrecs recommend` makes one",
                stacklevel=2,
            )
        return lists

    def similar(self, items: str | Sequence[str], top_n: int = 10) -> pl.DataFrame:
        """The published neighbours of items: item_id, title, rank, similar_item_id, similar_title, score.

        An item without neighbours has no rows; ValueError if none of the items is known.
        """
        wanted = [items] if isinstance(items, str) else list(map(str, items))
        known = self.sql("select item_id from items where list_contains($items, item_id)", items=wanted)
        if wanted and known.is_empty():
            raise ValueError(f"no item of {self.dataset} is called {wanted[0]!r}; table('items') has them all")
        return self.sql(
            "select item_id, title, rank, similar_item_id, similar_title, score from similar_items_titled "
            "where list_contains($items, item_id) and rank <= $n order by item_id, rank",
            items=wanted, n=top_n,
        )  # fmt: skip

    def reasons(self, user: str) -> pl.DataFrame:
        """Where a user's recommendations come from: rank, item_id, because_rank, because_item_id, because_title, share.

        Shares of a recommendation sum to 1; `because_rank` 0 is what the named items do not explain. UnreadableInput
        if the night has no reasons: set `export.reasons`.
        """
        if self.sql("select count(*) as n from reasons")["n"][0] == 0:
            raise UnreadableInput(f"{self.dataset} has no reasons: set export.reasons = 3, and run a night")
        return self.sql(
            "select reasons.rank, recommendations.item_id, because_rank, because_item_id, title as because_title, "
            "share from reasons join recommendations using (user_id, rank) "
            "left join (select item_id, title from items) as items on items.item_id = because_item_id "
            "where user_id = $user order by rank, because_rank",
            user=user,
        )  # fmt: skip

    def audience(
        self, item: str | None = None, *, attribute: str = "", value: str = "", top_n: int = 100
    ) -> pl.DataFrame:
        """The users who would like an item, or the items of an attribute's value, most: rank, user_id, score.

        The tables are filled by nights with `[export.audiences]`. ValueError unless there is either an item, or both
        `attribute` and `value`.
        """
        if (item is None) == (not attribute) or bool(attribute) != bool(value):
            raise ValueError("an audience is that of either an item, or both attribute and value")
        if item is not None:
            query, params = "audiences where item_id = $item", {"item": item}
        else:
            query = "attribute_audiences where attribute = $attribute and value = $value"
            params = {"attribute": attribute, "value": value}
        return self.sql(f"select rank, user_id, score from {query} and rank <= $n order by rank", **params, n=top_n)

    @property
    def run(self) -> Run:
        """The night behind the tables, with its settings."""
        return journal.load_run(self.home, self.dataset, self.run_id)

    def holdout(self, split: str = "valid") -> pl.DataFrame:
        """user_id, item_id of the positive rows held out from the night's models. `test` is for a final evaluation."""
        parts, encoded = self._folder("parts"), self._folder("encoded")
        rows = pl.read_parquet(parts / f"{split}.parquet").filter("positive").select("user_idx", "item_idx")
        for kind in ("user", "item"):
            rows = rows.join(pl.read_parquet(encoded / f"{kind}s.parquet"), on=f"{kind}_idx", maintain_order="left")
        return rows.select("user_id", "item_id")

    def evaluate(self, lists: Any, split: str = "valid", cutoffs: Sequence[int] = (10,)) -> pl.DataFrame:
        """Metrics of your own lists, protocol `full`, as for the models: metric, cutoff, value, interval, n.

        `lists`: user_id, item_id, rank (1 is the best), as a frame of Polars, pandas or Arrow, or a dict of
        columns. All users with holdout and history count; a user without a list has no hit. Items of the user's
        history are removed first, as for the models. Unknown ids are an error, since they would count as misses.
        """
        parts = load_splits(self._folder("parts"), torch.device("cpu"))
        question, depth = eval_task(parts, split, "train"), max(cutoffs)
        known = self._indices(_lists(lists))
        masked = pl.DataFrame({"row": question.mask.rows.numpy(), "item_idx": question.mask.items.numpy()})
        rows = pl.DataFrame({"user_idx": question.users.numpy()}).with_row_index("row").cast(pl.Int64)
        kept = known.join(rows, on="user_idx").join(masked, on=["row", "item_idx"], how="anti")
        kept = (
            kept.sort("row", "rank", "item_idx")
            .with_columns(place=pl.int_range(pl.len()).over("row"))
            .filter(pl.col("place") < depth)
        )
        items = torch.full((len(question.users), depth), -1)
        row, place, item = (torch.tensor(kept[name].to_list()) for name in ("row", "place", "item_idx"))
        if kept.height:
            items[row, place] = item
        ranks = _ranks(items, question.holdout, question.history)
        found = ranking_metrics.summarise(ranks, cutoffs, ranking_metrics.Scope("own", split), popular=question.popular)
        frame = pl.DataFrame(found, infer_schema_length=None).filter(segment="all")
        return frame.select("metric", "cutoff", "value", "ci_low", "ci_high", "n")

    def compare(self, model: str, other: str, split: str = "valid", confidence: float = 0.95) -> dict[str, float]:
        """The difference of two models of the night in the selection metric, paired by user.

        value: mean of model - other over the users of both with a history, above 0 where `model` is better (of rmse
        in squares); ci_low and ci_high; p_value of 'there is no difference'; n. The p-value is
        that of a single comparison; the table `comparisons` has all models against the best, corrected for their
        number. UnreadableInput if per-user values are no longer kept; ValueError for a model that was not evaluated.
        """
        if split not in per_user.FILES:
            raise ValueError(f"split is one of {', '.join(per_user.FILES)}, not {split!r}")
        folders = map(Path, journal.read_run(self.home, self.dataset, self.run_id).get("made", {}).get("measured", []))
        known = {lake.info(folder)["label"]: folder for folder in folders if lake.is_complete(folder)}
        if not known:
            raise UnreadableInput(f"what night {self.run_id} measured is no longer in the lake; run a night")
        files = {label: folder / per_user.FILES[split] for label, folder in known.items()}
        for label in (model, other):
            if label not in files or not files[label].is_file():
                there = ", ".join(label for label, file in files.items() if file.is_file()) or "none"
                raise ValueError(f"{label!r} has no values by user on {split}; models that have: {there}")
        metrics, settings = {label: pl.read_parquet(files[label]) for label in (model, other)}, self.run.settings
        found = comparison.against(metrics, other, settings.select.metric, settings.seed, confidence).get(model)
        if found is None:
            raise ValueError(
                f"{model!r} and {other!r} share no user on {split}" if model != other else "it is one model"
            )
        return asdict(found)

    def _indices(self, lists: pl.DataFrame) -> pl.DataFrame:
        encoded, found = self._folder("encoded"), lists
        for kind in ("user", "item"):
            ids = pl.read_parquet(encoded / f"{kind}s.parquet").cast({f"{kind}_idx": pl.Int64})
            found = found.join(ids, on=f"{kind}_id", how="left", maintain_order="left")
            unknown = found.filter(pl.col(f"{kind}_idx").is_null())[f"{kind}_id"]
            if len(unknown):
                raise ValueError(
                    f"{len(unknown):,} rows have a {kind}_id that is not part of the night, e.g. {unknown[0]!r}"
                )
        return found

    def _folder(self, name: str) -> Path:
        record = journal.read_run(self.home, self.dataset, self.run_id)
        folder = Path(record.get("made", {}).get(name, ""))
        if not lake.is_complete(folder):
            raise UnreadableInput(f"what night {self.run_id} made of {name} is no longer in the lake; run a night")
        return folder


def _lists(lists: Any) -> pl.DataFrame:
    """user_id and item_id as text, rank as a number. ValueError if a column is missing or has another type."""
    try:
        frame = pl.DataFrame(lists.collect() if isinstance(lists, pl.LazyFrame) else lists)
        if missing := {"user_id", "item_id", "rank"} - set(frame.columns):
            raise ValueError(f"missing: {', '.join(sorted(missing))}")
        frame = frame.select(pl.col("user_id", "item_id").cast(pl.String), pl.col("rank").cast(pl.Float64))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"lists need the columns user_id, item_id, rank; {str(error).splitlines()[0]}") from None
    if empty := frame["rank"].null_count() + frame["rank"].is_nan().sum():
        raise ValueError(f"{empty:,} rows have no rank; 1 is the best")
    return frame


def _ranks(items: torch.Tensor, holdout: History, history: History) -> Ranks:
    """Ranks of the holdout events in lists (N, depth); 0 if they are not in the list."""
    own = items[holdout.rows] == holdout.items.unsqueeze(1)  # (E, depth)
    places = torch.where(own.any(1), own.int().argmax(1) + 1, 0)  # (E,)
    scores = -torch.arange(items.shape[1]).float().expand(items.shape)
    lists = Lists(items, scores, torch.zeros(len(items), dtype=torch.bool))
    return Ranks(holdout.offsets, places, items.shape[1], history.lengths > 0, lists)
