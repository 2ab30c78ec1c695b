"""Compares every model with the best on valid, user by user, to find the significant differences."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.evaluation import per_user
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.selection.comparison import against
from pipeline.storage import journal


def compare_models(run: Run, evaluated: list[Path]) -> int:
    """Journal the comparisons on valid and test (tables.COMPARISONS); returns their number.

    On both splits models are compared with the best on valid. On valid it was chosen by the values that are compared,
    which favours it; on test nothing is chosen. There are no comparisons if only one model has the metric.
    """
    select, ranked = run.settings.select, leaderboard.best_first(run)
    records = []
    with journal.stage(run, "compare") as stage:
        for split in per_user.FILES:
            by_user = per_user.read(evaluated, split)
            best = next((label for label in ranked if label in by_user), None)
            if best is None:
                continue
            found = against(by_user, best, select.metric, run.settings.seed, run.settings.gate.confidence)
            records += [
                {"split": split, "protocol": select.protocol, "metric": select.metric,
                 "cutoff": select.recorded_cutoff, "model": label, "other": best,
                 "difference": of.value, "ci_low": of.ci_low, "ci_high": of.ci_high, "p_value": of.p_value, "n": of.n,
                 "is_real": of.p_value <= 1 - run.settings.gate.confidence}
                for label, of in found.items()
            ]  # fmt: skip
        journal.append(run, tables.COMPARISONS, records)
        stage["rows_out"] = len(records)
    return len(records)
