"""Data set names as people type them."""

import os
import shlex
from pathlib import Path

from pipeline.config import toml_files
from pipeline.core import paths
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest

OWN_FILE = "; one of your own is also given by its file, e.g. ./mine.toml"


def unknown_dataset(home: Home, dataset: str) -> str:
    """What to say where nothing is published under a name."""
    from pipeline.storage import journal  # imports polars, and commands that find their tables don't need it

    if journal.run_ids(home, dataset):
        return f"nothing is published for {dataset!r} yet; `nightrecs status {dataset}` says how its last night went"
    published = sorted(path.stem for path in home.warehouse.glob("*.duckdb"))
    shipped = {path.stem for path in paths.DATASETS.glob("*.toml")}
    text = f"nothing is published for {dataset!r} in {home.warehouse}{nearest(dataset, published)}"
    if published:
        text += f"; there are: {', '.join(published)}"
    elif dataset not in shipped:
        text += nearest(dataset, shipped)
    return text + (f"; try `nightrecs run {dataset}`" if dataset in shipped else "")


def runnable(home: Home, dataset: str) -> str:
    """What `run` takes for a data set: the name of a shipped one; one's own by the file of its newest night, with
    `--data` where that night was given another folder. `./NAME.toml` where no night recorded its file."""
    if dataset.endswith(".toml"):
        return shlex.quote(dataset)
    from pipeline.storage import journal

    is_shipped = (paths.DATASETS / f"{dataset}.toml").exists()
    nights = (journal.find_run(home, dataset, run_id) or {} for run_id in reversed(journal.run_ids(home, dataset)))
    night = next((night for night in nights if is_shipped or night.get("toml")), {})
    if "toml" not in night:
        return shlex.quote(dataset if is_shipped else f"./{dataset}.toml")
    toml, data = Path(night["toml"]), Path(night.get("data") or "")
    here = Path.cwd()
    words = [f"./{toml.relative_to(here)}" if toml.is_relative_to(here) else str(toml)]
    root = os.environ.get("NIGHTRECS_DATA")
    usual = [toml.parent, *([Path(root).expanduser().resolve() / dataset] if root else [])]
    is_given = data.is_dir() and data not in usual and not data.is_relative_to(home.root)
    return shlex.join([*words, "--data", str(data)] if is_given else words)


def dataset_name(dataset: str) -> str:
    """The name under which a data set, given by name or TOML, is published."""
    if not dataset.endswith(".toml"):
        return toml_files.check_name(dataset, "data set", OWN_FILE)
    path = toml_files.find_toml(dataset, paths.DATASETS, "data set")
    name = toml_files.read_toml(path).get("name")
    if not isinstance(name, str):
        raise SettingsError(f"{path}: name: is missing")
    try:
        return toml_files.check_name(name, "data set")
    except SettingsError as error:
        raise SettingsError(f"{path}: name: {error}") from None
