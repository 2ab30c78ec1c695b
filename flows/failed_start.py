"""A night that fails before it begins, such as one whose source can't be read, is a night too: it is in the journal."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flows import outcome
from flows.prepare import target_of
from pipeline.config import loader
from pipeline.config.run import Run, new_run_id, utcnow
from pipeline.core.errors import ErrorWithIds, Held, Locked
from pipeline.core.paths import Home
from pipeline.storage import home_identity, journal


@contextmanager
def recording(
    dataset: str,
    recipe: str = "nightly",
    data: str | None = None,
    home: str | None = None,
    overrides: list[str] | None = None,
    until: str | None = None,
) -> Generator[None]:
    """Record an error of the block as a crashed night, and notify; then raise it. Not Locked: the other night counts.

    Only of data sets that this home has published: a first try that fails is read by the person who made it. The
    settings must be readable, as the data set is not known otherwise.
    """
    try:
        yield
    except (Locked, Held):
        raise
    except Exception as error:  # also of a disk or of a library: a night that is missing must not look like a good one
        with suppress(Exception):  # the error itself is what matters
            _record(_run_of(dataset, recipe, data, home, overrides), error, until, overrides)
        raise


def _run_of(dataset: str, recipe: str, data: str | None, home: str | None, overrides: list[str] | None) -> Run | None:
    """The night that could not begin; None if the home has published none of its data set."""
    place = Home.resolve(home)
    settings, toml = loader.load_settings(dataset, recipe, overrides, target=target_of(place))
    if not place.live(settings.dataset.name).exists():
        return None
    now = utcnow()
    run_id = new_run_id(now, journal.run_ids(place, settings.dataset.name))
    folder = Path(data) if data else toml.parent
    return Run(run_id=run_id, home_root=place.root, data=folder.resolve(), settings=settings, started_at=now)


def _record(run: Run | None, error: Exception, until: str | None, overrides: Sequence[str] | None) -> None:
    if run is None:
        return
    reason = f"{type(error).__name__}: {error}"
    home_identity.settle(run.home)
    journal.open_run(run, until, overrides)
    journal.keep_traceback(run)
    journal.close_run(run, "crashed", reason, error.ids if isinstance(error, ErrorWithIds) else None)
    outcome.notify(run, "crashed", reason)
