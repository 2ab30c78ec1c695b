"""Explains the score and rank of an item for a user, by a model of the published night."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import Export
from pipeline.config.settings import Settings
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.datasets.names import runnable
from pipeline.models import Recommender
from pipeline.models.serialization import load
from pipeline.preparation.row_names import NO_NAMES, RowNames
from pipeline.preparation.seen import hidden
from pipeline.publishing import business_rules, item_conditions, item_tables, rule_files
from pipeline.publishing.boosts import boosted
from pipeline.publishing.cold_users import ColdUsers, Known
from pipeline.publishing.listed_users import facts_of, rows_to_fold_in
from pipeline.ranking.ranks import served
from pipeline.ranking.servable import servable
from pipeline.storage import journal, lake
from pipeline.training.interactions import History, Interactions
from pipeline.training.normalizer import Normalizer

RULES = ("exclude_items", "only_items", "fresh_days", "exclude_where", "only_where", "boost", "promote")
"""Keys of `[export]` that exclude, raise or place an item."""


@dataclass(frozen=True)
class Night:
    """The published night: one of its models, and its folders in the lake."""

    run_id: str
    label: str
    model: Recommender
    settings: Settings
    raw: Path
    encoded: Path
    rows: Path
    """Rows that the model was fitted on (contract `encoded`), which are also the histories that it reads."""
    fit: str = "all"
    """`all`, or `train` for the fit that was evaluated."""
    normalizer: Normalizer = field(default_factory=Normalizer)
    """Normalizer of the model's ratings."""
    names: RowNames = NO_NAMES
    """Names that conditions may use."""
    data: Path = Path()
    """The data folder, with the files of rules."""
    runner_up: Path | None = None
    """The fit on all rows that held-back users get their lists from. It may be gone; None: there is no second model."""
    says_runner_up: bool = True
    """Whether the journal says which one it is; older nights do not."""

    @cached_property
    def known(self) -> Interactions:
        """The rows that the night's model was fitted on."""
        shape, frame, recency = lake.info(self.encoded), pl.read_parquet(self.rows), self.settings.recency
        return Interactions.of_frame(frame, shape["n_users"], shape["n_items"], torch.device("cpu"), recency)


def published_night(home: Home, dataset: str, run_id: str, label: str | None = None) -> Night:
    """The live night from the lake. Raises UnreadableInput that names what is no longer there.

    `label`: a model as fitted on train. The champion, which is also the default, is the fit on all rows.
    """
    record = journal.read_run(home, dataset, run_id) if run_id in journal.run_ids(home, dataset) else {}
    made = record.get("made") or {}
    if not made:
        raise UnreadableInput(
            f"the journal does not say what the published tables of {dataset} were made from; "
            f"run a night: nightrecs run {runnable(home, dataset)}"
        )

    def folder(path: str) -> Path:
        at = home.lake(dataset).joinpath(*Path(path).parts[-2:])  # a home can be moved
        if not lake.is_complete(at):
            raise UnreadableInput(
                f"{at} is gone or damaged. The published tables are intact, but the results that they were "
                "made from are needed to explain them. A night makes them again: "
                f"nightrecs run {runnable(home, dataset)}"
            )
        return at

    fits = {Path(fit).name.rsplit("-", 2)[0]: fit for fit in made["fitted"]} | {made["champion"]: made["refit"]}
    wanted = label or made["champion"]
    if wanted not in fits:
        raise UnreadableInput(
            f"the published night of {dataset} has no model {wanted!r}{nearest(wanted, fits)}; "
            f"there are: {', '.join(fits)}"
        )
    fitted, encoded = folder(fits[wanted]), folder(made["encoded"])
    fit = lake.info(fitted)["fit"]
    rows = encoded / "interactions.parquet" if fit == "all" else folder(made["parts"]) / f"{fit}.parquet"
    clean = folder(lake.read_manifest(encoded)["parents"][0])
    raw = folder(lake.read_manifest(clean)["parents"][0])
    run = journal.load_run(home, dataset, run_id)
    normalizer, names = Normalizer.load(fitted), RowNames.of(run, lake.info(clean).get("column_types"))
    second = made.get("runner_up")
    return Night(
        run_id, wanted, load(fitted), run.settings, raw, encoded, rows, fit, normalizer, names, run.data,
        runner_up=home.lake(dataset).joinpath(*Path(second).parts[-2:]) if second else None,
        says_runner_up="runner_up" in made,
    )  # fmt: skip


