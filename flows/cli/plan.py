"""`nightrecs run --plan`: what a night would do, how long it may take, and whether its rows fit into memory."""

import json
import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.cli.parser import USAGE
from flows.prepare import prepare, without_rows
from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.core.redaction import masked
from pipeline.core.stage_call import StageCall, StageName
from pipeline.destinations import health as destinations
from pipeline.preparation.capacity import BYTES_STORED, Capacity, in_gib
from pipeline.sources import row_estimate
from pipeline.sources.row_estimate import RowCount
from pipeline.storage import lake

OF_OPTION = "--rows"
"""Where the number of rows is from, if not from the source."""


def show_plan(options: Namespace) -> int:
    """Print the plan. Settings and input are checked as at the start of a night.

    Returns 2, as the night would, if the source's rows need more memory than there is.
    """
    from flows.left_out import left_out, size_of  # these import torch
    from flows.plan import Plan

    o = options
    run = prepare(o.dataset, o.recipe, o.data, o.home, o.overrides, until=o.until, look_only=True)
    planned = Plan(run, o.until)
    plan, memory = planned.stages, memory_for(run, planned.raw, o.rows)
    size = size_of(run, planned.parts, o.rows)
    stages = [{"stage": each.call.title, "state": each.state, "minutes": each.minutes} for each in plan]
    timed = [stage["minutes"] for stage in stages if stage["minutes"] is not None]
    names = sorted(name for name in os.environ if name.startswith("NIGHTRECS_") and name not in loader.NOT_KEYS)
    answer = {
        "dataset": run.dataset, "recipe": run.settings.recipe,
        "overrides": [masked(each) for each in (*(f"{n}={os.environ[n]}" for n in names), *(o.overrides or []))],
        "data": str(run.origin), "home": str(run.home.root), "tables": str(run.home.live(run.dataset)),
        "until": o.until, "budget_minutes": run.settings.budget.minutes,
        "minutes": round(sum(timed), 4), "untimed": len(stages) - len(timed), "memory": memory,
        "stages": stages, "warnings": warnings_of(run),
        "size": size and {"users": size.users, "items": size.items, "train_rows": size.rows},
        "left_out": size and [asdict(each) for each in left_out(run, size)],
    }  # fmt: skip
    if together := of_several_hosts(run):
        answer["hosts"] = {"machines": run.settings.scale.hosts, "models": together}
    if run.settings.publish and o.until is None:
        found = destinations.check(run.home, run.dataset, run.settings.publish)
        answer["destinations"] = [{"name": name, "trouble": bad, "found": there} for name, bad, there in found]
    print(json.dumps(answer, indent=1) if o.json else plan_text(answer))
    return 0 if o.rows or memory["fits"] is not False or o.until in without_rows(run.settings) else USAGE


def warnings_of(run: Run) -> list[str]:
    """What the night will warn of: files of `[impressions]` that it can't count, a cluster that gets no models."""
    from flows.single_model import stays_here
    from pipeline.evaluation import impressions  # these import torch

    problem = impressions.problem(run.settings.dataset, run.data)
    found = [masked(f"impressions will not be counted: {problem}")] if problem else []
    return [*found, *([why] if (why := stays_here(run)) else [])]


def of_several_hosts(run: Run) -> list[str]:
    """The models that several machines of the cluster fit together."""
    if run.settings.scale.hosts == 1:
        return []
    from pipeline.experiments import families, fit  # imports torch

    of = {label: families.family_of(run.settings, label)[0] for label in run.settings.models}
    return [label for label, family in of.items() if fit.hosts_of(run.settings, family) > 1]


def memory_for(run: Run, raw: Path | None, rows: int | None) -> dict[str, Any]:
    """What the rows need and what there is: `rows` of them, else those read by `raw`, else those of the source.

    `fits` is None where the number of rows is not known.
    """
    if rows:
        count, how = RowCount(rows, True), OF_OPTION
    elif raw and lake.is_complete(raw):
        count, how = RowCount(lake.read_manifest(raw)["rows_out"], True), "as read"
    else:
        count, how = row_estimate.estimate(run.settings.dataset, run.data), "source"
    capacity = Capacity.of(run.settings, count.rows if count else 0)
    helps = capacity.what_helps if count and not capacity.fits else None
    return {
        "rows": count and count.rows, "rows_text": count and count.text, "rows_from": count and how,
        "needed_bytes": count and capacity.needed, "disk_bytes": count and count.rows * BYTES_STORED,
        "lists_bytes": count and capacity.for_lists,
        "fits": count and capacity.fits, "what_helps": helps, "bytes_per_row": capacity.bytes_per_row,
        "room_bytes": capacity.room, "total_bytes": capacity.total, "rows_that_fit": capacity.rows_that_fit,
    }  # fmt: skip


