"""An S3 server on loopback (moto), for tests of connectors."""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from obstore.store import S3Store


@dataclass(frozen=True)
class S3Server:
    """A server of 127.0.0.1; `environment` has what clients need to reach it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with endpoint and credentials, as S3 clients read them."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def client(self) -> Any:
        """A boto3 client."""
        import boto3

        keys = self.environment
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    def store(self, bucket: str) -> "S3Store":
        """An obstore store of a bucket."""
        from obstore.store import S3Store

        keys = self.environment
        return S3Store(
            bucket, endpoint=self.url, region="us-east-1", access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"], client_options={"allow_http": True},
        )  # fmt: skip

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start a server for the block, with credentials of the test instead of the machine's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: object) -> None:
                pass

        app = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        server.daemon_threads = True  # clients keep their connections open, and nobody waits for them
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield S3Server(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
