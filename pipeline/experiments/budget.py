"""Decides, within a night's time budget, which fits and trials begin and when they must end.

`timings.py` says how long stages take, `reserve.py` what must be kept free for the rest of the night.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import BASELINE, INCUMBENT
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import device_speed
from pipeline.experiments.forecast import sizes_of
from pipeline.experiments.reserve import BLENDING_LATER, TOLERANCE, Reserve
from pipeline.experiments.timings import Timings
from pipeline.selection import leaderboard
from pipeline.storage import journal
from pipeline.training.context import TooLate
from pipeline.training.device import resolve_device, set_threads

__all__ = [
    "Timings",
    "after_searches",
    "cheapest_first",
    "deadline",
    "fits_now",
    "left",
    "log_end",
    "logging",
    "note_late",
    "spare",
    "trial",
    "with_threads",
]


def left(run: Run) -> float | None:
    """Seconds until the night should be published; None without a budget."""
    minutes = run.settings.budget.minutes
    return None if minutes is None else minutes * 60 - (utcnow() - run.started_at).total_seconds()


def deadline(run: Run, call: StageCall) -> float | None:
    """When a fit on train must end (on time.monotonic()), so that the night can still evaluate, refit and publish.

    The models that are not yet fitted and the searches have equal shares; what a cheap model leaves goes to the others.
    A fit that can't be ended early, or not before its first epoch, may use more, up to what the others don't need. A
    tuned fit, after the searches, may use everything except the time for blends. Blends come last and share what is
    left. None: the night has no budget, or this is its first model, or one that the gate needs. Raises TooLate when
    the fit would not end in time; learning the weights of a blend can stop at any time.
    """
    seconds, label = left(run), call.label or ""
    if seconds is None or label == BASELINE or label.startswith(INCUMBENT):
        return None
    reserve = Reserve(run)
    known = reserve.known
    if not known.tonight(StageName.EVALUATE):
        return None
    if label in known.blends:
        fit, share = None, (seconds - reserve.after_blend(label)) / len(known.blends[known.blends.index(label) :])
    else:  # if it becomes champion, its refit takes about as long as the fit, whenever that ended
        fit, before_refit = known.least(call), seconds - reserve.before_refit(label)
        free = before_refit - reserve.shortest_end
        share = min(reserve.longest_fit(label, before_refit), free if call.tuned else reserve.share(label, free))
    if not reserve.has_personal and label not in known.blends:
        share = max(share, TOLERANCE * reserve.budget / (1 + known.growth))
    if share <= 0 or (fit is not None and fit > share):
        takes = "the fit" if fit is None else f"the fit, which takes at least {fit:.0f} s,"
        raise TooLate(
            f"{takes} would not end within its part of the budget, {max(share, 0):.0f} s: {seconds:.0f} s are left, "
            f"and evaluating, blending, refitting on all rows and publishing need their part"
        )
    return time.monotonic() + share


def with_threads(run: Run) -> Run:
    """The run with the number of threads that is fastest on the machine as it is now, where none is set."""
    if run.settings.budget.minutes is None or run.settings.threads or resolve_device(run.settings.device).type != "cpu":
        return run
    threads = device_speed.best_threads()
    if threads == os.cpu_count():
        return run
    journal.note(run, f"the machine is busy: {threads} threads are faster than {os.cpu_count()}, and used for the fits")
    return run.model_copy(update={"settings": run.settings.model_copy(update={"threads": threads})})


def log_end(run: Run) -> None:
    """Log what is left, and what it is for."""
    log.info(f"budget: {left(run) or 0:.0f} s are left: {Reserve(run).text()}")


def fits_now(run: Run, label: str) -> bool:
    """Whether a first fit of this label may begin now."""
    try:
        deadline(run, StageCall(StageName.TRAIN, label))
    except TooLate:
        return False
    return True


def note_late(run: Run, label: str, seconds: float) -> None:
    """Record that a fit ended after these seconds without a result, so that the next one is expected to take longer."""
    late = journal.read_run(run.home, run.dataset, run.run_id).get("late", {})
    journal.update_run(run, late={**late, label: max(seconds, late.get(label, 0.0))})


def spare(run: Run, label: str, usual: float, kept: float = 0.0) -> float:
    """Seconds for trials of `label`; `usual`: seconds of one fit, `kept`: of other work after the searches.

    Reserves the time to fit, evaluate and publish its best trial.
    """
    reserve = Reserve(run)
    own = max(usual, reserve.known.best_fit(label))
    end = max(reserve.shortest_end, reserve.end(label))
    return (left(run) or 0) - reserve.before_refit(label, BLENDING_LATER) - end - own - kept


def after_searches(run: Run, improved: Mapping[str, float], blends_again: bool) -> float:
    """Seconds to fit and evaluate the best trials of labels, and to make the blends of before once more.

    `improved`: seconds of a fit by label.
    """
    reserve = Reserve(run)
    known = reserve.known
    fits = sum(max(fit, known.best_fit(label)) + known.evaluation(label) for label, fit in improved.items())
    return fits + (reserve.blending_again() if blends_again else 0.0)


def logging(run: Run) -> float:
    """Seconds that logging a trial to MLflow adds to the night."""
    known = Timings(run)
    return known.tracking(1) - known.tracking()


def cheapest_first(run: Run, parts: Path) -> list[str]:
    """The recipe's labels except blends, by the expected seconds of their first fit; popularity first.

    So all of them have a fit before a long one begins. As in the recipe without a budget or a split.
    """
    labels = [label for label in run.settings.models if not leaderboard.is_blend(run.settings, label)]
    sizes = sizes_of(run, parts)
    if run.settings.budget.minutes is None or sizes is None:
        return labels
    set_threads(run.settings.threads)  # the device is probed here first
    known = Timings(run)
    known.known_sizes = known.known_sizes or sizes
    expected = {label: round(known.guess(StageCall(StageName.TRAIN, label))) for label in labels}
    popular = {label: leaderboard.family_name(run.settings, label) == "popularity" for label in labels}
    return sorted(labels, key=lambda label: (not popular[label], expected[label]))


def trial(run: Run, label: str, usual: float) -> float:
    """Expected seconds of a trial; `usual`: seconds of the first fit, which may have been cut short."""
    known = Timings(run)
    cut = StageCall(StageName.TRAIN, label, cut_short=True) in known.tonight(StageName.TRAIN)
    return max(usual, known.guess(StageCall(StageName.TRAIN, label))) if cut else usual
