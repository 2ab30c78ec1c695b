"""Where a data set's files are."""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources import files


def resolve_data(
    dataset: Dataset, toml: Path, data: str | Path | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """The folder of the files: `--data`, else `$NIGHTRECS_DATA/<name>`, else the TOML's; the first with a file.

    `<name>` is `source.folder` where that is set. Raises UnreadableInput that names all the places looked at.
    """
    places = [Path(data).expanduser()] if data else []
    if not places:
        if root := environ.get("NIGHTRECS_DATA"):
            places.append(Path(root).expanduser() / (dataset.source.folder or dataset.name))
        places.append(toml.parent)
    patterns = dataset.source.files or ([dataset.published.train] if dataset.published else [])
    for place in places:
        if any(_has(place, pattern) for pattern in patterns):
            return place.resolve()
    if dataset.source.mode == "incremental" and places[0].is_dir():
        return places[0].resolve()  # earlier nights have read the files; there may be none tonight
    looked = ", ".join(str(place) for place in places)
    missing = "" if data or environ.get("NIGHTRECS_DATA") else ", or set NIGHTRECS_DATA to the folder that has it"
    sought = " or ".join(patterns) or "files"
    raise UnreadableInput(
        f"data set {dataset.name}: found no {sought} in {looked}; name the folder with --data{missing}"
    )


def folder_of(
    dataset: Dataset, toml: Path, data: str | Path | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """The folder of a data set whose interactions are not files of its own: the first of the same places that is there.

    Raises UnreadableInput if `--data` is no folder.
    """
    if data:
        if not (folder := Path(data).expanduser()).is_dir():
            raise UnreadableInput(f"data set {dataset.name}: --data {folder} is no folder")
        return folder.resolve()
    root = environ.get("NIGHTRECS_DATA")
    place = Path(root).expanduser() / (dataset.source.folder or dataset.name) if root else toml.parent
    return (place if place.is_dir() else toml.parent).resolve()


def _has(folder: Path, pattern: str) -> bool:
    try:
        return bool(files.find_files(folder, [pattern]))
    except UnreadableInput:
        return False
