"""What a request needs before MLflow's server of `up` sees it: its own page, the login, and an allowed address.

MLflow itself trusts pages of all other local ports, has no login, and offers far more than its pages need.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from pipeline.tracking.allowed_requests import is_allowed

LOCAL = ("127.0.0.1", "localhost", "::1")
OPEN = "/health"
"""Answers "OK" without a login, for monitors."""
ASK = (b"www-authenticate", b'Basic realm="MLflow of nightrecs", charset="UTF-8"')
LOGIN = "MLflow of nightrecs: the password is the line in HOME/.prefect/mlflow-auth.txt, with any user"
OFF = "nightrecs has turned this off, see .github/SECURITY.md: its MLflow shows nights and edits tags and descriptions"
NO_GATEWAY = "/ajax-api/2.0/mlflow/gateway-proxy"
"""The list of runs asks for its endpoints, and shows an error where it gets none."""
FOREIGN = "only for pages of this server"
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class RequestGate:
    """ASGI middleware: answers 403 to foreign pages and other addresses, 401 without the login.

    `load` gives the application and `secret` the auth string, `user:password`; both are called at the first need. An
    error of theirs is an answer 500, never an open server.
    """

    def __init__(self, load: Callable[[], Asgi], secret: Callable[[], str]):
        self.load, self.secret = load, secret
        self.app: Asgi | None = None
        self.auth: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it; a WebSocket is closed before it is accepted."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] == "http":
            method, path, headers = scope["method"], scope["path"], scope["headers"]
            if not is_own(method, headers):
                return await _refuse(send, 403, FOREIGN)
            if path != OPEN and not self._knows(headers):
                return await _refuse(send, 401, LOGIN, ASK)
            if (method, path) == ("GET", NO_GATEWAY):
                return await _answer(send, 200, {"endpoints": []})
            if not is_allowed(method, path):
                return await _refuse(send, 403, OFF)
        self.app = self.app or self.load()
        await self.app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        """Whether the request has the login. The whole auth string counts as a password, too, with any user."""
        self.auth = self.auth or self.secret()
        found = _values(headers, b"authorization")
        scheme, _, encoded = (found[0] if len(found) == 1 else "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except ValueError:  # also binascii.Error
            return False
        wanted = self.auth.encode()
        matches = [hmac.compare_digest(one, wanted) for one in (given, given.partition(b":")[2])]
        return scheme.lower() == "basic" and any(matches)


def is_own(method: str, headers: Headers) -> bool:
    """Whether there is one local Host header, and the request is of no page of another origin.

    A link on another page may open one of this server in a tab: that page can't read it.
    """
    hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
    try:
        local = len(hosts) == 1 and urlsplit(f"http://{hosts[0]}").hostname in LOCAL
    except ValueError:
        return False
    own = all(site in ("same-origin", "none") for site in _values(headers, b"sec-fetch-site"))
    link = (_values(headers, b"sec-fetch-mode"), _values(headers, b"sec-fetch-dest")) == (["navigate"], ["document"])
    return local and all(origin == f"http://{hosts[0]}" for origin in origins) and (own or (link and method == "GET"))


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]


async def _refuse(send: Any, status: int, why: str, *headers: tuple[bytes, bytes]) -> None:
    """An error as MLflow's clients and pages read it."""
    code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}[status]
    await _answer(send, status, {"error_code": code, "message": why}, *headers)


async def _answer(send: Any, status: int, body: dict[str, Any], *headers: tuple[bytes, bytes]) -> None:
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
