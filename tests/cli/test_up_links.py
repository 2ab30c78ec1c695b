"""Links to MLflow that `up` prints."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.cli.up import links
from flows.orchestration.deployments import headers_of

AUTH = "nightrecs:a-secret-of-the-test"
FOUND = {"experiments": [{"experiment_id": "0", "name": "Default"}, {"experiment_id": "7", "name": "shop"}]}


class Tracking(BaseHTTPRequestHandler):
    """Answers as MLflow does: it has a search for experiments, and no CSRF tokens."""

    def do_GET(self):
        there = self.path.startswith("/api/2.0/mlflow/experiments/search")
        there = there and self.headers["Authorization"] == headers_of(AUTH)["Authorization"]
        self.send_response(200 if there else 404)
        self.end_headers()
        self.wfile.write(json.dumps(FOUND if there else {}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def mlflow():
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_link_opens_the_runs_of_each_data_set(mlflow):
    assert links(mlflow, AUTH) == [f"{mlflow}/#/experiments/7/runs?workflowType=machine_learning  shop"]


def test_without_an_answer_the_list_of_experiments_is_linked():
    assert links("http://127.0.0.1:9", AUTH) == ["http://127.0.0.1:9/#/experiments?workflowType=machine_learning"]
