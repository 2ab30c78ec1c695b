"""What MLflow's server of `up` lets in: own pages, with the login, for what nightrecs needs."""

import asyncio
import base64
import importlib
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from flows.cli import up
from pipeline.core.paths import CHECKOUT
from pipeline.tracking.allowed_requests import is_allowed
from pipeline.tracking.request_gate import RequestGate, is_own

OWN = b"127.0.0.1:5000"
AUTH = "nightrecs:a-secret-of-the-test"


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


def answer(path: str, *headers: tuple[bytes, bytes], method: str = "GET", kind: str = "http", secret=lambda: AUTH):
    """What is sent, and whether the application saw the request."""
    reached, sent = [], []

    async def inner(scope, receive, send):
        reached.append(scope)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": list(headers)}
    scope |= {"method": method} if kind == "http" else {}
    asyncio.run(RequestGate(lambda: inner, secret)(scope, None, send))
    return sent, bool(reached)


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([(b"host", OWN)], True),
        ([(b"host", OWN), (b"origin", b"http://127.0.0.1:5000")], True),
        ([(b"host", b"localhost:8080"), (b"origin", b"http://localhost:8080")], True),  # a tunnel
        ([(b"host", b"[::1]:5000")], True),
        ([(b"host", OWN), (b"origin", b"http://127.0.0.1:9999")], False),
        ([(b"host", OWN), (b"origin", b"http://localhost:5000")], False),
        ([(b"host", OWN), (b"origin", b"https://127.0.0.1:5000")], False),
        ([(b"host", OWN), (b"origin", b"null")], False),
        ([(b"host", OWN), (b"origin", b"")], False),
        ([(b"host", OWN), (b"origin", b"http://127.0.0.1:5000"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"evil.example:5000")], False),
        ([(b"host", b"evil.example:5000"), (b"origin", b"http://evil.example:5000")], False),
        ([(b"host", b"127.0.0.1.evil.example")], False),
        ([(b"host", b"127.0.0.1@evil.example")], False),
        ([(b"host", b"evil.example/127.0.0.1")], False),
        ([(b"host", b"[bad")], False),
        ([(b"host", OWN), (b"host", b"evil.example")], False),
        ([], False),
        ([(b"host", OWN), (b"sec-fetch-site", b"same-origin")], True),
        ([(b"host", OWN), (b"sec-fetch-site", b"none")], True),  # a bookmark
        ([(b"host", OWN), (b"sec-fetch-site", b"same-site")], False),  # an image on a page of another port
        ([(b"host", OWN), (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"no-cors")], False),
    ],
)
def test_only_own_pages_are_answered(headers, passes):
    assert is_own("GET", headers) is passes
    sent, reached = answer("/", *headers, (b"authorization", basic(AUTH)))
    assert reached is passes and (passes or sent[0]["status"] == 403)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("dest", [b"document", b"iframe"])
def test_a_link_opens_a_page_in_a_tab_and_nothing_else(method, dest):
    link = [(b"host", OWN), (b"sec-fetch-site", b"same-site"), (b"sec-fetch-mode", b"navigate")]
    assert is_own(method, [*link, (b"sec-fetch-dest", dest)]) is (method == "GET" and dest == b"document")


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        (basic(AUTH), True),
        (basic(AUTH).replace(b"Basic", b"basic"), True),
        (basic(f"anybody:{AUTH}"), True),  # the whole line as the password
        (basic(f":{AUTH}"), True),
        (basic("nightrecs:a-secret-of-the-tes"), False),
        (basic(f"{AUTH}x"), False),
        (basic("nightrecs:"), False),
        (basic("a-secret-of-the-test"), False),
        (basic(":"), False),
        (b"Bearer " + AUTH.encode(), False),
        (b"Basic", False),
        (b"Basic \xff\xff", False),
        (b"Basic " + AUTH.encode(), False),
        (b"", False),
    ],
)
def test_the_login_is_needed(given, passes):
    sent, reached = answer("/", (b"host", OWN), (b"authorization", given))
    assert reached is passes
    if not passes:
        assert sent[0]["status"] == 401 and dict(sent[0]["headers"])[b"www-authenticate"].startswith(b"Basic ")
    twice = answer("/", (b"host", OWN), (b"authorization", basic(AUTH)), (b"authorization", given))
    assert not twice[1]


