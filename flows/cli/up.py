"""`nightrecs up`: serves Prefect's UI, MLflow's UI and the scheduled nights on this machine, until Ctrl-C."""

import importlib.metadata
import json
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from flows.cli.replaced_store import Identity, ReplacedStore, identity
from flows.cli.watch import Watch
from flows.orchestration import api_access, cluster_access, deployments, prefect_logs
from flows.orchestration.deployments import Api
from flows.orchestration.schedules import Schedule, schedules
from flows.orchestration.subprocesses import HOST, Service, answers, free_port, start, stop, wait
from flows.prepare import check_writable, say_where
from pipeline.core import child_processes
from pipeline.core.console import log
from pipeline.core.errors import Locked
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.storage import home_identity
from pipeline.storage.lock import lock, lock_holder
from pipeline.storage.running_servers import LOCK, running_up, state
from pipeline.storage.secret_files import USER, secret_at
from pipeline.tracking.server import sqlite_url, tracking_uri

NOT_WELL = 3
APP = "nightrecs"
"""MLflow's server behind our login, see pipeline/tracking/server_app.py."""
MASKED = "MLFLOW_API_AUTH_STRING"
"""Variable of this process alone, by which messages mask the login of MLflow."""
RUNS = "workflowType=machine_learning"
"""Without it MLflow opens its pages for language models."""
EXPERIMENTS = "max_results=100&order_by=name"


def up(options: Namespace) -> int:
    """Start all servers, wait until each answers, print the URLs, monitor them until Ctrl-C, stop all."""
    home = Home.resolve(options.home)
    if options.check:
        return check(home, options.json)
    say_where(options.home)
    check_writable(home)
    home_identity.settle(home)  # a copy must neither serve the original's nights nor take its services for its own
    try:
        with lock(home, LOCK, "up", kind="command"):
            return serve(home, options)
    except Locked:
        log.info(why_not(home))
        return NOT_WELL
    except KeyboardInterrupt:
        return 0


def why_not(home: Home) -> str:
    """The message if another `up` of this home holds the lock."""
    if running := running_up(home):
        return f"it is up already, as process {running['pid']}; see `nightrecs up --check`"
    holder = (lock_holder(home.lock(LOCK)) or "").removeprefix("command up, ")
    return f"another `nightrecs up` of this home is starting ({holder}); see `nightrecs up --check`"


def serve(home: Home, options: Namespace) -> int:
    """Serve as the only `up` of this home; returns when it is stopped."""
    state(home).unlink(missing_ok=True)  # left by a killed `up`
    auth = api_access.auth_of(home)
    nights = schedules(home)
    services, environment, api = plan(home, options, auth, nights)
    hide(home, environment)
    logs = home.warehouse / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    opened: dict[str, Identity | None] = {}
    try:
        if options.ray:
            cluster, access = cluster_access.of_this_machine(home)
            services, environment = [cluster, *services], {**environment, **access}
        for service in services:
            opened[service.name] = identity(home.mlflow_db)
            start(service, environment, logs)
            wait(service, logs)
            if service.name == "Prefect":
                for text in deployments.tidy(home, api, {night.name for night in nights}):
                    log.info(text)
        due = {night.name: deployments.plan(api, night.name) for night in nights}
        urls = {service.name: service.url for service in services if service.url}
        write_atomically(state(home), json.dumps({"pid": os.getpid(), "urls": urls}))
        introduce(home, urls, nights, due)
        log.info(f"logs     {logs}\nCtrl-C stops everything")
        own = [s for s in services if s.name == "MLflow" and tracking_uri(home) == sqlite_url(home.mlflow_db)]
        stores = [ReplacedStore(s, home.mlflow_db, environment, logs, opened[s.name]) for s in own]
        return watch(services, logs, Watch(home, nights), stores)
    finally:
        state(home).unlink(missing_ok=True)
        stop(services)
        cluster_access.clean(home)


def hide(home: Home, environment: dict[str, str]) -> None:
    """Set the variables by which messages mask the auth strings and requests bypass proxies."""
    for name in ("PREFECT_API_AUTH_STRING", "NO_PROXY", "no_proxy"):
        os.environ[name] = environment[name]
    os.environ[MASKED] = secret_at(home.mlflow_auth)


def introduce(home: Home, urls: dict[str, str], nights: list[Schedule], due: dict[str, str]) -> None:
    """Print the addresses of the servers, and when each night runs."""
    log.info(f"Prefect  {urls['Prefect']}")
    file = api_access.file_of(home)
    log.info(f"         its login takes the line that is in {file}")
    log.info(f'         other clients: PREFECT_API_URL={urls["Prefect"]}/api PREFECT_API_AUTH_STRING="$(cat {file})"')
    if "MLflow" in urls:
        for number, link in enumerate(links(urls["MLflow"], secret_at(home.mlflow_auth))):
            log.info(f"{'' if number else 'MLflow':<8} {link}")
        for line in login_of_mlflow(home, urls["MLflow"]):
            log.info(f"         {line}")
    for night in nights:
        log.info(
            f"night    {night.name}: {night.cron} ({night.timezone}), recipe {night.recipe}; "
            f"next {moment(due[night.name])}"
        )
    if not nights:
        log.info('no night is scheduled: nightrecs schedule DATASET --data PATH --cron "0 3 * * *"')


def login_of_mlflow(home: Home, url: str) -> tuple[str, str]:
    """How to log in to MLflow: in a browser, and as another client."""
    file = home.mlflow_auth
    return (
        f"its login: any user, and as password the line that is in {file}",
        f"other clients: MLFLOW_TRACKING_URI={url} MLFLOW_TRACKING_USERNAME={USER} "
        f'MLFLOW_TRACKING_PASSWORD="$(cut -d: -f2 {file})"',
    )


