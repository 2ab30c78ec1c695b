"""`nightrecs bench quality`: public protocols, re-derived as nights that end before anything is published."""

import json
import math
import statistics
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from flows.conductor import conduct
from flows.prepare import prepare
from flows.step import Stopped
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation.ranking_metrics import sign_of
from pipeline.schemas import tables
from pipeline.storage import journal, lake, state_files

FOLDER = Path(__file__).parents[1] / "quality"
Row = dict[str, Any]


def protocols() -> dict[str, dict[str, Any]]:
    """What protocols.toml says, by name."""
    return tomllib.loads((FOLDER / "protocols.toml").read_text(encoding="utf-8"))


def bench(options: Any) -> None:
    """Measure the protocols asked for; JSON beside the home's warehouse, a Markdown table to stdout.

    A fit that is done is in the lake: an interrupted bench goes on where it was, and a repeated one only reads.
    """
    known = protocols()
    names = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"--only {unknown[0]}: there are {', '.join(known)}")
    home = Home.resolve(options.home)
    for name in names:
        try:
            measure(name, known[name], home, options.seeds)
        except UnreadableInput as error:
            log.info(f"{name} is left out: {error}")
    results = {name: rows for name in known if (rows := read(home, name))}
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print(markdown({name: known[name] for name in results}, results))


def measure(name: str, protocol: dict[str, Any], home: Home, n_seeds: int | None = None) -> None:
    """Run one protocol with its seeds and keep what came of it, seed by seed."""
    rows: list[Row] = []
    for seed in protocol["seeds"][:n_seeds]:
        overrides = [f"seed={seed}"]
        run = prepare(protocol["dataset"], str(FOLDER / f"{name}.toml"), None, str(home.root), overrides)
        log.info(f"{name}, seed {seed}: {protocol['title']}")
        fits: dict[str, Path] = {}
        conduct(run, partial(keeping, fits), "select")
        rows += figures(run, protocol, seed, fits)
        path_of(home, name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path_of(home, name), json.dumps(rows, indent=1))


def figures(run: Run, protocol: dict[str, Any], seed: int, fits: dict[str, Path]) -> list[Row]:
    """One row a model: its figures on test, its seconds, and whether it is the best on valid."""
    champion = journal.read_run(run.home, run.dataset, run.run_id)["champion"]
    found = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    found = found.filter(split="test", segment="all", protocol=protocol["protocol"])
    found = found.with_columns(name=tables.metric_names()).filter(pl.col("name").is_in(protocol["metrics"]))
    return [
        {
            "seed": seed, "model": model, "champion": model == champion, "seconds": fit_seconds(fits[model]),
            "values": [found.filter(model=model, name=metric)["value"][0] for metric in protocol["metrics"]],
        }
        for model in found["model"].unique(maintain_order=True)
        if set(protocol["metrics"]) <= set(found.filter(model=model)["name"])
    ]  # fmt: skip


def keeping(fits: dict[str, Path], call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
    """A step that keeps every label's last fit, the one that test is asked of, and ends the night with the choice."""
    result = stage(*inputs)
    if call.stage is StageName.TRAIN and call.label:
        fits[call.label] = result
    if call.stage is StageName.SELECT:
        raise Stopped("select")  # before the champion is fitted on all rows
    return result


def fit_seconds(fitted: Path) -> float:
    """Seconds of a fit, as it took when it was made; of a blend, with those of its members."""
    info = lake.info(fitted)
    return info["seconds"] + sum(fit_seconds(fitted.parent / name) for name in info.get("members", {}).values())


def path_of(home: Home, name: str) -> Path:
    """Where a protocol's results are kept."""
    return home.warehouse / "quality" / f"{name}.json"


def read(home: Home, name: str) -> list[Row]:
    """What was measured."""
    return state_files.read(path_of(home, name), list) or []


def markdown(known: dict[str, dict[str, Any]], results: dict[str, list[Row]]) -> str:
    """A table a protocol: ours, mean ± sd over the seeds and the champion marked, above what is published."""
    return "\n\n".join(table(name, known[name], results[name]) for name in results)


def table(name: str, protocol: dict[str, Any], rows: list[Row]) -> str:
    """The best by the first metric is on top; seconds are those of the fit that test is asked of."""
    metrics = protocol["metrics"]
    head = ["model", *metrics, "seconds", "seeds", "source"]
    own = {model: [row for row in rows if row["model"] == model] for model in dict.fromkeys(r["model"] for r in rows)}
    sign = sign_of(metrics[0].partition("@")[0])
    order = sorted(own, key=lambda model: sign * statistics.fmean(row["values"][0] for row in own[model]), reverse=True)
    ours = [
        [
            model + _mark(own[model]),
            *(_mean([row["values"][at] for row in own[model]]) for at in range(len(metrics))),
            f"{statistics.fmean(row['seconds'] for row in own[model]):.0f}",
            str(len(own[model])),
            "Nightrecs",
        ]
        for model in order
    ]
    theirs = [
        [there["model"], *("–" if math.isnan(v) else f"{v:.4f}" for v in there["values"]), "", "", there["source"]]
        for there in protocol["published"]
    ]
    return "\n".join([f"**{name}** {protocol['title']}", "", *map(_row, [head, ["---"] * len(head), *ours, *theirs])])


def _mark(rows: list[Row]) -> str:
    """In how many seeds the model was the champion."""
    best = sum(row["champion"] for row in rows)
    return f" (best on valid{'' if best == len(rows) else f' in {best} of {len(rows)}'})" if best else ""


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
