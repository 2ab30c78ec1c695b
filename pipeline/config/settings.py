"""The settings tree: its keys, their defaults and meanings. `loader.py` merges the sources into it.

This module has the root, and the sections for fitting, evaluating and selecting models. `dataset.py` has the sections
of a data set, `publishing.py` those of publishing.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.config.attributes import Attributes
from pipeline.config.base import FileStem, Name, Section
from pipeline.config.dataset import Dataset
from pipeline.config.destinations import Publish
from pipeline.config.lake import Lake
from pipeline.config.publishing import Checks, Churn, Export, Gate, Keep, NamedList

INCUMBENT, BASELINE = "incumbent", "popularity_floor"
"""Labels of the models that the gate adds to those of the recipe."""
ERRORS = ("rmse", "mae", "rmse_scaled", "mae_scaled")
"""Metrics of predicted ratings."""


class Split(Section):
    """Which interactions are held out."""

    kind: Literal["auto", "global_time", "leave_one_out", "random", "published"] = "auto"
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of rows (global_time, random)."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    by: Literal["user", "row"] = "user"
    """random: a fraction of each user's rows, or of all rows."""


class Finder(Section):
    """Learning-rate finder for gradient families: the rate rises step by step, and the loss is recorded."""

    low: PositiveFloat = 1e-6
    """Learning rate of the first step."""
    high: PositiveFloat = 10.0
    """Learning rate of the last step."""
    steps: Annotated[int, Field(ge=50)] = 100
    """Number of mini-batches; fewer if the loss diverges."""
    use: bool = False
    """true: the fit uses the rate that was found; false: it is only shown."""

    @model_validator(mode="after")
    def _rises(self) -> "Finder":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class ModelEntry(BaseModel):
    """One `[models.<label>]`; the other keys belong to the family and are checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    family: str | None = None
    """By default the label."""
    finder: Finder | None = None
    """Learning-rate finder, for gradient families."""
    search: dict[str, Any] | None = None
    """Hyperparameter to a list of choices, or to { low, high, log, step }; the best on valid are used."""


class Search(Section):
    """How the `[models.<label>.search]` are searched, independently of each other."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimator; grid: every combination of the choices and steps, in order."""
    trials: PositiveInt | None = None
    """Maximum number of trials; absent: 20, or 100 if `minutes` is set, or all of a grid. With
    `budget.minutes` as many as there is time for."""
    minutes: PositiveFloat | None = None
    """Time limit of all trials of a label; the search ends at `trials` or `minutes`, whichever comes first."""
    epochs: PositiveInt | None = None
    """Epochs of one trial, if the family has epochs; absent: as in the fit."""
    prune: bool = True
    """Stop a trial whose metric on valid is below the median of earlier trials at the same epoch. A grid is never
    pruned."""


class Budget(Section):
    """Time budget of a night. The time left after the fits of all families is used by the searches."""

    minutes: PositiveFloat | None = None
    """From the night's start to publishing. A fit that can't end in time, by past timings or a forecast, is not
    started. Plots are logged to MLflow after publishing."""


class Scale(Section):
    """How the data stages are cut, and where parts of a night run. Only `hosts` changes results, by rounding; the
    others are in no key of the lake."""

    shards: Annotated[int, Field(ge=0, le=500)] = 0
    """Contiguous ranges of users that the stages clean, encode and split take one after another, or several at once
    with an engine, so that their memory is bounded. 0: as many as the rows need to stay within half of `memory_limit`,
    which is 1 for most data sets; 1: all rows at once."""
    engine: Literal["none", "ray"] = "none"
    """ray: models and shards are carried out on a Ray cluster that shares the home, ahead of the night, which does by
    itself what failed there. With `budget.minutes` the night's own machine searches and fits the models. Needs the
    extra `scale`, and the cluster's token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. A part has `threads` cores; 0: all
    of a machine."""
    address: str = "auto"
    """HOST:PORT of the cluster; auto: that of `nightrecs up --ray`, or of RAY_ADDRESS."""
    hosts: Annotated[int, Field(ge=1, le=64)] = 1
    """Machines of the cluster that fit a gradient family or `ials` together, one process on each; as `devices`, of
    which there is then one. Of `ials` each has the rows of a range of users. It changes how sums are rounded, so it is
    in the key of these fits."""

    @model_validator(mode="after")
    def _hosts_are_of_a_cluster(self) -> "Scale":
        if self.hosts > 1 and self.engine == "none":
            raise ValueError(f'hosts = {self.hosts} are machines of a cluster: set engine = "ray", or hosts = 1')
        return self


class Evaluation(Section):
    """How models are evaluated."""

    cutoffs: list[PositiveInt] = Field(default=[5, 10, 20], min_length=1)
    protocols: list[Literal["full", "sampled_99"]] = Field(default=["full"])
    fit_for_test: Literal["train", "train+valid"] = "train"
    """Training data of the models that are evaluated on test."""

    @field_validator("cutoffs", "protocols")
    @classmethod
    def _each_once(cls, value: list[Any]) -> list[Any]:
        if repeated := [each for each in value if value.count(each) > 1]:
            raise ValueError(f"{repeated[0]!r} is there twice: each metric is measured once")
        return value


