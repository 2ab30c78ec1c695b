"""A stage with its arguments. The only place that composes and parses the titles in journals, lake and Prefect."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Fit = Literal["train", "train+valid", "all"]
"""The part of the data that a model is fitted on. `all` is every row, without a split."""


class StageName(StrEnum):
    """Every stage that a journal can name."""

    INGEST = "ingest"
    ADMIT = "admit"
    CLEAN = "clean"
    ENCODE = "encode"
    SPLIT = "split"
    PROFILE = "profile"
    SEARCH = "search"
    TRAIN = "train"
    EVALUATE = "evaluate"
    LEAKS = "leaks"
    SELECT = "select"
    COMPARE = "compare"
    TRACK = "track"
    EXPORT = "export"
    AUDIT = "audit"
    PUBLISH = "publish"
    DELIVER = "deliver"
    REGISTER = "register"
    REPORT = "report"


PLACES = {StageName.REGISTER: StageName.TRACK, StageName.DELIVER: StageName.PUBLISH}
"""Stages that belong to another one for `--until` and Prefect."""
OF_MODELS = (StageName.SEARCH, StageName.TRAIN, StageName.EVALUATE)
"""Stages that run at least once per model."""


@dataclass(frozen=True)
class StageCall:
    """A stage and its arguments. Raises ValueError if they don't fit together."""

    stage: StageName
    label: str | None = None
    """Label of the model, for the stages in `OF_MODELS`."""
    fit: Fit = "train"
    """Used by `train`, as are the next two fields."""
    tuned: bool = False
    """A fit with the hyperparameters that a search found."""
    cut_short: bool = False
    """A fit that the deadline ended."""
    turn: int | None = None
    """Number of the turn of a search under a budget, which has several."""
    warm: bool = False
    """A fit that starts from the state of an earlier one; used by `train`."""

    def __post_init__(self) -> None:
        fits = self.fit != "train" or self.tuned or self.cut_short or self.warm
        if (
            (self.stage in OF_MODELS) != bool(self.label)
            or (fits and self.stage is not StageName.TRAIN)
            or (self.turn is not None and self.stage is not StageName.SEARCH)
        ):
            raise ValueError(f"these arguments don't fit the stage {self.stage}: {self}")

    @property
    def title(self) -> str:
        """`clean`, `train ease`, `train mf tuned, warm`, `train ease on all`, `search ease, turn 2`."""
        words = [self.stage, *([self.label] if self.label else []), *(["tuned"] if self.tuned else [])]
        words += ["on", self.fit] if self.fit != "train" else []
        turn = f", turn {self.turn}" if self.turn is not None else ""
        return " ".join(words) + turn + ", warm" * self.warm + ", cut short" * self.cut_short

    @classmethod
    def parse(cls, title: str) -> "StageCall":
        """The call with this title. Raises ValueError if there is none."""
        if not (found := _TITLE.fullmatch(title)):
            raise ValueError(f"{title!r} is not the title of a stage")
        return cls(
            stage=StageName(found["stage"]),
            label=found["label"],
            fit=found["fit"] or "train",  # type: ignore[arg-type]
            tuned=found["tuned"] is not None,
            cut_short=found["cut_short"] is not None,
            warm=found["warm"] is not None,
            turn=int(found["turn"]) if found["turn"] else None,
        )

    @property
    def place(self) -> StageName:
        """The stage in `pipeline.stages.LINE` that it belongs to, as `--until` and Prefect name it."""
        return PLACES.get(self.stage, self.stage)


_TITLE = re.compile(
    rf"(?P<stage>{'|'.join(StageName)})"
    r"(?: (?P<label>[^,\s](?:[^,\n]*?[^,\s])??))?"  # the labels of settings have no spaces; a plan's "the champion" has
    r"(?P<tuned> tuned)?"
    r"(?: on (?P<fit>train\+valid|all))?"
    r"(?:, turn (?P<turn>[0-9]+))?"
    r"(?P<warm>, warm)?"
    r"(?P<cut_short>, cut short)?"
)
