"""Fits and figures through the line: what is fitted on what, units, selection by error, checkpoints, divergence."""

import json
import re
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.core.errors import Refused, SettingsError, Skipped
from pipeline.core.seeding import generator
from pipeline.evaluation import eval_task, evaluator, objective, ranking_metrics
from pipeline.models import ease
from pipeline.models.popularity import Popularity
from pipeline.models.serialization import load
from pipeline.schemas import tables
from pipeline.stages import clean, encode, evaluate, select, split, train
from pipeline.storage import journal, lake
from pipeline.training import loop
from pipeline.training.normalizer import Normalizer
from tests.support.stage_runs import make_run, raw, store

PMF = {"pmf": {"embedding_dim": 2, "epochs": 6, "batch_size": 64}}
BY_ERROR = {"protocol": "error", "metric": "rmse"}
CPU = torch.device("cpu")


def source(outlier: float | None = None) -> pl.DataFrame:
    """40 users with 12 of 30 items, play counts with user and item effects; the last event may be an outlier."""
    rng = generator(0, "toy")
    users, items = rng.random(40), rng.random(30)
    rows = []
    for user in range(40):
        for day, item in enumerate(rng.permutation(30)[:12]):
            plays = round(float(10 + 40 * users[user] + 40 * items[item] + rng.random()), 2)
            rows.append((f"u{user:02}", f"i{item:02}", plays, day))
    if outlier is not None:
        rows = [(*row[:2], outlier if row[3] == 11 else row[2], row[3]) for row in rows]
    return raw(*rows)


def night(home: Path, rows: pl.DataFrame | None = None, normalize: str = "none", **tree) -> tuple[Run, Path]:
    """A run of the data set up to its split, by leave-one-out: day 11 is test, day 10 valid."""
    tree = {"models": PMF, "split": {"kind": "leave_one_out"}, "threads": 1, **tree}
    dataset = {"feedback": {"kind": "explicit", "normalize": normalize}, **tree.pop("dataset", {})}
    run = make_run(home, dataset=dataset, **tree)
    encoded = encode.encode_ids(run, clean.clean_interactions(run, store(run, source() if rows is None else rows)))
    return run, split.split_interactions(run, encoded)


def figures(folder: Path) -> dict[tuple[str, str], float]:
    frame = pl.read_parquet(folder / "metrics.parquet").filter(protocol="error", segment="all")
    return {(row["split"], row["metric"]): row["value"] for row in frame.iter_rows(named=True)}


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("normalize", ["standardize", "min_max", "log1p"])
def test_nothing_is_fitted_on_the_holdout(tmp_path, normalize: str):
    """An outlier in test changes neither the statistics of the fit nor what is learnt."""
    fitted = []
    for number, outlier in enumerate((None, 1e6)):
        run, parts = night(tmp_path / str(number), source(outlier), normalize)
        assert (pl.read_parquet(parts / "test.parquet")["rating"] == 1e6).any() == (outlier is not None)
        fitted.append(train.fit_model(run, parts, "pmf"))
    plain, planted = (Normalizer.load(folder) for folder in fitted)
    assert plain == planted and plain.kind == normalize and plain.high < 100
    for name, tensor in state(fitted[0]).items():
        assert torch.equal(tensor, state(fitted[1])[name]), name


def test_a_fit_on_more_rows_is_normalised_by_them(tmp_path):
    run, parts = night(tmp_path, normalize="standardize")
    chosen = train.fit_model(run, parts, "pmf")
    more = train.refit_model(run, parts, "pmf", "train+valid", chosen)
    ratings = pl.concat(pl.read_parquet(parts / f"{name}.parquet") for name in ("train", "valid"))["rating"]
    assert Normalizer.load(more).shift == pytest.approx(ratings.mean())
    assert Normalizer.load(more) != Normalizer.load(chosen)


