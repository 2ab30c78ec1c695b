"""Keys of a recipe for destinations: where the tables of a published night are copied to."""

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt, field_validator

from pipeline.config.base import Section

LONGEST_SCHEMA = 48
"""Bytes. PostgreSQL cuts names at 63, and the schema of an unfinished night has a suffix."""
_NOT_OURS = ("public", "information_schema")


class PostgresDestination(Section):
    """A schema of a PostgreSQL database. Its tables, comments, keys and views are those of the published night."""

    url_env: str
    """Name of the environment variable with the URL, e.g. SHOP_DB_URL. TLS is as the URL says (`sslmode`)."""
    schema_name: str | None = None
    """Schema that belongs to Nightrecs alone; absent: the data set's name."""
    minutes: PositiveFloat = 10.0
    """How long a night tries again where the server does not answer, or where readers hold the tables."""

    @field_validator("url_env")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("it names an environment variable, e.g. SHOP_DB_URL; the URL itself stays out of settings")
        return value

    @field_validator("schema_name")
    @classmethod
    def _is_a_schema(cls, value: str | None) -> str | None:
        if value is not None and (trouble := schema_trouble(value)):
            raise ValueError(trouble)
        return value


def schema_trouble(name: str) -> str | None:
    """Why a name can't be that of the schema; None if it can."""
    if name.startswith("pg_") or name in _NOT_OURS:
        return f"{name!r} is not Nightrecs' own: the schema is replaced as a whole every night. Choose another name"
    if not name or not name.isprintable() or len(name.encode()) > LONGEST_SCHEMA:
        return f"the name of a schema has 1 to {LONGEST_SCHEMA} bytes of printable characters"
    return None


class ParquetDestination(Section):
    """A folder, or a prefix of an S3 bucket, with one folder of Parquet files for each of the last nights."""

    url: str
    """An absolute path, or s3://bucket/prefix. It belongs to this data set of this home alone."""
    keep: PositiveInt = 3
    """Nights that stay there, with the newest one."""
    endpoint: str | None = None
    """URL of an S3 service other than AWS; absent: AWS_ENDPOINT_URL, or AWS. Plain http only on this machine."""
    region: str | None = None
    """Region of the bucket; absent: AWS_REGION. Credentials are in the environment, or those of the machine."""
    minutes: PositiveFloat = 10.0
    """How long a night tries again where the folder or the bucket can't be written."""

    @field_validator("url")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        if value.startswith("s3://"):
            parts = urlsplit(value)
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc):
                raise ValueError("it is s3://bucket/prefix, without credentials")
            if parts.query or parts.fragment or ".." in parts.path.split("/"):
                raise ValueError("it is s3://bucket/prefix, and the prefix has no `?`, `#` or `..`")
            return value.rstrip("/")
        if "://" in value:
            raise ValueError("it is an absolute path or s3://bucket/prefix; other services are not supported")
        if not Path(value).expanduser().is_absolute():
            raise ValueError("a folder has an absolute path, e.g. /srv/nightrecs/shop")
        return os.path.normpath(Path(value).expanduser())

    @field_validator("endpoint")
    @classmethod
    def _is_private(cls, value: str | None) -> str | None:
        if value is not None:
            check_endpoint(value)
        return value

    @property
    def is_bucket(self) -> bool:
        """Whether it is in S3."""
        return self.url.startswith("s3://")


def check_endpoint(url: str) -> None:
    """Raise ValueError unless an endpoint is https, or http on this machine, and has no credentials."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("an endpoint has no credentials in it: they are in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise ValueError("an endpoint is https://…; plain http is allowed only on this machine (localhost, 127.0.0.1)")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Publish(Section):
    """Where the tables of a night are copied to once they are published locally. None of it can fail the night."""

    postgres: PostgresDestination | None = None
    """A schema of a PostgreSQL database; absent: none."""
    parquet: ParquetDestination | None = None
    """Parquet files in a folder or an S3 bucket; absent: none."""

    def __bool__(self) -> bool:
        """Whether there is any destination."""
        return self.postgres is not None or self.parquet is not None
