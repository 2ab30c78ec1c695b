"""The requests that MLflow's server of `up` answers; every other one is refused.

These are the pages, the reads behind them, and changes of the database that hold no address and no file. Artifacts are
written by path, as nights do. Not answered are uploads, deletions of artifacts, webhooks, the gateway, jobs, scorers,
traces, prompts' optimization, the MCP registry, and the assistant.
"""

import re

NAME = "[^/]+"
"""One segment of a path, decoded; `..` is none that MLflow takes for an id."""
PAGES = ("/", "/health", "/version", "/static-files/.+", "/get-artifact", "/model-versions/get-artifact")
API = "/(?:api|ajax-api)/2[.]0/mlflow"
READS = {
    "GET": (
        "artifacts/list", "experiments/(?:get|get-by-name|search)", f"logged-models/{NAME}",
        f"logged-models/{NAME}/artifacts/(?:directories|files)",
        "metrics/(?:get-history|get-history-bulk|get-history-bulk-interval)",
        "model-versions/(?:get|get-download-uri|search)",
        "registered-models/(?:alias|get|get-latest-versions|search)", "runs/get",
    ),
    "POST": (
        "experiments/(?:search|search-datasets)", "logged-models/search", "registered-models/get-latest-versions",
        "runs/search",
    ),
}  # fmt: skip
CHANGES = {
    "POST": (
        "experiments/(?:create|delete|restore|update|set-experiment-tag|delete-experiment-tag)",
        "runs/(?:create|update|delete|restore|set-tag|delete-tag)",
        "runs/(?:log-batch|log-inputs|log-metric|log-model|log-parameter|outputs)", "logged-models",
        f"logged-models/{NAME}/params", "model-versions/(?:create|set-tag|transition-stage)",
        "registered-models/(?:create|rename|set-tag|alias)",
    ),
    "PATCH": (f"logged-models/{NAME}", f"logged-models/{NAME}/tags", "(?:model-versions|registered-models)/update"),
    "DELETE": (
        f"logged-models/{NAME}", f"logged-models/{NAME}/tags/{NAME}", "model-versions/(?:delete|delete-tag)",
        "registered-models/(?:alias|delete|delete-tag)",
    ),
}  # fmt: skip
OTHERS = {"GET": (*PAGES, "/ajax-api/3[.]0/mlflow/server-info"), "POST": ("/graphql",)}


def _pattern(method: str) -> re.Pattern[str]:
    below = "|".join((*READS.get(method, ()), *CHANGES.get(method, ())))
    return re.compile("|".join((*OTHERS.get(method, ()), f"{API}/(?:{below})")))


_ALLOWED = {method: _pattern(method) for method in ("GET", "POST", "PATCH", "DELETE")}
_ALLOWED["HEAD"] = _ALLOWED["GET"]


def is_allowed(method: str, path: str) -> bool:
    """Whether the server answers this request; `path` is decoded, as the application sees it."""
    return method in _ALLOWED and _ALLOWED[method].fullmatch(path) is not None
