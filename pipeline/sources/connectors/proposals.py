"""What `init` proposes for a source that is not a file of this machine: a few rows are fetched and sniffed."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from pipeline.config.dataset import Dataset, Source
from pipeline.core.errors import SettingsError
from pipeline.sources import files
from pipeline.sources.connectors import fetching, object_stores
from pipeline.sources.sniffing.columns_section import quoted
from pipeline.sources.sniffing.interactions import Proposal, propose

ROWS = 10_000
"""Rows of a query that are looked at."""
_FILES = re.compile(r"(?m)^files = .*$")
_HEAD = re.compile(r"(?m)^# Sniffed from .*$")


def is_fetched(source: str, query: str | None) -> bool:
    """Whether `init` gets a URL or a query instead of a file."""
    return query is not None or object_stores.is_remote(source)


def propose_fetched(source: str, query: str | None, password_env: str | None, toml: Path, name: str = "") -> Proposal:
    """The data set of a URL, or of a query on a folder, a DuckDB file or a database; `toml` is where it will be.

    Without a `name` it has that of the file or of the database.

    Raises SettingsError and UnreadableInput as a night would.
    """
    keys = _keys(source, query, password_env, toml)
    try:
        section = Source.model_validate(keys)
    except ValidationError as error:
        raise SettingsError(f"init: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    place = Path(source).expanduser()
    own = place if query is not None and place.is_dir() else toml.parent
    with tempfile.TemporaryDirectory(prefix="nightrecs-init-") as scratch:
        folder = Path(scratch, "fetched")
        folder.mkdir()
        dataset = Dataset(name="init", source=section)
        found = fetching.fetch(fetching.Request(dataset, Path("init"), own.resolve(), rows=ROWS), folder)
        first = folder / files.find_files(folder, found.source.files)[0]
        sniffed = Path(scratch, f"{_name(source)}{'.parquet' if query is not None else ''.join(first.suffixes)}")
        first.rename(sniffed)
        proposal = propose(sniffed, name)
    lines = "\n".join(f"{key} = {_toml(value)}" for key, value in keys.items())
    text = _HEAD.sub(lambda _: f"# Sniffed from the first rows of {_shown(source, query)}; check it.", proposal.toml, 1)
    return replace(proposal, toml=_FILES.sub(lambda _: lines, text, 1))


def _keys(source: str, query: str | None, password_env: str | None, toml: Path) -> dict[str, object]:
    """The keys of [source] that say where the rows are."""
    if query is None:
        if source.split("://")[0] not in object_stores.SCHEMES:
            raise SettingsError(f"init {source.split('://')[0]}://…: add --query 'select …', which says what to read")
        return {"files": [source]}
    keys: dict[str, object] = {"query": query}
    place = Path(source).expanduser()
    if object_stores.is_remote(source):
        keys["url"] = source
    elif place.is_file():
        is_near = not place.is_absolute() and toml.parent.resolve() == Path.cwd()
        keys["database"] = source if is_near else str(place.resolve())
    elif not place.is_dir():
        raise SettingsError(
            f"init {source} --query: there is no such file or folder; name a folder, a DuckDB file or a URL"
        )
    return keys | ({"password_env": password_env} if password_env else {})


def _name(source: str) -> str:
    """A name for the data set: of the file, or of the database."""
    path = (
        unquote(urlsplit(source).path) if object_stores.is_remote(source) else str(Path(source).expanduser().resolve())
    )
    return re.sub(r"[*?\[\]]+", "", Path(path).name.split(".")[0]) or "dataset"


def _shown(source: str, query: str | None) -> str:
    return repr(source) if query is None else "the query"


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(quoted, value))}]"
    text = str(value)
    return f"'''\n{text}'''" if "\n" in text and "'''" not in text else quoted(text)
