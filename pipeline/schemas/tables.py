"""All tables: those of the lake (between stages), of the journal, and the published ones."""

from dataclasses import replace

import polars as pl

from pipeline.schemas.click_tables import REALISED_CLICKS
from pipeline.schemas.common_columns import ITEM, MODEL, RANK, RUN, USER
from pipeline.schemas.list_tables import (
    ATTRIBUTE_AUDIENCES,
    AUDIENCES,
    FALLBACK_ITEMS,
    RECOMMENDATIONS,
    RECOMMENDATIONS_BY,
    RECOMMENDATIONS_IN,
    TRENDING_ITEMS,
)
from pipeline.schemas.table import BIG, BOOL, FLOAT, INT, TEXT, TIME, VECTOR, Column, Table

_RATING = Column(FLOAT, "Rating or weight in the source's unit; null: an interaction without a rating", nullable=True)
_TIME = Column(TIME, "Time of the interaction, UTC; null where the source has none", nullable=True)
_COUNT = Column(BIG, "Valid interactions in the source")
_FIRST = Column(TIME, "First interaction, UTC; null where the source has no times", nullable=True)
_LAST = Column(TIME, "Last interaction, UTC; null where the source has no times", nullable=True)

# ── lake ──
RAW = Table(
    "raw", "Valid source rows in source order", (),
    {"user_id": USER, "item_id": ITEM, "rating": _RATING, "timestamp": _TIME},
)  # fmt: skip
CATALOG = Table(
    "catalog", "Item catalog of the source", ("item_id",),
    {"item_id": ITEM, "title": Column(TEXT, "Title", nullable=True),
     "attributes": Column(TEXT, 'JSON object, attribute name to list of values', nullable=True)},
)  # fmt: skip
CLEAN = Table(
    "clean", "One row per user and item, after the filters", ("user_id", "item_id"),
    {**RAW.columns, "positive": Column(BOOL, "Counts as positive for ranking")},
)  # fmt: skip
ENCODED = Table(
    "encoded", "Rows with dense indices, ordered by user, then time, then a seeded hash", ("user_idx", "item_idx"),
    {"user_idx": Column(INT, "Row of users.parquet"), "item_idx": Column(INT, "Row of items.parquet"),
     "rating": Column(pl.Float32, _RATING.doc, nullable=True), "timestamp": _TIME,
     "positive": CLEAN.columns["positive"]},
)  # fmt: skip
WEIGHTED = {
    "quantity": Column(pl.Float32, "How often or how many, above 0; families weigh it by their config"),
    "target": Column(BOOL, "Counts as held out where a split holds it out"),
    "masks": Column(BOOL, "The item is not recommended to the user again"),
}
"""Further columns where the data set has `[events]` or `repeats`; pairs of user and item may then repeat."""
CLEAN_WEIGHTED = replace(
    CLEAN, key=(),
    columns={**CLEAN.columns, "event": Column(TEXT, "Event type; null without `[events]`", nullable=True), **WEIGHTED},
)  # fmt: skip
ENCODED_WEIGHTED = replace(
    ENCODED, key=(),
    columns={**ENCODED.columns, "event": Column(pl.Int8, "Place of the event type in the sorted types with a weight"),
             **WEIGHTED},
)  # fmt: skip
PER_USER = Table(
    "per_user", "The selection metric of every user, on one split", ("user_idx",),
    {"user_idx": Column(INT, "Row of users.parquet"),
     "value": Column(FLOAT, "Mean of the user; for rmse the mean squared error, for mae the mean absolute error"),
     "n": Column(BIG, "Events or rows in the mean; 1 if the metric is one of the whole list"),
     "warm": Column(BOOL, "Has a history, so is in the segment `all`")},
)  # fmt: skip

# ── journal only ──
INPUTS = Table(
    "inputs", "What each night read; audits of later nights compare with it", ("run_id",),
    {"run_id": RUN, "mode": Column(TEXT, "snapshot or incremental"), "rows": Column(BIG, "Valid source rows"),
     "rejected": Column(BIG, "Rejected source lines"), "newest": _LAST,
     "rated": Column(BOOL, "A rating column is configured"), "timed": Column(BOOL, "A time column is configured")},
)  # fmt: skip

TRIALS = Table(
    "trials", "Trials of one search, in order", ("number",),
    {"number": Column(INT, "From 0"), "state": Column(TEXT, "complete, pruned or failed"),
     "value": Column(FLOAT, "The selection metric on valid; the last one of a pruned trial", nullable=True),
     "epochs": Column(INT, "Epochs that were evaluated; 0 for families without epochs"),
     "seconds": Column(FLOAT, "Wall time"), "params": Column(TEXT, "JSON object, hyperparameter to value"),
     "reason": Column(TEXT, "Why it failed, or which trial its metric was copied from", nullable=True)},
)  # fmt: skip

