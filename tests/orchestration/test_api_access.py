"""The auth string of a home is secret from its first byte on, and every server and client of ours uses it."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from flows.cli import up
from flows.orchestration import api_access, deployments, subprocesses
from flows.orchestration.api_access import auth_of, file_of, settings
from flows.orchestration.deployments import Api
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.storage.lock import lock
from pipeline.storage.running_servers import LOCK, running_up, state
from pipeline.storage.secret_files import one_time


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def environ(monkeypatch):
    """Nobody's settings; what is set is undone."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "NO_PROXY", "no_proxy"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_the_string_is_secret_from_the_first_byte(tmp_path, monkeypatch, open_umask):
    modes: list[int] = []
    fdopen = os.fdopen

    def opened(descriptor, *words):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return fdopen(descriptor, *words)

    monkeypatch.setattr(os, "fdopen", opened)
    home = Home(tmp_path / "home")
    auth = auth_of(home)
    assert set(modes) == {0o600} and len(modes) == 2, "never open to others, whatever the umask"
    assert auth_of(home) == auth and auth.startswith("nightrecs:") and len(auth) > 40
    assert stat.S_IMODE(file_of(home).parent.stat().st_mode) == 0o700
    assert [path.name for path in file_of(home).parent.iterdir()] == ["api-auth.txt"]
    assert auth_of(Home(tmp_path / "other")) != auth


def test_many_at_once_agree_on_one_string(tmp_path):
    home, together = Home(tmp_path), threading.Barrier(16)

    def make(_):
        together.wait()
        return auth_of(home)

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(make, range(16)))) == 1
    assert len(list(file_of(home).parent.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_string_that_others_can_read_or_write_is_refused(tmp_path, mode):
    home = Home(tmp_path)
    auth = auth_of(home)
    file_of(home).chmod(mode)
    with pytest.raises(UnreadableInput, match=rf"mode {mode:04o}.*rm ") as error:
        auth_of(home)
    assert auth not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 60, b"a" * 30 + b"\n" + b"b" * 30, "ü".encode() * 40])
def test_a_file_that_holds_no_string_is_named(tmp_path, content):
    home = Home(tmp_path)
    auth_of(home)
    file_of(home).write_bytes(content)
    with pytest.raises(UnreadableInput, match=r"api-auth\.txt"):
        auth_of(home)


def test_a_link_is_not_followed(tmp_path):
    home = Home(tmp_path)
    auth_of(home)
    file_of(home).rename(tmp_path / "elsewhere")
    file_of(home).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnreadableInput):
        auth_of(home)


