"""The ranking of the night's models on valid, and the members of blends that follow from it."""

from collections.abc import Container, Mapping

from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.evaluation import ranking_metrics
from pipeline.models import MODELS, registry
from pipeline.models.blend import BlendConfig
from pipeline.schemas import tables
from pipeline.storage import journal, lake


def family_name(settings: Settings, label: str) -> str:
    """Name of the family of a label."""
    return settings.models[label].family or label


def is_blend(settings: Settings, label: str) -> bool:
    """Whether a label stands for a family that is made of other models."""
    return registry.is_blend(family_name(settings, label))


def best_first(run: Run) -> list[str]:
    """Labels evaluated in this night that have the selecting metric, best on valid first; ties in order of evaluation.

    Raises NotYetKnown if the night has not started.
    """
    return list(on_valid(run))


def on_valid(run: Run) -> dict[str, float]:
    """The selecting metric on valid by label, in the order of `best_first`, and with its errors."""
    if not journal.folder(run).is_dir():
        raise lake.NotYetKnown(journal.folder(run))
    select = run.settings.select
    metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id).filter(
        split="valid", segment="all", protocol=select.protocol, metric=select.metric,
        cutoff=select.recorded_cutoff,
    )  # fmt: skip
    found = metrics.drop_nans("value").sort(
        "value", descending=ranking_metrics.higher_is_better(select.metric), maintain_order=True
    )
    return dict(found.select("model", "value").iter_rows())


def runner_up(run: Run, champion: str, fitted: Container[str]) -> str | None:
    """The best model on valid but the champion, of those that are fitted; None: there is no other."""
    return next((label for label in best_first(run) if label != champion and label in fitted), None)


def members_of(config: BlendConfig, families: Mapping[str, str], ranked: list[str]) -> list[str]:
    """Labels of a blend's members, in the order of `families` (families of the fitted models, by label).

    They are those that the config names, by default every personalised model; of these the best `most`, by `ranked`.
    """
    wanted = [label for label in config.of or families if label in families]
    if not config.of:
        wanted = [label for label in wanted if MODELS[families[label]].personal and not MODELS[families[label]].blends]
    place = {label: at for at, label in enumerate(ranked)}
    kept = sorted(wanted, key=lambda label: place.get(label, len(place)))[: config.most]
    return [label for label in wanted if label in kept]