class Select(Section):
    """The metric that selects the champion, on valid."""

    metric: str = "ndcg"
    cutoff: PositiveInt = 10
    protocol: Literal["full", "sampled_99", "error"] = "full"
    """error: errors of predicted ratings, for the metrics rmse and mae, and for rmse_scaled and mae_scaled, which are
    on the scale of the fit after `dataset.feedback.normalize`."""

    @property
    def recorded_cutoff(self) -> int:
        """The cutoff in tables.METRICS; 0 for errors, which have none."""
        return 0 if self.protocol == "error" else self.cutoff

    @model_validator(mode="after")
    def _metric_of_protocol(self) -> "Select":
        if (self.protocol == "error") != (self.metric in ERRORS):
            raise ValueError(f'protocol "error" goes with {", ".join(ERRORS)}, and the others with ranking metrics')
        return self


class Settings(Section):
    """The root of the settings tree."""

    seed: NonNegativeInt = 42
    threads: NonNegativeInt = 0
    """0: one per core."""
    memory_limit: str | None = None
    """Limit for DuckDB, and for the matrices of one fit, e.g. "4GB"; absent: half of the machine's memory."""
    device: str = "auto"
    devices: PositiveInt = 1
    """Devices for data-parallel fits of gradient families: GPUs of this machine, or processes on its CPU. More than one
    needs the extra `fabric`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    warm_start: bool = False
    """Fits of ials, mf and sasrec start from their state of the published night, which takes a fraction of the time.
    Results then depend on the nights before. Never in replays."""
    cold_every: PositiveInt = 7
    """With `warm_start`: every so many fits one starts from random values again; 1: all of them."""
    recipe: FileStem = "nightly"
    seen: Literal["hide", "allow"] = "hide"
    """allow: items that a user has may be listed again, and metrics count held-out events that repeat earlier ones. A
    user's rows of one item stay apart (`feedback.repeats` is `separate`), and a model of the family `repeats` takes
    part."""
    hide_days: PositiveInt | None = None
    """With allow: items of a user's last so many days are not listed; counted back from the newest interaction, and in
    an evaluation from the time of the split."""
    dataset: Dataset
    split: Split = Split()
    attributes: Attributes = Attributes()
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    """By label; a label is also part of file names. `incumbent` and `popularity_floor` are reserved for the gate."""
    evaluation: Evaluation = Evaluation()
    select: Select = Select()
    checks: Checks = Checks()
    gate: Gate = Gate()
    churn: Churn = Churn()
    search: Search = Search()
    budget: Budget = Budget()
    scale: Scale = Scale()
    lake: Lake = Lake()
    """A lake that several homes share."""
    export: Export = Export()
    lists: dict[Name, NamedList] = Field(default={})
    """Further lists of every user by name, e.g. [lists.email] for mails; the default list is that of [export]."""
    keep: Keep = Keep()
    publish: Publish = Publish()
    """Copies of the published tables elsewhere (pipeline/destinations/README.md)."""

    @property
    def recency(self) -> bool:
        """Whether a model weighs interactions by their age, so that histories need the ages."""
        named = ({**(entry.model_extra or {}), **(entry.search or {})} for entry in self.models.values())
        return any("half_life_days" in keys for keys in named)

    @property
    def named_lists(self) -> dict[str, Export]:
        """What each further list is made by, by its name."""
        return {name: each.of(self.export) for name, each in self.lists.items()}

    @model_validator(mode="after")
    def _named_lists_are_sound(self) -> "Settings":
        for name, each in self.lists.items():
            try:
                each.of(self.export)
            except ValidationError as error:
                raise ValueError(f"lists.{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    @model_validator(mode="after")
    def _devices_have_no_number(self) -> "Settings":
        if self.devices > 1 and ":" in self.device:
            kind = self.device.partition(":")[0]
            raise ValueError(f"device = {self.device!r} is one, and devices = {self.devices}: set device = {kind!r}")
        return self

    @model_validator(mode="after")
    def _a_host_has_one_process(self) -> "Settings":
        if self.devices > 1 and self.scale.hosts > 1:
            raise ValueError(f"devices = {self.devices} and scale.hosts = {self.scale.hosts}: set one of them to 1")
        return self

    @model_validator(mode="after")
    def _repeats_can_be_found(self) -> "Settings":
        if self.seen == "hide":
            if self.hide_days is not None:
                raise ValueError(
                    'hide_days goes with seen = "allow": with "hide", all items that a user has are hidden'
                )
            return self
        if self.dataset.feedback.repeats not in (None, "separate"):
            raise ValueError(
                f'seen = "allow" needs the rows of a user and item one by one, and dataset.feedback.repeats = '
                f'"{self.dataset.feedback.repeats}" merges them: set it to "separate", or leave it out'
            )
        if self.hide_days is not None and self.dataset.columns.timestamp is None:
            raise ValueError(
                "hide_days goes by time, and this data set has no times: set dataset.columns.timestamp, or leave "
                "hide_days out"
            )
        if self.split.kind == "published" or (self.split.kind == "auto" and self.dataset.published):
            raise ValueError(
                'seen = "allow" can\'t be measured on a published split, which names pairs of user and item and not '
                "their rows: set split.kind to another one"
            )
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
            raise ValueError(f"the label {taken[0]!r} is reserved for the gate; choose another")
        return value
