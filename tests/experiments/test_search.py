"""Searches: what they may try, when they end, that they resume, prune and survive failures; then whole nights."""

import datetime as dt
import json
from pathlib import Path

import polars as pl
import pytest

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.experiments.recipe_checks import check_label
from pipeline.experiments.space import Choices, Range, grid_of, read_space, usual_point
from pipeline.experiments.stopping import Limits
from pipeline.experiments.study import Failed, Search, Trial, best_of
from pipeline.models import MODELS
from pipeline.schemas import tables
from pipeline.storage import journal, lake
from pipeline.tracking import server
from tests.support.nights import one_night, without_views

SPACE = {"x": Range(low=0.0, high=1.0), "kind": Choices(("a", "b", [3, 4]))}


def bowl(params, report) -> float:
    """Highest at x = 0.3 with kind b."""
    value = -((params["x"] - 0.3) ** 2) - 0.1 * (params["kind"] != "b")
    for epoch in range(1, 6):
        report(epoch, value)
    return value


def printed(trials: list[Trial]) -> list[tuple]:
    return [(trial.number, json.dumps(trial.params), trial.state, trial.value, trial.epochs) for trial in trials]


class Clock:
    """Moves when a trial says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ── the search itself ──


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_it_ends_after_its_trials_and_finds_what_is_good(tmp_path: Path, sampler: str):
    trials, ended = Search(tmp_path / "study", SPACE, bowl, Limits(25), sampler).run()
    assert len(trials) == 25 and ended == "25 trials" and [t.number for t in trials] == list(range(25))
    best = best_of(trials)
    assert best and best.params["kind"] == "b" and abs(best.params["x"] - 0.3) < 0.2
    assert best.value == max(t.value for t in trials if t.state == "complete" and t.value is not None)


def test_the_configured_point_comes_first_and_needs_no_fit_if_its_metric_is_known(tmp_path: Path):
    first = {"x": 0.5, "kind": [3, 4]}
    trials, _ = Search(tmp_path / "study", SPACE, bowl, Limits(2), first=first).run()
    assert trials[0].params == first and trials[0].value == pytest.approx(-0.14) and trials[0].epochs == 5
    trials, _ = Search(tmp_path / "other", SPACE, bowl, Limits(2), first=first, known=7.0).run()
    assert trials[0].params == first and trials[0].value == 7.0 and trials[0].epochs == 0
    assert trials[1].value != 7.0


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_search_that_was_killed_ends_as_it_would_have_undisturbed(tmp_path: Path, sampler: str):
    space = {"x": Range(low=0.0, high=1.0, step=0.25), "kind": SPACE["kind"]} if sampler == "grid" else SPACE
    whole, _ = Search(tmp_path / "whole", space, bowl, Limits(12), sampler).run()
    calls = 0

    def dies(params, report) -> float:
        nonlocal calls
        calls += 1
        if calls in (3, 8):
            report(1, -1.0)
            raise KeyboardInterrupt  # nothing handles it, like a kill
        return bowl(params, report)

    path = tmp_path / "killed"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Search(path, space, dies, Limits(12), sampler).run()
        with path.open("a") as file:
            file.write('{"op_code": 4, "tor')  # a write that the kill tore
        path.with_name(path.name + ".lock").symlink_to(path)  # a lock that nobody holds any more
    resumed, _ = Search(path, space, dies, Limits(12), sampler).run()
    assert printed(resumed) == printed(whole) and calls == len([t for t in whole if not t.reason]) + 2


def test_more_trials_go_on_from_those_there_are(tmp_path: Path):
    few, _ = Search(tmp_path / "study", SPACE, bowl, Limits(4)).run()
    more, _ = Search(tmp_path / "study", SPACE, bowl, Limits(9)).run()
    assert printed(more[:4]) == printed(few) and len(more) == 9
    never, _ = Search(tmp_path / "study", SPACE, lambda *_: pytest.fail("a trial too many"), Limits(9)).run()
    assert printed(never) == printed(more)


def test_a_hopeless_trial_is_pruned_and_a_good_one_is_not(tmp_path: Path):
    planted = {"x": 1.0, "kind": "a"}
    epochs: dict[str, int] = {}

    def objective(params, report) -> float:
        for epoch in range(1, 11):
            epochs[json.dumps(params)] = epoch
            report(epoch, -100.0 if params == planted else bowl(params, lambda *_: None) + epoch)
        return -100.0 if params == planted else bowl(params, lambda *_: None) + 10

    grid = {"x": Choices((0.1, 0.2, 0.3, 0.4, 0.5, 1.0)), "kind": Choices(("a",))}
    trials, _ = Search(tmp_path / "study", grid, objective, Limits(), "grid").run()
    bad = next(trial for trial in trials if trial.params == planted)
    assert bad.state == "pruned" and bad.value == -100.0 and epochs[json.dumps(planted)] < 5
    assert best_of(trials).params["x"] == 0.3
    trials, _ = Search(tmp_path / "unpruned", grid, objective, Limits(), "grid", prune=False).run()
    assert {trial.state for trial in trials} == {"complete"}


def test_a_grid_covers_every_point_once_in_order(tmp_path: Path):
    space = {"dim": Choices((20, 30, 40)), "x": Range(low=0.1, high=0.3, step=0.1), "on": Choices((True, False))}
    points = grid_of(space)
    seen = []
    trials, ended = Search(tmp_path / "study", space, lambda p, _: seen.append(p) or 1.0, Limits(), "grid").run()
    assert len(points) == 18 and ended == "every point of the grid was tried"
    assert [t.params for t in trials] == points == [*seen]


def test_failed_trials_do_not_end_a_search(tmp_path: Path):
    def objective(params, report) -> float:
        if params["kind"] == "a":
            raise Failed("the fit diverged")
        return float("nan") if params["x"] > 0.7 else bowl(params, report)

    trials, ended = Search(tmp_path / "study", SPACE, objective, Limits(15), "random").run()
    failed = [trial for trial in trials if trial.state == "failed"]
    assert ended == "15 trials" and {"the fit diverged", "the metric is not a number"} == {t.reason for t in failed}
    assert all(trial.value is None for trial in failed) and best_of(trials).params["kind"] != "a"


def test_a_search_of_which_everything_fails_gives_up(tmp_path: Path):
    def fails(params, report) -> float:
        raise Failed("needs ratings")

    trials, ended = Search(tmp_path / "study", SPACE, fails, Limits(100)).run()
    assert len(trials) == 10 and "needs ratings" in ended and best_of(trials) is None


def test_what_nobody_expected_is_not_swallowed(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        Search(tmp_path / "study", SPACE, lambda *_: 1 / 0, Limits(3)).run()


def test_points_tried_before_are_not_fitted_again(tmp_path: Path):
    calls = []
    space = {"kind": Choices(("a", "b"))}
    trials, ended = Search(tmp_path / "study", space, lambda p, _: calls.append(p) or 1.0, Limits(), "random").run()
    assert len(calls) == 2 and ended == "nothing new was proposed"
    assert trials[-1].reason == f"as trial {next(t.number for t in trials if t.params == trials[-1].params)}"


# ── limits, by a clock of our own ──


def taking(clock: Clock, seconds: float):
    def objective(params, report) -> float:
        clock.now += seconds
        return bowl(params, report)

    return objective


def test_minutes_are_kept_over_a_resume(tmp_path: Path):
    clock = Clock()
    limits = Limits(seconds=60, clock=clock)
    trials, ended = Search(tmp_path / "study", SPACE, taking(clock, 25), limits, clock=clock).run()
    assert len(trials) == 2 and ended == "1 minutes"  # a third one would end after 75 s
    clock.now += 1000  # the night was killed; time outside trials doesn't count
    limits = Limits(seconds=120, clock=clock)
    trials, _ = Search(tmp_path / "study", SPACE, taking(clock, 25), limits, clock=clock).run()
    assert len(trials) == 4 and sum(t.seconds for t in trials) == 100


def test_a_trial_gets_what_is_left_as_its_deadline(tmp_path: Path):
    clock, deadlines = Clock(), []
    limits = Limits(seconds=60, clock=clock)

    def objective(params, report) -> float:
        deadlines.append(limits.deadline() - clock.now)
        clock.now += 20
        return bowl(params, report)

    Search(tmp_path / "study", SPACE, objective, limits, clock=clock).run()
    assert deadlines == [60, 40, 20]


def test_whichever_comes_first(tmp_path: Path):
    clock = Clock()
    _, ended = Search(tmp_path / "a", SPACE, taking(clock, 1), Limits(3, seconds=60, clock=clock), clock=clock).run()
    assert ended == "3 trials"
    _, ended = Search(tmp_path / "b", SPACE, taking(clock, 30), Limits(3, seconds=60, clock=clock), clock=clock).run()
    assert ended == "1 minutes"


@pytest.mark.parametrize("best", [0.2, -0.9])
@pytest.mark.parametrize(("gain", "expected"), [(-0.1, 10), (0.0, 10), (0.0005, 10), (0.002, 15)])
def test_a_search_stalls_after_trials_without_a_gain(best: float, gain: float, expected: int):
    limits, done = Limits(100, patience=6), []
    for value in [best - 0.3, best - 0.2, best - 0.1, best, *[best - 0.05] * 4, best + gain * abs(best)] + [-9.0] * 90:
        if limits(done):
            break
        done.append(Trial(len(done), {}, "complete", value, 1, 1.0))
    assert len(done) == expected


def test_no_trial_is_begun_that_the_budget_has_no_time_for(tmp_path: Path):
    clock = Clock()
    limits = Limits(turn=1000, spare=lambda: 200 - clock.now, usual=30, clock=clock)
    trials, ended = Search(tmp_path / "study", SPACE, taking(clock, 40), limits, clock=clock).run()
    assert len(trials) == 2 and clock.now == 180 and "a trial takes 40 s, and 20 s are left" in ended
    unaffordable = Limits(turn=1000, spare=lambda: 10.0, usual=30, clock=clock)
    trials, ended = Search(tmp_path / "other", SPACE, taking(clock, 40), unaffordable, clock=clock).run()
    assert not trials and "a trial takes 30 s, and 10 s are left" in ended


def test_a_turn_counts_from_now(tmp_path: Path):
    clock = Clock()
    for n_trials in (3, 6):
        limits = Limits(turn=25, clock=clock)
        trials, ended = Search(tmp_path / "study", SPACE, taking(clock, 10), limits, clock=clock).run()
        assert len(trials) == n_trials and ended == "its turn of 25 s"


# ── what may be searched ──


def space_of(search: dict, family: str = "mf", **keys):
    return read_space(search, MODELS[family].Config(**keys), "recipe x", f"models.{family}.search")


@pytest.mark.parametrize(
    "search, says",
    [
        ({}, "names no hyperparameter"),
        ({"embeding_dim": [8]}, "models.mf.search.embeding_dim: unknown hyperparameter (did you mean 'embedding_dim'?)"),
        ({"embedding_dim": []}, "list of choices is empty"),
        ({"embedding_dim": [8, "many"]}, "models.mf.search.embedding_dim: Input should be a valid integer"),
        ({"embedding_dim": [0]}, "greater than 0"),
        ({"embedding_dim": 8}, "write a list of choices or { low = …, high = … }, got 8"),
        ({"embedding_dim": {"low": 8.5, "high": 16}}, "valid integer"),
        ({"embedding_dim": {"low": 8, "high": 16, "step": 0.5}}, "search.embedding_dim.step: embedding_dim is a whole"),
        ({"l2": {"low": 0.1}}, "models.mf.search.l2.high: is missing"),
        ({"l2": {"low": 0.1, "hihg": 1.0, "high": 1}}, "models.mf.search.l2.hihg: unknown key (did you mean 'high'?)"),
        ({"l2": {"low": 1.0, "high": 0.1}}, "low must be below high"),
        ({"l2": {"low": 0.0, "high": 0.1, "log": True}}, "starts above 0"),
        ({"l2": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}, "goes without log"),
        ({"l2": {"low": -1.0, "high": 0.1}}, "greater than or equal to 0"),
        ({"loss": {"low": 0, "high": 1}}, "models.mf.search.loss"),
        ({"item_bias": {"low": 0, "high": 1}}, "item_bias is not a number"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_name_the_key(search: dict, says: str):
    with pytest.raises(SettingsError) as error:
        space_of(search)
    assert says in str(error.value) and str(error.value).startswith("recipe x: models.mf.search")


def test_a_space_knows_its_types_and_its_usual_point():
    space = space_of({"embedding_dim": {"low": 8, "high": 64}, "l2": {"low": 0, "high": 1}, "loss": ["bpr", "softmax"]})
    assert space["embedding_dim"].whole and not space["l2"].whole
    assert usual_point(space, MODELS["mf"].Config()) == {"embedding_dim": 64, "l2": 0.02, "loss": "softmax"}
    assert usual_point(space, MODELS["mf"].Config(loss="mse")) is None
    assert usual_point(space_of({"embedding_dim": [8, 16]}), MODELS["mf"].Config()) is None


@pytest.mark.parametrize(
    "models, search, says",
    [
        ({"ease": {"finder": {}}}, {}, "models.ease.finder: ease is fitted without gradient steps"),
        ({"mf": {"finder": {"use": True}, "schedule": "step"}}, {}, "finder.use: schedule step names its own"),
        ({"mf": {"finder": {"use": True}, "search": {"learning_rate": [0.1]}}}, {}, "use either finder.use"),
        ({"mf": {"search": {"l2": {"low": 0.1, "high": 1}}}}, {"sampler": "grid"}, "l2: a grid needs"),
        ({"mf": {"search": {"nonsense": [1]}}}, {}, "models.mf.search.nonsense"),
    ],
    ids=str,
)
def test_a_label_is_checked_before_the_night(models: dict, search: dict, says: str):
    settings = Settings.model_validate({"dataset": {"name": "x"}, "models": models, "search": search})
    with pytest.raises(SettingsError) as error:
        check_label(settings, next(iter(models)))
    assert says in str(error.value)


@pytest.mark.parametrize(
    "override, says",
    [
        ("models.mf.finder.hihg=1", "models.mf.finder.hihg: unknown key (did you mean 'high'?)"),
        ("models.mf.finder.low=20.0", "low must be below high"),
        ("search.sampler=bayes", "search.sampler"),
        ("search.trials=0", "search.trials"),
        ("budget.minutes=0", "budget.minutes"),
        ("models.mf.search.embeding_dim=[8]", "did you mean 'embedding_dim'"),
    ],
)
def test_a_night_with_a_wrong_wish_does_not_begin(tmp_path: Path, override: str, says: str):
    with pytest.raises(SettingsError) as error:
        prepare("sample", "nightly", home=str(tmp_path), overrides=[override])
    assert says in str(error.value)


# ── nights ──

SMALL = ["threads=1", "models.mf.epochs=3", "models.mf.embedding_dim=8", "models.mf.batch_size=512"]
SMALL += ["dataset.filter.user_fraction=0.1", "gate.enabled=false", "evaluation.cutoffs=[10]"]


def small_night(home: Path, recipe: Path, *overrides: str, step=without_views):
    return one_night(home, "sample", recipe, *SMALL, *overrides, step=step)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, draws_plots: None):
    """A night that searches a closed form and a gradient family, with a finder; and its recipe."""
    home = tmp_path_factory.mktemp("searched")
    recipe = home / "searching.toml"
    recipe.write_text(
        "[search]\ntrials = 4\n[models.popularity]\n[models.ease.search]\nl2 = { low = 1.0, high = 1e4, log = true }\n"
        "[models.mf.finder]\nuse = true\nsteps = 50\n[models.mf.search]\nl2 = [0.02, 0.1]\n"
        "init_std = { low = 0.05, high = 0.3 }\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        return small_night(home, recipe, step=line.plainly), recipe


def folder_of(run, layer: str, start: str) -> Path:
    (folder,) = (run.home.lake(run.dataset) / layer).glob(f"{start}-*")
    return folder


@pytest.mark.parametrize("label", ["ease", "mf"])
def test_the_best_on_valid_is_what_is_fitted(searched, label: str):
    run, _ = searched
    folder = folder_of(run, "5_searches", label)
    info, trials = lake.info(folder), pl.read_parquet(folder / "trials.parquet")
    tables.TRIALS.check(trials)
    assert trials.height == 4 and info["best"]["value"] == trials.filter(state="complete")["value"].max()
    fitted = lake.info(folder_of(run, "5_models", f"{label}-train"))
    assert {name: fitted["config"][name] for name in info["best"]["params"]} == info["best"]["params"]
    metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    kept = metrics.filter(model=label, split="valid", metric="ndcg", cutoff=10, segment="all", protocol="full")
    assert kept["value"].item() == pytest.approx(info["best"]["value"], rel=1e-6)  # the fit repeats the trial


def test_the_finder_is_kept_and_used(searched):
    run, _ = searched
    info = lake.info(folder_of(run, "5_models", "mf-train"))
    assert info["finder"]["used"] and info["config"]["learning_rate"] == info["finder"]["suggestion"]
    assert len(info["finder"]["rates"]) == len(info["finder"]["losses"])


def test_the_refit_repeats_the_chosen_configuration(searched):
    run, _ = searched
    champion = journal.read_run(run.home, run.dataset, run.run_id)["champion"]
    fitted, refit = (lake.info(folder_of(run, "5_models", f"{champion}-{fit}")) for fit in ("train", "all"))
    assert refit["config"] == fitted["config"] and champion == "ease"


def test_mlflow_has_a_run_for_every_trial_and_the_pictures(searched):
    import mlflow

    run, _ = searched
    mlflow.set_tracking_uri(server.tracking_uri(run.home))
    runs = mlflow.search_runs(experiment_names=["sample"], output_format="list")
    of = {each.info.run_name: each for each in runs if each.data.tags["nightrecs.kind"] == "family"}
    for label, pictures in (("ease", {"search.png"}), ("mf", {"search.png", "learning_rate_finder.png"})):
        parent = of[label].info.run_id
        trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent]
        assert len(trials) == 4 and {r.data.tags["nightrecs.kind"] for r in trials} == {"trial"}
        assert sum("nightrecs.best" in r.data.tags for r in trials) == 1
        kept = {file.path for file in mlflow.MlflowClient().list_artifacts(parent)}
        assert pictures <= kept


def test_the_same_night_again_has_it_all_and_more_trials_go_on(searched):
    run, recipe = searched
    again = small_night(run.home.root, recipe)
    stages = journal.read(again.home, again.dataset, tables.STAGES, again.run_id)
    of = {row["stage"]: row["skipped"] for row in stages.iter_rows(named=True)}
    assert of["search ease"] and of["search mf"] and of["train mf tuned"]
    more = prepare("sample", str(recipe), home=str(run.home.root), overrides=[*SMALL, "search.trials=6"])
    line.conduct(more, without_views, "evaluate")
    counts = {
        lake.read_manifest(folder)["rows_out"]: pl.read_parquet(folder / "trials.parquet")
        for folder in (run.home.lake("sample") / "5_searches").glob("ease-*")
    }
    assert counts[6].head(4).equals(counts[4])  # seconds, too: they were not run again
    fewer = prepare("sample", str(recipe), home=str(run.home.root), overrides=[*SMALL, "search.trials=3"])
    line.conduct(fewer, without_views, "evaluate")
    folders = (run.home.lake("sample") / "5_searches").glob("ease-*")
    (three,) = (each for each in folders if lake.read_manifest(each)["rows_out"] == 3)
    trials = pl.read_parquet(three / "trials.parquet")
    assert trials.equals(counts[6].head(3)) and lake.info(three)["best"]["value"] == trials["value"].max()


def test_best_publishes_within_a_tiny_budget_and_says_what_it_left_out(tmp_path: Path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "[budget]\nminutes = 2\n[search]\ntrials = 4\n[models.popularity]\n[models.ease.search]\nl2 = { low = 1.0, high = 1e4, log = true }\n"
        "[models.item_knn.search]\nshrink = { low = 0.1, high = 100.0 }\n[models.mf.search]\nl2 = [0.01, 0.1]\n"
    )
    run = small_night(tmp_path, recipe)
    record = journal.read_run(run.home, run.dataset, run.run_id)
    seconds = (dt.datetime.fromisoformat(record["finished_at"]) - run.started_at).total_seconds()
    assert seconds < 240  # twice the budget, for a machine that is busy
    stages = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)["stage"].to_list()
    first_search = next(i for i, stage in enumerate(stages) if stage.startswith("search"))
    assert {"train popularity", "train ease", "train item_knn"} <= set(stages[:first_search])
    # another night with no time at all still publishes, by the first model, and says why the others are not there
    poor = small_night(tmp_path, recipe, "budget.minutes=0.01", "seed=7")
    left_out = journal.read_run(poor.home, poor.dataset, poor.run_id)["left_out"]
    assert {"ease", "item_knn", "mf"} <= set(left_out) and "budget" in left_out["ease"]
