"""Which files a night reads: those in the data folder and, in incremental mode, those of earlier nights, by content."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.dataset import LATER, Columns, Dataset, Reading
from pipeline.config.queries import CONNECTION
from pipeline.core.errors import UnreadableInput
from pipeline.sources import files, incremental
from pipeline.sources.catalog_reader import other_columns
from pipeline.sources.extra_columns import extra_columns
from pipeline.sources.revisions import revisions_of

VERSION = 2
"""Version of the stage `ingest`; raise it when its result changes."""

_ALWAYS = ("user", "item", "rating", "timestamp", "timestamp_unit")
"""Keys of `[columns]` that are in the lake key of every data set."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of one night, identified by the SHA-256 of their content."""

    order: list[tuple[str, str]]
    """Name and digest of every file of the result, in the order of the rows."""
    present: dict[str, str]
    """Files in the data folder: name to digest."""
    earlier: incremental.Seen
    """Files that earlier nights have read, in incremental mode: digest to name."""
    withdrawn: list[str]
    """Files that only nights have read whose source was refused, and whose rows are in no file any more."""
    sizes: dict[str, int]
    """Bytes of the files of an incremental source by digest, as far as they are known."""
    catalog: dict[str, str]
    """Files of `dataset.items`: name to digest."""
    catalog_columns: list[str]
    """Columns of the catalog that are kept because they are there, not because a key names them."""
    users: dict[str, str]
    """Files of `dataset.users`: name to digest."""
    revisions: list[str]
    """Kinds of content that are read otherwise than when VERSION was set; the files of this night have them."""

    @property
    def data_hash(self) -> str:
        """Hash of the content of all files."""
        files = [*self.order, *sorted(self.catalog.items()), *sorted(self.users.items())]
        return json_hash([digest for _, digest in files])

    @property
    def present_names(self) -> dict[str, str]:
        """Digest to name of the files in the data folder."""
        return {digest: name for name, digest in self.present.items()}


def find_source_files(dataset: Dataset, data: Path, layer: Path) -> SourceFiles:
    """Find the files of a data set below `data`; `layer` is its `1_raw`. Raises UnreadableInput if one is missing."""
    is_incremental = dataset.source.mode == "incremental"
    earlier = incremental.read_seen(layer) if is_incremental else {}
    refused = incremental.read_refused(layer) if is_incremental else {}
    present = _digests(data, _patterns(dataset), may_be_empty=bool(earlier))
    catalog = _digests(data, dataset.items.files if dataset.items else [])
    columns = other_columns(data, sorted(catalog), dataset.items) if dataset.items else []
    users = _digests(data, dataset.users.files if dataset.users else [])
    order, sizes, withdrawn = sorted(present.items()), dict[str, int](), list[str]()
    if is_incremental:
        sizes = incremental.read_sizes(layer)
        merged = _merged(dataset, data, earlier, present, sizes)
        withdrawn = [
            name
            for name, digests in incremental.contents(refused).items()
            if not any(digest in merged or _begins(data / name, digest, sizes) for digest in digests)
        ]
        order = [(name, digest) for digest, name in merged.items()]
        if not order:
            raise UnreadableInput(f"no file of the source counts: put one into {data}, or change source.drop_files")
        sizes |= {digest: (data / name).stat().st_size for name, digest in present.items()}
    revisions = revisions_of(dataset, data, [] if is_incremental else sorted(present), [*catalog, *users])
    return SourceFiles(order, present, earlier, withdrawn, sizes, catalog, columns, users, revisions)


def _merged(
    dataset: Dataset, data: Path, earlier: incremental.Seen, present: dict[str, str], sizes: dict[str, int]
) -> incremental.Seen:
    """The files of an incremental source that count now."""
    there = {digest: name for name, digest in present.items()}

    def is_grown(name: str, digest: str) -> bool:
        return _begins(data / name, digest, sizes)

    gone = incremental.replaced(earlier, present, dataset.source.changed_files, is_grown)
    return incremental.merge(earlier, there, gone | incremental.dropped(earlier, there, dataset.source.drop_files))


def _begins(path: Path, digest: str, sizes: dict[str, int]) -> bool:
    return digest in sizes and path.exists() and incremental.begins_with(path, digest, sizes[digest])


def key_settings(dataset: Dataset, source: SourceFiles) -> dict[str, Any]:
    """All settings and contents that decide the result of `ingest`, for its lake key."""
    items = _reading(dataset.items) if dataset.items else None
    if items and source.catalog_columns:
        items["columns"] = source.catalog_columns
    contents = {"files": source.order, "catalog": source.catalog, "data_hash": source.data_hash}
    return {
        **layout_settings(dataset), "items": items, "max_reject_rate": dataset.source.max_reject_rate, **contents,
        **({"users": _reading(dataset.users, ()), "users_files": source.users} if dataset.users else {}),
        **({"revisions": source.revisions} if source.revisions else {}),
    }  # fmt: skip


def layout_settings(dataset: Dataset) -> dict[str, Any]:
    """The settings that decide what is read from one file."""
    layout = dataset.source.model_dump(include={"delimiter", "header", "column_names", "encoding", "quote"})
    layout |= dataset.source.later_keys()
    columns, missing = _columns(dataset), dataset.feedback.missing_ratings
    extra = extra_columns(dataset)
    return {
        "version": VERSION, "layout": layout, "columns": columns, "missing_ratings": missing,
        **({"extra_columns": extra} if extra else {}),
    }  # fmt: skip


def part_of(dataset: Dataset, layer: Path, digest: str) -> Path:
    """Folder with the rows of one file of an incremental source, by the SHA-256 of its content and how it is read."""
    return incremental.folder(layer) / f"{digest[:16]}-{json_hash(layout_settings(dataset))[:8]}"


def _reading(section: Reading, left_out: Sequence[str] = ("files", "columns")) -> dict[str, Any]:
    """The settings of a section with files; those of LATER only where they are set."""
    return section.model_dump(exclude={*left_out, *LATER, *CONNECTION}) | section.later_keys()


def _columns(dataset: Dataset) -> dict[str, Any]:
    """The settings of `[columns]`. How numbers are written counts where it is unusual: keys of other data sets stay."""
    columns, usual = dataset.columns.model_dump(), Columns().model_dump()
    return {key: value for key, value in columns.items() if key in _ALWAYS or value != usual[key]}


def json_hash(content: object) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def source_names(dataset: Dataset, data: Path) -> list[str]:
    """Names of the interaction files in `data`. Raises UnreadableInput if one is missing."""
    return files.find_files(data, _patterns(dataset))


def _patterns(dataset: Dataset) -> list[str]:
    if dataset.source.files:
        return dataset.source.files
    if dataset.published:
        return [dataset.published.train, dataset.published.test]
    raise UnreadableInput(f"data set {dataset.name}: source.files is empty; list the interaction files there")


def _digests(folder: Path, patterns: list[str], may_be_empty: bool = False) -> dict[str, str]:
    """Name to SHA-256 of the files that match. `may_be_empty`: a pattern need not match any."""
    if may_be_empty:
        patterns = [pattern for pattern in patterns if files.has_files(folder, pattern)]
    names = files.find_files(folder, patterns)
    return {name: files.fingerprint(folder / name) for name in names}
