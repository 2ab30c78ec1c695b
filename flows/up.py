"""`nightrecs up`: Prefect's server and UI, MLflow's UI and the scheduled nights, on this machine, until Ctrl-C."""

import json
import os
import time
from pathlib import Path
from typing import Any

from flows import deployed
from flows.schedules import schedules
from flows.services import HOST, Service, answers, free_port, start, stop, wait
from flows.start import say_where
from flows.watch import Watch
from pipeline import children, home_identity, journal
from pipeline.paths import Home
from pipeline.tracking_server import tracking_uri

NOT_WELL = 3


def up(options: Any) -> int:
    """Start all, wait until each answers, print the URLs, watch until Ctrl-C, stop all."""
    home = Home.resolve(options.home)
    if options.check:
        return check(home, options.json)
    say_where(options.home)
    home_identity.settle(home)  # a copy must neither serve the original's nights nor take its services for its own
    if running := standing(home):
        journal.say(f"it is up already, as process {running['pid']}; `nightrecs up --check` says more")
        return NOT_WELL
    services, environment = plan(home, options)
    logs = home.warehouse / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        nights = schedules(home)
        for service in services:
            start(service, environment, logs)
            wait(service, logs)
            if service.name == "Prefect":
                for text in deployed.tidy(home, environment["PREFECT_API_URL"], {night.name for night in nights}):
                    journal.say(text)
        due = {night.name: deployed.plan(environment["PREFECT_API_URL"], night.name) for night in nights}
        urls = {service.name: service.url for service in services if service.url}
        journal.write_atomically(state(home), json.dumps({"pid": os.getpid(), "urls": urls}))
        for name, url in urls.items():
            journal.say(f"{name:<8} {url}")
        for night in nights:
            journal.say(
                f"night    {night.name}: {night.cron} ({night.timezone}), recipe {night.recipe}; "
                f"next {moment(due[night.name])}"
            )
        if not nights:
            journal.say('no night is scheduled: nightrecs schedule DATASET --data PATH --cron "0 3 * * *"')
        journal.say(f"logs     {logs}\nCtrl-C stops everything")
        return watch(services, logs, Watch(home, nights))
    except KeyboardInterrupt:
        return 0
    finally:
        state(home).unlink(missing_ok=True)
        stop(services)


def plan(home: Home, options: Any) -> tuple[list[Service], dict[str, str]]:
    """What to start, on ports that are free, and the environment of all."""
    prefect, mlflow = free_port(options.prefect_port), free_port(options.mlflow_port)
    api, store = f"http://{HOST}:{prefect}/api", os.environ.get("MLFLOW_TRACKING_URI")
    home.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    environment = {
        **children.environment(),
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(home.prefect)), "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NIGHTRECS_HOME": str(home.root),
    }  # fmt: skip
    own_store = tracking_uri(home)
    services = [
        Service(
            "Prefect", children.command("prefect", "server", "start", "--host", HOST, "--port", str(prefect)),
            f"http://{HOST}:{prefect}", (f"{api}/health",),
        ),
        Service(
            "MLflow",
            children.command(
                "mlflow", "server", "--host", HOST, "--port", str(mlflow), "--workers", "1",
                "--backend-store-uri", own_store, "--artifacts-destination", home.mlflow_artifacts.as_uri(),
            ),
            f"http://{HOST}:{mlflow}", (f"http://{HOST}:{mlflow}/health",),
        ),
    ]  # fmt: skip
    if store and store.startswith("http"):
        services.pop()  # somebody else's server shows it
    if nights := schedules(home):
        served = tuple(deployed.address(api, night.name) for night in nights)
        services.append(Service("nights", children.command("flows.serve"), health=served))
    return services, environment


def watch(services: list[Service], logs: Path, nights: Watch) -> int:
    """Until a service ends by itself, which ends the others too."""
    while True:
        for service in services:
            assert service.process is not None
            if (code := service.process.poll()) is not None:
                journal.say(f"{service.name} ended by itself with code {code}; see {logs}")
                return 1
        nights.look()
        time.sleep(1)


def check(home: Home, as_json: bool) -> int:
    """Say what is running; 0 where all of it answers, 3 where not."""
    running = standing(home)
    urls = (running or {}).get("urls", {})
    found = {name: answers(health_of(name, url)) for name, url in urls.items()}
    due = {night.name: next_of(urls["Prefect"], night.name) for night in schedules(home)} if running else {}
    if as_json:
        print(json.dumps({"up": running is not None, "pid": (running or {}).get("pid"), "answers": found,
                          "urls": urls, "next": due}))  # fmt: skip
    elif running is None:
        print("nothing is up in this home; `nightrecs up` starts it")
    else:
        print(f"up as process {running['pid']}")
        for name, url in urls.items():
            print(f"{name:<8} {url}  {'answers' if found[name] else 'DOES NOT ANSWER'}")
        for name, at in due.items():
            print(f"night    {name}  next {moment(at)}" if at else f"night    {name}  IS NOT PLANNED")
    return 0 if running and all(found.values()) and all(due.values()) else NOT_WELL


def next_of(prefect: str, name: str) -> str | None:
    """When a night runs next, ISO 8601 UTC; None where Prefect doesn't know."""
    try:
        return deployed.next_night(f"{prefect}/api", name)
    except (OSError, ValueError):
        return None


def moment(at: str) -> str:
    """`2026-11-23 02:00 UTC`."""
    return f"{at[:16].replace('T', ' ')} UTC"


def health_of(name: str, url: str) -> str:
    """Where a service says that it is well."""
    return f"{url}/api/health" if name == "Prefect" else f"{url}/health"


def standing(home: Home) -> dict[str, Any] | None:
    """What a running `up` of this home wrote of itself; None where there is none."""
    try:
        found = json.loads(state(home).read_text())
        os.kill(found["pid"], 0)
        return found
    except (OSError, ValueError, KeyError):
        return None


def state(home: Home) -> Path:
    """File in which a running `up` says where it is."""
    return home.warehouse / "up.json"
