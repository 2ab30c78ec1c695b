"""The servers that other tests of connectors use: `pytest -m connectors tests/sources/connectors`."""

import pytest

from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import S3Server


def test_postgres_answers_with_the_password_and_only_with_it(postgres: PostgresServer):
    psycopg = pytest.importorskip("psycopg")
    name = postgres.new_database()
    rows = postgres.execute(
        "CREATE TABLE plays (n int)", "INSERT INTO plays VALUES (1), (2)", "SELECT sum(n) FROM plays", database=name
    )
    assert rows == [(3,)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url(name).replace("@", ":wrong@"))


def test_buckets_refuse_to_create_a_key_twice(s3: S3Server):
    obstore = pytest.importorskip("obstore")
    store = s3.store(s3.new_bucket())
    obstore.put(store, "a/manifest.json", b"{}", mode="create")
    assert bytes(obstore.get(store, "a/manifest.json").bytes()) == b"{}"
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "a/manifest.json", b"{1}", mode="create")
