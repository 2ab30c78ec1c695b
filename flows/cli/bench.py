"""`nightrecs bench quality`: measures public protocols, as nights that end before anything is published."""

import json
import math
import re
import statistics
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from flows.cli.output import replace_block
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
    """The protocols of protocols.toml, by name."""
    return tomllib.loads((FOLDER / "protocols.toml").read_text(encoding="utf-8"))


def bench(options: Namespace) -> None:
    """Measure protocols, keep the results in the home, print them as Markdown tables.

    Finished fits are in the lake: an interrupted bench continues where it stopped, and a repeated one only reads.
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
    tables = {name: table(name, known[name], rows) for name, rows in results.items()}
    if options.markdown:
        replace_block(FOLDER / "README.md", "tables", partial(merged, known, tables))
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print("\n\n".join(tables.values()))


def merged(names: Iterable[str], tables: dict[str, str], block: str) -> str:
    """The block of tables of the README with new ones in the place of old ones, in the order of `names`."""
    found = re.split(r"^(?=\*\*\w+\*\* )", block, flags=re.MULTILINE)
    old = {text.split("**")[1]: text.strip() for text in found if text.strip()}
    return "\n\n".join(each for name in names if (each := (old | tables).get(name)))


def measure(name: str, protocol: dict[str, Any], home: Home, n_seeds: int | None = None) -> None:
    """Run one protocol with its seeds. Results are written after each seed."""
    rows: list[Row] = []
    for seed in protocol["seeds"][:n_seeds]:
        overrides = [f"seed={seed}"]
        run = prepare(protocol["dataset"], str(FOLDER / f"{name}.toml"), None, str(home.root), overrides)
        log.info(f"{name}, seed {seed}: {protocol['title']}")
        fits: dict[str, Path] = {}
        conduct(run, partial(keeping, fits), "select")
        rows += measured(run, protocol, seed, fits)
        path_of(home, name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path_of(home, name), json.dumps(rows, indent=1))


def measured(run: Run, protocol: dict[str, Any], seed: int, fits: dict[str, Path]) -> list[Row]:
    """One row per model: its metrics on test, its seconds, and whether it is the best on valid."""
    champion = journal.read_run(run.home, run.dataset, run.run_id)["champion"]
    found = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    found = found.filter(split="test", segment="all", protocol=protocol["protocol"])
    found = found.with_columns(name=tables.metric_names()).filter(pl.col("name").is_in(protocol["metrics"]))
    return [
        {
            "seed": seed, "model": model, "champion": model == champion, "seconds": fit_seconds(fits[model]),
            "values": [found.filter(model=model, name=metric)["value"][0] for metric in protocol["metrics"]],
            "intervals": [
                list(found.filter(model=model, name=metric).select("ci_low", "ci_high").row(0))
                for metric in protocol["metrics"]
            ],
        }
        for model in found["model"].unique(maintain_order=True)
        if set(protocol["metrics"]) <= set(found.filter(model=model)["name"])
    ]  # fmt: skip


def keeping(fits: dict[str, Path], call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
    """A step that records the last fit of each label, which is evaluated on test, and stops after the selection."""
    result = stage(*inputs)
    if call.stage is StageName.TRAIN and call.label:
        fits[call.label] = result
    if call.stage is StageName.SELECT:
        raise Stopped("select")  # before the champion is fitted on all rows
    return result


def fit_seconds(fitted: Path) -> float:
    """Seconds that a fit took when it was made; of a blend, including its members."""
    info = lake.info(fitted)
    return info["seconds"] + sum(fit_seconds(fitted.parent / name) for name in info.get("members", {}).values())


def path_of(home: Home, name: str) -> Path:
    """File of a protocol's results."""
    return home.warehouse / "quality" / f"{name}.json"


def read(home: Home, name: str) -> list[Row]:
    """The results of a protocol; empty if there are none."""
    return state_files.read(path_of(home, name), list) or []


def table(name: str, protocol: dict[str, Any], rows: list[Row]) -> str:
    """A Markdown table: our models, best first by the first metric, then the published ones.

    Values are mean ± standard deviation over seeds, of one seed with its 95 % interval over users. Seconds are those of
    the fit that is evaluated on test.
    """
    metrics = protocol["metrics"]
    head = ["model", *metrics, "seconds", "seeds", "source"]
    own = {model: [row for row in rows if row["model"] == model] for model in dict.fromkeys(r["model"] for r in rows)}
    sign = sign_of(metrics[0].partition("@")[0])
    order = sorted(own, key=lambda model: sign * statistics.fmean(row["values"][0] for row in own[model]), reverse=True)
    ours = [
        [
            model + _mark(own[model]),
            *(
                _mean([row["values"][at] for row in own[model]]) + _interval(own[model], at)
                for at in range(len(metrics))
            ),
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
    """Note in how many seeds the model was the champion."""
    best = sum(row["champion"] for row in rows)
    return f" (best on valid{'' if best == len(rows) else f' in {best} of {len(rows)}'})" if best else ""


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _interval(rows: list[Row], at: int) -> str:
    """The interval of a metric that was measured with one seed; results from before intervals were kept have none."""
    low, high = rows[0].get("intervals", [(None, None)] * (at + 1))[at] if len(rows) == 1 else (None, None)
    return "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
