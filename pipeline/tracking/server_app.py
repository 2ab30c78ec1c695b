"""MLflow's server, restricted to its own pages. By default it also trusts pages of all other local ports.

MLflow finds it as the app `nightrecs` (entry point `mlflow.app` in pyproject.toml), and loads it in its own process.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

ASSISTANT = "assistant"
"""Path segment of MLflow's assistant: it can run shell commands on this machine, and asks for no login."""
LOCAL = ("127.0.0.1", "localhost", "::1")
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class OwnPagesOnly:
    """ASGI middleware: refuses requests with a foreign Host or from a page of another origin, and the assistant's."""

    def __init__(self, load: Callable[[], Asgi]):
        self.load, self.app = load, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 403 or 404; a WebSocket is closed before it is accepted."""
        if scope["type"] in ("http", "websocket"):
            if not _is_own(scope["headers"]):
                return await _refuse(scope, send, 403, b"only for pages of this server")
            if ASSISTANT in scope["path"].split("/"):
                return await _refuse(scope, send, 404, b"the assistant is off")
        self.app = self.app or self.load()
        await self.app(scope, receive, send)


async def _refuse(scope: Any, send: Any, status: int, text: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


def _is_own(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether there is one local Host header and every Origin is the same server."""
    hosts = [value.decode("latin-1") for name, value in headers if name.lower() == b"host"]
    origins = [value.decode("latin-1") for name, value in headers if name.lower() == b"origin"]
    try:
        local = len(hosts) == 1 and urlsplit(f"http://{hosts[0]}").hostname in LOCAL
    except ValueError:
        return False
    return local and all(origin == f"http://{hosts[0]}" for origin in origins)


def _load() -> Asgi:
    """MLflow's app, imported on the first call: the process that starts the server imports this module, too."""
    from mlflow.server.fastapi_app import app

    return app


app = OwnPagesOnly(_load)