# ── published ──
SIMILAR_ITEMS = Table(
    "similar_items", "Nearest items of every item", ("item_id", "rank"),
    {"item_id": ITEM, "rank": RANK, "similar_item_id": Column(TEXT, "The similar item, id as in the source"),
     "score": Column(FLOAT, "Similarity, higher is nearer"), "model": MODEL, "run_id": RUN},
    volatile=("run_id",),
)  # fmt: skip
POPULAR_ITEMS = Table(
    "popular_items", "Most popular items, whole history and recent windows", ("window_days", "rank"),
    {"rank": RANK, "item_id": ITEM,
     "score": Column(FLOAT, "Interactions in the window, with event types those of the target"),
     "window_days": Column(INT, "Days before the last interaction; 0: the whole history"), "run_id": RUN},
    volatile=("run_id",),
)  # fmt: skip
USERS = Table(
    "users", "Every user with a valid row", ("user_id",),
    {"user_id": USER, "n_interactions": _COUNT, "first_seen": _FIRST, "last_seen": _LAST},
)  # fmt: skip
ITEMS = Table(
    "items", "Every item with a valid row or a catalog entry", ("item_id",),
    {"item_id": ITEM, "title": Column(TEXT, "Title from the item catalog", nullable=True),
     "n_interactions": _COUNT, "first_seen": _FIRST, "last_seen": _LAST},
)  # fmt: skip
ITEM_ATTRIBUTES = Table(
    "item_attributes", "Attributes of items: all columns of the item catalog but id and title",
    ("item_id", "attribute", "value"),
    {"item_id": ITEM, "attribute": Column(TEXT, "Column of the catalog"),
     "value": Column(TEXT, "Value as in the catalog; a column with several values per item has a row for each")},
)  # fmt: skip
USER_ATTRIBUTES = Table(
    "user_attributes", "Attributes of users with a valid row: all columns of the users' file but the id",
    ("user_id", "attribute", "value"),
    {"user_id": USER, "attribute": Column(TEXT, "Column of the users' file"),
     "value": Column(TEXT, "Value as in the file; a column with several values per user has a row for each")},
)  # fmt: skip
REASONS = Table(
    "reasons",
    "Which items of the user's history a recommendation comes from, where its source is model; filled with "
    "export.reasons",
    ("user_id", "rank", "because_rank"),
    {"user_id": USER, "rank": Column(INT, "Rank of the recommendation"),
     "because_rank": Column(INT, "1 is the item that adds most to the score; 0: all further items together"),
     "because_item_id": Column(TEXT, "Item of the user's history; null where because_rank is 0", nullable=True),
     "share": Column(FLOAT, "Share of all that adds to the model's score; the shares of a recommendation sum to 1")},
)  # fmt: skip
BIASES = Table(
    "biases", "User and item biases of every evaluated family that has them", ("model", "kind", "id"),
    {"model": MODEL, "kind": Column(TEXT, "user or item"), "id": Column(TEXT, "Source id"),
     "bias": Column(FLOAT, "In the unit of the model's score")},
)  # fmt: skip
USER_VECTORS = Table(
    "user_vectors", "User embeddings of the champion", ("id", "model"),
    {"id": Column(TEXT, "User id"), "model": MODEL, "vector": Column(VECTOR, "embedding_dim numbers")},
)  # fmt: skip
ITEM_VECTORS = Table(
    "item_vectors", "Item embeddings of the champion", ("id", "model"),
    {"id": Column(TEXT, "Item id"), "model": MODEL, "vector": Column(VECTOR, "embedding_dim numbers")},
)  # fmt: skip
PREDICTIONS = Table(
    "predictions", "Held-out and predicted ratings: a sample of test, for every model that predicts ratings",
    ("model", "user_id", "item_id"),
    {"model": MODEL, "user_id": USER, "item_id": ITEM,
     "rating": Column(FLOAT, "Rating in the source's unit; not used by the fit"),
     "prediction": Column(FLOAT, "Predicted rating, limited to the range of ratings in the fit")},
)  # fmt: skip
SUPPRESSED = Table(
    "suppressed", "Items that a rule in [export] removed from lists", ("item_id", "rule"),
    {"item_id": ITEM, "rule": Column(TEXT, "Key of [export] that did it; promote, explore: an item that a promotion "
                           "or a new item displaced"),
     "reason": Column(TEXT, "Reason given in the rule's file, or the rule's condition", nullable=True),
     "users": Column(BIG, "Users whose list would have contained the item")},
)  # fmt: skip
INTERACTIONS_SUMMARY = Table(
    "interactions_summary", "One row about the valid source rows", (),
    {"rows": Column(BIG, "Valid rows"), "users": Column(BIG, "Distinct users"), "items": Column(BIG, "Distinct items"),
     "density": Column(FLOAT, "Distinct user-item pairs / (users x items)"),
     "first_timestamp": _FIRST, "last_timestamp": _LAST},
)  # fmt: skip
METRICS = Table(
    "metrics", "Quality of every model of every night",
    ("run_id", "model", "split", "protocol", "metric", "cutoff", "segment"),
    {"run_id": RUN, "model": MODEL, "split": Column(TEXT, "valid (models are chosen on it) or test (reported once)"),
     "protocol": Column(TEXT, "full: all items ranked; sampled_99: against 99; error: of ratings. Never compare two"),
     "metric": Column(TEXT, "Name of the metric"), "cutoff": Column(INT, "List depth k; 0: no cutoff"),
     "segment": Column(TEXT, "all, or a part of the users; cold: the user or the item has no ratings in the fit"),
     "value": Column(FLOAT, "Mean over the n users"),
     "ci_low": Column(FLOAT, "Lower end of the 95 % interval", nullable=True),
     "ci_high": Column(FLOAT, "Upper end of the 95 % interval", nullable=True),
     "n": Column(BIG, "Users (or rows, for rating errors) in the mean")},
    volatile=("run_id",),
)  # fmt: skip
COMPARISONS = Table(
    "comparisons", "Every model of every night compared with the best on valid, paired by user",
    ("run_id", "split", "model", "other"),
    {"run_id": RUN, "split": Column(TEXT, "valid, or test (only reported, not used for selection)"),
     "protocol": METRICS.columns["protocol"], "metric": METRICS.columns["metric"],
     "cutoff": METRICS.columns["cutoff"],
     "model": MODEL, "other": Column(TEXT, "The best on valid, on both splits"),
     "difference": Column(FLOAT, "Mean of model - other over the users of both; negative: worse; rmse: of squares"),
     "ci_low": Column(FLOAT, "Lower end of the paired bootstrap interval, at gate.confidence"),
     "ci_high": Column(FLOAT, "Upper end of the interval"),
     "p_value": Column(FLOAT, "Two-sided p-value of no difference, adjusted by Holm over the comparisons of the split"),
     "n": Column(BIG, "Users compared (segment all)"),
     "is_real": Column(BOOL, "Significantly different: p_value is at most 1 - gate.confidence")},
    volatile=("run_id",),
)  # fmt: skip
RUNS = Table(
    "runs", "Every night of this data set, including refused and crashed ones", ("run_id",),
    {"run_id": RUN, "dataset": Column(TEXT, "Data set"), "recipe": Column(TEXT, "Recipe"),
     "outcome": Column(TEXT, "published, refused, stopped (by --until), crashed or running"),
     "logical_hash": Column(TEXT, "Equal for equal data, settings, code and device kind", nullable=True),
     "started_at": Column(TIME, "UTC"), "finished_at": Column(TIME, "UTC", nullable=True),
     "champion": Column(TEXT, "Label of the model that made the lists", nullable=True),
     "data_hash": Column(TEXT, "Hash of the source files", nullable=True),
     "split_kind": Column(TEXT, "Kind of the split, with the reason if it was chosen automatically", nullable=True),
     "code_version": Column(TEXT, "Version of nightrecs"),
     "mlflow_run_id": Column(TEXT, "Parent run in MLflow", nullable=True),
     "reason": Column(TEXT, "Why the night did not publish", nullable=True)},
)  # fmt: skip
STAGES = Table(
    "stages", "Stages of every night", ("run_id", "stage"),
    {"run_id": RUN, "stage": Column(TEXT, "Stage, with the model if it has one"),
     "seconds": Column(FLOAT, "Wall time"), "rows_in": Column(BIG, "Rows read", nullable=True),
     "rows_out": Column(BIG, "Rows written", nullable=True),
     "skipped": Column(BOOL, "The result of an earlier night was reused")},
)  # fmt: skip
ROW_LEDGER = Table(
    "row_ledger", "Number of rows by reason; the rows of a stage are the kept rows of the previous one",
    ("run_id", "stage", "reason"),
    {"run_id": RUN, "stage": Column(TEXT, "ingest, clean, encode, split; catalog, users, impressions: if there"),
     "reason": Column(TEXT, "kept, or why the row was dropped"), "rows": Column(BIG, "Rows")},
    volatile=("run_id",),
)  # fmt: skip
REJECTED_ROWS = Table(
    "rejected_rows", "Rejected source lines of this night", ("run_id", "file", "line"),
    {"run_id": RUN, "file": Column(TEXT, "Source file"),
     "line": Column(BIG, "Physical line, 1-based, including the header"),
     "column": Column(TEXT, "Column at fault", nullable=True), "reason": Column(TEXT, "Reason"),
     "raw": Column(TEXT, "The line, cut at 500 characters")},
    volatile=("run_id",),
)  # fmt: skip
CHECKS = Table(
    "checks", "Audits of every night", ("run_id", "check_name"),
    {"run_id": RUN, "check_name": Column(TEXT, "File in sql/checks"), "severity": Column(TEXT, "error or warn"),
     "bad_rows": Column(BIG, "Rows that the check returned"), "passed": Column(BOOL, "No bad row")},
    volatile=("run_id",),
)  # fmt: skip