def test_without_the_login_only_health_is_open():
    assert answer("/health", (b"host", OWN))[1]
    for path in ("/", "/version", "/health/", "//health", "/static-files/x.js", "/get-artifact", "/graphql", "/no"):
        sent, reached = answer(path, (b"host", OWN))
        assert not reached and sent[0]["status"] == 401, path


def test_a_server_that_cannot_read_its_secret_is_closed():
    def broken() -> str:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):  # which the server answers with 500
        answer("/", (b"host", OWN), (b"authorization", basic(AUTH)), secret=broken)


def test_websockets_are_closed_and_the_server_starts():
    sent, reached = answer("/", (b"host", OWN), (b"authorization", basic(AUTH)), kind="websocket")
    assert not reached and sent == [{"type": "websocket.close", "code": 1008}]
    assert answer("", kind="lifespan")[1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/ajax-api/2.0/mlflow/upload-artifact"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
        ("POST", "/api/2.0/mlflow/webhooks"),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
        ("POST", "/api/3.0/mlflow/traces"),
        ("GET", "/ajax-api/3.0/mlflow/get-trace-artifact"),
        ("POST", "/ajax-api/3.0/mlflow/scorer/invoke"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("POST", "/v1/traces"),
        ("POST", "/gateway/x/mlflow/invocations"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("GET", "/graphql"),
        ("POST", "/get-artifact"),
        ("GET", "/get-artifact/"),
        ("GET", "//get-artifact"),
        ("GET", "/x/../get-artifact"),
        ("GET", "/api/2.0/mlflow/runs/search/x"),
        ("GET", "/api/2.0/mlflow/logged-models/a/b"),
        ("TRACE", "/"),
        ("OPTIONS", "/"),
        ("CONNECT", "/"),
    ],
)
def test_what_is_not_needed_is_off(method, path):
    assert not is_allowed(method, path)
    sent, reached = answer(path, (b"host", OWN), (b"authorization", basic(AUTH)), method=method)
    assert not reached and sent[0]["status"] == 403 and b"PERMISSION_DENIED" in sent[1]["body"]


def test_the_gateway_has_no_endpoints():
    path = "/ajax-api/2.0/mlflow/gateway-proxy"
    sent, reached = answer(path, (b"host", OWN), (b"authorization", basic(AUTH)))
    assert not reached and sent[0]["status"] == 200 and sent[1]["body"] == b'{"endpoints": []}'
    assert answer(path, (b"host", OWN))[0][0]["status"] == 401


@pytest.mark.long
def test_of_mlflows_routes_those_are_open_that_are_listed():
    """A new version of MLflow adds routes; they stay closed until somebody looks at them."""
    from mlflow.server import app

    routes = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in set(rule.methods or ()) - {"OPTIONS", "HEAD"}
        if is_allowed(method, rule.rule)
    }
    opened = {path.rpartition("/mlflow/")[2] for _, path in routes}
    assert {"runs/search", "/get-artifact", "artifacts/list", "model-versions/get"} <= opened
    words = ("webhook", "gateway", "trace", "scorer", "job", "upload", "presigned", "mpu", "assistant", "prompt",
             "workspace", "issue", "dataset_id", "label", "review", "demo", "invoke")  # fmt: skip
    assert not [one for one in routes if any(word in one[1] for word in words)]
    assert len(opened) > 50


def test_mlflow_finds_the_gate_and_is_not_served_without_it(monkeypatch, capsys):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["mlflow.app"][up.APP].partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), RequestGate)
    monkeypatch.setattr(up.importlib.metadata, "entry_points", lambda **_: [SimpleNamespace()])
    assert up.is_guarded() and not capsys.readouterr().err
    monkeypatch.setattr(up.importlib.metadata, "entry_points", lambda **_: [])
    assert not up.is_guarded() and "make install" in capsys.readouterr().err


def test_looking_at_the_gate_imports_no_mlflow():
    code = "import sys, pipeline.tracking.server_app; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0
