"""Doctor's checks of a home: its contents and its users. They change nothing and hold no lock."""

import os
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator

from flows.orchestration import cluster_access
from pipeline.core.errors import Held, UnreadableInput
from pipeline.core.filesystem import DAMAGED
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.datasets.names import runnable
from pipeline.destinations import health, places
from pipeline.maintenance.free_space import existing
from pipeline.sources.connectors import fetching
from pipeline.storage import checksums, forgotten_users, home_identity, journal, lake, reader, warehouse
from pipeline.storage.file_stores import StoreError
from pipeline.storage.generations import UNFINISHED
from pipeline.storage.lock import lock_holder
from pipeline.storage.secret_files import read_secret

Lines = Iterator[tuple[str, str, str]]


def writable(home: Home) -> Lines:
    """The home is writable."""
    try:
        with tempfile.TemporaryFile(dir=existing(home.warehouse)):
            yield "ok", f"{home.root} is writable", ""
    except OSError as error:
        yield (
            "fail",
            f"can't write to {home.root}: {error.strerror}",
            "choose another with --home, or chown it",
        )


def identity(home: Home) -> Lines:
    """The home was not copied or moved, and this version can read its format."""
    try:
        home_identity.check(home)
    except UnreadableInput as error:
        yield "fail", str(error), "install the version that wrote it, or choose another home"
        return
    event, origin = home_identity.location_state(home)
    changed = {"copied": f"it is a copy of {origin}", "moved": f"it was moved from {origin}",
            "unmarked": "it was made by an older nightrecs"}  # fmt: skip
    if event in changed:
        yield "warn", changed[event], "nothing is lost: the next night makes it a home of its own"
    else:
        yield "ok", "it is new" if event == "new" else f"format {home_identity.FORMAT}, made here or moved here", ""


def locks(home: Home) -> Lines:
    """The holders of locks."""
    held = {path.stem: lock_holder(path) for path in sorted(home.lock("*").parent.glob("*.lock"))}
    running = {name: holder for name, holder in held.items() if holder}
    for name, holder in running.items():
        yield "ok", f"{name} is locked by {holder}", ""
    if not running:
        yield "ok", "no night is running", ""


def nights(home: Home) -> Lines:
    """Nights that the journal has as running although no process holds the lock."""
    stale = 0
    for dataset in datasets(home):
        outcomes = {i: journal.read_run(home, dataset, i).get("outcome") for i in journal.run_ids(home, dataset)}
        open_ones = [run_id for run_id, outcome in outcomes.items() if outcome == "running"]
        if lock_holder(home.lock(dataset)):
            open_ones = open_ones[:-1]
        stale += len(open_ones)
        for run_id in open_ones:
            fix = f"nothing is lost: the next night closes it. nightrecs run {runnable(home, dataset)}"
            yield "warn", f"night {run_id} of {dataset} ended without an outcome", fix
    if not stale:
        yield "ok", "every night in the journal has an outcome", ""


def state(home: Home) -> Lines:
    """Damaged state files: journals that are left out, lists without which no night runs."""
    found = 0
    for dataset in datasets(home):
        for path in sorted(home.journal(dataset).glob(f"*/*{DAMAGED}*")):
            found += 1
            yield "warn", f"{path} is damaged and was set aside", "compare with a backup, or remove it"
        for path in sorted(home.journal(dataset).glob("*/run.json")):
            if journal.find_run(home, dataset, path.parent.name) is None:
                found += 1
                yield "warn", f"{path} can't be used: its night is left out", "the next night sets it aside"
        try:
            forgotten_users.read(home, dataset)
        except UnreadableInput as error:
            found += 1
            yield "fail", str(error).partition("; ")[0], forgotten_users.ADVICE
    if not found:
        yield "ok", "no state file is damaged", ""


def leftovers(home: Home) -> Lines:
    """Unfinished files and folders of processes that ended."""
    found = 0
    for dataset in datasets(home):
        if lock_holder(home.lock(dataset)):
            continue  # they may be of the night that is running
        published = [path for pattern in UNFINISHED for path in home.generations(dataset).glob(pattern)]
        fetched = fetching.abandoned(home.lake(dataset) / lake.SOURCE)
        parts = [*published, *lake.leftovers(home, dataset), *fetched]
        for path in sorted(parts):
            found += 1
            yield "warn", f"{path} was left behind", f"rm -r {shlex.quote(str(path))}"
    if not found:
        yield "ok", "nothing half-built is left behind", ""


