"""Fits and trials of a recipe's families: configurations, search spaces, studies and the time budget."""

__all__ = [
    "blend_members",
    "budget",
    "device_speed",
    "families",
    "fit",
    "fit_rows",
    "forecast",
    "recipe_checks",
    "reserve",
    "space",
    "stopping",
    "study",
    "timings",
    "trial",
    "trials_ahead",
    "warm_start",
    "workload",
]
