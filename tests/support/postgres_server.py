"""A PostgreSQL server on loopback with a random password, for tests of connectors."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UNPRIVILEGED = "nobody"
"""Runs the server where the tests run as root, which PostgreSQL refuses."""


@dataclass(frozen=True)
class PostgresServer:
    """A server that listens on 127.0.0.1 only. Its superuser `tester` needs a password (scram-sha-256)."""

    port: int
    password: str
    user: str = "tester"

    def url(self, database: str = "postgres", password: bool = False) -> str:
        """`postgresql://tester@127.0.0.1:PORT/DATABASE`, with the password only if asked for."""
        secret = f":{self.password}" if password else ""
        return f"postgresql://{self.user}{secret}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple]:
        """Run statements, each in a transaction of its own; returns the rows of the last one, if it has any."""
        import psycopg

        with psycopg.connect(self.url(database, password=True), autocommit=True) as con:
            for statement in statements:
                done = con.execute(statement.encode())
            return done.fetchall() if done.description else []

    def new_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name


def programs() -> Path | None:
    """Folder with `initdb` and `pg_ctl`; None if PostgreSQL is not installed."""
    found = shutil.which("pg_ctl")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in candidates if (each / "initdb").exists() and (each / "postgres").exists()), None)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server for the block. `programs` must not be None."""
    at = programs()
    assert at is not None
    account = UNPRIVILEGED if os.geteuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="nightrecs-postgres-"))
    server = PostgresServer(free_port(), secrets.token_urlsafe(24))
    try:
        secret = folder / "password"
        secret.write_text(server.password)
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, account)
        data, log = folder / "data", folder / "log"
        _run(account, at / "initdb", "--pgdata", data, "--username", server.user, "--pwfile", secret,
             "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -p {server.port} -k {folder} -c fsync=off -c max_connections=60"
        _run(account, at / "pg_ctl", "start", "--wait", "--timeout", 60, "-D", data, "-l", log, "-o", options)
        try:
            yield server
        finally:
            _run(account, at / "pg_ctl", "stop", "--wait", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(account: str, *words: object) -> None:
    """Run a program of PostgreSQL as `account`. RuntimeError with its output if it fails."""
    extra = {"user": account, "group": _group_of(account), "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
    with tempfile.TemporaryFile() as output:  # a pipe would stay open in the server
        done = subprocess.run(
            [str(word) for word in words], stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/",
            env=environment, **extra,
        )  # fmt: skip
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{words[0]} failed: {output.read().decode(errors='replace')}")


def _group_of(account: str) -> int:
    import pwd

    return pwd.getpwnam(account).pw_gid
