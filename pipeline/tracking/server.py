"""The address of a home's MLflow store, a check that it answers, and a lock for its creation."""

import fcntl
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlparse

from pipeline.core.paths import Home
from pipeline.core.redaction import without_user
from pipeline.storage.running_servers import running_up
from pipeline.storage.secret_files import read_secret

USERS_URI = os.environ.get("MLFLOW_TRACKING_URI")  # as found: mlflow.set_tracking_uri overwrites it
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables by which MLflow's client logs in."""
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri(home: Home) -> str:
    """Address of the home's MLflow store; MLFLOW_TRACKING_URI, where it is set."""
    return USERS_URI or sqlite_url(home.mlflow_db)


def sqlite_url(file: Path) -> str:
    """SQLAlchemy's address of a database file. Paths with special characters, such as `?`, use SQLite's URI form."""
    plain = re.fullmatch(r"[\w./ -]+", str(file), re.ASCII)
    return f"sqlite:///{file}" if plain else f"sqlite:///file:{quote(str(file), safe='')}?uri=true"


def refuse_dead_server(uri: str) -> None:
    """Raise OSError within seconds where a tracking or database server does not answer; MLflow retries for minutes."""
    if not uri.startswith(("http://", "https://")):
        server = urlparse(uri)
        if server.hostname:  # a file's address has none
            port = server.port or DATABASE_PORTS.get(server.scheme.partition("+")[0], 5432)
            socket.create_connection((server.hostname, port), timeout=5).close()
    else:
        try:
            with urllib.request.urlopen(f"{without_user(uri).rstrip('/')}/health", timeout=5):
                pass
        except HTTPError as answer:
            if answer.code >= 500:  # any other answer, such as 401, shows that it is alive
                raise


def log_in(home: Home, uri: str) -> None:
    """Let MLflow's client log in to the server of the home's own `up`; a login that the user has set stays.

    Raises UnreadableInput if other users can read the login.
    """
    if not uri.startswith("http") or any(os.environ.get(name) for name in LOGIN):
        return
    served = ((running_up(home) or {}).get("urls") or {}).get("MLflow")
    if served and uri.rstrip("/") in (served, served.replace("127.0.0.1", "localhost")):
        user, _, password = read_secret(home.mlflow_auth).partition(":")
        os.environ.update({"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password})


@contextmanager
def initialised_alone(home: Home) -> Iterator[None]:
    """Let only one process of a home create the database at a time; parallel first initialisations fail."""
    home.mlflow_db.parent.mkdir(parents=True, exist_ok=True)
    with (home.mlflow_db.parent / "init.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
