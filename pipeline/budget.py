"""What is left of a night's minutes, and how long its deeds will take, by the journals of this and past nights."""

import time

import polars as pl

from pipeline import journal, standing, tables
from pipeline.context import NotServable
from pipeline.models.blend import BlendConfig
from pipeline.run import Run, utcnow
from pipeline.settings import FLOOR, INCUMBENT

NIGHTS = 20
"""Past nights that are looked at."""
AFTER_FITS = ("select", "track", "export", "audit", "publish", "register", "compare")
NEVER_EXPORTED = 0.2
"""Share of the budget that is kept for them on a data set's first night."""
LEARNING = 3.0
"""Times the evaluation of its members that learning the weights of a blend is taken to last, until a night has told."""
REFIT = 1.25
"""Times the fit on train that the refit on all rows is taken to last, until a night has told."""


def left(run: Run) -> float | None:
    """Seconds until the night should be published; None: it has no budget."""
    minutes = run.settings.budget.minutes
    return None if minutes is None else minutes * 60 - (utcnow() - run.started_at).total_seconds()


def deadline(run: Run, label: str, title: str) -> float | None:
    """On time.monotonic(): when a fit on train must end, so that the night can still measure, refit and publish.

    The time is shared equally by the models that are not yet fitted and by the searches; what a cheap model leaves
    goes to the others. A tuned fit, after the searches, may have all of it but what blends need, and blends, which
    come last, share what is left. None: the night has no budget, or this is its first model or one of the gate,
    which there must be. Raises NotServable when past timings say that the fit won't end in time; learning the
    weights of a blend can end at any time.
    """
    seconds, known = left(run), Timings(run)
    if seconds is None or label == FLOOR or label.startswith(INCUMBENT) or not known.tonight("evaluate"):
        return None
    spare, waiting = seconds - known.after_fit(label), known.labels[known.labels.index(label) :]
    searches = sum(entry.search is not None for entry in run.settings.models.values())
    is_blend = label in known.blends
    last = title.endswith(" tuned") or is_blend
    share = spare / len(known.blends_from(label) if is_blend else [label] if last else [*waiting, *range(searches)])
    fit = None if is_blend else known.expected(title, f"{title}, cut short")
    if share <= 0 or (fit is not None and fit > share):
        takes = "the fit" if fit is None else f"the fit, {fit:.0f} s when last timed,"
        raise NotServable(
            f"{takes} would not end within its part of the budget, {max(share, 0):.0f} s: {seconds:.0f} s are left, "
            f"{seconds - spare:.0f} s of them for measuring, refitting on all rows and publishing"
        )
    return time.monotonic() + share


def spare(run: Run, label: str, usual: float) -> float:
    """Seconds for trials of `label`, which takes `usual` to fit: its best must yet be fitted, measured, published.

    So must the best of the others that a blend would have as members.
    """
    known = Timings(run)
    own = known.expected(f"train {label} tuned") or usual
    return (left(run) or 0) - known.after_fit(label) - own - known.tuned_members(label)


