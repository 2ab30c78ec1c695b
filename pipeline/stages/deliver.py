"""Copies the published tables to the destinations of `[publish]`. A failure is noted, and the night goes on."""

from contextlib import suppress

from pipeline.config.run import Run
from pipeline.destinations import delivery
from pipeline.destinations.delivery import Delivery
from pipeline.destinations.places import names_of
from pipeline.storage import journal
from pipeline.storage.optional_steps import best_effort

PROBLEM = "warning: the published tables could not be copied to a destination"


def deliver_tables(run: Run) -> list[Delivery]:
    """Bring every destination up to date with the live night; returns how that went. Not for replays.

    The local tables are live already. What fails is in the journal and in `status`; the next night, or
    `nightrecs destinations DATASET --publish`, copies the night that is live then.
    """
    if run.as_of or not run.settings.publish:
        return []
    with journal.stage(run, "deliver"):
        return best_effort(run, PROBLEM, lambda: _delivered(run)) or []


def _delivered(run: Run) -> list[Delivery]:
    def say(line: str) -> None:
        journal.note(run, line)

    every = list(names_of(run.settings.publish, run.dataset))
    with suppress(OSError):  # a full disk; they are tried nevertheless
        journal.update_run(run, undelivered=every)  # holds if this ends before its end
    done = delivery.deliver(run.home, run.dataset, run.settings.publish, say)
    journal.update_run(run, undelivered=[each.name for each in done if each.trouble])
    for each in done:
        if each.trouble:
            journal.note(
                run,
                f"warning: {each.name} does not have tonight's tables: {each.trouble}; it is tried again next night, "
                f"or by `nightrecs destinations {run.dataset} --publish`",
            )
        elif each.copied:
            journal.note(run, f"{each.name} has tonight's tables")
    return done
