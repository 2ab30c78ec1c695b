"""The one settings tree: its keys, their defaults and what they mean. `layers.py` merges the sources into it.

Here are the root and how models are fitted, measured and chosen; the data set's part is in `dataset_settings.py`, that
of publishing in `publishing_settings.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipeline.config.base import FileStem, Name, Section
from pipeline.config.dataset import Dataset
from pipeline.config.publishing import Checks, Churn, Export, Gate, Keep

INCUMBENT, BASELINE = "incumbent", "popularity_floor"
"""Labels of the configurations that the gate lets take part beside the recipe's."""
ERRORS = ("rmse", "mae", "rmse_scaled", "mae_scaled")
"""Metrics of predicted ratings."""


class Split(Section):
    """Who is held out."""

    kind: Literal["auto", "global_time", "leave_one_out", "random", "published"] = "auto"
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of rows (global_time, random)."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    by: Literal["user", "row"] = "user"
    """random: a fraction of each user's rows, or of all rows."""


class Finder(Section):
    """How to look for a learning rate before a gradient fit: it rises from step to step, and the loss tells."""

    low: PositiveFloat = 1e-6
    """Learning rate of the first step."""
    high: PositiveFloat = 10.0
    """Of the last one."""
    steps: Annotated[int, Field(ge=50)] = 100
    """Mini-batches, fewer where the loss explodes."""
    use: bool = False
    """true: the fit starts from the rate found; false: it is only shown."""

    @model_validator(mode="after")
    def _rises(self) -> "Finder":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class ModelEntry(BaseModel):
    """One `[models.<label>]`; the other keys belong to the family and are checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    family: str | None = None
    """The label, unless given."""
    finder: Finder | None = None
    """Learning-rate finder, of gradient families."""
    search: dict[str, Any] | None = None
    """Hyperparameter to a list of choices, or to { low, high, log, step }; the best on valid are taken."""


class Search(Section):
    """How the `[models.<label>.search]` are searched, each for itself."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimator; grid: every combination of the choices and steps, in order."""
    trials: PositiveInt | None = None
    """At most so many; absent: 20, or 100 where `minutes` or `budget.minutes` is the limit, or all of a grid."""
    minutes: PositiveFloat | None = None
    """Time of all trials of a label together; whichever of trials and minutes comes first."""
    epochs: PositiveInt | None = None
    """Of one trial, where the family has epochs; absent: as in the fit."""
    prune: bool = True
    """End a trial whose figure on valid is below the median of the earlier ones at the same epoch; not in a grid,
    of which every point is wanted."""


class Budget(Section):
    """How long a night may take; what is over after every family's fit goes into the searches."""

    minutes: PositiveFloat | None = None
    """From the night's start to its publishing. No fit is begun that past timings say can't end in it."""


class Evaluation(Section):
    """How models are measured."""

    cutoffs: list[PositiveInt] = Field(default=[5, 10, 20], min_length=1)
    protocols: list[Literal["full", "sampled_99"]] = Field(default=["full"])
    fit_for_test: Literal["train", "train+valid"] = "train"
    """What the models that are reported on test have seen."""


class Select(Section):
    """The figure that chooses the champion, on valid."""

    metric: str = "ndcg"
    cutoff: PositiveInt = 10
    protocol: Literal["full", "sampled_99", "error"] = "full"
    """error: of predicted ratings, for the metrics rmse and mae, and rmse_scaled and mae_scaled: the same on the scale
    of the fit, as `dataset.feedback.normalize` makes it."""

    @property
    def recorded_cutoff(self) -> int:
        """The cutoff that stands in tables.METRICS: errors have none, which is 0."""
        return 0 if self.protocol == "error" else self.cutoff

    @model_validator(mode="after")
    def _metric_of_protocol(self) -> "Select":
        if (self.protocol == "error") != (self.metric in ERRORS):
            raise ValueError(f'protocol "error" goes with {", ".join(ERRORS)}, and the others with ranking metrics')
        return self


class Settings(Section):
    """The whole tree."""

    seed: NonNegativeInt = 42
    threads: NonNegativeInt = 0
    """0: one a core."""
    memory_limit: str | None = None
    """Of DuckDB, and of the matrices of one fit, e.g. "4GB"; half the machine's when absent."""
    device: str = "auto"
    devices: PositiveInt = 1
    """On which a gradient family is fitted at once: GPUs of this machine, or processes on its CPU. More than one needs
    the extra `fabric`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recipe: FileStem = "nightly"
    dataset: Dataset
    split: Split = Split()
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    """By label; a label is also part of file names. `incumbent` and `popularity_floor` are the gate's."""
    evaluation: Evaluation = Evaluation()
    select: Select = Select()
    checks: Checks = Checks()
    gate: Gate = Gate()
    churn: Churn = Churn()
    search: Search = Search()
    budget: Budget = Budget()
    export: Export = Export()
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _devices_have_no_number(self) -> "Settings":
        if self.devices > 1 and ":" in self.device:
            kind = self.device.partition(":")[0]
            raise ValueError(f"device = {self.device!r} is one, and devices = {self.devices}: set device = {kind!r}")
        return self

    @model_validator(mode="after")
    def _there_is_a_scale(self) -> "Settings":
        if self.select.metric.endswith("_scaled") and self.dataset.feedback.normalize == "none":
            metric = self.select.metric
            raise ValueError(
                f"select.metric = {metric!r} is on the scale of the fit, and dataset.feedback.normalize is "
                f"'none': set it, or select by {metric.removesuffix('_scaled')!r}"
            )
        return self

    @field_validator("models")
    @classmethod
    def _labels_are_free(cls, value: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        if taken := [label for label in sorted(value) if label == BASELINE or label.startswith(INCUMBENT)]:
            raise ValueError(f"the gate needs the label {taken[0]!r} for its own; choose another")
        return value
