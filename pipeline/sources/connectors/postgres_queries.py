"""Queries on a PostgreSQL server, by ADBC: one statement in a read-only transaction, its rows streamed by COPY.

Ids are exact: bigint as it is, numeric and uuid as their text.
"""

import os
import re
from collections.abc import Callable, Mapping
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
_NO_VALUE = ("money", "interval", "void")
"""Types that the driver gives another value than SQL does, also in arrays: an amount of money would be cents."""
_AS_TEXT = ("citext", "xml")
"""Types whose binary form is their text."""
_UNKNOWN = re.compile(r"unnamed<oid:([0-9]+)>").fullmatch
_EPOCH = {"date": (10_957, 32), "timestamp": (10_957 * 86_400_000_000, 64)}
"""Days and microseconds from 1970 to 2000, and the bits of a value. The driver adds them also to infinity and
-infinity, which are the largest and the least value, so that these wrap around."""


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
                _check(rows.schema, where, lambda oid: _name_of(server, oid))
                sorting.execute("SET TimeZone = 'UTC'")
                sorting.register("_rows", rows)
                return query_results.write(sorting, _select(rows.schema), path)
        except (failure, warehouse.DatabaseError) as error:
            text = without_role(shortened(str(error)))
            raise where.unreadable("query", f"it failed on {server.shown}: {text}", server.secrets) from None


def _name_of(server: Server, oid: int) -> str:
    """The name of a type that the driver does not know, such as a range."""
    import adbc_driver_postgresql.dbapi as adbc

    with closing(adbc.connect(server.uri)) as con, con.cursor() as cursor:
        cursor.execute(f"SELECT pg_catalog.format_type({oid}, NULL)")
        (found,) = cursor.fetchone() or (f"oid {oid}",)
    return str(found)


def _no_connection(server: Server, why: str) -> str:
    advice = "check host, port and database, and that the server is up"
    if "password" in why or "authentication" in why:
        advice = "set PGPASSWORD, or the variable that password_env names"
    return f"no connection to {server.shown}: {why}; {advice}"


def _kind(field: "pa.Field") -> str:
    """PostgreSQL's name of a column's type."""
    return ((field.metadata or {}).get(b"POSTGRESQL:type") or b"").decode()


def _select(schema: "pa.Schema") -> str:
    """The rows with the values that SQL has: char(n) without the blanks that fill it up, as it is compared and cast by
    PostgreSQL, infinite times, and oids, which have no sign.
    """
    replaced = []
    for field in schema:
        name, kind = warehouse.quoted(field.name), _kind(field)
        if kind == "bpchar":
            replaced.append(f"rtrim({name}, ' ') AS {name}")
        elif kind in _AS_TEXT:
            replaced.append(f"decode({name}) AS {name}")
        elif kind == "oid":
            replaced.append(f"{name}::BIGINT & 4294967295 AS {name}")
        elif kind in ("date", "timestamp", "timestamptz"):
            replaced.append(f"{_finite_or_not(name, kind)} AS {name}")
    columns = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
    return f"SELECT {columns} FROM _rows"


def _finite_or_not(name: str, kind: str) -> str:
    shift, bits = _EPOCH[kind.removesuffix("tz")]
    plus = 2 ** (bits - 1) - 1 + shift - 2**bits
    made = f"DATE '1970-01-01' + ({plus} + {{}})" if kind == "date" else f"make_timestamp({plus} + {{}})"
    if kind == "timestamptz":
        made = f"{made} AT TIME ZONE 'UTC'"
    ends = ((made.format(0), "infinity"), (made.format(1), "-infinity"))
    cases = " ".join(f"WHEN {end} THEN '{text}'::{kind.upper()}" for end, text in ends)
    return f"CASE {name} {cases} ELSE {name} END"


def _check(schema: "pa.Schema", where: Where, name_of: Callable[[int], str]) -> None:
    """Raise UnreadableInput for names or types that can't be read exactly. `name_of`: a type's name by its oid."""
    query_results.check_names(schema.names, where)
    for field in schema:
        kind = _kind(field)
        if kind.removeprefix("_") in _NO_VALUE or (kind not in _AS_TEXT and _is_unread(field.type)):
            if unknown := _UNKNOWN(kind):
                kind = name_of(int(unknown[1]))
            cast = "numeric" if kind.removeprefix("_") == "money" else "text"
            advice = f"cast it: {field.name}::{cast}{'[]' if kind.startswith('_') else ''}"
            raise where.unreadable("query", f"column {field.name!r} has the type {kind}, which is not read: {advice}")


def _is_unread(kind: "pa.DataType") -> bool:
    """Whether the driver passes the values on as they are sent (ranges, network types), or as a structure."""
    import pyarrow as pa

    if isinstance(kind, pa.OpaqueType):
        return not pa.types.is_string(kind.storage_type)
    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and _is_unread(kind.value_type))