@torch.no_grad()
def explanation(night: Night, user_id: str, item_id: str) -> dict[str, Any]:
    """Score and rank among the items that are not masked or excluded by a rule (the item itself counts as neither).

    The score is the published one, boosts included; its parts are those of the score before the boost.
    """
    items = pl.read_parquet(night.encoded / "items.parquet")["item_id"]
    own = pl.scan_parquet(night.raw / "interactions.parquet").filter(user_id=user_id).collect()
    own = own.cast({"user_id": pl.String, "item_id": pl.String})  # ids may be kept as categories
    newest = pl.scan_parquet(night.raw / "interactions.parquet").select(pl.col("timestamp").max()).collect().item()
    masked = own.filter(hidden(own, pl.int_range(own.height, eager=True), night.settings, newest))
    seen = own.filter(item_id=item_id).sort("timestamp").select("timestamp", "rating").to_dicts()
    answer: dict[str, Any] = {
        "run_id": night.run_id, "model": night.label, "fit": night.fit, "user_id": user_id, "item_id": item_id,
        "masked": item_id in masked["item_id"], "seen": seen, "source": None, "score": None, "rank": None,
        "candidates": None, "predicted_rating": None, "scale": "none", "terms": {}, "contributions": [],
        "excluded_by": None, "excluded_because": None, "boost": 1.0, "promoted_to": [],
        "hide_days": night.settings.hide_days,
    }  # fmt: skip
    item = items.index_of(item_id)
    if item is None:
        return answer
    rules = rules_of(night, items)
    user, known = history_of(night, user_id, own, items)
    model = night.model
    history = model.weighed(known).unrepeated()
    users = torch.tensor([user])  # (1,)
    by_model = bool(served(model, users, history))
    scores = model.score(users, history)[0] if by_model else popularity(night, user_id, items, night.settings.export)
    if rules.boost is not None:
        scores = boosted(scores.unsqueeze(0), rules.boost)[0]
        answer["boost"] = float(rules.boost[item])
    allowed = torch.ones(len(items), dtype=torch.bool)
    allowed[[i for i in map(items.index_of, masked["item_id"].unique()) if i is not None]] = False
    if (can_list := servable_by(night, model)) is not None:
        allowed &= can_list
    if rules.allowed is not None:
        allowed &= rules.allowed
        if not rules.allowed[item]:
            answer |= {"excluded_by": rules.rule[item], "excluded_because": rules.reason[item] or None}
    answer["promoted_to"] = [promotion.place for promotion in rules.promotions if promotion.items[item]]
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


def servable_by(night: Night, model: Recommender) -> Tensor | None:
    """Items that a model fitted on these rows may list, (I,) bool; None: all."""
    return servable(model, night.known, night.rows.parent) if night.settings.attributes.used else None


def rules_of(night: Night, items: pl.Series, of: Export | None = None) -> business_rules.Rules:
    """The rules of a list for the items of the fit, as that night applied them; by default those of `[export]`.

    By default limits by attribute are left out. Raises UnreadableInput if a file of rules is gone.
    """
    export, settings = of or night.settings.export, night.settings.dataset.items
    if of is None:
        export = export.model_copy(update={"max_per_attribute": {}})
    if not export.model_dump(exclude_defaults=True, include={*RULES, "max_per_attribute"}):
        return business_rules.Rules()
    date, catalog = night.names.night_date, item_tables.read_catalog(night.raw)
    assert date is not None
    rows = pl.read_parquet(night.raw / "interactions.parquet", columns=["item_id", "timestamp"])
    known = items.to_frame().join(item_tables.items(rows, catalog), on="item_id", how="left", maintain_order="left")
    frame = item_conditions.of_raw(night.raw, known, settings, date)
    listed = rule_files.read_lists(export, night.data, date)
    return business_rules.rules_of(export, listed, frame, catalog)


def history_of(night: Night, user_id: str, own: pl.DataFrame, items: pl.Series) -> tuple[int, History]:
    """Index and history of the user as the model reads it: of the fit, else (index -1) `rows_to_fold_in`."""
    user = pl.read_parquet(night.encoded / "users.parquet")["user_id"].index_of(user_id)
    dataset, rows_of_fit = night.settings.dataset, pl.scan_parquet(night.rows)
    if user is not None:
        rows = rows_of_fit.filter("positive", user_idx=user).collect()
    else:
        index = pl.DataFrame({"item_id": items, "item_idx": pl.int_range(len(items), eager=True)})
        known = own.join(index.cast({"item_id": pl.String}), on="item_id", maintain_order="left")
        rows = rows_to_fold_in(known, dataset, night.names)
    history = History.of_lists([rows["item_idx"].to_list()], len(items))
    if dataset.is_weighted or night.settings.recency:
        newest = rows_of_fit.select(pl.col("timestamp").max()).collect().item()
        history = replace(history, facts=facts_of(rows, newest))
    return -1 if user is None else user, history


def popularity(night: Night, user_id: str, items: pl.Series, export: Export) -> Tensor:
    """Scores of the fallback, (I,): positive rows per item; of event types, those of the target.

    With `export.fallback_by`, those among users with the same value of the attribute, where the user has one.
    """
    rows = pl.scan_parquet(night.rows).filter("positive")
    rows = rows.filter("target") if night.settings.dataset.is_weighted else rows
    pairs = rows.select(pl.col("user_idx", "item_idx").cast(pl.Int64)).collect()
    users_of, items_of = pairs["user_idx"].to_torch(), pairs["item_idx"].to_torch()  # (E,) each
    if export.fallback_by is not None:
        known = Known(pl.read_parquet(night.encoded / "users.parquet")["user_id"], len(items))
        cold = ColdUsers.of(night.raw, export.fallback_by, users_of, items_of, known)
        for value, _ in cold.groups(pl.Series([user_id]), torch.tensor([0])):
            return cold.scores(value)
    return torch.bincount(items_of, minlength=len(items)).float()


def rank_of(item: int, scores: Tensor, allowed: Tensor) -> int:
    """1 + allowed items with a higher score, or with the same and a lower index; scores (I,) as float32."""
    scores = scores.float()
    before = scores > scores[item]  # (I,)
    before[:item] |= scores[:item] == scores[item]
    return 1 + int((before & allowed).sum())
