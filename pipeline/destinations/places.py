"""The destinations of `[publish]` by name, and what each can do. Importing this module imports no client."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.config.destinations import ParquetDestination, PostgresDestination, Publish
from pipeline.core.paths import Home
from pipeline.core.redaction import without_examples
from pipeline.destinations.errors import NotDelivered
from pipeline.destinations.published_file import Night
from pipeline.storage import journal
from pipeline.storage.file_stores import StoreError

INSTALL = "pip install 'nightrecs[connectors]'"
Settings = PostgresDestination | ParquetDestination
SETTINGS: dict[str, type[Settings]] = {"postgres": PostgresDestination, "parquet": ParquetDestination}
"""By kind: the key in `[publish]`, and the first word of a name."""


class Destination(Protocol):
    """A place that the tables are copied to. Methods raise StoreError, or StoreDown where trying again may help."""

    kind: str

    @property
    def name(self) -> str:
        """From the settings, without credentials."""
        ...

    def address(self) -> str:
        """Where it is, without credentials."""
        ...

    def check(self, home_id: str | None) -> str:
        """Look whether it can be published to; returns what is there."""
        ...

    def publish(self, night: Night, patience: float, say: Callable[[str], None], alone: bool = False) -> bool:
        """Copy a night; false if it is there already. `alone`: no other night stays."""
        ...

    def damage(self, night: Night) -> list[str]:
        """What is missing there of a night that was copied; empty if it is whole."""
        ...

    def remove(self, home_id: str) -> bool:
        """Remove what was published; false if nothing is there."""
        ...


def made(settings: Settings, dataset: str) -> Destination:
    """A destination. Its module imports psycopg, or for Parquet in a bucket obstore."""
    if isinstance(settings, PostgresDestination):
        from pipeline.destinations.postgres import Postgres

        return Postgres(settings, dataset)
    from pipeline.destinations.parquet import Parquet

    return Parquet(settings, dataset)


def names_of(publish: Publish, dataset: str) -> dict[str, Settings]:
    """Settings of each destination by its name."""
    found: dict[str, Settings] = {}
    if each := publish.postgres:
        found[f"postgres {each.url_env} {each.schema_name or dataset}"] = each
    if each := publish.parquet:
        found[f"parquet {each.url}"] = each
    return found


def settings_now(home: Home, dataset: str) -> Publish:
    """`[publish]` of the newest published night: commands have no recipe."""
    for run_id in reversed(journal.run_ids(home, dataset)):
        if (journal.find_run(home, dataset, run_id) or {}).get("outcome") == "published":
            try:
                return Publish.model_validate((journal.read_settings(home, dataset, run_id) or {}).get("publish") or {})
            except ValueError:
                continue
    return Publish()


def check_place(home: Home, settings: Settings) -> None:
    """Raise NotDelivered for a folder that has, or is in, the home's own."""
    if isinstance(settings, ParquetDestination) and not settings.is_bucket:
        place = Path(settings.url).resolve()
        if place.is_relative_to(home.warehouse) or home.warehouse.is_relative_to(place):
            raise NotDelivered(f"{settings.url} is in the folder of the home's own tables; choose another one")


def explained(error: Exception) -> str:
    """An error as a message, without what may be values of tables."""
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, ImportError):
        return f"{error.name} is not installed: {INSTALL}"
    return f"{type(error).__name__}: {without_examples(str(error).splitlines()[0] if str(error) else '')}".rstrip(": ")
