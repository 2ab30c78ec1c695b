"""How well a model ranks and predicts: evaluation tasks, ranking and rating metrics, segments, beyond accuracy."""

__all__ = [
    "attribute_leaks",
    "beyond_accuracy",
    "eval_task",
    "evaluator",
    "impressions",
    "objective",
    "per_user",
    "rank_parts",
    "ranking_metrics",
    "rating_evaluator",
    "rating_metrics",
    "rating_predictions",
    "realised",
    "segments",
    "split_files",
    "until_next_night",
]
