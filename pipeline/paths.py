"""The name of everything at rest. A home holds all that runs write; two homes never touch each other."""

import os
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SQL = next(p for p in (CHECKOUT / "sql", Path(__file__).resolve().parent / "sql") if p.is_dir())
DATASETS = Path(__file__).resolve().parent / "datasets"
RECIPES = CHECKOUT / "flows" / "recipes"


@dataclass(frozen=True)
class Home:
    """Folder names below one home; nothing is created here."""

    root: Path

    @classmethod
    def resolve(cls, option: str | Path | None = None) -> "Home":
        """`--home`, else NIGHTRECS_HOME, else the checkout."""
        return cls(Path(option or os.environ.get("NIGHTRECS_HOME") or CHECKOUT).expanduser().resolve())

    @property
    def warehouse(self) -> Path:
        """Folder of the published databases."""
        return self.root / "warehouse"

    @property
    def mlflow_db(self) -> Path:
        """MLflow's SQLite backend."""
        return self.root / "mlflow" / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifact root."""
        return self.root / "mlflow" / "artifacts"

    @property
    def prefect(self) -> Path:
        """PREFECT_HOME where the user has not set one."""
        return self.root / ".prefect"

    def live(self, dataset: str) -> Path:
        """The name that readers open."""
        return self.warehouse / f"{dataset}.duckdb"

    def generations(self, dataset: str) -> Path:
        """Folder of the kept generations."""
        return self.warehouse / "generations" / dataset

    def generation(self, dataset: str, run_id: str) -> Path:
        """One night's published file."""
        return self.generations(dataset) / f"{run_id}.duckdb"

    def lake(self, dataset: str) -> Path:
        """Folder of the stages' results."""
        return self.warehouse / "lake" / dataset

    def journal(self, dataset: str) -> Path:
        """Folder with one journal a night."""
        return self.warehouse / "journal" / dataset

    def operations(self, dataset: str) -> Path:
        """What people did between the nights, one JSON line each."""
        return self.journal(dataset) / "operations.jsonl"

    def forgotten(self, dataset: str) -> Path:
        """Hashes of the users whom every night leaves out."""
        return self.journal(dataset) / "forgotten.json"

    def checksums(self, dataset: str) -> Path:
        """SHA-256 of the kept generations and of the live file."""
        return self.journal(dataset) / "checksums.json"

    @property
    def reports(self) -> Path:
        """Folder of the reports."""
        return self.warehouse / "reports"

    def report(self, dataset: str, run_id: str) -> Path:
        """One night's report."""
        return self.reports / dataset / f"{run_id}.html"

    def replays(self, dataset: str) -> Path:
        """Folder of the replayed nights' databases, and of the homes in which they are made."""
        return self.warehouse / "replays" / dataset

    def lock(self, name: str) -> Path:
        """Lock file of a data set, or of the home (name `_home`)."""
        return self.warehouse / "journal" / f"{name}.lock"
