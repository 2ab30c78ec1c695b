"""One trial of a search: a fit on train with given hyperparameters, and its metric on valid, never on test."""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.errors import Skipped
from pipeline.core.seeding import seed_of
from pipeline.evaluation import eval_task, objective
from pipeline.experiments.families import family_of
from pipeline.experiments.fit import build, validation_metric
from pipeline.experiments.stopping import Limits
from pipeline.experiments.study import Failed, Report
from pipeline.ranking.ranks import ScoreError
from pipeline.ranking.servable import read_attributes
from pipeline.training.context import FitContext, ModelConfig, NotServable
from pipeline.training.device import memory_budget, resolve_device
from pipeline.training.lr_finder import RateFinder
from pipeline.training.normalizer import Normalizer

EXPECTED = (NotServable, ScoreError, MemoryError, torch.OutOfMemoryError, torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]
"""Errors that hyperparameters can cause: a fit diverges, a matrix is singular or does not fit into memory."""


class TrialObjective:
    """The objective of a search. Data are read once; every trial starts from the seed of the regular fit."""

    def __init__(self, run: Run, split_dir: Path, label: str, config: ModelConfig, limits: Limits):
        settings, feedback = run.settings, run.settings.dataset.feedback
        self.run, self.label, self.config, self.limits = run, label, config, limits
        self.device, self.family = resolve_device(settings.device), family_of(settings, label)[0]
        data = eval_task.load_splits(split_dir, self.device, settings.recency)
        train = data.fitted_on("train")
        normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
        self.rows = normalizer.on(train)
        self.attributes = read_attributes(split_dir, train.n_items, self.device)
        self.validate = objective.validation_objective(data, settings, self.family, normalizer)
        if self.validate is None:
            raise Skipped("there is no metric on valid to search by; set split.valid above 0, or another select.metric")

    def __call__(self, params: dict[str, Any], report: Report) -> float:
        """The selecting metric, higher is better. Raises Failed where the hyperparameters make the fit fail."""
        try:
            return self._fit(params, report)
        except ValidationError as error:
            raise Failed(loader.explain(error, type(self.config), "trial")) from error
        except EXPECTED as error:
            raise Failed(f"{error}".partition("\n")[0] or type(error).__name__) from error
        except RuntimeError as error:  # torch raises this on the CPU when memory runs out
            if "memory" not in str(error):
                raise
            raise Failed(f"{error}".partition("\n")[0]) from error

    def _fit(self, params: dict[str, Any], report: Report) -> float:
        settings, history = self.run.settings, []
        finder = settings.models[self.label].finder

        def log(epoch: int, values: dict[str, float]) -> None:
            history.append(values)
            progress.listener().advance("epoch", epoch, getattr(config, "epochs", None), values)
            if "valid" in values:
                report(epoch, values["valid"])

        context = FitContext(
            device=self.device,
            precision=settings.precision,
            seed=seed_of(settings.seed, "fit", self.label),
            log=log,
            validate=self.validate,
            deadline=self.limits.deadline(),
            finder=RateFinder(finder) if finder and finder.use else None,
            memory=memory_budget(settings.memory_limit, self.device),
            attributes=self.attributes,
        )
        config = type(self.config).model_validate({**self.config.model_dump(), **params})
        model = build(self.family, config, self.rows.n_users, self.rows.n_items, context.seed)
        model.fit(self.rows, context)
        if context.cut_short:
            raise Failed(f"the time ran out after epoch {len(history)}")
        value = validation_metric(model, history, context)
        assert value is not None  # there is a `validate`
        return value