@pytest.mark.long
def test_what_is_learnt_is_on_the_scale_of_the_fit_and_errors_on_that_of_the_source(tmp_path):
    values = {}
    for kind in ("none", "standardize", "log1p"):
        models = {"pmf": {**PMF["pmf"], "epochs": 60, "learning_rate": 0.05, "l2": 0.01, "batch_size": 32}}
        run, parts = night(tmp_path / kind, normalize=kind, models=models, select=BY_ERROR)
        fitted = train.fit_model(run, parts, "pmf")
        values[kind] = figures(evaluate.evaluate_model(run, parts, "pmf", fitted, fitted))
        biggest = state(fitted)["range"].max().item()
        assert biggest > 80 if kind == "none" else biggest < 6
    variance = {kind: of["test", "target_variance"] for kind, of in values.items()}
    assert len(set(variance.values())) == 1
    for kind, of in values.items():
        assert of["test", "rmse"] < 0.6 * variance[kind] ** 0.5, kind
        assert of["test", "rmse_mean"] == values["none"]["test", "rmse_mean"]


def test_errors_on_the_scale_of_the_fit_stand_beside_those_of_the_source(tmp_path):
    """rmse_scaled of log ratings, by hand; and it is the figure that guides and chooses where it is asked for."""
    run, parts = night(tmp_path, normalize="log1p", select={"protocol": "error", "metric": "rmse_scaled"})
    fitted = train.fit_model(run, parts, "pmf")
    values = figures(evaluate.evaluate_model(run, parts, "pmf", fitted, fitted))
    test, learnt = (pl.read_parquet(parts / f"{name}.parquet") for name in ("test", "train"))
    model, normalizer = load(fitted), Normalizer.load(fitted)
    users, items = (test[name].cast(pl.Int64).to_torch() for name in ("user_idx", "item_idx"))
    with torch.no_grad():
        predicted = normalizer.invert(model.predict(users, items)).double()
    actual = test["rating"].cast(pl.Float64)
    off = predicted.log1p() - actual.log1p().to_torch()
    assert values["test", "rmse_scaled"] == pytest.approx(off.square().mean().sqrt().item(), rel=1e-4)
    assert values["test", "target_variance_scaled"] == pytest.approx(actual.log1p().var(ddof=0), rel=1e-4)
    mean = learnt["rating"].cast(pl.Float64).log1p().mean()
    assert values["test", "rmse_mean_scaled"] == pytest.approx(((actual.log1p() - mean) ** 2).mean() ** 0.5, rel=1e-4)
    assert values["test", "rmse"] == pytest.approx((predicted - actual.to_torch()).square().mean().sqrt().item())
    history = lake.info(fitted)["history"]
    assert -max(epoch["valid"] for epoch in history) == pytest.approx(values["valid", "rmse_scaled"], rel=1e-4)


def test_without_normalisation_there_is_no_scale_to_choose_by(tmp_path):
    with pytest.raises(ValidationError, match="or select by 'rmse'"):
        night(tmp_path, select={"protocol": "error", "metric": "rmse_scaled"})


def test_normalize_is_part_of_the_key(tmp_path):
    folders = {train.fit_model(*night(tmp_path / kind, normalize=kind), "pmf").name for kind in ("none", "min_max")}
    assert len(folders) == 2


def test_weights_of_implicit_families_are_normalised_too(tmp_path):
    models = {"ials": {"embedding_dim": 4, "epochs": 2, "use_weights": True}}
    states = []
    for kind in ("none", "log1p"):
        run, parts = night(tmp_path / kind, normalize=kind, models=models)
        states.append(state(train.fit_model(run, parts, "ials"))["mean_weight"].item())
    assert states[0] > 20 and states[1] < 6
    run, parts = night(tmp_path / "z", normalize="standardize", models=models)
    with pytest.raises(Skipped, match=re.escape("needs ratings from 0 up")):
        train.fit_model(run, parts, "ials")


def test_a_scale_that_can_t_be_had_skips_the_family(tmp_path):
    rows = source().with_columns(rating=pl.col("rating") - 50)
    run, parts = night(tmp_path, rows, "log1p")
    with pytest.raises(Skipped, match=re.escape("needs ratings above -1")):
        train.fit_model(run, parts, "pmf")


