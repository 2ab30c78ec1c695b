"""Queries on a PostgreSQL server, by ADBC: one statement in a read-only transaction, its rows streamed by COPY.

Ids are exact: bigint as it is, numeric and uuid as their text.
"""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pipeline.config.queries import Queried
from pipeline.core.redaction import without_role, without_user
from pipeline.sources.connectors import query_results
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.problems import Where, missing_extra, shortened
from pipeline.storage import warehouse

if TYPE_CHECKING:
    import pyarrow as pa

CONNECT_SECONDS = 8
OPTIONS = "-c default_transaction_read_only=on -c timezone=UTC"
_NO_TEXT = ("money", "interval", "inet", "cidr", "macaddr", "bit", "varbit")
"""Types whose binary form the driver does not turn into a value: an amount of money would be read as cents."""


@dataclass(frozen=True)
class Server:
    """A server with everything to log in."""

    uri: str
    """For the driver: with the password, limits and options. Never shown."""
    shown: str
    """The same for people: without user, password and parameters."""
    secrets: tuple[str, ...]


def server_of(section: Queried, url: str, where: Where, environ: Mapping[str, str] = os.environ) -> Server:
    """The server of a URL, with the password of `password_env`. Raises SettingsError if that is not set."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    secrets = [unquote(password), password]
    if section.password_env:
        found = environ.get(section.password_env)
        if not found:
            raise where.setting("password_env", f"the environment variable {section.password_env} is not set")
        password = quote(found, safe="")
        secrets += [found, password]
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    secrets += [value for key, value in given.items() if "password" in key.lower()]
    given.setdefault("connect_timeout", str(CONNECT_SECONDS))
    given.setdefault("application_name", "nightrecs")
    given["options"] = f"{given.get('options', '')} {OPTIONS}".strip()
    account = f"{name}:{password}@" if password else f"{name}@" if name else ""
    uri = urlunsplit(("postgresql", account + host, parts.path, urlencode(given, quote_via=quote), ""))
    shown = without_user(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))
    return Server(uri, shown, tuple(sorted({each for each in secrets if each}, key=len, reverse=True)))


def write(query: str, server: Server, path: Path, where: Where, limits: Limits) -> int:
    """Write the result of the query to `path`; returns its number of rows.

    Raises SettingsError without the extra `connectors`, and UnreadableInput if the server can't be reached (within
    CONNECT_SECONDS), or if the query is refused or fails.
    """
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql.dbapi as adbc
    except ImportError:
        raise missing_extra(where, "url", "PostgreSQL") from None
    failure = adbc_driver_manager.Error
    try:
        connected = adbc.connect(server.uri)
    except failure as error:
        raise where.unreadable(
            "url", _no_connection(server, without_role(shortened(str(error)))), server.secrets
        ) from None
    sorting = warehouse.connect(temporary=limits.temporary, threads=limits.threads, memory_limit=limits.memory_limit)
    with closing(sorting), closing(connected) as con:
        try:
            with con.cursor() as cursor:
                cursor.execute(query_results.trimmed(query))
                rows = cursor.fetch_record_batch()
                _check(rows.schema, where)
                sorting.execute("SET TimeZone = 'UTC'")
                sorting.register("_rows", rows)
                return query_results.write(sorting, _select(rows.schema), path)
        except (failure, warehouse.DatabaseError) as error:
            text = without_role(shortened(str(error)))
            raise where.unreadable("query", f"it failed on {server.shown}: {text}", server.secrets) from None


def _no_connection(server: Server, why: str) -> str:
    advice = "check host, port and database, and that the server is up"
    if "password" in why or "authentication" in why:
        advice = "set PGPASSWORD, or the variable that password_env names"
    return f"no connection to {server.shown}: {why}; {advice}"


def _kind(field: "pa.Field") -> str:
    """PostgreSQL's name of a column's type."""
    return ((field.metadata or {}).get(b"POSTGRESQL:type") or b"").decode()


def _select(schema: "pa.Schema") -> str:
    """The rows; char(n) without the blanks that fill it up, as it is compared and cast by PostgreSQL."""
    filled = [warehouse.quoted(field.name) for field in schema if _kind(field) == "bpchar"]
    replaced = ", ".join(f"rtrim({name}, ' ') AS {name}" for name in filled)
    return f"SELECT *{f' REPLACE ({replaced})' if filled else ''} FROM _rows"


def _check(schema: "pa.Schema", where: Where) -> None:
    """Raise UnreadableInput for names or types that can't be read exactly."""
    query_results.check_names(schema.names, where)
    for field in schema:
        if (kind := _kind(field)) in _NO_TEXT:
            cast = "numeric" if kind == "money" else "text"
            advice = f"cast it: {field.name}::{cast}"
            raise where.unreadable("query", f"column {field.name!r} has the type {kind}, which is not read: {advice}")
