"""Imports run down the layers, heavy libraries have one importer each, and `--help` needs none of them."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pipeline.core.paths import CHECKOUT

LAYERS = [  # top to bottom; packages of one layer do not import one another
    {"flows.cli", "flows.api.nightrecs"},
    {"flows.serve"},
    {"flows.scheduled"},
    {"flows.tasks"},
    {"flows.orchestration"},
    {"flows"},
    {"pipeline.stages", "pipeline.maintenance"},
    {"pipeline.tracking", "pipeline.experiments"},
    {"pipeline.selection", "pipeline.reporting"},
    {"pipeline.publishing", "pipeline.evaluation"},
    {"pipeline.ranking"},
    {"pipeline.models", "pipeline.preparation", "pipeline.datasets"},
    {"pipeline.training", "pipeline.sources", "pipeline.destinations"},
    {"pipeline.storage"},
    {"pipeline.config", "pipeline.schemas"},
    {"pipeline.core"},
]
LEVEL = {package: level for level, packages in enumerate(reversed(LAYERS), start=1) for package in packages}
FILES = sorted([*(CHECKOUT / "flows").rglob("*.py"), *(CHECKOUT / "pipeline").rglob("*.py")])
PACKAGES = sorted({path.parent for path in FILES})
KEPT_FOR_OLD_MODELS = {"pipeline.interactions", "pipeline.models.saving"}
"""Old import paths in the code of registered models; they re-export from where the definitions are now."""

ONLY_IMPORTERS = {
    "duckdb": ("pipeline/storage/warehouse.py",),
    "mlflow": ("pipeline/tracking/",),
    "matplotlib": ("pipeline/reporting/plots/figure.py",),
    "lightning_fabric": ("pipeline/training/launcher.py",),
    "prefect": ("flows/tasks.py", "flows/scheduled.py", "flows/serve.py", "flows/orchestration/"),
    "apprise": ("pipeline/reporting/notifications.py",),
    "psycopg": ("pipeline/destinations/",),
    "ray": ("flows/orchestration/fanout.py", "flows/orchestration/fanout_hosts.py"),
}
FORBIDDEN = {
    "pipeline.models": ("pipeline.config", "pipeline.storage", "pipeline.schemas"),
    "pipeline.training": ("pipeline.storage", "pipeline.schemas"),
}
ONLY_WHERE_NEEDED = (
    "adbc_driver_manager",
    "adbc_driver_postgresql",
    "adbc_driver_sqlite",
    "moto",
    "obstore",
    "psycopg",
    "ray",
)
"""Packages of extras. They may be missing, so a module imports them in a function, or for type checkers."""
LAZY = "postgres"
"""Modules of `destinations` with this prefix import psycopg; other modules import them in functions only."""
WITHOUT_TORCH = ("core", "config", "schemas", "storage", "sources", "destinations", "preparation", "datasets")
WITH_TORCH = {"pipeline/core/bootstrap.py"}
"""Data stages do not import it."""
DATA_STAGES = ("ingest", "admit", "clean", "encode", "split")


@cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def module(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def package_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return next((known for n in (2, 1) if (known := ".".join(parts[:n])) in LEVEL), None)


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_imports_run_down(folder: Path):
    for path in sorted(folder.glob("*.py")):
        own = package_of(module(path))
        if own is None or module(path) in KEPT_FOR_OLD_MODELS:
            continue
        up = {to for to in imports(path) if (of := package_of(to)) and of != own and LEVEL[of] >= LEVEL[own]}
        assert not up, f"{name(path)} (layer {LEVEL[own]}) imports {sorted(up)}"
        forbidden = {to for to in imports(path) if to.startswith(FORBIDDEN.get(own, ("-",)))}
        assert not forbidden, f"{name(path)} must not know {sorted(forbidden)}"


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_private_names_stay_in_their_package(folder: Path):
    for path in sorted(folder.glob("*.py")):
        own = package_of(module(path))
        foreign = {
            to
            for to in imports(path)
            if package_of(to) not in (None, own) and any(p.startswith("_") for p in to.split("."))
        }
        assert not foreign, f"{name(path)} imports private names: {sorted(foreign)}"


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_heavy_libraries_have_one_importer(folder: Path):
    without_torch = folder.relative_to(CHECKOUT).parts[:2] in {("pipeline", package) for package in WITHOUT_TORCH}
    for path in sorted(folder.glob("*.py")):
        roots = {dotted.split(".")[0] for dotted in imports(path)}
        for library, importers in ONLY_IMPORTERS.items():
            assert library not in roots or name(path).startswith(importers), f"{name(path)} imports {library}"
        if without_torch:
            assert "torch" not in roots or name(path) in WITH_TORCH, f"{name(path)} imports torch"


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_packages_say_what_they_hold(folder: Path):
    tree = ast.parse((folder / "__init__.py").read_text())
    assert ast.get_docstring(tree), f"{name(folder)} has no docstring"
    if folder.parent.name != "pipeline":
        return
    listed = [
        [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
        for node in tree.body
        if isinstance(node, ast.Assign) and any(getattr(to, "id", "") == "__all__" for to in node.targets)
    ]
    assert listed, f"{name(folder)} has no __all__"
    if folder.name in ("models", "stages"):
        return  # these list names, not modules
    there = {p.stem for p in folder.glob("[!_]*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    missing = there - set(listed[0]) - {"saving"}
    assert not missing, f"{name(folder)}/__init__.py does not list {sorted(missing)} in __all__"


def test_every_package_of_the_library_has_a_layer():
    folders = {f"pipeline.{path.parent.name}" for path in (CHECKOUT / "pipeline").glob("*/__init__.py")}
    assert folders == {package for package in LEVEL if package.startswith("pipeline.")}


@pytest.mark.parametrize("importer", ["nights", "registry"])
def test_mlflow_is_set_to_be_quiet_before_it_is_imported(importer: str):
    text = (CHECKOUT / "pipeline" / "tracking" / f"{importer}.py").read_text()
    assert text.index("from pipeline.tracking.client import") < text.index("from mlflow")
    client = (CHECKOUT / "pipeline" / "tracking" / "client.py").read_text()
    assert client.index("MLFLOW_DISABLE_TELEMETRY") < client.index("import mlflow")


def test_data_stages_never_import_torch():
    modules = ", ".join(f"pipeline.stages.{stage}" for stage in DATA_STAGES)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


def test_help_imports_nothing_heavy():
    code = "import sys, flows.cli; flows.cli.build_parser().format_help(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for library in ("torch", "prefect", "mlflow", "polars", "duckdb", "pydantic"):
        assert f"'{library}'" not in done.stdout


def test_a_run_imports_what_a_night_may_not_need_only_where_it_does():
    code = "import sys, flows.cli.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    rare = {"urllib.request", "charset_normalizer", "apprise", "scipy", "pandas", "ray", "obstore", "psycopg", "rich"}
    large = {"torch", "prefect", "mlflow", "optuna", "matplotlib", "altair"}
    assert (rare | large) & set(done.stdout.split()) == set()


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_packages_of_extras_are_imported_only_where_needed(folder: Path):
    lazy = LAZY if folder.name == "destinations" else "-"
    for path in sorted(path for path in folder.glob("*.py") if not path.name.startswith(lazy)):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(each.startswith(f"pipeline.destinations.{LAZY}") for each in named), name(path)
                found = {each.split(".")[0] for each in named} & set(ONLY_WHERE_NEEDED)
                assert not found, f"{name(path)} imports {sorted(found)} when it is imported itself"


def test_the_folder_mlflow_is_no_package():
    assert not (CHECKOUT / "mlflow" / "__init__.py").exists()


def test_no_test_imports_another_test():
    """What several tests need is in tests/support."""
    files = sorted((CHECKOUT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")}
    for path in files:
        imported = tests & {part for to in imports(path) for part in to.split(".")}
        if imported:  # the name of a test file may be that of a function, too
            own = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
            assert not imported - own, f"{name(path)} imports {sorted(imported - own)}"
