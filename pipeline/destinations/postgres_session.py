"""A session of PostgreSQL for one publication, and its errors as messages. One of two importers of psycopg."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pipeline.core.redaction import without_role
from pipeline.destinations.errors import NotDelivered, NotNow

CONNECT_SECONDS = 10
SESSION = (
    "SET client_encoding = 'UTF8'", "SET standard_conforming_strings = on", "SET DateStyle = 'ISO, YMD'",
    "SET TimeZone = 'UTC'", "SET search_path = pg_catalog", "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
)  # fmt: skip
DEFAULTS = {
    "application_name": "nightrecs", "connect_timeout": str(CONNECT_SECONDS), "keepalives_idle": "30",
    "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "60000",
}  # fmt: skip
"""Where the URL has none: a connection that the network has lost ends within a minute or two."""
_DENIED = ("authentication failed", "no pg_hba.conf entry", "no password supplied", "does not exist",
           "certificate", "SSL", "is not permitted to log in")  # fmt: skip
_SECONDS_TO_NOTICE = "10s"


class Session:
    """An open connection in autocommit. SQL comes from here and from `postgres_tables`; names in it are quoted."""

    def __init__(self, connection: "psycopg.Connection[tuple[Any, ...]]"):
        self.connection = connection

    def run(self, sql: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Execute one statement; its rows, if it has any."""
        done = self.connection.execute(sql.encode(), params)
        return done.fetchall() if done.description else []

    def value(self, sql: str, params: Sequence[object] | None = None) -> Any:
        """The first column of the first row; None without a row."""
        rows = self.run(sql, params)
        return rows[0][0] if rows else None

    @contextmanager
    def transaction(self) -> Generator[None]:
        """A transaction, or a savepoint within one; undone if the block raises."""
        with self.connection.transaction():
            yield


def settings_of(url_env: str) -> dict[str, str]:
    """What libpq connects with: the URL of the environment variable and DEFAULTS. Raises NotDelivered."""
    url = os.environ.get(url_env, "").strip()
    if not url:
        raise NotDelivered(f"the environment variable {url_env} is not set; it has the URL of the database, "
                           "postgresql://user@host/database")  # fmt: skip
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:  # its message may quote parts of the password
        raise NotDelivered(
            f"the environment variable {url_env} is no URL of PostgreSQL, postgresql://user@host:port/database; "
            "special characters of the password are percent-encoded"
        ) from None
    return {**DEFAULTS, **given}


def address_of(settings: dict[str, str]) -> str:
    """`host:port/database`, without user and password."""
    host = settings.get("hostaddr") or settings.get("host") or os.environ.get("PGHOST", "local socket")
    port = settings.get("port") or os.environ.get("PGPORT", "5432")
    user = settings.get("user") or os.environ.get("PGUSER", "")
    return f"{host}:{port}/{settings.get('dbname') or os.environ.get('PGDATABASE') or user}"


@contextmanager
def connected(url_env: str) -> Generator[Session]:
    """A session for the block. Errors of PostgreSQL become NotDelivered or NotNow."""
    settings = settings_of(url_env)
    with explained():
        connection = psycopg.connect(**settings, autocommit=True)  # pyright: ignore[reportArgumentType]
        try:
            session = Session(connection)
            for statement in SESSION:
                session.run(statement)
            with suppress(psycopg.Error):  # so that the server ends a long statement of a publisher that died
                session.run(f"SET client_connection_check_interval = '{_SECONDS_TO_NOTICE}'")
            yield session
        finally:
            connection.close()


@contextmanager
def explained() -> Generator[None]:
    """Raise errors of psycopg as NotDelivered or NotNow, without values of the tables."""
    try:
        yield
    except psycopg.Error as error:
        raise described(error) from None


def described(error: psycopg.Error) -> NotDelivered:
    """An error as a message. Those about values name the table and the kind of error only: values may be ids."""
    state, primary = error.sqlstate or "", error.diag.message_primary
    if not state or primary is None:
        text = " ".join(str(error).split()) or type(error).__name__
        denied = any(words in text for words in _DENIED)
        return (NotDelivered if denied else NotNow)(f"PostgreSQL does not take the connection: {without_role(text)}")
    kind = f"{type(error).__name__}, SQLSTATE {state}"
    where = f" in table {error.diag.table_name}" if error.diag.table_name else ""
    if state[:2] in ("21", "22", "23"):
        where = where or f" ({(error.diag.context or '').partition(',')[0]})".replace(" ()", "")
        return NotDelivered(f"PostgreSQL does not take a value{where}: {kind}")
    if state[:2] in ("08", "40", "53", "57", "58") or state == "55P03":
        return NotNow(f"{without_role(primary)} ({kind})")
    hint = error.diag.message_detail if state == "2BP01" else error.diag.message_hint
    return NotDelivered(f"{without_role(primary)}{': ' + ' '.join(hint.split()) if hint else ''} ({kind})")


def is_locked(error: psycopg.Error) -> bool:
    """Whether a lock could not be had in time."""
    return error.sqlstate in ("55P03", "40P01")


def quoted(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted text; for statements that take no parameters."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"
