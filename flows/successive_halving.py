"""Successive halving: how a night's budget is divided among the searches of its families."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.stages import search
from pipeline.storage import journal, lake


def successive_halving(
    run: Run,
    step: Step,
    parts: Path,
    fitted: Mapping[str, Path],
    isolate: Callable[[Run, str], AbstractContextManager],
) -> Iterator[tuple[str, Path, bool]]:
    """Search in rounds. Yields label, the search's folder, and whether it improved on the first fit, best first.

    Every round has an equal part of the time, which its families share equally. The better half, by the best metric
    on valid so far, continue in the next round (Jamieson and Talwalkar, AISTATS 2016); the last one searches alone.
    """
    racing = [label for label in fitted if label in run.settings.models and run.settings.models[label].search]
    rounds = math.ceil(math.log2(len(racing))) + 1 if racing else 0
    found: dict[str, Path] = {}

    def best_so_far(label: str) -> float:
        values = [lake.info(fitted[label]).get("valid")]
        values += [lake.info(found[label])["best"]["figure"]] if label in found else []
        return max((value for value in values if value is not None), default=-math.inf)

    starters = len(racing)
    for number in range(rounds):
        racing = sorted(racing, key=best_so_far, reverse=True)[: math.ceil(starters / 2**number)]
        seconds = max(budget.spare(run, racing[0], lake.info(fitted[racing[0]])["seconds"]), 0)
        if number and not seconds:
            break
        log.info(f"round {number + 1} of {rounds}: {seconds / (rounds - number):.0f} s for {', '.join(racing)}")
        for label in racing:
            with isolate(run, f"search {label}"):
                share = seconds / (rounds - number) / len(racing)
                call = StageCall(StageName.SEARCH, label)
                found[label] = step(call, search.search_model, run, parts, label, fitted[label], share)
    for label in sorted(found, key=best_so_far, reverse=True):
        journal.note(run, f"search {label}: {search.summary_of(found[label])}")
        yield label, found[label], lake.info(found[label])["better"]
