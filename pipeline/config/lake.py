"""Keys of a recipe for the lake: where results of the stages are kept, so that several homes can share them."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import field_validator

from pipeline.config.base import Section
from pipeline.config.destinations import check_endpoint


class Lake(Section):
    """Where the results of stages are kept, in addition to the home (pipeline/storage/README.md)."""

    url: str | None = None
    """s3://bucket/prefix, gs://bucket/prefix, or file:///folder: homes with the same one share results. Absent: the
    home's own disk only, as with "none". Credentials are in the environment, or those of the machine."""
    endpoint: str | None = None
    """URL of an S3 service other than AWS; absent: AWS_ENDPOINT_URL, or AWS. Plain http only on this machine."""
    region: str | None = None
    """Region of an S3 bucket; absent: AWS_REGION."""

    @field_validator("url")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value in (None, "none"):
            return None
        parts = urlsplit(value)
        if parts.query or parts.fragment or ".." in parts.path.split("/"):
            raise ValueError("a URL of a lake has no `?`, `#` or `..`")
        if value.startswith("file://"):
            if parts.netloc or not Path(parts.path).is_absolute() or parts.path == "/":
                raise ValueError("a folder is file:///absolute/path")
        elif parts.scheme not in ("s3", "gs"):
            raise ValueError("it is s3://bucket/prefix, gs://bucket/prefix or file:///absolute/path")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", parts.netloc):
            raise ValueError(f"it is {parts.scheme}://bucket/prefix, without credentials")
        return value.rstrip("/")

    @field_validator("endpoint")
    @classmethod
    def _is_private(cls, value: str | None) -> str | None:
        if value is not None:
            check_endpoint(value)
        return value

    def __bool__(self) -> bool:
        """Whether results are kept outside the home, too."""
        return self.url is not None
