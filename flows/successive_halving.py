"""How a night's budget is spent on searches: in turns, by successive halving over the families."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.stages import search
from pipeline.storage import journal, lake


def search_in_turns(
    run: Run,
    step: Step,
    parts: Path,
    fitted: Mapping[str, Path],
    alone: Callable[[Run, str], AbstractContextManager],
) -> Iterator[tuple[str, Path, bool]]:
    """The labels searched, the best first, with the search's folder, and whether it found better than the first fit.

    Every round has an equal part of the time, shared equally by the families in it; the better half, by the best
    figure on valid so far, go on to the next (Jamieson and Talwalkar, AISTATS 2016), so the last one searches alone.
    """
    racing = [label for label in fitted if label in run.settings.models and run.settings.models[label].search]
    rounds = math.ceil(math.log2(len(racing))) + 1 if racing else 0
    found: dict[str, Path] = {}

    def promise(label: str) -> float:
        figures = [lake.info(fitted[label]).get("valid")]
        figures += [lake.info(found[label])["best"]["figure"]] if label in found else []
        return max((figure for figure in figures if figure is not None), default=-math.inf)

    starters = len(racing)
    for number in range(rounds):
        racing = sorted(racing, key=promise, reverse=True)[: math.ceil(starters / 2**number)]
        seconds = max(budget.spare(run, racing[0], lake.info(fitted[racing[0]])["seconds"]), 0)
        if number and not seconds:
            break
        journal.say(f"round {number + 1} of {rounds}: {seconds / (rounds - number):.0f} s for {', '.join(racing)}")
        for label in racing:
            with alone(run, f"search {label}"):
                turn = seconds / (rounds - number) / len(racing)
                call = StageCall(StageName.SEARCH, label)
                found[label] = step(call, search.search_model, run, parts, label, fitted[label], turn)
    for label in sorted(found, key=promise, reverse=True):
        journal.note(run, f"search {label}: {search.summary_of(found[label])}")
        yield label, found[label], lake.info(found[label])["better"]
