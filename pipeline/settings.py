"""The one settings tree: its keys, their defaults and what they mean. `layers.py` merges the sources into it."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


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
    mode: Literal["snapshot", "incremental"] = "snapshot"
    """incremental: files are added up; one seen before, by content, is not read twice."""
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


class ModelEntry(BaseModel):
    """One `[models.<label>]`; the other keys belong to the family and are checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    family: str | None = None
    """The label, unless given."""


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
    """error: of predicted ratings, for the metrics rmse and mae."""

    @model_validator(mode="after")
    def _metric_of_protocol(self) -> "Select":
        if (self.protocol == "error") != (self.metric in ("rmse", "mae")):
            raise ValueError('protocol "error" goes with metric "rmse" or "mae", and the others with ranking metrics')
        return self


class Export(Section):
    """What is published."""

    top_n: PositiveInt = 20
    similar_items: NonNegativeInt = 20
    popular_items: PositiveInt = 100
    popular_windows: list[PositiveInt] = [7, 30]
    """Days before the last interaction, beside the whole history."""


class Settings(Section):
    """The whole tree."""

    seed: NonNegativeInt = 42
    threads: NonNegativeInt = 0
    """0: one a core."""
    memory_limit: str | None = None
    """Of DuckDB, and of the matrices of one fit, e.g. "4GB"; half the machine's when absent."""
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recipe: str = "nightly"
    dataset: Dataset
    split: Split = Split()
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    """By label; a label is also part of file names."""
    evaluation: Evaluation = Evaluation()
    select: Select = Select()
    export: Export = Export()
