"""Serves the scheduled nights of NIGHTRECS_HOME to Prefect's API: each due night runs in a process of its own."""

from prefect import serve
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.schedules import schedules
from flows.tasks import nightly
from pipeline.paths import Home


def main() -> None:
    """Until it is stopped; a stop doesn't pause the schedules."""
    home = Home.resolve()
    deployments = [
        nightly.to_deployment(
            name=night.name,
            schedule=Cron(night.cron, timezone=night.timezone),
            parameters={
                "dataset": night.dataset, "recipe": night.recipe, "data": night.data, "home": str(home.root),
                "overrides": night.overrides,
            },
            entrypoint_type=EntrypointType.MODULE_PATH,  # a file's would be relative to the folder of the moment
            tags=["nightrecs", night.name],
            description=f"The nights of {night.name}: {night.cron} ({night.timezone})",
        )
        for night in schedules(home)
    ]  # fmt: skip
    serve(*deployments, pause_on_shutdown=False, print_starting_message=False, limit=1)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
