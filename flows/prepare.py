"""Prepares a night: turns arguments into a Run (settings, data folder, home, run id) and checks them."""

import atexit
import os
import re
import tempfile
from pathlib import Path

from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.config.run import Run, new_run_id, utcnow
from pipeline.config.settings import Settings
from pipeline.core import fault_injection, paths
from pipeline.core.console import log, log_once
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.filesystem import delete, temporary_name
from pipeline.core.memory import parse_bytes
from pipeline.core.paths import Home, default_home, from_checkout
from pipeline.core.suggest import nearest
from pipeline.core.targets import Target
from pipeline.datasets.loader import folder_of, resolve_data
from pipeline.preparation import seen
from pipeline.preparation.capacity import Capacity
from pipeline.sources import column_names, model_attributes, row_estimate
from pipeline.sources.connectors import fetching
from pipeline.stages import DATA_STAGES
from pipeline.storage import expressions, forgotten_users, home_identity, journal, lake

SAMPLE = "sample"
STREAMED = ("ingest", "admit")
"""Stages that do not hold the rows in memory."""
UNSURE = 1.25
"""An estimate of rows may be too high by this factor."""
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def prepare(
    dataset: str = SAMPLE,
    recipe: str = "nightly",
    data: str | None = None,
    home: str | None = None,
    overrides: list[str] | None = None,
    run_id: str | None = None,
    until: str | None = None,
    look_only: bool = False,
) -> Run:
    """Check everything that can be checked before a night starts. Raises SettingsError or UnreadableInput.

    If `until` is a data stage, settings of models are not checked. With `look_only` nothing is written, and neither
    the home nor a synthetic source has to exist.
    """
    fault_injection.check()
    if run_id and not re.fullmatch(RUN_ID, run_id):
        raise SettingsError(f"{run_id!r} is not the id of a night: letters, digits, . _ and -, at most 64")
    place = Home.resolve(home)
    settings, toml = loader.load_settings(dataset, recipe, overrides, target=target_of(place))
    settings = seen.completed(settings)
    if until not in DATA_STAGES:
        from pipeline.experiments.families import family_of, with_weights  # imports torch

        settings = with_weights(settings)
        for label, entry in settings.models.items():
            family_of(settings, label)
            if entry.finder or entry.search is not None:
                from pipeline.experiments.recipe_checks import check_label

                check_label(settings, label)
        check_choices(settings)
    if not look_only:
        check_writable(place)
        check_lake(place, settings)
    forgotten_users.read(
        place, settings.dataset.name
    )  # a list that can't be read is not an empty list: the night must not run
    now = utcnow()
    run_id = run_id or new_run_id(now, journal.run_ids(place, settings.dataset.name))
    if fetching.is_needed(settings.dataset):
        settings, folder, own = fetched_source(place, settings, toml, data, None if look_only else run_id)
    elif settings.dataset.source.generator and not data:
        folder, own = generated_source(place, settings.dataset, look_only), None
    else:
        folder, own = resolve_data(settings.dataset, toml, data), None
    run = Run(
        run_id=run_id, home_root=place.root, data=folder, own_data=own, toml=_own(toml), settings=settings,
        started_at=now,
    )  # fmt: skip
    check_columns(run)
    model_attributes.check(settings.dataset, settings.attributes, run.data)
    if not look_only and until not in without_rows(settings):
        check_capacity(run)
    if until not in DATA_STAGES:
        from pipeline.publishing import wanted_lists

        wanted_lists.check(settings, run.data, now.date())
    return run


def _own(toml: Path) -> Path | None:
    """The path of a data set's TOML; None for a shipped one, which its name finds."""
    return None if toml.parent == paths.DATASETS else toml.resolve()


def without_rows(settings: Settings) -> tuple[str, ...]:
    """Stages after which a night may stop without having held all rows in memory at once: the data stages hold a shard
    at a time, unless that is turned off. Fits hold all rows."""
    return STREAMED if settings.scale.shards == 1 else tuple(DATA_STAGES)


def is_as_shipped(settings: Settings, dataset: str, recipe: str) -> bool:
    """Whether all settings but those of the data set are the ones of a shipped recipe, whose models are valid."""
    if recipe not in {path.stem for path in paths.RECIPES.glob("*.toml")}:
        return False
    shipped, _ = loader.load_settings(dataset, recipe, environ={})
    return settings.model_copy(update={"dataset": shipped.dataset}) == shipped


def check_columns(run: Run) -> None:
    """Check the columns that settings name, if the files are there; SettingsError names the key and what is near."""
    dataset = run.settings.dataset
    if dataset.source.generator and not any(run.data.glob("*")):
        for key in ("keep_if", "positive_if"):
            if text := getattr(dataset.feedback, key):
                expressions.parse(text, f"dataset.feedback.{key}")
        return
    column_names.check_conditions(dataset, run.data)


def check_capacity(run: Run) -> None:
    """Raise SettingsError, before anything is read, if the source surely has more rows than there is memory for.

    `clean` checks the exact number.
    """
    found = row_estimate.estimate(run.settings.dataset, run.data)
    if found:
        needed = Capacity.of(run.settings, found.rows)
        if found.is_exact or found.rows > UNSURE * needed.rows_that_fit:
            needed.require(found.text)


