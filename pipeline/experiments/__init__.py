"""Fits and trials of a recipe's families: configurations, search spaces, studies and the time budget."""

__all__ = ["blend_members", "budget", "checks", "families", "fit", "space", "stopping", "study", "trial"]
