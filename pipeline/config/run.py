"""One run, as its stages see it: small, immutable and JSON-serializable, so that tasks can pass it on."""

import datetime as dt
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.config.settings import Settings
from pipeline.core.paths import Home
from pipeline.core.run_ids import moment_of, new_run_id, utcnow

__all__ = ["Run", "moment_of", "new_run_id", "utcnow"]


class Run(BaseModel):
    """Identity, settings, input and home of a run. It is the first argument of every stage."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    run_id: str
    home_root: Path
    data: Path
    """Folder with the files of `dataset.source.files`."""
    own_data: Path | None = None
    """The data set's own folder, where `data` is what was fetched for this run."""
    toml: Path | None = None
    """The data set's own TOML; None for a shipped one."""
    settings: Settings
    started_at: dt.datetime
    """UTC, naive."""
    as_of: dt.datetime | None = None
    """Set in a replay: only interactions before this time are used. UTC, naive."""
    flow_run_id: str | None = None
    """Prefect's id of the flow run, if there is one."""

    @property
    def home(self) -> Home:
        """The home that this run writes to."""
        return Home(self.home_root)

    @property
    def origin(self) -> Path:
        """The folder that stays: `data` goes with the process if it was fetched."""
        return self.own_data or self.data

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.settings.dataset.name
