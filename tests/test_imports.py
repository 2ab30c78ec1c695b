"""Imports go one way, heavy libraries have one importer each, and --help needs none of them."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
FILES = sorted([*(CHECKOUT / "flows").rglob("*.py"), *(CHECKOUT / "pipeline").rglob("*.py")])
ONLY_IMPORTERS = {
    "duckdb": {"pipeline/warehouse.py"},
    "mlflow": {
        "flows/mlflow_app.py",
        "pipeline/champion_pyfunc.py",
        *(f"pipeline/tracking{part}.py" for part in ("", "_client", "_registry")),
    },
    "matplotlib": {"pipeline/plots.py"},
    "lightning_fabric": {"pipeline/processes.py"},
}
BOTTOM = {
    "contracts", "tables", "paths", "section", "dataset_settings", "publishing_settings", "settings", "rng", "device",
    "conditions", "layers", "masking", "terminal", "progress",
}  # fmt: skip
DATA_STAGES = {"ingest", "clean", "encode", "split"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_heavy_libraries_have_one_importer(path: Path):
    roots = {module.split(".")[0] for module in imports(path)}
    for library, importers in ONLY_IMPORTERS.items():
        assert library not in roots or name(path) in importers, f"{name(path)} imports {library}"
    assert "prefect" not in roots or name(path).startswith("flows/")


@pytest.mark.parametrize("module", ["tracking", "tracking_registry"])
def test_mlflow_is_told_to_be_quiet_before_it_is_imported(module: str):
    text = (CHECKOUT / "pipeline" / f"{module}.py").read_text()
    assert text.index("from pipeline.tracking_client import") < text.index("from mlflow")
    client = (CHECKOUT / "pipeline" / "tracking_client.py").read_text()
    assert client.index("MLFLOW_DISABLE_TELEMETRY") < client.index("import mlflow")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_one_way(path: Path):
    ours = {module for module in imports(path) if module.split(".")[0] in ("flows", "pipeline")}
    if name(path).startswith("pipeline/"):
        assert not {m for m in ours if m.startswith("flows")}, "the library knows nothing of the flows"
    if not name(path).startswith(("flows/", "pipeline/stages/")):
        assert not {m for m in ours if m.startswith("pipeline.stages")}, "only flows and stages import stages"
    if path.parent.name == "pipeline" and path.stem in BOTTOM:
        known = {f"pipeline.{module}" for module in BOTTOM}
        assert all(any(m == k or m.startswith(k + ".") for k in known) or m == "pipeline" for m in ours), ours
    if path.parent.name == "models":
        lower = ("warehouse", "tracking", "journal", "lake", "paths", "run", "settings", "ranking", "metrics")
        assert not {m for m in ours if m.split(".")[1:2] and m.split(".")[1] in lower}, ours


@pytest.mark.parametrize("stage", sorted(DATA_STAGES))
def test_data_stages_never_import_torch(stage: str):
    code = f"import sys, pipeline.stages.{stage}; sys.exit('torch' in sys.modules or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


def test_help_imports_nothing_heavy():
    code = "import sys, flows.cli; flows.cli.build_parser().format_help(); print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    for library in ("torch", "prefect", "mlflow", "polars", "duckdb", "pydantic"):
        assert f"'{library}'" not in loaded


def test_help_answers_at_once():
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flows.cli", "--help"], cwd=CHECKOUT, capture_output=True, check=True)
    assert time.perf_counter() - started < 2  # 0.1 s on an idle machine; the bound only catches a heavy import


def test_the_folder_mlflow_is_no_package():
    assert not (CHECKOUT / "mlflow" / "__init__.py").exists()
