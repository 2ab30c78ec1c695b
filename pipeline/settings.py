"""The one settings tree: its keys, their defaults and what they mean. `layers.py` merges the sources into it."""

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

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
INCUMBENT, FLOOR = "incumbent", "popularity_floor"
"""Labels of the configurations that the gate lets take part beside the recipe's."""
ERRORS = ("rmse", "mae", "rmse_scaled", "mae_scaled")
"""Metrics of predicted ratings."""


class Section(BaseModel):
    """A part of the tree; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class Reading(Section):
    """How a text file is laid out."""

    files: list[str] = []
    """Globs, relative to `--data` or to the TOML; csv tsv dat txt parquet, also .gz and .zst."""
    delimiter: str | None = None
    """Up to 4 bytes; sniffed when absent."""
    header: bool = True
    column_names: list[str] | None = None
    """Names of the columns where `header` is false."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    quote: str = '"'
    """Empty where the file does not quote."""

    @field_validator("delimiter")
    @classmethod
    def _delimiter_fits(cls, value: str | None) -> str | None:
        if value is not None and not 1 <= len(value.encode()) <= 4:
            raise ValueError("a delimiter has 1 to 4 bytes")
        return value


class Source(Reading):
    """The interaction files."""

    folder: str | None = None
    """Folder below NIGHTRECS_DATA; the data set's name when absent."""
    generator: Literal["sample", "anime", "ncf_timed"] | None = None
    """Makes the files on the spot, synthetic or of others at hand, where `--data` names none."""
    mode: Literal["snapshot", "incremental"] = "snapshot"
    """incremental: files are added up; one seen before, by content, is not read twice."""
    static: bool = False
    """The files don't grow, as those of a public data set: their age is nothing to warn of."""
    max_reject_rate: Fraction = 0.05
    """A night with a larger share of rejected rows stops (exit 3)."""


class Columns(Section):
    """Names of the source's columns."""

    user: str = "user"
    item: str = "item"
    rating: str | None = None
    """A rating, or a weight such as a play count."""
    timestamp: str | None = None
    timestamp_unit: str = "s"
    """s, ms, iso, or a strptime format."""


class Feedback(Section):
    """What a row means."""

    kind: Literal["explicit", "implicit"] = "implicit"
    missing_ratings: list[float] = []
    """Values that mean 'seen, not rated': an interaction without a rating."""
    keep_if: str | None = None
    """Condition on `rating`; other rows don't exist for fitting and metrics, but are never recommended again."""
    positive_if: str | None = None
    """Condition on `rating`; which kept rows count as positive for ranking."""
    normalize: Literal["none", "standardize", "min_max", "log1p"] = "none"
    """Of ratings; fitted on train only."""
    normalize_to: tuple[float, float] = (0.0, 1.0)
    """Of min_max: what the lowest and the highest rating become."""

    @model_validator(mode="after")
    def _a_range(self) -> "Feedback":
        if self.normalize_to[0] >= self.normalize_to[1]:
            raise ValueError("normalize_to is [lowest, highest], and the first must be below the second")
        return self


class Filter(Section):
    """Which users and items take part."""

    min_user_interactions: PositiveInt = 1
    min_item_interactions: PositiveInt = 1
    user_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Seeded sample of users."""


class Items(Reading):
    """The item catalog."""

    id: str = "item"
    title: str | None = None
    attributes: dict[str, str] = {}
    """Attribute column to the separator of its values."""


class Published(Section):
    """Files of a published split."""

    train: str
    test: str
    candidates: str | None = None


class Dataset(Section):
    """A data set, as its TOML says."""

    name: Name
    description: str = ""
    source: Source = Source()
    columns: Columns = Columns()
    feedback: Feedback = Feedback()
    filter: Filter = Filter()
    items: Items | None = None
    published: Published | None = None


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

    cutoffs: Annotated[list[PositiveInt], Field(min_length=1)] = [5, 10, 20]
    protocols: list[Literal["full", "sampled_99"]] = ["full"]
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


class Checks(Section):
    """Bounds of the audits in `sql/checks`; where one is absent, the audit only warns."""

    max_shrink: Annotated[float, Field(gt=0, le=1)] = 0.9
    """A source that lost this share of the last published night's rows stops the night (exit 3)."""
    max_age_days: PositiveFloat | None = None
    """Oldest that the newest interaction may be when the night starts."""
    max_future_days: Annotated[float, Field(ge=0)] = 1.0
    """How far ahead of the night's start an interaction may be: time zones, clocks that are off."""
    min_coverage: Fraction | None = None
    """Share of the items that take part which must be in somebody's list."""


class Gate(Section):
    """What a new champion must show on valid, against the published configuration and windowed popularity."""

    enabled: bool = True
    """false: plainly the best on valid is published."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A challenger may be worse than the incumbent by this share of the incumbent's figure, and no more."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals that decide; for segments split among them (Bonferroni)."""
    min_segment_users: PositiveInt = 100
    """A smaller segment can't stop a challenger."""


class Churn(Section):
    """How much lists may differ from the published ones; change is 1 - Jaccard, mean over the users of both."""

    warn_change: Fraction = 0.7
    """Above it the night says so."""
    max_change: Fraction | None = None
    """Above it nothing is published (exit 3)."""
    accept: bool = False
    """true: `max_change` is let pass; `run --accept-churn` sets it for one night."""


class Export(Section):
    """What is published."""

    top_n: PositiveInt = 20
    similar_items: NonNegativeInt = 20
    popular_items: PositiveInt = 100
    popular_windows: list[PositiveInt] = [7, 30]
    """Days before the last interaction, beside the whole history."""
    exclude_items: str | None = None
    """CSV of items that are never recommended, below the data folder: item_id, and if wanted reason, from, until."""
    only_items: str | None = None
    """CSV of the only items that are recommended; as exclude_items."""
    max_per_attribute: dict[str, PositiveInt] = {}
    """Attribute of the item catalog to the most items of one of its values in a list, e.g. { genres = 3 }."""
    fresh_days: PositiveInt | None = None
    """Only items with an interaction in so many days before the newest of all are recommended."""


class Keep(Section):
    """What is kept of past nights: generations by every night that publishes, the rest by `nightrecs gc`."""

    generations: PositiveInt = 7
    """Published databases to roll back to, the live one among them."""
    lake_nights: PositiveInt = 3
    """Newest nights whose results in the lake stay; beside them those of the live one and of the one before."""
    mlflow_nights: PositiveInt = 30
    """Newest nights that stay in MLflow; their registered models stay as long as the generation."""
    days: Annotated[float, Field(ge=0)] = 0
    """`gc` removes nothing younger, however much there is."""


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
    recipe: str = "nightly"
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
        if taken := [label for label in sorted(value) if label == FLOOR or label.startswith(INCUMBENT)]:
            raise ValueError(f"the gate needs the label {taken[0]!r} for its own; choose another")
        return value
