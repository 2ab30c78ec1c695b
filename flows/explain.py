"""`nightrecs explain`: what the published model thinks of an item for a user, and what that is made of."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from flows.look import dataset_name, query, require, show
from pipeline import journal, lake
from pipeline.contracts import UnreadableInput
from pipeline.interactions import History
from pipeline.models import Recommender
from pipeline.models.saving import load
from pipeline.normalize import Normalizer
from pipeline.paths import Home
from pipeline.ranking import served
from pipeline.settings import Settings
from pipeline.stages.clean import mark


@dataclass(frozen=True)
class Night:
    """The published night: its champion, and the folders of the lake that it was made from."""

    run_id: str
    label: str
    model: Recommender
    settings: Settings
    raw: Path
    encoded: Path
    normalizer: Normalizer = field(default_factory=Normalizer)
    """Of the champion's ratings."""


def explain(options: Any) -> None:
    """Print score, rank, mask and parts; JSON has all parts, people see the largest."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    require(options, "user")
    require(options, "item")
    run_id = query(options, "select run_id from freshness", {}).item()
    answer = explanation(published_night(home, dataset, run_id), options.user, options.item)
    parts = pl.DataFrame([part["item_id"] for part in answer["contributions"]], schema={"item_id": pl.String})
    titles = dict(query(options, "select item_id, title from items", {}).join(parts, on="item_id").iter_rows())
    listed = query(
        options,
        "select title, rank from items left join recommendations using (item_id) "
        "where item_id = $item and user_id = $user "
        "union all select title, null from items where item_id = $item order by rank nulls last limit 1",
        {"user": options.user, "item": options.item},
    ).row(0, named=True)
    answer |= {"dataset": dataset, "title": listed["title"], "published_rank": listed["rank"]}
    for part in answer["contributions"]:
        part["title"] = titles.get(part["item_id"])
    if options.json:
        print(json.dumps(answer, default=str, ensure_ascii=False, indent=1))
    else:
        describe(answer, options)


def published_night(home: Home, dataset: str, run_id: str) -> Night:
    """The live night, as far as the lake still has it; else UnreadableInput says what is gone."""
    record = journal.read_run(home, dataset, run_id) if run_id in journal.run_ids(home, dataset) else {}
    made = record.get("made") or {}
    if not {"refit", "encoded"} <= made.keys():
        raise UnreadableInput(
            f"the journal does not say what the published tables of {dataset} were made from; "
            f"run a night: nightrecs run {dataset}"
        )

    def folder(path: str) -> Path:
        at = home.lake(dataset).joinpath(*Path(path).parts[-2:])  # a home can be moved
        if not lake.is_complete(at):
            raise UnreadableInput(
                f"{at} is gone or damaged: the published tables are well, but what they were made from is not "
                f"there to explain them. A night makes it again: nightrecs run {dataset}"
            )
        return at

    refit, encoded = folder(made["refit"]), folder(made["encoded"])
    clean = folder(lake.read_manifest(encoded)["parents"][0])
    raw = folder(lake.read_manifest(clean)["parents"][0])
    settings = journal.load_run(home, dataset, run_id).settings
    return Night(run_id, lake.info(refit)["label"], load(refit), settings, raw, encoded, Normalizer.load(refit))


@torch.no_grad()
def explanation(night: Night, user_id: str, item_id: str) -> dict[str, Any]:
    """Score and rank among the items that are not masked (as if the item itself were not), and their parts."""
    items = pl.read_parquet(night.encoded / "items.parquet")["item_id"]
    own = pl.scan_parquet(night.raw / "interactions.parquet").filter(user_id=user_id).collect()
    own = own.cast({"user_id": pl.String, "item_id": pl.String})  # ids may be kept as categories
    seen = own.filter(item_id=item_id).sort("timestamp").select("timestamp", "rating").to_dicts()
    answer: dict[str, Any] = {
        "run_id": night.run_id, "model": night.label, "user_id": user_id, "item_id": item_id,
        "masked": bool(seen), "seen": seen, "source": None, "score": None, "rank": None, "candidates": None,
        "predicted_rating": None, "scale": "none", "terms": {}, "contributions": [],
    }  # fmt: skip
    item = items.index_of(item_id)
    if item is None:
        return answer
    user, known = history_of(night, user_id, own, items)
    history, model = History.of_lists([known], len(items)).distinct(), night.model
    users = torch.tensor([user])  # (1,)
    by_model = bool(served(model, users, history))
    scores = model.score(users, history)[0] if by_model else popularity(night, len(items))  # (I,)
    allowed = torch.ones(len(items), dtype=torch.bool)
    allowed[[i for i in map(items.index_of, own["item_id"].unique()) if i is not None]] = False
    allowed[item] = True
    answer |= {"source": "model" if by_model else "fallback", "score": float(scores[item])}
    answer |= {"rank": rank_of(item, scores, allowed), "candidates": int(allowed.sum())}
    if not by_model:
        return answer
    parts = model.contributions(user, history, item)
    if parts is not None:
        pairs = zip(history.items.tolist(), parts.tolist(), strict=True)
        made_of = [{"item_id": items[at], "contribution": value} for at, value in pairs]
        answer["contributions"] = sorted(made_of, key=lambda part: -abs(part["contribution"]))
    if user >= 0:
        answer["terms"] = (model.terms(user, item) if parts is None else None) or {}
        rating = model.predict(users, torch.tensor([item]))
        answer["predicted_rating"] = None if rating is None else float(night.normalizer.invert(rating))
        answer["scale"] = night.normalizer.kind
    return answer


def history_of(night: Night, user_id: str, own: pl.DataFrame, items: pl.Series) -> tuple[int, list[int]]:
    """Index of the user and the items that the model reads: those of the fit, else (index -1) positive rows."""
    user = pl.read_parquet(night.encoded / "users.parquet")["user_id"].index_of(user_id)
    if user is not None:
        rows = pl.scan_parquet(night.encoded / "interactions.parquet").filter("positive", user_idx=user)
        return user, rows.select("item_idx").collect()["item_idx"].to_list()
    rows = mark(own, night.settings.dataset.feedback).filter("kept", "positive").sort("timestamp")
    return -1, [i for i in map(items.index_of, rows["item_id"]) if i is not None]


def popularity(night: Night, n_items: int) -> Tensor:
    """Scores of the fallback, (I,): positive rows an item."""
    rows = pl.scan_parquet(night.encoded / "interactions.parquet").filter("positive").select("item_idx")
    return torch.bincount(rows.collect()["item_idx"].cast(pl.Int64).to_torch(), minlength=n_items).float()


def rank_of(item: int, scores: Tensor, allowed: Tensor) -> int:
    """1 + allowed items with a higher score, or with the same and a lower index; scores (I,) as float32."""
    scores = scores.float()
    before = scores > scores[item]  # (I,)
    before[:item] |= scores[:item] == scores[item]
    return 1 + int((before & allowed).sum())


def describe(answer: dict[str, Any], options: Any) -> None:
    """For people."""
    title = f" ({answer['title']})" if answer["title"] else ""
    print(
        f"item {answer['item_id']}{title} for user {answer['user_id']}, by {answer['model']}, night {answer['run_id']}"
    )
    times = ", ".join(f"{row['timestamp']}"[:19] for row in answer["seen"] if row["timestamp"])
    seen = f"the user has it already{f' ({times})' if times else ''}"
    masked = f"masked: {seen}; its rank is what it would have without that"
    print(masked if answer["masked"] else "not masked: the user does not have it")
    if answer["score"] is None:
        print("the model does not know it: the filters left it out, or nobody has it; so it is in no list")
        return
    listed = f"rank {answer['published_rank']} of the list" if answer["published_rank"] else "not in the list"
    print(
        f"score {answer['score']:.6g}, rank {answer['rank']:,} of {answer['candidates']:,} items; published: {listed}"
    )
    if answer["source"] == "fallback":
        print("the model can't serve this user, so the score is the item's popularity")
    if answer["predicted_rating"] is not None:
        given = [row["rating"] for row in answer["seen"] if row["rating"] is not None]
        said = f"; the user's own: {given[-1]:,.6g}" if given else ""
        scale = "" if answer["scale"] == "none" else f"; score and terms: on the scale of the fit, {answer['scale']}"
        print(f"predicted rating {answer['predicted_rating']:,.4g}{said}{scale}")
    rows = [{"contribution": v, "from": name} for name, v in answer["terms"].items()]
    parts = answer["contributions"]
    rows += [{"contribution": p["contribution"], "from": p["item_id"], "title": p["title"]} for p in parts[: options.n]]
    if rest := parts[options.n :]:
        total = sum(part["contribution"] for part in rest)
        rows.append({"contribution": total, "from": f"({len(rest)} others)", "title": None})
    if rows:
        print()
        show(rows, options)
    elif answer["source"] == "model":
        print(f"{answer['model']} has no parts to show: its score is no sum over items or terms")
