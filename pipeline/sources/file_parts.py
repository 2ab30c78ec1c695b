"""Source files that an engine reads ahead of `ingest`, each a part of its own."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import temporary_name
from pipeline.sources import exclusions, files
from pipeline.sources.file_reader import FileResult, read_file
from pipeline.storage import journal, warehouse
from pipeline.storage.warehouse import Connection


def read_ahead(run: Run, wanted: dict[int, tuple[str, str]], scratch: Path) -> dict[int, tuple[Path, FileResult]]:
    """Read source files by the engine, if there is one. Returns their folders in `scratch` and results, by number.

    `wanted`: name and SHA-256 by number. A file that another machine does not have, or has with other content, is left
    out, and a note says so: only the home is known to be the same everywhere. Raises as `read_file` does.
    """
    engine = spread.engine()
    if not engine.is_elsewhere or len(wanted) < 2:
        return {}
    into = {number: scratch / f"ahead-{number}" for number in wanted}
    calls = [(run, name, digest, into[number]) for number, (name, digest) in wanted.items()]
    results = dict(zip(wanted, engine.each(read_part, calls), strict=True))
    found = {number: (into[number], result) for number, result in results.items() if result is not None}
    if missing := len(results) - len(found):
        journal.note(
            run,
            f"ingest: {missing} of {len(results)} source files were read here: machines of the cluster do not have "
            "them, or with other content, below the same path",
        )
    return found


def read_part(run: Run, name: str, digest: str, into: Path) -> FileResult | None:
    """Write the folder `into` of one file, by a rename. None if the file that is seen here has another content."""
    try:
        if files.fingerprint(run.data / name) != digest:
            return None
    except UnreadableInput:
        return None
    own, settings = temporary_name(into), run.settings
    spill = own.with_name(f"{own.name}-spill")
    try:
        with warehouse.connect(temporary=spill, threads=settings.threads, memory_limit=settings.memory_limit) as con:
            result = read_into(con, run, name, own)
        try:
            own.rename(into)
        except OSError:
            if not into.exists():  # else another process was first, with the same rows
                raise
        return result
    finally:
        for path in (own, spill):
            files.remove(path)


def read_into(con: Connection, run: Run, name: str, into: Path) -> FileResult:
    """Write rows and rejected lines of a source file into the new folder `into`, without what a night must not have."""
    into.mkdir()
    result = read_file(con, run.data / name, name, run.settings.dataset, into)
    return exclusions.apply(run, into, result)