class Timings:
    """Seconds of stages, on this data set."""

    def __init__(self, run: Run):
        ids = journal.run_ids(run.home, run.dataset)[-NIGHTS:]
        stages = [journal.read(run.home, run.dataset, tables.STAGES, run_id) for run_id in ids]
        self.run, self.run_id, self.labels = run, run.run_id, list(run.settings.models)
        self.blends = [label for label in self.labels if standing.is_blend(run.settings, label)]
        published = any(journal.read_run(run.home, run.dataset, i).get("outcome") == "published" for i in ids)
        self.gated = published and run.settings.gate.enabled
        self.budget = 60 * (run.settings.budget.minutes or 0)
        self.stages = pl.concat([tables.STAGES.empty(), *stages]).filter(~pl.col("skipped"))
        self.all_stages = pl.concat([tables.STAGES.empty(), *stages])

    def expected(self, *titles: str) -> float | None:
        """Seconds that the stage of the first known title will take: the longest of its last three times."""
        for title in titles:
            times = self.stages.filter(stage=title).sort("run_id")["seconds"].tail(3)
            if len(times):
                return float(times.max())  # type: ignore[arg-type]
        return None

    def tonight(self, start: str) -> list[str]:
        """Stages of this night whose title starts so, those whose result was there already too."""
        titles = self.all_stages.filter(run_id=self.run_id)["stage"].to_list()
        return [title for title in titles if title.startswith(start)]

    def blends_from(self, label: str) -> list[str]:
        """Those that come at this label of the recipe, or later."""
        return [blend for blend in self.blends if self.labels.index(blend) >= self.labels.index(label)]

    def members(self, blend: str) -> list[str]:
        """Labels that the blend would be made of now."""
        settings = self.run.settings
        config = BlendConfig.model_validate(settings.models[blend].model_extra or {})
        fitted = {label: standing.family_name(settings, label) for label in self.fitted()}
        return standing.members_of(config, fitted, standing.best_first(self.run))

    def fitted(self) -> list[str]:
        """Labels that have a fit tonight."""
        titles = {title.replace(",", " ").split()[1] for title in self.tonight("train ")}
        return [label for label in self.labels if label in titles]

    def evaluation(self, label: str) -> float:
        """Of a family never measured before, as long as the slowest so far; of a blend, as long as of its members."""
        if label in self.blends:
            return self.expected(f"evaluate {label}") or sum(map(self.evaluation, self.members(label)))
        slowest = self.stages.filter(pl.col("stage").str.starts_with("evaluate "))["seconds"].max()
        return self.expected(f"evaluate {label}") or float(slowest or 0)  # type: ignore[arg-type]

    def refit(self, label: str) -> float:
        """Fit on all rows, and on train and valid where the test asks for that; of a blend, its members'."""
        if label in self.blends:
            return (self.expected(f"train {label} on all") or 0.0) + sum(map(self.refit, self.members(label)))
        fit = self.expected(f"train {label} tuned", f"train {label}", f"train {label}, cut short") or 0.0
        return self.expected(f"train {label} on all") or REFIT * fit

    def publishing(self) -> float:
        """All that follows the fits on train but the refit."""
        known = [self.expected(stage) for stage in AFTER_FITS]
        return sum(seconds or 0 for seconds in known) + (0 if known[2] else NEVER_EXPORTED * self.budget)

    def after_fit(self, label: str) -> float:
        """From the end of a fit of `label` to the end of the night, whichever of tonight's models is refitted."""
        waiting = [blend for blend in self.blends if blend != label and blend not in self.fitted()]
        blending = sum(self.learning(blend) + self.evaluation(blend) for blend in waiting)
        refit = max(map(self.refit, {label, *self.fitted(), *self.blends}))
        return self.evaluation(label) + blending + self.gate() + refit + self.publishing()

    def tuned_members(self, label: str) -> float:
        """Fits and evaluations of what a blend would have as members, but for `label`, with what was searched."""
        members = {member for blend in self.blends for member in self.members(blend)} - {label}
        searched = [member for member in members if self.run.settings.models[member].search]
        fits = (self.expected(f"train {m} tuned", f"train {m}", f"train {m}, cut short") or 0.0 for m in searched)
        return sum(fits) + sum(map(self.evaluation, searched))

    def learning(self, blend: str) -> float:
        """Fit of a blend, whose members are fitted already."""
        guess = LEARNING * sum(map(self.evaluation, self.members(blend)))
        return self.expected(f"train {blend}") or guess

    def gate(self) -> float:
        """Fit and evaluation of the configuration that is published, where it is not tonight's own."""
        if not self.gated:
            return 0.0
        tonight = [self.expected(f"train {label}") or 0.0 for label in self.labels]
        return (self.expected(f"train {INCUMBENT}") or max(tonight)) + self.evaluation(INCUMBENT)