def measured(run: Run, parts: Path, *labels: str) -> list[Path]:
    folders = []
    for label in labels:
        fitted = train.fit_model(run, parts, label)
        folders.append(evaluate.evaluate_model(run, parts, label, fitted, fitted))
    return folders


def test_the_lowest_error_on_valid_is_champion_and_stops_the_fit(tmp_path):
    good = {
        "family": "pmf",
        "embedding_dim": 2,
        "epochs": 80,
        "learning_rate": 0.05,
        "l2": 0.01,
        "batch_size": 32,
        "patience": 3,
    }
    models = {
        "poor": {**PMF["pmf"], "family": "pmf", "epochs": 1, "learning_rate": 1e-5}, "good": good, "popularity": {},
    }  # fmt: skip
    run, parts = night(tmp_path, normalize="standardize", models=models, select=BY_ERROR)
    folders = measured(run, parts, *models)
    assert select.choose_champion(run, folders) == "good"
    choice = journal.read_run(run.home, run.dataset, run.run_id)["choice"]
    values = figures(folders[1])
    assert choice["metric"] == "rmse" and set(choice["values"]) == {"poor", "good"}
    assert choice["values"]["good"] == values["valid", "rmse"] < choice["values"]["poor"]
    assert choice["beside"] == {name: values["valid", name] for name in ("target_variance", "rmse_mean", "rmse_bias")}
    assert "popularity can't be champion: it has no rmse on valid" in journal.notes(run.home, run.dataset, run.run_id)
    history = lake.info(train.fit_model(run, parts, "good"))["history"]
    best = max(history, key=lambda epoch: epoch["valid"])
    assert -best["valid"] == pytest.approx(values["valid", "rmse"], rel=1e-5)
    assert len(history) == best["epoch"] + 3 < 80


