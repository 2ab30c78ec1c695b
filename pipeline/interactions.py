"""Old import path in the code of registered models; kept until 0.3."""

from pipeline.training.interactions import History, Interactions

__all__ = ["History", "Interactions"]
