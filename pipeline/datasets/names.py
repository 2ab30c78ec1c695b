"""Data set names as people type them."""

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


def runnable(dataset: str) -> str:
    """What `run` takes for a data set: the name of a shipped one; one's own by its file, here where it isn't known."""
    is_known = dataset.endswith(".toml") or (paths.DATASETS / f"{dataset}.toml").exists()
    return dataset if is_known else f"./{dataset}.toml"


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