def test_the_settings_hold_whatever_the_user_has_set():
    """Prefect takes each setting by two names."""
    auth = one_time()
    loose = {
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "*", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false", "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:pass", "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "NO_PROXY": "example.com",
    }  # fmt: skip
    for name, value in loose.items():
        assert settings(auth, environ=loose)[name] != value, name
    wanted = settings(auth, api_access.origins(4200), loose)
    assert wanted["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"
    assert wanted["NO_PROXY"] == "example.com,127.0.0.1,localhost"
    assert settings(auth)["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "none"


def test_prefect_knows_every_setting(environ):
    from prefect.settings import Settings

    auth = one_time()
    for name, value in settings(auth, api_access.origins(4200)).items():
        environ.setenv(name, value)
    found = Settings()
    assert found.api.auth_string and found.api.auth_string.get_secret_value() == auth
    server = found.server.api
    assert server.auth_string and server.auth_string.get_secret_value() == auth
    assert server.csrf_protection_enabled and found.client.csrf_support_enabled
    assert server.cors_allowed_origins == "http://127.0.0.1:4200,http://localhost:4200"


@pytest.fixture
def prefect_settings(environ, tmp_path):
    """Prefect's settings as of the environment, read again; as before in the end."""
    from prefect import context

    before = context.GLOBAL_SETTINGS_CONTEXT
    environ.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    yield context.refresh_global_settings_context
    context.GLOBAL_SETTINGS_CONTEXT = before


def now():
    from prefect.settings import get_current_settings

    found = get_current_settings()
    return found.api.auth_string and found.api.auth_string.get_secret_value(), found


def test_the_temporary_server_has_a_string_for_one_time(tmp_path, prefect_settings):
    prefect_settings()
    seen = []
    for _ in range(2):
        api_access.protect_server(Home(tmp_path))
        auth, found = now()
        assert auth and os.environ["PREFECT_SERVER_API_AUTH_STRING"] == auth
        assert found.server.api.auth_string.get_secret_value() == auth
        assert found.server.api.cors_allowed_origins == "none" and found.server.api.csrf_protection_enabled
        seen.append(auth)
    assert seen[0] != seen[1] and not file_of(Home(tmp_path)).exists()


def test_an_api_that_the_user_configured_is_left_alone(tmp_path, prefect_settings, environ):
    environ.setenv("PREFECT_API_URL", "https://prefect.example/api")
    environ.setenv("PREFECT_API_AUTH_STRING", "me:my-secret")
    prefect_settings()
    before = dict(os.environ)
    api_access.protect_server(Home(tmp_path))
    assert now()[0] == "me:my-secret" and dict(os.environ) == before


def test_an_api_in_a_profile_gets_no_string_of_ours(tmp_path, prefect_settings, environ):
    profiles = 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "https://prefect.example/api"\n'
    (tmp_path / "prefect" / "profiles.toml").write_text(profiles)
    prefect_settings()
    api_access.protect_server(Home(tmp_path))
    auth, found = now()
    assert auth is None and found.api.url == "https://prefect.example/api"
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_the_api_of_our_own_up_gets_the_string_of_the_home(tmp_path, prefect_settings, environ):
    home = Home(tmp_path / "home")
    environ.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    with lock(home, LOCK, "up", kind="command"):
        state(home).write_text(f'{{"pid": {os.getpid()}, "urls": {{"Prefect": "http://127.0.0.1:4200"}}}}')
        prefect_settings()
        api_access.protect_server(Home(tmp_path / "other"))
        assert now()[0] is None, "the server of another home"
        api_access.protect_server(home)
    assert now()[0] == auth_of(home)


def test_up_json_counts_while_its_writer_holds_the_lock(tmp_path):
    home = Home(tmp_path)
    home.warehouse.mkdir()
    state(home).write_text(f'{{"pid": {os.getpid()}, "urls": {{}}}}')
    assert running_up(home) is None, "a number may belong to another process by now"
    with lock(home, LOCK, "up", kind="command"):
        assert running_up(home)
        state(home).write_text('{"pid": 1, "urls": {}}')
        assert running_up(home) is None, "left by one that was killed"


@pytest.fixture
def planned(tmp_path, environ):
    """What `up` would start, without starting it."""
    home = Home(tmp_path)
    options = SimpleNamespace(prefect_port=14_800, mlflow_port=15_800)
    night = SimpleNamespace(name="sample")
    return home, *up.plan(home, options, auth_of(home), [night])  # type: ignore[list-item]


def test_the_string_is_in_the_environment_alone(planned):
    home, children, environment, api = planned
    auth = auth_of(home)
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] == auth
    assert all(auth not in word for child in children for word in child.command)
    assert auth not in repr(children) and auth not in repr(api)
    encoded = deployments.headers_of(auth)["Authorization"].split()[1]
    assert encoded not in repr(children)


def test_mlflow_is_started_for_local_names_and_its_own_pages(planned):
    (mlflow,) = (child for child in planned[1] if child.name == "MLflow")
    hosts = mlflow.command[mlflow.command.index("--allowed-hosts") + 1].split(",")
    assert hosts == ["127.0.0.1", "127.0.0.1:*", "localhost", "localhost:*"]
    origins = mlflow.command[mlflow.command.index("--cors-allowed-origins") + 1].split(",")
    assert all(origin.rpartition(":")[0] in ("http://127.0.0.1", "http://localhost") for origin in origins)
    assert planned[2]["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] == "false"


def test_the_string_is_masked_in_the_output(tmp_path, environ):
    auth = auth_of(Home(tmp_path))
    environ.setenv("PREFECT_API_AUTH_STRING", auth)
    output = masked(f"it is {auth}, sent as {deployments.headers_of(auth)}")
    assert auth not in output and auth.split(":")[1] not in output and output.count("***") == 2
    assert deployments.headers_of(auth)["Authorization"].split()[1] not in output


class Server(BaseHTTPRequestHandler):
    """Prefect's login and CSRF protection; `csrf` False: without the latter."""

    csrf, auth = True, "nightrecs:a-secret-of-the-test"

    def answer(self, code: int, body: bytes = b"null") -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.headers["Authorization"] != deployments.headers_of(self.auth)["Authorization"]:
            return self.answer(401)
        if self.path.startswith("/api/csrf-token?client="):
            return self.answer(200, b'{"token": "t"}') if self.csrf else self.answer(422)
        return self.answer(200, b'"read"')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.csrf and self.headers["Prefect-Csrf-Token"] != "t":
            return self.answer(403)
        return self.answer(200, b'"written"')

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    found = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # would see the string
    yield f"http://127.0.0.1:{found.server_port}/api"
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize("csrf", [True, False])
def test_plain_requests_log_in_and_carry_a_csrf_token(server, monkeypatch, csrf):
    monkeypatch.setattr(Server, "csrf", csrf)
    api = Api(server, Server.auth)
    assert api.ask("/x") == "read" and api.ask("/x", {}) == "written"
    with pytest.raises(OSError, match="401"):
        Api(server, "nightrecs:wrong").ask("/x", {})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not subprocesses.answers(f"{server}/x") and subprocesses.answers(
        f"{server}/x", deployments.headers_of(Server.auth)
    )