def published(home: Home) -> Lines:
    """Every live database opens, and has no stray log next to it."""
    for live in sorted(home.warehouse.glob("*.duckdb")):
        fix = f"nightrecs run {runnable(home, live.stem)}; earlier ones are in {home.generations(live.stem)}"
        if logs := checksums.logs(live):
            found = f"{logs[0]} changes what readers of {live.name} see, or keeps them from it"
            yield "fail", found, f"mv {shlex.quote(str(logs[0]))} somewhere else"
            continue
        try:
            with reader.open_file(live) as con:
                rows = con.sql("SELECT count(*) FROM recommendations").fetchall()[0][0]
        except Held as held:
            yield "fail", str(held), "close it there, or open it read-only; until then readers get the generation"
            continue
        except (warehouse.DatabaseError, OSError) as error:
            yield "fail", f"{live} can't be read: {str(error).splitlines()[0]}", fix
            continue
        yield "ok", f"{live.stem}: {rows:,} recommendations", ""


def writers(home: Home) -> Lines:
    """Whether file modes prevent writing to published files."""
    if os.geteuid():
        yield "ok", "not root: published files are read-only", ""
        return
    found = (
        "runs as root, whom the read-only mode of published files does not stop: a client that opens one without "
        "read_only keeps all others out while it is open, and what it writes is what they read until the next night"
    )
    yield "warn", found, "run nightrecs as a user of its own, clients as others of its group, and those read-only"


def prefect(home: Home) -> Lines:
    """The configured Prefect API answers."""
    from flows.cli.run import answers

    api = os.environ.get("PREFECT_API_URL")
    if not api:
        yield "ok", "PREFECT_API_URL is not set: nights use Prefect's own temporary server", ""
    elif answers(api):
        yield "ok", f"{api} answers", ""
    else:
        fix = "start it, or unset PREFECT_API_URL; nights run without it until then"
        yield "warn", masked(f"PREFECT_API_URL {api} does not answer"), fix


def logins(home: Home) -> Lines:
    """Other users can't read the logins of the servers of `up`."""
    there = [file for file in (home.api_auth, home.mlflow_auth, cluster_access.token_file_of(home)) if file.exists()]
    for file in there:
        try:
            read_secret(file)
            yield "ok", f"only you can read {file}", ""
        except UnreadableInput as error:
            found, _, fix = str(error).rpartition(": ")
            yield "warn", found, fix
    if not there:
        yield "ok", "no login yet: `nightrecs up` makes them", ""


def mlflow(home: Home) -> Lines:
    """MLflow's database opens and has its tables."""
    file = home.mlflow_db
    if not file.exists():
        yield "ok", "no database yet: the first night creates it", ""
        return
    try:
        con = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
        try:
            runs = con.execute("SELECT count(*) FROM runs").fetchone()[0]
        finally:
            con.close()
    except sqlite3.Error as error:
        fix = f"mv {shlex.quote(str(file))} aside: the next night creates a new one and logs what the journal has"
        yield "fail", f"{file} can't be read: {error}", fix
        return
    yield "ok", f"{file}: {runs:,} runs", ""


def destinations(home: Home) -> Lines:
    """The destinations of every data set answer, and belong to it."""
    found = 0
    for dataset in datasets(home):
        checked = health.check(home, dataset, places.settings_now(home, dataset))
        looks = health.looks(home, dataset) if checked and lock_holder(home.lock(dataset)) is None else {}
        for name, trouble, there in checked:
            found += 1
            if (look := looks.get(name)) and look.damage:
                fix = f"nightrecs destinations {dataset} --publish"
                yield "fail", f"{dataset}: {name} is {look}", fix
            elif trouble:
                fix = "nights publish here without it, and copy what it lacks once it answers"
                yield "fail", f"{dataset}: {name}: {trouble}", fix
            else:
                yield "ok", f"{dataset}: {name}: {there}", ""
    if not found:
        yield "ok", "no data set has [publish]", ""


def shared_lake(home: Home) -> Lines:
    """The lake that a data set shares with other homes can be read and written, and has conditional writes."""
    from pipeline.maintenance import shared_results

    found = 0
    for dataset in datasets(home):
        if shared := shared_results.current(home, dataset):
            found += 1
            try:
                yield "ok", f"{dataset}: {shared.url}: {health.within(health.CHECK_SECONDS, shared.probe)}", ""
            except StoreError as error:
                fix = "check the network and the credentials; without it: nightrecs run --set lake.url=none"
                yield "fail", f"{dataset}: {shared.url}: {masked(str(error))}", fix
    if not found:
        yield "ok", "no data set shares a lake", ""


def datasets(home: Home) -> list[str]:
    """Data sets with a journal or published files in this home."""
    folders = [home.journal("*").parent, home.generations("*").parent]
    return sorted({p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_dir()})


CHECKS = {
    "home": writable,
    "identity": identity,
    "locks": locks,
    "nights": nights,
    "state": state,
    "leftovers": leftovers,
    "published": published,
    "writers": writers,
    "prefect": prefect,
    "logins": logins,
    "mlflow": mlflow,
    "destinations": destinations,
    "shared lake": shared_lake,
}