CHURN = Table(
    "churn", "How much each night's lists differ from those they replaced, over the users of both",
    ("run_id", "segment"),
    {"run_id": RUN, "segment": Column(TEXT, "all; activity_low, _mid, _high: thirds by interactions; model, fallback"),
     "compared_with": Column(TEXT, "Night whose lists were replaced"),
     "cutoff": Column(INT, "List depth N compared: the smaller of both nights' top_n"),
     "n": Column(BIG, "Users with a list in both nights"),
     "jaccard": Column(FLOAT, "Mean of |both| / |either| of the top-N items; 1: the same items"),
     "rbo": Column(FLOAT, "Mean extrapolated rank-biased overlap, p = 0.9; 1: the same order"),
     "items_entered": Column(BIG, "Items in at least one list now and in none before"),
     "items_left": Column(BIG, "Items in at least one list before and in none now")},
    volatile=("run_id", "compared_with"),
)  # fmt: skip

DRIFT = Table(
    "drift", "How users, items and activity of every night's source differ from the tables that were live",
    ("run_id", "measure"),
    {"run_id": RUN,
     "measure": Column(TEXT, "rows_change, users_new, users_lost, users_active, items_new, items_lost: shares; "
                             "items_top_share: rows of the 1 % most popular items; rows_per_user; rating_mean"),
     "value": Column(FLOAT, "A share, or in the unit of the measure"),
     "compared_with": Column(TEXT, "Night whose tables were live; null: none", nullable=True),
     "usual_low": Column(FLOAT, "Lower end of the range of the last published nights, widened; null: too few nights",
                         nullable=True),
     "usual_high": Column(FLOAT, "Upper end of that range", nullable=True),
     "nights": Column(INT, "Published nights in the range, at most 30"),
     "unusual": Column(BOOL, "Outside the range")},
    volatile=("run_id", "compared_with"),
)  # fmt: skip

