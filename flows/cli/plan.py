"""`nightrecs run --plan`: what a night would do, what of it is there already, and how long the rest may take."""

import json
import os
from typing import Any

from flows.plan import CACHED, OPEN, Plan
from flows.prepare import prepare
from pipeline.config import loader
from pipeline.core.redaction import masked
from pipeline.core.stage_call import StageCall, StageName


def show_plan(options: Any) -> int:
    """Print the plan; errors of settings and input as when the night itself begins."""
    o = options
    run = prepare(o.dataset, o.recipe, o.data, o.home, o.overrides, until=o.until, look_only=True)
    plan = Plan(run, o.until).stages
    stages = [{"stage": each.call.title, "state": each.state, "minutes": each.minutes} for each in plan]
    timed = [stage["minutes"] for stage in stages if stage["minutes"] is not None]
    names = sorted(name for name in os.environ if name.startswith("NIGHTRECS_") and name not in loader.NOT_KEYS)
    answer = {
        "dataset": run.dataset, "recipe": run.settings.recipe,
        "overrides": [masked(each) for each in (*(f"{n}={os.environ[n]}" for n in names), *(o.overrides or []))],
        "data": str(run.data), "home": str(run.home.root), "tables": str(run.home.live(run.dataset)),
        "until": o.until, "budget_minutes": run.settings.budget.minutes,
        "minutes": round(sum(timed), 4), "untimed": len(stages) - len(timed), "stages": stages,
    }  # fmt: skip
    print(json.dumps(answer, indent=1) if o.json else in_words(answer))
    return 0


def in_words(answer: dict[str, Any]) -> str:
    """The plan, for people."""
    budgeted = answer["budget_minutes"] is not None
    lines = [f"night of {answer['dataset']}, recipe {answer['recipe']}"]
    lines += [f"  set      {override}" for override in answer["overrides"]]
    lines += [f"  reads    {answer['data']}", f"  writes   {answer['tables']}, and journal and lake beside it"]
    lines += [f"  budget   {answer['budget_minutes']:g} minutes"] if budgeted else []
    for stage in answer["stages"]:
        minutes, searches = stage["minutes"], budgeted and StageCall.parse(stage["stage"]).stage is StageName.SEARCH
        usual = "what the budget leaves" if searches else "no past night" if minutes is None else in_minutes(minutes)
        lines.append(f"  {stage['stage']:<28} {stage['state']:<7} {'' if stage['state'] == CACHED else usual}".rstrip())
    if any(stage["state"] == OPEN for stage in answer["stages"]):
        lines.append("open: what comes before it decides")
    untimed = f"; stages that no past night has timed: {answer['untimed']}" if answer["untimed"] else ""
    timed = any(stage["minutes"] is not None for stage in answer["stages"])
    return "\n".join([*lines, f"in all {in_minutes(answer['minutes']) if timed else 'unknown'}{untimed}"])


def in_minutes(minutes: float) -> str:
    """`0.5 min`; of moments only that."""
    return f"{minutes:.1f} min" if minutes >= 0.05 else "moments"
