"""Paths of all stored files. A home holds everything that runs write; homes are independent of each other."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

CHECKOUT = Path(__file__).resolve().parents[2]
"""Folder with the packages `flows` and `pipeline`: the checkout, or site-packages."""
SQL = next(p for p in (Path(__file__).resolve().parents[1] / "sql", CHECKOUT / "sql") if p.is_dir())
"""In a wheel it is inside the package; a folder `sql` in site-packages would belong to another package."""
DATASETS = Path(__file__).resolve().parents[1] / "datasets"
RECIPES = CHECKOUT / "flows" / "recipes"
REFUSED = frozenset("*?[\\#")
"""Characters that are not allowed in the path of a home: DuckDB and Polars read the first ones as a pattern or a
separator, and MLflow reads a path like a URL, which ends at a `#`."""


def from_checkout(folder: Path = CHECKOUT) -> bool:
    """Whether the code runs from a checkout of nightrecs, not from an installed package."""
    if {"site-packages", "dist-packages"} & set(folder.parts):
        return False
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == "nightrecs"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _odd_character(path: str) -> str | None:
    """The first character that is not allowed in a home's path. A `%` counts if two hexadecimal digits follow."""
    found = next((character for character in path if character in REFUSED or not character.isprintable()), None)
    return found or ("%" if unquote(path) != path else None)


def default_home() -> tuple[Path, str]:
    """The home when none is configured, and why it was chosen."""
    if from_checkout():
        return CHECKOUT, "the checkout"
    here = Path.cwd()
    if Home(here).marker.is_file() or Home(here).lock("_").parent.is_dir():
        return here, "the current folder, which is a home"
    import platformdirs

    return platformdirs.user_data_path("nightrecs", appauthor=False), "the data folder of this user"


def _of_target() -> Path | None:
    if not os.environ.get("NIGHTRECS_TARGET"):
        return None
    from pipeline.core import targets

    target = targets.chosen()
    return target and target.home


@dataclass(frozen=True)
class Home:
    """Paths below one home. Nothing is created here."""

    root: Path

    @classmethod
    def resolve(cls, option: str | Path | None = None) -> "Home":
        """`--home`, else the home of the target (`--target`), else NIGHTRECS_HOME, else `default_home`.

        Raises SettingsError for an unknown target.
        """
        chosen = option or _of_target() or os.environ.get("NIGHTRECS_HOME") or default_home()[0]
        root = Path(chosen).expanduser().resolve()
        if odd := _odd_character(str(root)):
            from pipeline.core.errors import UnreadableInput  # imports Polars

            raise UnreadableInput(
                f"the home {str(root)!r} has the character {odd!r} in its path, which DuckDB, Polars, MLflow or a "
                "terminal does not take as it is; choose a folder without it: --home, or NIGHTRECS_HOME"
            )
        return cls(root)

    @property
    def marker(self) -> Path:
        """File that identifies the home; see home_identity.py."""
        return self.warehouse / "home.json"

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
        """Default of PREFECT_HOME."""
        return self.root / ".prefect"

    @property
    def api_auth(self) -> Path:
        """File with the auth string of the Prefect server that `up` starts."""
        return self.prefect / "api-auth.txt"

    @property
    def mlflow_auth(self) -> Path:
        """File with the auth string of the MLflow server that `up` starts."""
        return self.prefect / "mlflow-auth.txt"

    def live(self, dataset: str) -> Path:
        """The database that readers open."""
        return self.warehouse / f"{dataset}.duckdb"

    def generations(self, dataset: str) -> Path:
        """Folder of the kept generations."""
        return self.warehouse / "generations" / dataset

    def generation(self, dataset: str, run_id: str) -> Path:
        """The published file of one run."""
        return self.generations(dataset) / f"{run_id}.duckdb"

    def lake(self, dataset: str) -> Path:
        """Folder of the stage results."""
        return self.warehouse / "lake" / dataset

    def journal(self, dataset: str) -> Path:
        """Folder with one journal per run."""
        return self.warehouse / "journal" / dataset

    def operations(self, dataset: str) -> Path:
        """Log of manual operations, one JSON line each."""
        return self.journal(dataset) / "operations.jsonl"

    def forgotten(self, dataset: str) -> Path:
        """Hashes of the users whom every run excludes."""
        return self.journal(dataset) / "forgotten.json"

    def checksums(self, dataset: str) -> Path:
        """SHA-256 of the kept generations and of the live file."""
        return self.journal(dataset) / "checksums.json"

    def destinations(self, dataset: str) -> Path:
        """What the destinations of `[publish]` have."""
        return self.journal(dataset) / "destinations.json"

    def lakes(self, dataset: str) -> Path:
        """The shared lakes that nights have used."""
        return self.journal(dataset) / "lakes.json"

    @property
    def reports(self) -> Path:
        """Folder of the reports."""
        return self.warehouse / "reports"

    def report(self, dataset: str, run_id: str) -> Path:
        """The report of one run."""
        return self.reports / dataset / f"{run_id}.html"

    def replays(self, dataset: str) -> Path:
        """Folder of the databases of replayed runs, and of the homes in which they are built."""
        return self.warehouse / "replays" / dataset

    def lock(self, name: str) -> Path:
        """Lock file of a data set, or of the home (name `_home`)."""
        return self.warehouse / "journal" / f"{name}.lock"