def links(mlflow: str, auth: str) -> list[str]:
    """MLflow's pages with the runs of each data set; before the first night, the list of experiments."""
    try:
        found = Api(mlflow, auth).ask(f"/api/2.0/mlflow/experiments/search?{EXPERIMENTS}").get("experiments", [])
    except (OSError, ValueError):
        found = []
    runs = [
        f"{mlflow}/#/experiments/{one['experiment_id']}/runs?{RUNS}  {one['name']}"
        for one in found
        if one["name"] != "Default"
    ]
    return runs or [f"{mlflow}/#/experiments?{RUNS}"]


def plan(
    home: Home, options: Namespace, auth: str, nights: list[Schedule]
) -> tuple[list[Service], dict[str, str], Api]:
    """The services to start, on free ports; their environment; Prefect's API."""
    prefect, mlflow = free_port(options.prefect_port), free_port(options.mlflow_port)
    api, store = Api(f"http://{HOST}:{prefect}/api", auth), os.environ.get("MLFLOW_TRACKING_URI")
    home.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    environment = {
        **child_processes.environment(),
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(home.prefect)), "PREFECT_API_URL": api.url,
        **api_access.settings(auth, api_access.origins(prefect)),
        **prefect_logs.settings(os.environ),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "NIGHTRECS_HOME": str(home.root),
    }  # fmt: skip
    own_store = tracking_uri(home)
    if own_store == sqlite_url(home.mlflow_db) and not home.mlflow_db.exists():
        from pipeline.tracking.client import connect

        connect(home)  # MLflow's server would create it in place
    artifacts = home.mlflow_artifacts.as_uri()
    hosts = [place for local in api_access.LOCAL for place in (local, f"{local}:*")]  # any port: there are tunnels
    services = [
        Service(
            "Prefect", child_processes.command("prefect", "server", "start", "--host", HOST, "--port", str(prefect)),
            f"http://{HOST}:{prefect}", (f"{api.url}/health",),
        ),
        Service(
            "MLflow",
            child_processes.command(
                "mlflow", "server", "--host", HOST, "--port", str(mlflow), "--workers", "1",
                "--backend-store-uri", own_store, "--artifacts-destination", artifacts,
                "--default-artifact-root", artifacts,  # clients of this machine write there by path
                "--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(api_access.origins(mlflow)),
                "--app-name", APP,
            ),
            f"http://{HOST}:{mlflow}", (f"http://{HOST}:{mlflow}/health",),
            cwd=None if store else home.mlflow_artifacts,  # the user's own store may be relative to the current folder
        ),
    ]  # fmt: skip
    if store and store.startswith("http"):
        services.pop()  # the user's own server shows it
    elif not is_guarded():
        services.pop()
    if nights:
        served = tuple(f"{api.url}{deployments.path_of(night.name)}" for night in nights)
        command = child_processes.command("flows.serve")
        services.append(Service("nights", command, health=served, headers=deployments.headers_of(auth)))
    return services, environment, api


def is_guarded() -> bool:
    """Whether this installation has the login in front of MLflow's server; without it, the server is not started."""
    found = bool(importlib.metadata.entry_points(group="mlflow.app", name=APP))
    if not found:
        log.info("MLflow's pages are not served: they would be open to other users. Run `make install` once")
    return found


def watch(services: list[Service], logs: Path, nights: Watch, stores: Sequence[ReplacedStore] = ()) -> int:
    """Monitor the services. Returns 1 when one ends by itself; the caller then stops the others."""
    while True:
        for store in stores:
            store.restart_if_replaced()
        for service in services:
            assert service.process is not None
            if (code := service.process.poll()) is not None:
                log.info(f"{service.name} ended by itself with code {code}; see {logs}")
                return 1
        nights.look()
        time.sleep(1)


def check(home: Home, as_json: bool) -> int:
    """Print what is running; returns 0 if everything answers, else 3."""
    running = running_up(home)
    urls = (running or {}).get("urls", {})
    found = {name: answers(health_of(name, url)) for name, url in urls.items()}
    due = next_nights(home, urls["Prefect"]) if "Prefect" in urls else {}
    login = {"Prefect": home.api_auth, "MLflow": home.mlflow_auth}
    starting = running is None and lock_holder(home.lock(LOCK)) is not None
    if as_json:
        print(json.dumps({"up": running is not None, "pid": (running or {}).get("pid"), "answers": found,
                          "urls": urls, "next": due, "starting": starting}))  # fmt: skip
    elif running is None:
        print(why_not(home) if starting else "nothing is up in this home; `nightrecs up` starts it")
    else:
        print(f"up as process {running['pid']}")
        for name, url in urls.items():
            print(f"{name:<8} {url}  {'answers' if found[name] else 'DOES NOT ANSWER'}; login in {login[name]}")
        for name, at in due.items():
            print(f"night    {name}  next {moment(at)}" if at else f"night    {name}  IS NOT PLANNED")
    return 0 if running and all(found.values()) and all(due.values()) else NOT_WELL


def next_nights(home: Home, prefect: str) -> dict[str, str | None]:
    """When each scheduled night runs next, ISO 8601 UTC; None if Prefect does not know."""
    api, due = Api(f"{prefect}/api", api_access.auth_of(home)), {}
    for night in schedules(home):
        try:
            due[night.name] = deployments.next_night(api, night.name)
        except (OSError, ValueError):
            due[night.name] = None
    return due


def moment(at: str) -> str:
    """`2026-11-23 02:00 UTC`."""
    return f"{at[:16].replace('T', ' ')} UTC"


def health_of(name: str, url: str) -> str:
    """The health address of a service."""
    return f"{url}/api/health" if name == "Prefect" else f"{url}/health"
