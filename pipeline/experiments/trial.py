"""One trial of a search: a fit on train with some hyperparameters, and its figure on valid, never on test."""

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
from pipeline.training.context import FitContext, ModelConfig, NotServable
from pipeline.training.device import memory_budget, resolve_device
from pipeline.training.lr_finder import RateFinder
from pipeline.training.normalizer import Normalizer

EXPECTED = (NotServable, ScoreError, MemoryError, torch.OutOfMemoryError, torch.linalg.LinAlgError)  # pyright: ignore[reportPrivateImportUsage]
"""What hyperparameters can bring about: a fit diverges, a matrix can't be solved or held."""


class TrialObjective:
    """The objective of a search; data are read once. Every trial starts from the seed that the fit of a night has."""

    def __init__(self, run: Run, split_dir: Path, label: str, config: ModelConfig, limits: Limits):
        settings, feedback = run.settings, run.settings.dataset.feedback
        self.run, self.label, self.config, self.limits = run, label, config, limits
        self.device, self.family = resolve_device(settings.device), family_of(settings, label)[0]
        data = eval_task.load_splits(split_dir, self.device)
        train = data.fitted_on("train")
        normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
        self.rows = normalizer.on(train)
        self.validate = objective.validation_objective(data, settings, self.family, normalizer)
        if self.validate is None:
            raise Skipped("valid has no figure to search by; set split.valid above 0, or another select.metric")

    def __call__(self, params: dict[str, Any], report: Report) -> float:
        """The figure that selects, higher is better. Raises Failed where the fit fails by its hyperparameters."""
        try:
            return self._fit(params, report)
        except ValidationError as error:
            raise Failed(loader.explain(error, type(self.config), "trial")) from error
        except EXPECTED as error:
            raise Failed(f"{error}".partition("\n")[0] or type(error).__name__) from error
        except RuntimeError as error:  # of torch on the CPU, where memory is out
            if "memory" not in str(error):
                raise
            raise Failed(f"{error}".partition("\n")[0]) from error

    def _fit(self, params: dict[str, Any], report: Report) -> float:
        settings, history = self.run.settings, []
        finder = settings.models[self.label].finder

        def told(epoch: int, values: dict[str, float]) -> None:
            history.append(values)
            progress.listener().advance("epoch", epoch, getattr(config, "epochs", None), values)
            if "valid" in values:
                report(epoch, values["valid"])

        context = FitContext(
            device=self.device,
            precision=settings.precision,
            seed=seed_of(settings.seed, "fit", self.label),
            log=told,
            validate=self.validate,
            deadline=self.limits.deadline(),
            finder=RateFinder(finder) if finder and finder.use else None,
            memory=memory_budget(settings.memory_limit, self.device),
        )
        config = type(self.config).model_validate({**self.config.model_dump(), **params})
        model = build(self.family, config, self.rows.n_users, self.rows.n_items, context.seed)
        model.fit(self.rows, context)
        if context.cut_short:
            raise Failed(f"the time was over after epoch {len(history)}")
        figure = validation_metric(model, history, context)
        assert figure is not None  # there is a `validate`
        return figure
