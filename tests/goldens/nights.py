"""What is read off nights: the built-in sample's, one with a budget, and some that end badly.

Lake keys are those of every machine: they depend on settings, versions and the source's bytes, not on what is computed
(`device = "cpu"`; the search is a grid of two, whose better one is better by 1 %). Hashes of tables that hold nothing
but counts, ids and texts are those of every machine, too. The logical hash of the whole night is not: scores are
rounded to 6 digits, and libraries choose their instructions by the CPU. It is kept by machine and versions of the
libraries, and compared only where both are on record.
"""

import contextlib
import fcntl
import io
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from . import old_home

HERE = Path(__file__).parent
TINY = """name = "tiny"
[source]
files = ["log.csv"]
static = true
[columns]
rating = "rating"
timestamp = "timestamp"
"""
BY_COUNTING = ("items", "interactions_summary", "popular_items", "row_ledger", "rejected_rows", "users")
"""Tables of the sample's night without a number that linear algebra made."""
VOLATILE = ("run_id", "generated_at", "list_id")
LIBRARIES = ("torch", "numpy", "polars", "duckdb")


class Nights:
    """Runs them below `folder`, each when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder, self.home, self.tasks, self.artifacts = folder, folder / "home", [], []

    @cached_property
    def sample(self) -> str:
        """Run id of the sample's night; what Prefect would get is recorded, without Prefect."""
        os.environ.setdefault("PREFECT_HOME", str(self.folder / "prefect"))
        from flows import tasks
        from flows.cli import run as run_command
        from flows.orchestration import artifacts
        from pipeline.core.paths import Home
        from pipeline.storage import journal

        def task(**keys: Any) -> Callable:
            self.tasks.append(keys)
            return lambda stage: stage

        def artifact(*_: Any, key: str, **__: Any) -> None:
            self.artifacts.append(key)

        recipe = str(HERE / "sample.toml")
        with replaced(tasks, task=task), replaced(run_command, plainly=tasks.as_task):
            code, text = self.command("run", "sample", "--recipe", recipe, "--no-prefect", "--json")
        assert code == 0
        self.answer = json.loads(text)
        night = journal.load_run(Home(self.home), "sample", self.answer["run_id"])
        log = contextlib.nullcontext()
        log.info = log.error = lambda text: None  # type: ignore[attr-defined]
        made = {"create_table_artifact": artifact, "create_markdown_artifact": artifact}
        with replaced(artifacts, **made, get_run_logger=lambda: log):
            artifacts.show(night)
        return night.run_id

    @cached_property
    def budgeted(self) -> str:
        """Run id of the night with a budget, which stops once its models are measured.

        It has time in plenty, and the deadline of one fit is over at once: a busy machine changes nothing.
        """
        from pipeline.experiments import budget

        usual = budget.deadline

        def deadline(run: Any, call: Any) -> float | None:
            return time.monotonic() if call.label == "slow" else usual(run, call)

        lines = [
            f"u{u:02d},i{i:02d},{1 + (u * i) % 5},{1_700_000_000 + 3600 * (30 * ((7 * u) % 40) + i)}"
            for u in range(40)
            for i in range(30)
            if (u + i) % 3 == 0 or (5 * u + 3 * i) % 11 == 0
        ]
        (self.folder / "log.csv").write_text("\n".join(["user,item,rating,timestamp", *lines, ""]))
        (self.folder / "tiny.toml").write_text(TINY)
        words = ["run", str(self.folder / "tiny.toml"), "--recipe", str(HERE / "budget.toml")]
        with replaced(budget, deadline=deadline):
            code, text = self.command(*words, "--no-prefect", "--until", "evaluate", "--json")
        assert code == 0
        return json.loads(text)["run_id"]

    def command(self, *words: str, home: Path | None = None, **environment: str) -> tuple[int, str]:
        """Exit code and stdout of `nightrecs`, in this process."""
        from flows.cli import main

        before, out = dict(os.environ), io.StringIO()
        os.environ.update(environment)
        try:
            with contextlib.redirect_stdout(out):
                code = main(["--home", str(home or self.home), *words])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return code, out.getvalue()

    # What scripts read

    def json_keys(self) -> dict[str, Any]:
        """Shape of what each command prints with --json."""
        user, item = self.ask("select user_id, item_id from recommendations order by all limit 1").row(0)
        asked = {
            "datasets": (), "recipes": (), "models": (), "status": ("sample",), "runs": ("sample",),
            "leaderboard": ("sample",), "leaderboard --all": ("sample", "--all"), "recommend": ("sample", user),
            "similar": ("sample", item), "explain": ("sample", user, item), "sql": ("sample", "from freshness"),
            "report": ("sample",), "doctor": ("--device", "none"), "gc": ("--dry-run",),
            "gc sample": ("sample", "--dry-run"), "up --check": ("--check",),
            "run --plan": ("sample", "--plan", "--recipe", str(HERE / "sample.toml")),
        }  # fmt: skip
        shapes = {"run": shape(self.answer)}
        for name, words in asked.items():
            code, text = self.command(name.split()[0], *words, "--json")
            assert code == 0 or name in ("doctor", "up --check"), f"{name}: exit code {code}"
            shapes[name] = shape(json.loads(text))
        scheduled = self.folder / "scheduled"
        for name, words in (("schedule", ()), ("schedule one", ("sample", "--cron", "0 3 * * *")), ("schedule", ())):
            code, text = self.command("schedule", *words, "--json", home=scheduled)
            assert code == 0
            shapes[name] = shape(json.loads(text)) if text else None
        return {**shapes, **self._old[0]}

    @cached_property
    def _old(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """In the old home: JSON of commands that need several nights or change something, and what they keep."""
        folder = self.folder / "old"
        folder.mkdir()
        home = old_home.unpack(folder)
        toml, recipe = str(folder / "old.toml"), str(folder / "second.toml")
        asked = {
            "rollback": ("old",), "gc --keep": ("--keep-generations", "1", "--keep-lake-nights", "1"),
            "replay": (toml, "--recipe", recipe, "--as-of", "2023-11-25", "--set", "device=cpu"),
            "forget": ("old", "u07"), "status after": ("old",), "runs after": ("old",),
        }  # fmt: skip
        shapes = {}
        for name, words in asked.items():
            code, text = self.command(name.split()[0], *words, "--json", home=home)
            assert code == 0, f"{name}: exit code {code}"
            shapes[name] = shape(json.loads(text))
        journal, kept = home / "warehouse" / "journal" / "old", {}
        for line in filter(None, (journal / "operations.jsonl").read_text().splitlines()):
            kept[f"operations.jsonl of {json.loads(line)['operation']}"] = shape(json.loads(line))
        kept["forgotten.json"] = shape(json.loads((journal / "forgotten.json").read_text()))
        replays = home / "warehouse" / "replays" / "old"
        kept["replays"] = sorted(path.name for path in replays.iterdir() if path.is_file())
        return shapes, kept

    def exit_codes(self) -> dict[str, int]:
        """One quick command a code; 130 and 143 are in test_cli, which sends the signals."""
        return self._badly[0]

    @cached_property
    def _badly(self) -> tuple[dict[str, int], list[str]]:
        """Exit codes, and names of the journal files of nights that end badly."""
        bad = self.folder / "bad"
        bad.mkdir(exist_ok=True)
        (bad / "log.csv").write_text("user,item,rating,timestamp\n" + "u1,i1,great,1700000000\n" * 20)
        (bad / "bad.toml").write_text(TINY.replace("tiny", "bad"))
        (bad / "gone.toml").write_text(TINY.replace("tiny", "gone").replace("log.csv", "none.csv"))
        run, until = ("run", str(bad / "bad.toml"), "--no-prefect"), ("--until", "ingest")
        home = self.folder / "badly"
        codes = {
            "0 models": self.command("models", home=home)[0],
            "0 run --plan": self.command("run", "sample", "--plan", *until, home=home)[0],
            "1 a stage crashes": self.command(*run, *until, home=home, NIGHTRECS_FAULT="ingest:before_write:error")[0],
            "2 no such command": self.command("rnu", home=home)[0],
            "2 no such option": self.command("models", "--jsn", home=home)[0],
            "2 no such data set": self.command("status", "nothing", home=home)[0],
            "2 no such key": self.command(*run, "--set", "split.tset=0.1", home=home)[0],
            "2 no file": self.command("run", str(bad / "gone.toml"), "--no-prefect", *until, home=home)[0],
            "3 rejected rows": self.command(*run, *until, home=home)[0],
            "3 unhealthy": self.command("status", "bad", home=home)[0],
        }
        with (home / "warehouse" / "journal" / "bad.lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            codes["4 another run"] = self.command(*run, *until, home=home)[0]
        journal = sorted((home / "warehouse" / "journal" / "bad").iterdir())
        return codes, sorted({path.name for night in journal for path in night.iterdir()})

    # What is published

    def tables(self) -> dict[str, Any]:
        """Tables and views of the published file: column, type, whether it may be null."""
        found = self.ask(
            "select table_name, column_name, data_type, is_nullable from duckdb_columns() "
            "where not internal and database_name = current_database() order by table_name, column_index"
        )
        views = set(self.ask("select view_name from duckdb_views() where not internal")["view_name"])
        kinds: dict[str, dict[str, Any]] = {"tables": {}, "views": {}}
        for table, column, kind, nullable in found.iter_rows():
            place = kinds["views" if table in views else "tables"].setdefault(table, [])
            place.append(f"{column} {kind}" + ("" if nullable or table in views else " not null"))
        return kinds

    def comments(self) -> str:
        """Comments of tables, views and their columns."""
        lines = self.ask(
            "select name || ': ' || coalesce(comment, '-') as line from ("
            "select table_name as name, comment, table_name as a, -1 as b from duckdb_tables() where not internal "
            "union all select view_name, comment, view_name, -1 from duckdb_views() where not internal "
            "union all select table_name || '.' || column_name, comment, table_name, column_index "
            "from duckdb_columns() where not internal and database_name = current_database()) order by a, b"
        )["line"]
        return "\n".join(lines) + "\n"

    def vocabulary(self) -> dict[str, Any]:
        """Words in the data and in commands: data sets, recipes, checks, metrics, segments, reasons of rejects."""
        from pipeline.schemas.reasons import Reason

        shipped = {each: json.loads(self.command(each, "--json")[1]) for each in ("datasets", "recipes")}
        checks = self.ask("select distinct check_name, severity from checks").rows()
        metrics = self.ask("select distinct protocol || ' ' || metric as name from metrics")["name"]
        return {
            "datasets": sorted(each["name"] for each in shipped["datasets"]),
            "recipes": {each["name"]: each["models"].split(", ") for each in shipped["recipes"]},
            "checks": {name: severity for name, severity in sorted(checks)}, "metrics": sorted(metrics),
            "segments": sorted(set(self.ask("select distinct segment from metrics")["segment"])),
            "sources": sorted(set(self.ask("select distinct source from recommendations")["source"])),
            "reasons": sorted(map(str, Reason)),
        }  # fmt: skip

    def hashes(self) -> dict[str, Any]:
        """Rows of the tables that nothing but counting made, hashed: the same on every machine."""
        found = {}
        for table in BY_COUNTING:
            schema = self.ask(f"from {table} limit 0").schema
            kept = [name for name, kind in schema.items() if name not in VOLATILE and not kind.is_float()]
            values = ", ".join(f'coalesce("{name}"::varchar, chr(0))' for name in kept)
            text = f"concat_ws(chr(31), {values})"
            query = f"select count(*) as rows, md5(string_agg({text}, chr(30) order by {text})) as hash from {table}"
            found[table] = self.ask(query).row(0, named=True)
        return found

    def logical_hash(self) -> dict[str, str]:
        """By what it depends on besides the code."""
        assert self.sample
        return {machine(): self.answer["logical_hash"]}

    # What is kept

    def stages(self) -> dict[str, Any]:
        """Titles in the table `stages`, in order; of the night with a budget those that don't depend on time."""

        def titles(dataset: str, run_id: str) -> list[str]:
            lines = (self.home / "warehouse" / "journal" / dataset / run_id / "stages.jsonl").read_text().splitlines()
            return [json.loads(text)["stage"] for text in lines if text]

        timeless = [title for title in titles("tiny", self.budgeted) if re.search(r"(turn 1|cut short)$", title)]
        return {"sample": titles("sample", self.sample), "budget": sorted(set(timeless))}

    def lake(self) -> list[str]:
        """Every result of the sample's night: layer, name and key."""
        assert self.sample
        lake = self.home / "warehouse" / "lake" / "sample"
        return sorted(f"{path.parent.name}/{path.name}" for path in lake.glob("[1-9]*/*-*"))

    def results(self) -> dict[str, Any]:
        """Files of each layer: what Parquet and JSON hold."""
        assert self.sample
        lake, found = self.home / "warehouse" / "lake" / "sample", {}
        for path in sorted(lake.glob("[1-9]*/[!.]*/*")):
            name = f"{path.parent.parent.name}/{path.name}"
            if path.suffix == ".parquet":
                schema = pl.read_parquet_schema(path)
                found[name] = [f"{column} {kind}" for column, kind in schema.items()]
            elif path.name == "manifest.json":
                about = json.loads(path.read_text())
                stage = about["stage"].split()[0]
                info = sorted({*found.get(f"{name} of {stage}", {"info": []})["info"], *about["info"]})
                found[f"{name} of {stage}"] = {"keys": sorted(about), "info": info}
            else:
                found[name] = None
        return found

    def journal(self) -> dict[str, Any]:
        """Files of a journal and their fields; those that a night has which ends badly."""
        assert self.sample
        folder, found = self.home / "warehouse" / "journal" / "sample" / self.sample, {}
        for path in sorted(folder.iterdir()):
            if path.suffix == ".jsonl":
                records = [json.loads(text) for text in path.read_text().splitlines() if text]
                found[path.name] = shape(records)
            elif path.name == "run.json":
                record = json.loads(path.read_text())
                record["choice"]["values"] = sorted(record["choice"]["values"])
                record["champion_configuration"]["hyperparameters"] = None
                found[path.name] = shape(record)
            else:
                found[path.name] = None
        return {"published": found, "badly": self._badly[1], "operations": self._old[1]}

    def layout(self) -> list[str]:
        """Every other file of the home, ids replaced."""
        assert self.sample
        paths = (str(p.relative_to(self.home)) for p in self.home.rglob("*") if p.is_file() or p.is_symlink())
        ours = (
            path for path in paths if not re.search(r"/(lake|journal)/\w+/|/\.vega|/tiny|-wal|-shm|^\.prefect", path)
        )
        return sorted(set(map(without_ids, ours)))

    # What others show of it

    def mlflow(self) -> dict[str, Any]:
        """Names of experiment, runs, tags, parameters, metrics, artifacts and registered model."""
        assert self.sample
        from mlflow.tracking import MlflowClient

        uri = f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"
        client = MlflowClient(uri, uri)
        experiments = [each for each in client.search_experiments() if each.name != "Default"]
        runs = {}
        for run in client.search_runs([each.experiment_id for each in experiments], max_results=1000):
            tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.log-model")}
            kind, name = tags["nightrecs.kind"], re.sub(r"^[-0-9]+ [0-9:]+ ", "START ", run.info.run_name or "")
            runs[f"{kind} {name}"] = {
                "status": run.info.status, "tags": sorted(tags), "params": sorted(run.data.params),
                "metrics": sorted(run.data.metrics), "artifacts": sorted(_artifacts(client, run.info.run_id)),
                "inputs": [each.dataset.name for each in (run.inputs.dataset_inputs if run.inputs else [])],
            }  # fmt: skip
        models = {}
        for model in client.search_registered_models():
            versions = client.search_model_versions(f"name = '{model.name}'")
            models[model.name] = {
                "aliases": sorted(model.aliases),
                "tags": sorted({t for v in versions for t in v.tags}),
            }
        tags = {each.name: sorted(each.tags) for each in experiments}
        return {"experiments": tags, "runs": runs, "models": models, "signature": self._signature()}

    def _signature(self) -> Any:
        import yaml

        place = next((self.home / "mlflow" / "artifacts").rglob("MLmodel"))
        signature = yaml.safe_load(place.read_text())["signature"]
        return {side: json.loads(text) for side, text in signature.items() if text}

    def prefect(self) -> dict[str, Any]:
        """Task by task: name, title and what is asked of Prefect; keys of artifacts."""
        assert self.sample
        wanted = (
            "name",
            "task_run_name",
            "tags",
            "retries",
            "retry_delay_seconds",
            "timeout_seconds",
            "persist_result",
        )
        names = [{key: each[key] for key in wanted} for each in self.tasks]
        titles = [f"{each['name']}: {each['task_run_name']}" for each in names]
        kinds = {each["name"]: {k: v for k, v in each.items() if k not in ("task_run_name", "name")} for each in names}
        return {"runs": titles, "tasks": kinds, "artifacts": sorted(self.artifacts)}

    def ask(self, query: str) -> pl.DataFrame:
        """Of the sample's published tables."""
        import duckdb

        assert self.sample
        with duckdb.connect(str(self.home / "warehouse" / "sample.duckdb"), read_only=True) as con:
            return con.sql(query).pl()


def machine() -> str:
    """What decides the last digits of a score: CPU and libraries."""
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    about = dict(re.findall(r"^(vendor_id|cpu family|model|stepping)\s*: (.*)$", text, re.MULTILINE))
    capability = torch.backends.cpu.get_cpu_capability()
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{' '.join([platform.machine(), *about.values(), capability])}, {libraries}"


def shape(value: Any) -> Any:
    """Keys and types of JSON; records of a list become one."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        merged: Any = None
        for each in map(shape, value):
            merged = each if merged is None else _both(merged, each)
        return [] if merged is None else [merged]
    if value is None or isinstance(value, bool | str):
        return {None: "null", True: "bool", False: "bool"}.get(value, "text") if not isinstance(value, str) else "text"
    return "number"


def _both(one: Any, other: Any) -> Any:
    """A shape that has what either has."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _both(one.get(key, other.get(key)), other.get(key, one.get(key))) for key in one | other}
    if isinstance(one, list) and isinstance(other, list):
        return [_both(one[0], other[0])] if one and other else one or other
    if one == other or not isinstance(one, str) or not isinstance(other, str):
        return one if other in (one, "null") else other
    return " or ".join(sorted({*one.split(" or "), *other.split(" or ")}))


def without_ids(path: str) -> str:
    """Run ids, keys and MLflow's ids as words."""
    path = re.sub(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{4}", "RUN", path)
    path = re.sub(r"m-[0-9a-f]{32}", "MODEL", path)
    return re.sub(r"[0-9a-f]{32}", "ID", re.sub(r"-[0-9a-f]{16}(?=/|$)", "-KEY", path))


def _artifacts(client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
    for each in client.list_artifacts(run_id, folder):
        if each.is_dir:
            yield from _artifacts(client, run_id, each.path)
        else:
            yield without_ids(each.path)


@contextlib.contextmanager
def replaced(module: Any, **names: Any) -> Iterator[None]:
    """Put other things under these names of a module, for a while."""
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
