"""How the night's models stand on valid so far, and so which of them a blend is made of."""

from collections.abc import Mapping

from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.evaluation import ranking_metrics
from pipeline.models import MODELS, registry
from pipeline.models.blend import BlendConfig
from pipeline.schemas import tables
from pipeline.storage import journal, lake


def family_name(settings: Settings, label: str) -> str:
    """Of the family behind a label."""
    return settings.models[label].family or label


def is_blend(settings: Settings, label: str) -> bool:
    """Whether a label stands for a family that is made of other models."""
    return registry.is_blend(family_name(settings, label))


def best_first(run: Run) -> list[str]:
    """Labels measured tonight that have the figure that selects, by it, on valid; ties as they were measured.

    Raises NotYetKnown where the night has not begun.
    """
    if not journal.folder(run).is_dir():
        raise lake.NotYetKnown(journal.folder(run))
    select = run.settings.select
    figures = journal.read(run.home, run.dataset, tables.METRICS, run.run_id).filter(
        split="valid", segment="all", protocol=select.protocol, metric=select.metric,
        cutoff=select.recorded_cutoff,
    )  # fmt: skip
    found = figures.drop_nans("value").sort(
        "value", descending=ranking_metrics.higher_is_better(select.metric), maintain_order=True
    )
    return found["model"].to_list()


def members_of(config: BlendConfig, families: Mapping[str, str], ranked: list[str]) -> list[str]:
    """Labels of a blend, in the order of `families` (family by label of what could be fitted).

    Those that the config names, by default every personal one; of these the `most` best, as `ranked` has them.
    """
    wanted = [label for label in config.of or families if label in families]
    if not config.of:
        wanted = [label for label in wanted if MODELS[families[label]].personal and not MODELS[families[label]].blends]
    place = {label: at for at, label in enumerate(ranked)}
    kept = sorted(wanted, key=lambda label: place.get(label, len(place)))[: config.most]
    return [label for label in wanted if label in kept]
