"""Old import path in the code of registered models; kept until 0.3."""

from pipeline.models.serialization import load, save

__all__ = ["load", "save"]
