"""Says which differences between the night's models are real: each against the best on valid, user by user."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.evaluation import per_user
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.selection.comparison import against
from pipeline.storage import journal


def compare_models(run: Run, measured: list[Path]) -> int:
    """Journal the comparisons on valid and on test (tables.COMPARISONS); returns how many there are.

    On both splits it is the best on valid that the others are held against. On valid it was chosen by the very figures
    that are compared, which flatters it; on test nothing is chosen. There are none where only one model has the figure.
    """
    select, ranked = run.settings.select, leaderboard.best_first(run)
    records = []
    with journal.stage(run, "compare") as stage:
        for split in per_user.FILES:
            figures = per_user.read(measured, split)
            best = next((label for label in ranked if label in figures), None)
            if best is None:
                continue
            found = against(figures, best, select.metric, run.settings.seed, run.settings.gate.confidence)
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