def check_choices(settings: Settings) -> None:
    """Check device, memory limit and selection metric before hours are spent; SettingsError names the key."""
    from pipeline.config.settings import ERRORS
    from pipeline.evaluation.ranking_metrics import METRICS
    from pipeline.training import distributed
    from pipeline.training.device import resolve_device

    select, evaluation = settings.select, settings.evaluation
    try:
        device = resolve_device(settings.device)
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"device = {settings.device!r}: {str(error).splitlines()[0]}") from None
    try:
        distributed.check(settings.devices, device)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    try:
        if settings.memory_limit:
            parse_bytes(settings.memory_limit)
    except ValueError as error:
        raise SettingsError(f"memory_limit: {error}") from None
    if select.metric not in (*METRICS, *ERRORS):
        known = f"{nearest(select.metric, [*METRICS, *ERRORS])}; there are: {', '.join([*METRICS, *ERRORS])}"
        raise SettingsError(f"select.metric: no metric is called {select.metric!r}{known}")
    if select.protocol == "error" or len(settings.models) == 1:
        return  # rating errors are always measured; a single model needs no choice
    if select.protocol not in evaluation.protocols:
        raise SettingsError(f"select.protocol = {select.protocol!r} is not in evaluation.protocols")
    if select.cutoff not in evaluation.cutoffs:
        raise SettingsError(f"select.cutoff = {select.cutoff} is not in evaluation.cutoffs {evaluation.cutoffs}")


def generated_source(home: Home, dataset: Dataset, look_only: bool = False) -> Path:
    """Folder of a generated source, which is written if needed. It is the same every night, with any seed."""
    from pipeline.datasets.anime_like import write_anime
    from pipeline.datasets.ncf_timed import write_ncf_timed
    from pipeline.datasets.sample import write_sample
    from pipeline.datasets.sample_shop import write_sample_shop
    from pipeline.datasets.shop_log import write_shop

    folder = home.lake(dataset.name) / lake.SOURCE
    if look_only:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write = {
        "sample": write_sample, "anime": write_anime, "ncf_timed": write_ncf_timed, "shop": write_shop,
        "sample_shop": write_sample_shop,
    }  # fmt: skip
    write[dataset.source.generator or SAMPLE](folder)
    return folder


def fetched_source(
    home: Home, settings: Settings, toml: Path, data: str | None, run_id: str | None
) -> tuple[Settings, Path, Path]:
    """Fetch what is not a file of this machine; returns the settings that name it, its folder, the data set's own one.

    The folder goes when this process ends, or by `discard`. Without `run_id` it is outside the home. A night that is
    prepared twice, as under Prefect, fetches once.
    """
    dataset = settings.dataset
    fetching.check(dataset, toml)
    own = resolve_data(dataset, toml, data) if fetching.is_local(dataset) else folder_of(dataset, toml, data)
    parent = home.lake(dataset.name) / lake.SOURCE
    if run_id:
        fetching.remove_abandoned(parent)
        folder = parent / f"{fetching.PREFIX}{run_id}"
    else:
        folder = Path(tempfile.mkdtemp(prefix="nightrecs-plan-"))
    atexit.register(delete, folder)
    fetching.own(folder)
    layer = home.lake(dataset.name) / "1_raw"
    request = fetching.Request(dataset, toml, own, settings.memory_limit, settings.threads, layer=layer)
    return settings.model_copy(update={"dataset": fetching.fetch(request, folder)}), folder, own


def discard(run: Run) -> None:
    """Remove what was fetched for a run that has ended."""
    if run.own_data:
        delete(run.data)


def target_of(home: Home) -> Target | None:
    """The target that a home is of; says so if its settings are not known."""
    home_identity.check(home)
    target = home_identity.target_of(home)
    if target and target.file is None:
        log_once(f"the home is that of target {target.name}; its settings are read with --target {target.name} only")
    return target


def say_where(option: str | None) -> None:
    """Print the home and why it was chosen, unless the user chose it or it is the checkout."""
    if option or os.environ.get("NIGHTRECS_HOME") or from_checkout():
        return
    place, why = default_home()
    log.info(f"home: {place}, {why}; --home or NIGHTRECS_HOME choose another")


def check_lake(home: Home, settings: Settings) -> None:
    """Raise UnreadableInput if the shared lake can't be used, if there is one."""
    if settings.lake:
        from pipeline.storage.shared_lake import SharedLake

        SharedLake(home, settings.dataset.name, settings.lake).check()


def check_writable(home: Home) -> None:
    """Create the home's folders, readable by the group. UnreadableInput if that fails."""
    os.umask(0o027)  # files 0640, folders 0750: SQL users of the group can read
    try:
        home.warehouse.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(home.warehouse / "probe")
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UnreadableInput(
            f"can't write to the home {home.root}: {error.strerror}; choose another with --home"
        ) from None
    home_identity.settle(home)  # before anything (also Prefect's server) reads the paths stored there
