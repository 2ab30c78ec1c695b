"""Keys of a section whose rows come from a query: on files, on a database file, or on a server."""

import re
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from pipeline.config.base import Section

CONNECTION = ("query", "database", "url", "url_env", "password_env")
"""Keys of Queried. They are in no lake key: what a query returned is, by its content."""
SERVERS = ("postgresql", "postgres")
DATABASES = ("sqlite", *SERVERS)
"""Schemes of `url`."""
_SECRETS = ("password", "passfile", "sslpassword", "sslkey")
"""Parameters of a URL that are, or lead to, a secret."""
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Queried(Section):
    """Where a query runs. Without a connection: on files, `select … from 'a/*.parquet' join 'b.csv' using (id)`."""

    query: str | None = None
    """One SELECT statement whose result is read instead of `files`. In DuckDB's SQL it may name files in the data
    set's folder; with `url` it is in the server's SQL."""
    database: str | None = None
    """A DuckDB file, attached read-only, whose tables the query may name."""
    url: str | None = None
    """A database: `sqlite:///shop.db`, or `postgresql://reader@db.example.com/shop`, without a password."""
    url_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Name of the environment variable that holds the URL instead; that one may have a password."""
    password_env: str | None = Field(default=None, pattern=_VARIABLE)
    """Name of the environment variable that holds the password; absent: PGPASSWORD or a password file, as for psql."""

    @model_validator(mode="after")
    def _one_place(self) -> "Queried":
        places = [key for key in ("database", "url", "url_env") if getattr(self, key) is not None]
        if len(places) > 1:
            raise ValueError(f"{places[0]} and {places[1]} both say where the query runs: give one of them")
        if places and self.query is None:
            raise ValueError(f"{places[0]} needs a query: add query = 'select …'")
        if self.password_env and not (self.url_env or _scheme(self.url) in SERVERS):
            raise ValueError("password_env goes with url or url_env of a PostgreSQL server")
        if self.url is not None:
            check_url(self.url, "url")
        return self


def check_url(url: str, key: str, may_have_password: bool = False) -> None:
    """Raise ValueError, which does not repeat the URL, if it is none of a database or has a password."""
    scheme = _scheme(url)
    if scheme not in DATABASES:
        raise ValueError(
            f"{key} is no URL of a database that is read: write sqlite:///shop.db or postgresql://user@host/database"
        )
    if not may_have_password and has_password(url):
        raise ValueError(
            f"{key} has a password, which would be readable in this file: leave it out, put it into an environment "
            "variable, and name that variable with password_env (or url_env for the whole URL)"
        )


def has_password(url: str) -> bool:
    """Whether a URL has a password, or a parameter that is one or leads to one."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return ":" in user or any(name.lower() in _SECRETS for name, _ in parse_qsl(parts.query, keep_blank_values=True))


def _scheme(url: str | None) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url or "")
    return found[1].lower() if found else ""
