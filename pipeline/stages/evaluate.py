"""Evaluates a model on valid, where models are chosen, and on test, which is reported once."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.evaluation import eval_task, evaluator, per_user, rank_parts, rating_predictions
from pipeline.evaluation.beyond_accuracy import DEBIAS_POWER
from pipeline.models.serialization import load
from pipeline.schemas import tables
from pipeline.storage import journal, lake
from pipeline.training.device import resolve_device, set_threads
from pipeline.training.normalizer import Normalizer

VERSION = 7


def evaluate_model(run: Run, split_dir: Path, label: str, train_fit: Path, test_fit: Path) -> Path:
    """Evaluate `label`: its fit on train (`train_fit`) on valid, and `test_fit` on test.

    Writes metrics.parquet; the selecting metric by user in per_user.parquet (of valid, for the gate) and
    per_user_test.parquet; and predictions.parquet, ratings of test with their predictions.
    """
    settings = run.settings

    def write(folder: Path) -> lake.StageResult:
        set_threads(settings.threads)
        device = resolve_device(settings.device)
        data = eval_task.load_splits(split_dir, device, run.settings.recency)
        records: evaluator.Records = []
        kept: dict[str, pl.DataFrame] = {}  # by split; empty where the selecting metric is not computed

        def run_of(folder_of: Path, split: str, fit: str) -> eval_task.EvalRun:
            model, normalizer = load(folder_of, device), Normalizer.load(folder_of)
            return eval_task.EvalRun(model, label, data, split, fit, settings, normalizer)

        of_valid = run_of(train_fit, "valid", "train")
        of_test = replace(of_valid, split="test") if test_fit == train_fit else None
        both = [of_valid, of_test] if of_test else [of_valid]
        ranked = rank_parts.by_engine(both, train_fit, folder) or evaluator.ranked_together(both)
        records += evaluator.evaluate(of_valid, partial(kept.__setitem__, "valid"), ranked.pop("valid", None))
        del of_valid, both  # two large models may not fit into memory
        if of_test is None:
            of_test = run_of(test_fit, "test", lake.info(test_fit)["fit"])
            ranked = rank_parts.by_engine([of_test], test_fit, folder)
        records += evaluator.evaluate(of_test, partial(kept.__setitem__, "test"), ranked.pop("test", None))
        rating_predictions.of_sample(of_test).write_parquet(folder / "predictions.parquet")
        metrics = pl.DataFrame(records, schema=tables.METRICS.without("run_id").schema, orient="row")
        tables.METRICS.without("run_id").check(metrics).write_parquet(folder / "metrics.parquet")
        for split, by_user in kept.items():
            tables.PER_USER.check(by_user).write_parquet(folder / per_user.FILES[split])
        errors = metrics.filter(split="test", metric="rmse")
        n = dict(zip(errors["segment"], errors["n"], strict=True))
        return lake.StageResult(rows_out=metrics.height, info={"label": label, "rated_rows_of_test": n})

    folder = lake.build(run, spec(run, split_dir, label, train_fit, test_fit), write)
    _note_cold(run, lake.info(folder)["rated_rows_of_test"])
    journal.append(run, tables.METRICS, pl.read_parquet(folder / "metrics.parquet").to_dicts())
    return folder


def is_spread(run: Run, split_dir: Path) -> bool:
    """Whether an engine carries out `evaluate_model` in parts, which the night's own process asks for."""
    info = lake.info(split_dir)
    held_out = max((n for split, n in info["users"].items() if split != "train"), default=0)
    is_full = "full" in run.settings.evaluation.protocols
    return is_full and rank_parts.is_large(info["n_users"], info["n_items"], held_out)


def spec(run: Run, split_dir: Path, label: str, train_fit: Path, test_fit: Path) -> lake.Spec:
    """Key of `evaluate_model`."""
    settings = run.settings
    return lake.Spec(
        call=StageCall(StageName.EVALUATE, label),
        layer="6_metrics",
        version=VERSION,
        settings={
            **settings.evaluation.model_dump(), "seed": settings.seed,
            "feedback": settings.dataset.feedback.kind, "errors": settings.select.protocol == "error",
            "select": settings.select.model_dump(),
            **({"new_days": settings.attributes.new_days} if settings.attributes.used else {}),
            **({"sampled_intervals": "users"} if "sampled_99" in settings.evaluation.protocols else {}),
            **({"novelty": "users"} if settings.dataset.is_weighted else {}),
            **({"debiased_intervals": "ratio"} if _debiased_weigh_little(split_dir) else {}),
        },
        parents=(split_dir, train_fit, test_fit),
        head=label,
    )  # fmt: skip


def _debiased_weigh_little(split_dir: Path) -> bool:
    """Whether the weights of `hit_rate_debiased` may sum to about 1 or less, as those of few events of popular items.

    Their intervals were too narrow then. An item has at most as many rows as there are users, and weights are
    rows ** -DEBIAS_POWER.
    """
    info = lake.info(split_dir)
    held_out = [info["rows"].get(split) for split in ("valid", "test")]
    return any(rows and rows * max(info["n_users"], 1) ** -DEBIAS_POWER < 2 for rows in held_out)


def _note_cold(run: Run, n: dict[str, int]) -> None:
    """Note, once per night, how many ratings of test the errors leave out; `n`: rows by segment."""
    text = (
        f"{n.get('cold', 0):,} of the {sum(n.values()):,} ratings of test are of a user or an item without a rating in "
        "the fit: rating errors leave them out (they have a segment of their own, `cold`)"
    )
    if n.get("cold"):
        journal.note(run, text, once=True)
