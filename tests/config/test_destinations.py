"""Settings of destinations: places that are refused, and credentials that stay out."""

import pytest
from pydantic import ValidationError

from pipeline.config.destinations import ParquetDestination, PostgresDestination, Publish


def test_plain_http_is_for_this_machine_only():
    for bad in ("http://example.org", "ftp://x", "https://user:pw@s3.example.org", "http://10.0.0.1:9000"):
        with pytest.raises(ValueError, match="endpoint"):
            ParquetDestination(url="s3://bucket-1/x", endpoint=bad)
    assert ParquetDestination(url="s3://bucket-1/x/", endpoint="http://localhost:9000").url == "s3://bucket-1/x"


@pytest.mark.parametrize("url", [
    "relative/folder", "gs://bucket/x", "s3://", "s3://user:pw@bucket/x", "s3://bucket-1/a/../b", "s3://bucket-1/x?y",
])  # fmt: skip
def test_places_that_are_none(url: str):
    with pytest.raises(ValidationError, match=r"absolute path|it is"):
        ParquetDestination(url=url)


@pytest.mark.parametrize("name", ["public", "pg_x", "information_schema", "", "x" * 49, "a\0b"])
def test_schemas_that_are_not_ours(name: str):
    with pytest.raises(ValidationError):
        PostgresDestination(url_env="SHOP_DB_URL", schema_name=name)
    assert PostgresDestination(url_env="SHOP_DB_URL", schema_name='Or "so"').schema_name == 'Or "so"'


def test_a_url_is_no_name_of_a_variable():
    with pytest.raises(ValidationError, match="stays out of settings"):
        PostgresDestination(url_env="postgresql://u:pw@host/db")


def test_no_destination_is_the_default():
    assert not Publish() and Publish(parquet=ParquetDestination(url="/srv/x"))