def test_valid_and_test_from_the_same_scores_have_the_same_metrics(tmp_path, monkeypatch: pytest.MonkeyPatch):
    together = []
    joint = evaluator.ranked_together
    monkeypatch.setattr(evaluator, "ranked_together", lambda runs: together.append(joint(runs)) or {**together[-1]})
    parts = {}
    for at_once in (True, False):
        monkeypatch.setattr(ease, "DENSE_ITEMS", 0 if at_once else 2048)
        run, splits = night(tmp_path / str(at_once), models={"ease": {}})
        folder = measured(run, splits, "ease")[0]
        parts[at_once] = [pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    assert [{*ranked} for ranked in together] == [{"valid", "test"}, set()]
    assert len(parts[True]) == 4 and all(a.equals(b) for a, b in zip(*parts.values(), strict=True))


def test_with_no_eligible_model_the_night_is_refused(tmp_path):
    run, parts = night(tmp_path, models={"popularity": {}, "ease": {}, "mf": {"epochs": 1}}, select=BY_ERROR)
    with pytest.raises(Refused, match="no model has rmse on valid"):
        select.choose_champion(run, measured(run, parts, "popularity", "ease", "mf"))


def test_errors_go_with_error_metrics():
    for keys in ({"protocol": "error"}, {"metric": "rmse"}):
        with pytest.raises(ValueError, match="goes with"):
            Settings.model_validate({"dataset": {"name": "x"}, "models": {"pmf": {}}, "select": keys})
    with pytest.raises(SettingsError, match="goes with"):
        loader.load_settings("sample", "nightly", ["select.metric=mae"])


def test_the_validator_asks_by_the_protocol_that_selects(tmp_path):
    values = {}
    for protocol in ("full", "sampled_99"):
        run, parts = night(
            tmp_path / protocol, select={"protocol": protocol, "metric": "mrr", "cutoff": 10}, models={"popularity": {}},
            evaluation={"protocols": [protocol], "cutoffs": [10]},
        )  # fmt: skip
        fitted = train.fit_model(run, parts, "popularity")
        data = eval_task.load_splits(parts, CPU)
        validate = objective.validation_objective(data, run.settings, Popularity, Normalizer())
        assert validate is not None
        values[protocol] = validate(load(fitted))
        (folder,) = measured(run, parts, "popularity")
        reported = pl.read_parquet(folder / "metrics.parquet").filter(
            split="valid", metric="mrr", segment="all", protocol=protocol
        )
        assert values[protocol] == pytest.approx(reported["value"].item())
    assert values["full"] > 0


def test_intervals_of_sampled_99_draw_users_with_all_their_events(tmp_path):
    """A user of many held-out events is one piece of evidence, in the metrics of a night, too."""
    run, parts = night(
        tmp_path, split={"kind": "random", "by": "row", "valid": 0.2, "test": 0.2}, models={"popularity": {}},
        evaluation={"protocols": ["sampled_99"], "cutoffs": [10]},
    )  # fmt: skip
    data, fitted = eval_task.load_splits(parts, CPU), train.fit_model(run, parts, "popularity")
    asked = eval_task.EvalRun(load(fitted), "popularity", data, "valid", "train", run.settings, Normalizer())
    task = eval_task.eval_task(data, "valid", "train")
    assert int(task.holdout.lengths.max()) > 3, "or both intervals would be the same"
    users = task.users[task.holdout.rows]  # (E,)
    ranks = evaluator.ranks_among(load(fitted), task, evaluator.negatives_of(data, task, run.settings.seed, "valid"))
    values = ranking_metrics.per_user(ranks, [10], ["mrr"])["mrr", 10].unsqueeze(1)  # (E, 1)
    expected = ranking_metrics.intervals_by_user(values, users, run.settings.seed)[0].tolist()
    assert expected != ranking_metrics.intervals(values, run.settings.seed)[0].tolist()
    records = evaluator.evaluate(asked, lambda per_user: None)
    (found,) = [row for row in records if (row["metric"], row["segment"]) == ("mrr", "all")]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(expected) and found["n"] == len(values)


class Killed(BaseException):
    pass


@pytest.mark.long
@pytest.mark.parametrize(
    "models",
    [
        {"pmf": {**PMF["pmf"], "epochs": 8, "schedule": "one_cycle"}},
        {"pmf": {**PMF["pmf"], "epochs": 8, "optimizer": "sgd", "momentum": 0.9, "dampening": 0.9}},
        {"mf": {"embedding_dim": 4, "epochs": 8, "batch_size": 64, "sparse": True}},
        {"ncf": {"epochs": 8, "dropout": 0.3, "variant": "neumf"}},
        {"ncf": {"epochs": 8, "optimizer": "adagrad", "negatives": "static", "variant": "gmf"}},
    ],
    ids=["adam", "momentum", "sparse", "dropout", "adagrad"],
)
def test_a_killed_fit_goes_on_and_ends_as_if_undisturbed(tmp_path, monkeypatch, models: dict):
    (label,) = models
    run, parts = night(tmp_path / "undisturbed", models=models)
    undisturbed = train.fit_model(run, parts, label)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run, parts = night(tmp_path / "killed", models=models)
    tell, epochs = train.EpochLogger.__call__, []

    def dies(self, epoch: int, values: dict[str, float]) -> None:
        if epoch == 5:
            raise Killed
        time.sleep(0.2)
        tell(self, epoch, values)

    with monkeypatch.context() as patch:
        patch.setattr(train.EpochLogger, "__call__", dies)
        with pytest.raises(Killed):
            train.fit_model(run, parts, label)
    (left,) = (run.home.lake(run.dataset) / "5_models").glob(".checkpoint-*")
    assert not list((run.home.lake(run.dataset) / "5_models").glob(f"{label}*"))
    run_epoch = loop.Stepper.run_epoch

    def counted(self, epoch: int) -> float:
        epochs.append(epoch)
        return run_epoch(self, epoch)

    monkeypatch.setattr(loop.Stepper, "run_epoch", counted)
    resumed = train.fit_model(run, parts, label)
    assert epochs[0] == 5 and not left.exists()
    for name, tensor in state(undisturbed).items():
        assert torch.equal(tensor, state(resumed)[name]), name
    for key in ("history", "best_epoch"):
        assert lake.info(undisturbed)[key] == lake.info(resumed)[key]
    assert lake.info(resumed)["seconds"] > 3 * 0.2, "what it took before it was killed counts"


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_or_foreign_checkpoint_is_ignored(tmp_path, monkeypatch, capsys, damage: str):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run, parts = night(tmp_path)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    first = train.fit_model(run, parts, "pmf")
    monkeypatch.undo()
    (path,) = (run.home.lake(run.dataset) / "5_models").glob(".checkpoint-*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:100] if damage == "cut" else content.replace(b'"Pmf ', b'"Xmf '))
    expected = state(first)
    (first / lake.MANIFEST).unlink()
    again = train.fit_model(run, parts, "pmf")
    assert ("can't be read" if damage == "cut" else "another fit") in capsys.readouterr().err
    assert all(torch.equal(tensor, state(again)[name]) for name, tensor in expected.items())
    assert not path.exists()


@pytest.mark.parametrize(
    ("batch_size", "says"),
    [(0, "the fit diverged: 40 users have scores that are NaN or infinite"), (64, "1e+06; lower the rate")],
    ids=["finite factors, infinite scores", "infinite loss"],
)
def test_a_fit_that_diverges_is_skipped_with_the_reason(tmp_path, batch_size: int, says: str):
    wild = {"embedding_dim": 4, "optimizer": "sgd", "learning_rate": 1e6, "batch_size": batch_size}
    run, parts = night(tmp_path, models={"mf": wild})
    with pytest.raises(Skipped, match=re.escape(says)):
        train.fit_model(run, parts, "mf")


def test_a_night_goes_on_without_a_family_that_diverges(tmp_path):
    toml = tmp_path / "wild.toml"
    toml.write_text('[models.popularity]\n[models.ease]\n[models.mf]\noptimizer = "sgd"\nlearning_rate = 1e6\n')
    run = prepare("sample", str(toml), None, str(tmp_path / "home"), ["threads=1"])
    assert line.conduct(run, line.plainly, until="select") == "stopped"
    assert journal.read_run(run.home, "sample", run.run_id)["champion"] == "ease"
    (note,) = [n for n in journal.notes(run.home, "sample", run.run_id) if n.startswith("mf skipped: ")]
    assert "lower" in note


def test_ease_that_would_not_fit_in_memory_is_skipped(tmp_path):
    run, parts = night(tmp_path / "a", models={"ease": {}}, memory_limit="5KB")
    with pytest.raises(Skipped, match="raise memory_limit"):
        train.fit_model(run, parts, "ease")
    more = run.model_copy(update={"settings": run.settings.model_copy(update={"memory_limit": "1MB"})})
    assert train.fit_model(more, parts, "ease").is_dir(), "the advice works; the skip was not kept"


def test_a_long_fit_says_how_far_it_is(monkeypatch, capsys):
    now = iter([0.0, 1.0, 5.5, 5.5, 6.0, 11.0, 11.0])
    monkeypatch.setattr(train.time, "monotonic", lambda: next(now))
    told = train.EpochLogger("train mf", 15)
    for epoch, loss in ((1, 3.0), (2, 2.5), (3, 2.25), (4, 1.93456)):
        told(epoch, {"loss": loss, "valid": 0.1171})
    assert capsys.readouterr().err.splitlines() == [
        "  train mf  epoch 2/15  loss 2.5  valid 0.1171",
        "  train mf  epoch 4/15  loss 1.935  valid 0.1171",
    ]
    assert json.dumps(told.history[0]) == '{"epoch": 1, "loss": 3.0, "valid": 0.1171}'


def test_the_metrics_keep_their_contract(tmp_path):
    run, parts = night(tmp_path)
    (folder,) = measured(run, parts, "pmf")
    tables.METRICS.without("run_id").check(pl.read_parquet(folder / "metrics.parquet"))