REALISED = Table(
    "realised", "Lists of earlier nights, measured on what users did after the data of the lists ended",
    ("run_id", "list_source", "horizon_days", "metric", "cutoff", "segment"),
    {"run_id": Column(TEXT, "Night that published the lists"),
     "list_source": Column(TEXT, "published; popularity: that night's popular items; published - popularity: paired; "
                                 "model - holdback: two groups of users"),
     "horizon_days": Column(INT, "Days after the newest interaction that the lists were made of"),
     "metric": METRICS.columns["metric"], "cutoff": METRICS.columns["cutoff"],
     "segment": Column(TEXT, "all, or the users whose list has this source, promoted rows aside"),
     "value": Column(FLOAT, "Mean over the n users; counted are first, positive interactions (target) with an item"),
     "ci_low": Column(FLOAT, "Lower end of the 95 % interval"), "ci_high": Column(FLOAT, "Upper end of it"),
     "n": Column(BIG, "Users with a list and such an interaction"),
     "measured_by": Column(TEXT, "Night that measured them")},
    volatile=("run_id", "measured_by"),
)  # fmt: skip

PUBLISHED = (
    RECOMMENDATIONS, RECOMMENDATIONS_IN, RECOMMENDATIONS_BY, REASONS, SIMILAR_ITEMS, POPULAR_ITEMS, TRENDING_ITEMS,
    AUDIENCES, ATTRIBUTE_AUDIENCES,
    FALLBACK_ITEMS, USERS, ITEMS, ITEM_ATTRIBUTES,
    USER_ATTRIBUTES, BIASES,
    PREDICTIONS, USER_VECTORS, ITEM_VECTORS, SUPPRESSED, INTERACTIONS_SUMMARY, METRICS, COMPARISONS, RUNS, STAGES,
    ROW_LEDGER, REJECTED_ROWS, CHECKS, CHURN, DRIFT, REALISED, REALISED_CLICKS,
)  # fmt: skip


def encoded(rows: pl.DataFrame) -> Table:
    """The contract of encoded rows: with weights, where they have them."""
    return ENCODED_WEIGHTED if "event" in rows.columns else ENCODED


def metric_name(metric: str, cutoff: int) -> str:
    """Name of a metric with its cutoff: `ndcg@10`, `rmse`."""
    return f"{metric}@{cutoff}" if cutoff else metric


def metric_names() -> pl.Expr:
    """`metric_name` as an expression over the columns `metric` and `cutoff`."""
    return pl.when(pl.col("cutoff") > 0).then(pl.format("{}@{}", "metric", "cutoff")).otherwise("metric")
