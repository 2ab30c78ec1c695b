"""The tables of lists: of users, of new users, of trending items, and the audiences of items."""

from pipeline.schemas.common_columns import ITEM, MODEL, RANK, RUN, USER
from pipeline.schemas.table import BIG, FLOAT, INT, TEXT, TIME, Column, Table

RECOMMENDATIONS = Table(
    "recommendations", "Top-N items for every user", ("user_id", "rank"),
    {"user_id": USER, "rank": RANK, "item_id": ITEM,
     "score": Column(FLOAT, "Higher is better, boosts included; comparable within one user and source only"),
     "source": Column(TEXT, "model; fallback: popular items, where the model can't serve; promoted: placed by a rule; "
                             "explore: a new item that was drawn, with score 0; holdback: by the runner-up"),
     "model": MODEL, "run_id": RUN, "generated_at": Column(TIME, "When the lists were made, UTC"),
     "list_id": Column(TEXT, "Id of the user's list of this night, for logs of impressions")},
    volatile=("run_id", "generated_at", "list_id"),
)  # fmt: skip
RECOMMENDATIONS_IN = Table(
    "recommendations_in", "Further lists of every user, one for each [lists.NAME] of the recipe",
    ("list", "user_id", "rank"),
    {"list": Column(TEXT, "NAME of the list; the default list is the table recommendations"),
     **RECOMMENDATIONS.columns},
    volatile=RECOMMENDATIONS.volatile,
)  # fmt: skip
RECOMMENDATIONS_BY = Table(
    "recommendations_by", "Top items of every user by the values of an attribute; filled with export.by",
    ("user_id", "attribute", "value", "rank"),
    {"user_id": USER, "attribute": Column(TEXT, "Attribute of items"),
     "value": Column(TEXT, "Value of the attribute: one of those whose best items score highest for the user"),
     "rank": Column(INT, "1 is the best item with the value"), "item_id": ITEM,
     "score": Column(FLOAT, "Higher is better, boosts included; comparable within one user"),
     "list_id": RECOMMENDATIONS.columns["list_id"]},
    volatile=("list_id",),
)  # fmt: skip
FALLBACK_ITEMS = Table(
    "fallback_items", "Lists for users who are not known yet, by an attribute of users; filled with export.fallback_by",
    ("attribute", "value", "rank"),
    {"attribute": Column(TEXT, "Attribute of users; null: the list for all others", nullable=True),
     "value": Column(TEXT, "Value of the attribute", nullable=True), "rank": RANK, "item_id": ITEM,
     "score": Column(FLOAT, "Interactions of users with the value, plus the popularity among all as 100 interactions; "
                            "boosts included"), "run_id": RUN},
    volatile=("run_id",),
)  # fmt: skip
TRENDING_ITEMS = Table(
    "trending_items", "Items that grow most against their own past; filled with export.trending",
    ("window_days", "attribute", "value", "rank"),
    {"window_days": Column(INT, "Recent days, back from the newest interaction"),
     "attribute": Column(TEXT, "Attribute of items; null: among all items", nullable=True),
     "value": Column(TEXT, "Value of the attribute", nullable=True),
     "rank": Column(INT, "1 has the highest ci_low"), "item_id": ITEM,
     "growth": Column(FLOAT, "Change of the item's share of all interactions, shrunk towards 1; 2: twice the share"),
     "ci_low": Column(FLOAT, "Lower end of its 95 % interval; above 1: the item surely grows"),
     "ci_high": Column(FLOAT, "Upper end of the interval"),
     "recent": Column(BIG, "Interactions in the recent days, with event types those of the target"),
     "past": Column(BIG, "The same in its past"),
     "run_id": RUN},
    volatile=("run_id",),
)  # fmt: skip
AUDIENCES = Table(
    "audiences",
    "The users who would like each item most, of those whose lists may hold it: who do not have it, or with "
    "seen = allow not lately; filled with export.audiences",
    ("item_id", "rank"),
    {"item_id": ITEM, "rank": Column(INT, "1 is the user who would like the item most"), "user_id": USER,
     "score": Column(FLOAT, "How far the item stands out among all others for the user, in about standard deviations; "
                            "comparable between users")},
)  # fmt: skip
ATTRIBUTE_AUDIENCES = Table(
    "attribute_audiences", "The users who would like a value's items most; filled with export.audiences.attributes",
    ("attribute", "value", "rank"),
    {"attribute": Column(TEXT, "Attribute of items"), "value": Column(TEXT, "Value of the attribute"),
     "rank": Column(INT, "1 is the user who would like the items of the value most"), "user_id": USER,
     "score": Column(FLOAT, "Mean of the scores of its items that the user does not have, as in audiences, towards 0 "
                            "where these are few")},
)  # fmt: skip
