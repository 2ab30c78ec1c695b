"""Serves the scheduled nights of NIGHTRECS_HOME to Prefect's API. Each night runs in its own process."""

from prefect import serve
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.orchestration.schedules import Schedule, schedules
from flows.scheduled import scheduled
from pipeline.core.paths import Home


def main() -> None:
    """Serve until stopped. Stopping does not pause the schedules."""
    home = Home.resolve()
    deployments = [
        scheduled.to_deployment(
            name=night.name,
            schedule=Cron(night.cron, timezone=night.timezone),
            parameters={"schedule": night.name, "home": str(home.root)},
            entrypoint_type=EntrypointType.MODULE_PATH,  # a file path would be relative to the current folder
            tags=["nightrecs", night.name],
            description=about(night),
        )
        for night in schedules(home)
    ]
    serve(*deployments, pause_on_shutdown=False, print_starting_message=False, limit=1)  # type: ignore[arg-type]


def about(night: Schedule) -> str:
    """Description of a deployment in Prefect's UI, since the parameters of its runs do not show the settings."""
    data = f", data {night.data}" if night.data else ""
    sets = "".join(f", {override}" for override in night.overrides)
    return (
        f"The nights of {night.name}: {night.cron} ({night.timezone}). As recorded by `nightrecs schedule`: "
        f"data set {night.dataset}, recipe {night.recipe}{data}{sets}"
    )


if __name__ == "__main__":
    main()
