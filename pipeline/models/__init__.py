"""The model families, one per module: `MODELS` has them by name. Adding a family is adding one file (README.md)."""

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.registry import MODELS

__all__ = ["MODELS", "FitContext", "ModelConfig", "NotServable", "Recommender"]
