"""MLflow's server as `up` starts it: without the login nothing, with it this home's nights and no other file."""

import json
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from flows.cli import up
from flows.orchestration import subprocesses
from flows.orchestration.api_access import auth_of
from flows.orchestration.deployments import headers_of
from pipeline.core.paths import Home
from pipeline.storage.secret_files import secret_at
from pipeline.tracking import client
from tests.faults.house import asked

pytestmark = pytest.mark.server
SECRET = "the content of a secret file"
API, AJAX = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"


@dataclass
class Served:
    """A running server, and what is in its home."""

    home: Home
    url: str
    run: str
    experiment: str
    outside: Path
    """A folder of the same owner, outside the home, with a secret file."""

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str):
        """As the owner."""
        return asked(f"{self.url}{path}", method, body, **headers_of(secret_at(self.home.mlflow_auth)), **headers)

    def found(self, path: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
        """The answer, which is one."""
        answer = self.ask(path, method, body)
        assert answer.status == 200, (path, answer)
        return json.loads(answer.text)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home, outside = Home(tmp_path_factory.mktemp("served")), tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text(SECRET)
    (outside / "model").mkdir()
    with pytest.MonkeyPatch.context() as environ:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_TRACKING"))]:
            environ.delenv(name)
        tracking = client.connect(home)
        experiment = client.experiment_of(home, "shop")
        run = tracking.create_run(experiment).info.run_id
        tracking.log_text(run, "<html>a report</html>", "report.html")
        tracking.log_metric(run, "loss", 0.5, step=1)
        (outside / "mlflow").symlink_to(home.mlflow_artifacts)
        tracking.create_registered_model("shop")
        tracking.create_model_version("shop", str(tracking.get_run(run).info.artifact_uri), run)
        options = SimpleNamespace(prefect_port=14_900, mlflow_port=15_900)
        services, environment, _ = up.plan(home, options, auth_of(home), [])  # type: ignore[arg-type]
        if "MLflow" not in [one.name for one in services]:
            pytest.skip("the package was installed before it had the entry point mlflow.app")
        (mlflow,) = (one for one in services if one.name == "MLflow")
        logs = home.warehouse / "logs"
        logs.mkdir(parents=True)
        secret_at(home.mlflow_auth)
        try:
            subprocesses.start(mlflow, environment, logs)
            subprocesses.wait(mlflow, logs)
            assert mlflow.url
            yield Served(home, mlflow.url, run, experiment, outside)
        finally:
            subprocesses.stop([mlflow])
            tracking._tracking_client.store.engine.dispose()


def test_without_the_login_every_route_is_closed(served):
    from mlflow.server import app

    tried = 0
    for rule in app.url_map.iter_rules():
        for method in set(rule.methods or ()) - {"OPTIONS", "HEAD"}:
            path = rule.rule.replace("<", "").replace(">", "").replace("path:", "")
            if path != "/health":
                answer = asked(f"{served.url}{path}", method, {} if method != "GET" else None)
                assert answer.status == 401 and "www-authenticate" in answer.headers, (method, path, answer)
                tried += 1
    for path in ("/docs", "/openapi.json", "/v1/traces", "/metrics", "/api/2.0/mlflow-artifacts/artifacts/x"):
        assert asked(f"{served.url}{path}").status == 401, path
    assert tried > 300
    assert asked(f"{served.url}/health").text == "OK"


def test_its_owner_sees_the_nights(served):
    assert b"<html" in served.ask("/").text.lower().encode()
    experiments = served.found(f"{AJAX}/experiments/search?max_results=9")["experiments"]
    assert "shop" in [one["name"] for one in experiments]
    assert served.found(f"{AJAX}/experiments/search", "POST", {"max_results": 9})["experiments"] == experiments
    runs = served.found(f"{AJAX}/runs/search", "POST", {"experiment_ids": [served.experiment]})["runs"]
    assert served.run in [one["info"]["run_id"] for one in runs]
    files = served.found(f"{AJAX}/artifacts/list?run_id={served.run}")["files"]
    assert [one["path"] for one in files] == ["report.html"]
    report = served.ask(f"/get-artifact?path=report.html&run_uuid={served.run}")
    assert report.status == 200 and report.text == "<html>a report</html>"
    assert "attachment" in report.headers["content-disposition"]
    of_model = served.ask("/model-versions/get-artifact?path=report.html&name=shop&version=1")
    assert of_model.status == 200 and of_model.text == report.text
    history = f"?run_id={served.run}&run_ids={served.run}&metric_key=loss"
    assert served.found(f"{AJAX}/metrics/get-history{history}")["metrics"][0]["value"] == 0.5
    assert served.found(f"{AJAX}/metrics/get-history-bulk-interval{history}&max_results=9")["metrics"]
    assert served.found(f"{AJAX}/registered-models/search")["registered_models"][0]["name"] == "shop"
    assert served.found(f"{AJAX}/model-versions/search")["model_versions"][0]["version"] == "1"
    query = {"query": f'{{mlflowGetRun(input: {{runId: "{served.run}"}}) {{run {{info {{runName}}}}}}}}'}
    assert served.found("/graphql", "POST", query)["data"]["mlflowGetRun"]["run"]["info"]["runName"]


def test_its_owner_edits_what_is_no_file(served):
    note = {"run_id": served.run, "key": "mlflow.note.content", "value": "a note"}
    served.found(f"{AJAX}/runs/set-tag", "POST", note)
    served.found(f"{AJAX}/registered-models/alias", "POST", {"name": "shop", "alias": "tried", "version": "1"})
    tags = served.found(f"{API}/runs/get?run_id={served.run}")["run"]["data"]["tags"]
    assert {"key": "mlflow.note.content", "value": "a note"} in tags


def test_new_experiments_are_in_the_home(served):
    body = {"name": f"own-{secrets.token_hex(4)}"}
    made = served.found(f"{API}/experiments/create", "POST", body)["experiment_id"]
    got = served.found(f"{API}/experiments/get?experiment_id={made}")["experiment"]
    assert got["artifact_location"].startswith(served.home.mlflow_artifacts.as_uri())
    inside = {"name": f"own-{secrets.token_hex(4)}", "artifact_location": f"{served.home.mlflow_artifacts.as_uri()}/x"}
    assert served.found(f"{API}/experiments/create", "POST", inside)["experiment_id"]


@pytest.mark.parametrize(
    "location",
    [
        "file://{outside}", "{outside}", "file:{outside}", "file://localhost{outside}", "s3://bucket/x",
        "http://127.0.0.1:9/x", "ftp://127.0.0.1/x", "file://{artifacts}/../../..", "file://{artifacts}/%2e%2e/%2e%2e",
        "file:///proc/self/cwd/../..", "relative/../../../../..", "dbfs:/x", "FILE://{outside}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation"])
def test_locations_elsewhere_are_refused(served, location, key):
    location = location.format(outside=served.outside, artifacts=served.home.mlflow_artifacts)
    body = {"name": f"evil-{secrets.token_hex(4)}", key: location}
    answer = served.ask(f"{API}/experiments/create", "POST", body)
    assert answer.status in (400, 403), answer
    got = served.ask(f"{API}/experiments/get-by-name?experiment_name={body['name']}")
    assert got.status == 404, got


@pytest.mark.parametrize("source", ["file://{outside}", "{outside}", "s3://bucket/x", "http://127.0.0.1:9/x"])
def test_model_versions_elsewhere_are_refused(served, source):
    source = source.format(outside=served.outside)
    body = {"name": "shop", "source": source, "run_id": served.run}
    assert served.ask(f"{API}/model-versions/create", "POST", body).status in (400, 403)


def planted(served: Served, location: str) -> str:
    """A run whose experiment's artifacts are elsewhere, as an earlier version let others make it."""
    tracking = client.connect(served.home)
    experiment = tracking.create_experiment(f"planted-{secrets.token_hex(4)}", location)
    run = tracking.create_run(experiment).info.run_id
    if location.startswith("file:"):
        (Path(location.removeprefix("file://")) / run).mkdir(parents=True)
        (Path(location.removeprefix("file://")) / run / "artifacts").symlink_to(served.outside)
    return run


@pytest.mark.parametrize("where", ["elsewhere", "linked inside"])
def test_links_to_other_files_are_not_followed(served, where, tmp_path):
    location = tmp_path if where == "elsewhere" else served.home.mlflow_artifacts / "linked"
    run = planted(served, location.as_uri())
    for path in (
        f"{API}/artifacts/list?run_id={run}",
        f"{AJAX}/artifacts/list?run_id={run}&path=.",
        f"/get-artifact?path=secret.txt&run_uuid={run}",
        f"/get-artifact?path=./secret.txt&run_id={run}",
    ):
        answer = served.ask(path)
        assert answer.status == 403 and SECRET not in answer.text and "secret.txt" not in answer.text, answer
    query = {"query": f'{{mlflowListArtifacts(input: {{runId: "{run}"}}) {{files {{path}}}}}}'}
    assert "secret.txt" not in served.ask("/graphql", "POST", query).text


def test_a_link_among_artifacts_is_not_shown(served):
    folder = served.home.mlflow_artifacts / "shop" / served.run / "artifacts"
    (folder / "way out").symlink_to(served.outside)
    try:
        files = served.found(f"{AJAX}/artifacts/list?run_id={served.run}")["files"]
        assert [one["path"] for one in files] == ["report.html"]
        for path in ("way out", "way out/secret.txt"):
            answer = served.ask(f"/get-artifact?path={quote(path)}&run_uuid={served.run}")
            assert answer.status in (400, 403) and SECRET not in answer.text
        listed = served.ask(f"{AJAX}/artifacts/list?run_id={served.run}&path={quote('way out')}")
        assert listed.status in (400, 403), listed
    finally:
        (folder / "way out").unlink()


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/x", "s3://bucket/x", "mlflow-artifacts:/../.."])
def test_other_hosts_are_not_asked(served, location):
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen()
        host.settimeout(0.2)
        run = planted(served, location.format(port=host.getsockname()[1]))
        for path in (f"{API}/artifacts/list?run_id={run}", f"/get-artifact?path=x&run_uuid={run}"):
            assert served.ask(path).status >= 400
        with pytest.raises(TimeoutError):
            host.accept()


@pytest.mark.parametrize(
    "path",
    ["../../../../secret.txt", "%2e%2e/%2e%2e/mlflow.db", "%252e%252e/mlflow.db", "/etc/passwd", "..%5c..%5cx",
     "file:///etc/passwd", "report.html/../../../../../mlflow.db", "%00", "x%00y"],
)  # fmt: skip
def test_paths_do_not_climb(served, path):
    for address in (
        f"/get-artifact?path={path}&run_uuid={served.run}",
        f"{API}/artifacts/list?run_id={served.run}&path={path}",
        f"/model-versions/get-artifact?name=shop&version=1&path={path}",
        f"/static-files/{path}",
        f"/static-files/..%2f..%2f{path}",
    ):
        answer = served.ask(address)
        assert "SQLite format" not in answer.text and "root:" not in answer.text


def test_nothing_is_written_through_it(served):
    run = planted(served, (served.home.mlflow_artifacts / "writable").as_uri())
    for target in (run, served.run):
        upload = served.ask(f"{AJAX}/upload-artifact?run_uuid={target}&path=secret.txt", "POST", {"x": 1})
        assert upload.status == 403, upload
    for method in ("PUT", "DELETE"):
        for version in ("api", "ajax-api"):
            path = f"/{version}/2.0/mlflow-artifacts/artifacts/shop/{served.run}/artifacts/report.html"
            assert served.ask(path, method, {}).status == 403
    hook = {"name": "x", "url": "http://127.0.0.1:9", "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}]}
    assert served.ask(f"{API}/webhooks", "POST", hook).status == 403
    assert (served.outside / "secret.txt").read_text() == SECRET
    assert sorted(one.name for one in served.outside.iterdir()) == ["mlflow", "model", "secret.txt"]


def test_a_page_of_another_origin_gets_nothing_though_the_browser_logs_in(served):
    search = f"{AJAX}/experiments/search"
    for headers in ({"Origin": "http://127.0.0.1:9"}, {"Sec_Fetch_Site": "same-site"}, {"Host_": "evil.example"}):
        assert served.ask(f"{search}?max_results=9", **headers).status == 403
        assert served.ask(search, "POST", {"max_results": 9}, **headers).status == 403


def test_mlflows_client_logs_in_and_logs(served, monkeypatch):
    """A script of the owner, with the variables that `up` prints; and a night that reports to this server."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from pipeline.tracking import server

    for name in server.LOGIN:
        monkeypatch.delenv(name, raising=False)
    remote = MlflowClient(served.url, served.url)
    with pytest.raises(MlflowException, match=r"mlflow-auth\.txt"):
        remote.search_experiments()
    monkeypatch.setattr(server, "running_up", lambda _: {"urls": {"MLflow": served.url}})
    server.log_in(served.home, "http://elsewhere.example:5000")
    assert not any(os.environ.get(name) for name in server.LOGIN)
    try:
        server.log_in(served.home, served.url)
        as_a_script(served, remote)
    finally:
        for name in server.LOGIN:
            os.environ.pop(name, None)


def as_a_script(served: Served, remote: Any) -> None:
    assert "shop" in [one.name for one in remote.search_experiments()]
    run = remote.create_run(served.experiment).info.run_id
    remote.log_batch(run, tags=[])
    remote.log_metric(run, "loss", 1.0)
    remote.log_text(run, "by path", "note.txt")
    assert served.ask(f"/get-artifact?path=note.txt&run_uuid={run}").text == "by path"
    remote.set_terminated(run)
