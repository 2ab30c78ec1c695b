"""Tables of a backtest. They are in its own database only, next to the tables of its last night."""

from pipeline.schemas.table import BIG, BOOL, FLOAT, INT, TEXT, TIME, Column, Table
from pipeline.schemas.tables import METRICS

_RUN = Column(TEXT, "Night of the backtest")
_LISTS = Column(TEXT, "Label of a model of the recipe; `published lists`: what the nights published; `popular items`")
_LOW = Column(FLOAT, "Lower end of the 95 % interval; null: too few nights or users", nullable=True)
_HIGH = Column(FLOAT, "Upper end of it", nullable=True)

BACKTEST_NIGHTS = Table(
    "backtest_nights", "The nights of this backtest, in order, and what the gate of each decided", ("run_id",),
    {"run_id": _RUN, "as_of": Column(TIME, "The night used the interactions before this time, UTC"),
     "outcome": Column(TEXT, "published, or refused: the lists of the night before stay"),
     "champion": Column(TEXT, "Label of the model that made the lists", nullable=True),
     "changed": Column(BOOL, "Another configuration than that of the night before was published"),
     "decision": Column(TEXT, "first, replaced (promoted), kept, floor, unopposed; off: without a gate", nullable=True),
     "challenger": Column(TEXT, "Best model that is not the incumbent", nullable=True),
     "gain": Column(FLOAT, "Challenger minus incumbent on valid; null: nothing to compare", nullable=True),
     "gain_low": Column(FLOAT, "Lower end of the gate's interval", nullable=True),
     "gain_high": Column(FLOAT, "Upper end of it", nullable=True),
     "reason": Column(TEXT, "The verdict as a sentence, or why nothing was published", nullable=True),
     "rows": Column(BIG, "Valid source rows before the time", nullable=True)},
)  # fmt: skip
BACKTEST_VALUES = Table(
    "backtest_values", "Each model's lists on what users did until the next night, by night", ("run_id", "model"),
    {"run_id": _RUN, "model": _LISTS, "metric": METRICS.columns["metric"], "cutoff": METRICS.columns["cutoff"],
     "value": Column(FLOAT, "Mean over the n users"),
     "n": Column(BIG, "Users with a list and a first, positive interaction (target) until the next night")},
)  # fmt: skip
BACKTEST_MODELS = Table(
    "backtest_models", "The models over all nights of this backtest, best first, compared with the best", ("model",),
    {"model": _LISTS, "metric": METRICS.columns["metric"], "cutoff": METRICS.columns["cutoff"],
     "value": Column(FLOAT, "Mean over users and nights; a user counts in each night with an interaction"),
     "nights_best": Column(INT, "Nights with the highest value of all models of the recipe"),
     "difference": Column(FLOAT, "Mean of the paired difference from the best model of the recipe; negative: worse"),
     "ci_low": _LOW, "ci_high": _HIGH,
     "is_worse": Column(BOOL, "The interval of the difference, corrected for the number of models, is below 0"),
     "n": Column(BIG, "Pairs of user and night"), "users": Column(BIG, "Distinct users"),
     "nights": Column(INT, "Nights with such users")},
)  # fmt: skip
BACKTEST_REALISED = Table(
    "backtest_realised", "Realised quality of the published lists over the nights", ("horizon_days", "list_source"),
    {"horizon_days": Column(INT, "Days after the newest interaction that the lists were made of"),
     "list_source": Column(TEXT, "published; popularity; published - popularity: paired"),
     "metric": METRICS.columns["metric"], "cutoff": METRICS.columns["cutoff"],
     "value": Column(FLOAT, "Mean over the nights"),
     "ci_low": Column(FLOAT, "Lower end of the 95 % interval; null: too few nights for overlapping horizons",
                      nullable=True),
     "ci_high": _HIGH, "nights": Column(INT, "Nights whose horizon ended within the data")},
)  # fmt: skip
BACKTEST = (BACKTEST_NIGHTS, BACKTEST_VALUES, BACKTEST_MODELS, BACKTEST_REALISED)