def memory_text(memory: dict[str, Any]) -> list[str]:
    """What the rows need, and what fits, as lines of the plan."""
    here = f"this machine ({in_gib(memory['total_bytes'])}) takes {memory['rows_that_fit'] / 1e6:,.0f} million rows"
    if memory["rows"] is None:
        return [f"  memory   {here}; how many the source has is not known yet"]
    needed, disk = in_gib(memory["needed_bytes"]), in_gib(memory["disk_bytes"])
    lines = [f"  rows     {memory['rows_text']}: {needed} of memory until they are split, {disk} of disk per night"]
    lists = f"about {in_gib(memory['lists_bytes'])} for lists of all users, by what ials with 64 dimensions took"
    if memory["fits"]:
        return [*lines, f"  lists    {lists}", f"  memory   {here}"]
    return [*lines, f"  lists    {lists}", f"  memory   not enough: {here}; {memory['what_helps']}"]


def size_text(answer: dict[str, Any]) -> list[str]:
    """Which models would be left out for the size of the data, as lines of the plan."""
    size, scaled = answer["size"], answer["memory"]["rows_from"] == OF_OPTION
    if size is None:
        return ["  models   which would be left out for their memory is known after --until split"] if scaled else []
    if not (scaled or answer["left_out"]):
        return []
    how = "; users grow with the rows, items are those of the split" if scaled else ""
    lines = [f"  sizes    {size['users']:,} users, {size['items']:,} items, {size['train_rows']:,} rows to learn{how}"]
    lines += [f"  without  {each['model']}: {each['why']}" for each in answer["left_out"]]
    return lines if answer["left_out"] else [*lines, "  models   all of the recipe, as far as memory goes"]


def plan_text(answer: dict[str, Any]) -> str:
    """The plan as text."""
    from flows.plan import CACHED, OPEN, SHARED

    budgeted = answer["budget_minutes"] is not None
    lines = [f"night of {answer['dataset']}, recipe {answer['recipe']}"]
    lines += [f"  set      {override}" for override in answer["overrides"]]
    lines += [f"  reads    {answer['data']}", f"  writes   {answer['tables']}, and the journal and lake next to it"]
    lines += [f"  budget   {answer['budget_minutes']:g} minutes"] if budgeted else []
    if hosts := answer.get("hosts"):
        lines.append(f"  hosts    {hosts['machines']} machines fit together: {', '.join(hosts['models'])}")
    for each in answer.get("destinations", ()):
        found = f"NOT reached: {each['trouble']}" if each["trouble"] else each["found"]
        lines.append(f"  copies   {each['name']}: {found}")
    lines += memory_text(answer["memory"]) + size_text(answer)
    if answer["memory"]["rows_from"] == OF_OPTION:
        lines.append("stages and times are those of the source as it is, not of so many rows:")
    for stage in answer["stages"]:
        minutes, searches = stage["minutes"], budgeted and StageCall.parse(stage["stage"]).stage is StageName.SEARCH
        usual = "rest of the budget" if searches else "not timed yet" if minutes is None else in_minutes(minutes)
        lines.append(
            f"  {stage['stage']:<28} {stage['state']:<7} {'' if stage['state'] in (CACHED, SHARED) else usual}".rstrip()
        )
    if any(stage["state"] == OPEN for stage in answer["stages"]):
        lines.append("open: an earlier stage decides")
    if any(stage["state"] == SHARED for stage in answer["stages"]):
        lines.append("shared: the result is fetched from the shared lake")
    lines += [f"warning: {warning}" for warning in answer["warnings"]]
    return "\n".join([*lines, total_text(answer)])


def total_text(answer: dict[str, Any]) -> str:
    """The expected time of the whole night, as far as past nights have timed its stages."""
    to_do = [stage["minutes"] for stage in answer["stages"] if stage["minutes"] != 0]
    untimed = answer["untimed"]
    if untimed and len(to_do) == untimed:
        return "total time unknown: no past night has timed these stages"
    rest = f"; not included: {untimed} stages that no past night has timed" if untimed else ""
    return f"in total {in_minutes(answer['minutes'])}{rest}"


def in_minutes(minutes: float) -> str:
    """`0.5 min`, or `under 0.1 min`."""
    return f"{minutes:.1f} min" if minutes >= 0.05 else "under 0.1 min"
