"""Which version of each object of a bucket an incremental source has read, so that it is not downloaded again.

An object is left out only if all of this holds: its store gives it the e-tag, size and version that it had when it was
downloaded; its content is on the list of what was read, by a night whose source was admitted; and its rows are kept,
whole, as the settings read them now.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.dataset import Dataset
from pipeline.core.filesystem import write_atomically
from pipeline.sources import incremental
from pipeline.sources.source_files import part_of
from pipeline.storage import lake, state_files

NAME = "fetched.json"


@dataclass
class Known:
    """Objects by URL."""

    stamps: dict[str, str]
    """What identifies the version of each object whose rows are kept."""
    new: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Stamp and SHA-256 of each object that was downloaded now."""

    def is_kept(self, url: str, stamp: str | None) -> bool:
        """Whether the rows of this version of an object are kept."""
        return stamp is not None and self.stamps.get(url) == stamp


def stamp_of(meta: Mapping[str, Any]) -> str | None:
    """What identifies a version of an object; None if its store does not say."""
    tag = meta["e_tag"]
    return json.dumps([tag, meta["size"], meta["version"]]) if tag and not str(tag).startswith("W/") else None


def read(dataset: Dataset, layer: Path) -> Known:
    """The objects whose rows are kept below the `1_raw` of a data set."""
    seen = incremental.read_seen(layer)
    asked = incremental.contents_of(seen, dataset.source.drop_files)  # only what is downloaded is known to be there
    stamps: dict[str, str] = {}
    for url, entry in _recorded(layer).items():
        digest = str(entry.get("sha256"))
        if digest in seen.keys() - asked and lake.is_complete(part_of(dataset, layer, digest)):
            stamps[url] = str(entry.get("stamp"))
    return Known(stamps)


def write(layer: Path, known: Known) -> None:
    """Record what was downloaded. Its rows are not read yet: `read` looks whether they are."""
    entries = _recorded(layer)
    entries |= {url: {"stamp": stamp, "sha256": digest} for url, (stamp, digest) in known.new.items()}
    path = incremental.folder(layer) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(entries, indent=1))


def _recorded(layer: Path) -> dict[str, dict[str, Any]]:
    found = state_files.read(incremental.folder(layer) / NAME, dict) or {}
    return {str(url): entry for url, entry in found.items() if isinstance(entry, dict)}
