"""Warm fits: where they start, what their keys are made of, and when a fit is cold."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pipeline.config.run import Run
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.experiments import warm_start
from pipeline.maintenance.forget import forget
from pipeline.models import MODELS, FitContext
from pipeline.models.conformance import checkerboard, quick_config
from pipeline.models.serialization import load
from pipeline.schemas import tables
from pipeline.stages import clean, encode, split, train
from pipeline.storage import journal, lake
from pipeline.training.warm import PreviousFit
from tests.support.stage_runs import make_run, raw
from tests.support.tastes import one_night, write_log

FAMILIES = {
    "ials": {"embedding_dim": 4, "epochs": 8},
    "mf": {"embedding_dim": 4, "epochs": 8, "batch_size": 64},
    "sasrec": {"embedding_dim": 4, "epochs": 8, "max_length": 10},
}
WARM = sorted(FAMILIES)
CHAIN = "[models.ials]\nembedding_dim = 4\nepochs = 8\n"


class Nights:
    """Nights of one data set up to the fit on train; each night but the last is the published one of the next."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, **tree: Any):
        self.home, self.tree, self.n = home, {"warm_start": True, **tree}, 0
        self.live: str | None = None
        monkeypatch.setattr(warm_start, "live_run_id", lambda home, dataset: self.live)

    def run(self, n_rows: int, publish: bool = True, **tree: Any) -> tuple[Run, Path]:
        """The run and its split; users and items of later rows sort before those of earlier ones."""
        self.n += 1
        settings = {"models": FAMILIES, "threads": 1, "split": {"kind": "leave_one_out"}, **self.tree, **tree}
        first = make_run(self.home / f"source{self.n}", **settings)
        run = first.model_copy(update={"run_id": f"r{self.n}", "home_root": self.home})
        journal.open_run(run)
        rows = [(f"u{n % 8}" if n < 160 else f"a{n % 3}", f"i{(7 * n + n // 8) % 13}", 1.0, n) for n in range(n_rows)]
        rows += [(f"a{n % 3}", f"b{n % 2}", 1.0, n) for n in range(160, n_rows)]

        def write(folder: Path) -> lake.StageResult:
            raw(*rows).write_parquet(folder / "interactions.parquet")
            return lake.StageResult(rows_out=len(rows), info={"data_hash": str(n_rows)})

        from pipeline.core.stage_call import StageCall, StageName

        source = lake.build(run, lake.Spec(StageCall(StageName.INGEST), "1_raw", 1, {"n": n_rows}), write)
        self.live, before = run.run_id if publish else self.live, self.live
        self.encoded = encode.encode_ids(run, clean.clean_interactions(run, source))
        parts = split.split_interactions(run, self.encoded)
        self.next, self.live = self.live, before
        return run, parts

    def fit(self, n_rows: int, label: str = "mf", **tree: Any) -> dict[str, Any]:
        """The manifest of the fit on train; afterwards the night is published."""
        run, parts = self.run(n_rows, **tree)
        folder = train.fit_model(run, parts, label)
        self.live = self.next
        return {**lake.read_manifest(folder), "folder": folder, "parts": parts, "run": run}


@pytest.mark.long
def test_the_same_history_of_nights_has_the_same_keys_and_another_history_has_others(tmp_path, monkeypatch):
    def history(name: str, *sizes: int) -> list[str]:
        nights = Nights(tmp_path / name, monkeypatch)
        return [nights.fit(n)["key"] for n in sizes]

    first = history("a", 150, 152, 154)
    assert history("b", 150, 152, 154) == first
    assert history("c", 150, 153, 154)[2] != first[2], "the night between is another one"
    assert history("d", 154) != first[2:], "a cold fit on the same rows"
    assert history("e", 150)[0] == Nights(tmp_path / "f", monkeypatch, warm_start=False).fit(150)["key"]


@pytest.mark.parametrize("label", WARM)
def test_a_warm_fit_names_its_parent_starts_from_its_rows_and_is_shorter(tmp_path, monkeypatch, label):
    nights = Nights(tmp_path, monkeypatch)
    cold, warm = nights.fit(150, label), nights.fit(200, label)
    assert warm["stage"] == f"train {label}, warm" and cold["stage"] == f"train {label}"
    assert warm["settings"]["warm_start"] == {"from": cold["key"], "nights": 1, "rules": 2}
    assert warm["info"]["warm_start"]["from"] == cold["folder"].name
    assert len(warm["info"]["history"]) <= 2 and len(cold["info"]["history"]) > 2
    (said,) = [
        text for text in journal.notes(warm["run"].home, "three", "r2") if text.startswith(f"train {label}, warm")
    ]
    assert "from the state of the published night" in said
    stages = journal.read(Home(nights.home), "three", tables.STAGES, "r2")["stage"].to_list()
    assert f"train {label}, warm" in stages
    start = warm_start.previous(warm["run"], warm_start.WarmStart(cold["folder"], 1, None, None), warm["parts"])
    then, now = (warm_start.encoded_of(warm["run"], each["folder"]) for each in (cold, warm))
    assert then and now
    for kind, places in (("user", start.users), ("item", start.items)):
        before, after = (pl.read_parquet(at / f"{kind}s.parquet")[f"{kind}_id"].cast(pl.String) for at in (then, now))
        assert [before[place] if place >= 0 else None for place in places.tolist()] == [
            each if each in set(before) else None for each in after
        ]
        assert -1 in places.tolist() and len(set(places.tolist())) > 5


def test_unchanged_rows_reuse_the_fit_of_the_published_night(tmp_path, monkeypatch):
    nights = Nights(tmp_path, monkeypatch)
    for before, now in ((nights.fit(150), nights.fit(150)), (nights.fit(152), nights.fit(152))):
        assert now["folder"] == before["folder"]
        stages = journal.read(Home(nights.home), "three", tables.STAGES, now["run"].run_id)
        assert stages.filter(stage=now["stage"])["skipped"].to_list() == [True]


def test_every_so_many_fits_one_is_cold(tmp_path, monkeypatch):
    nights = Nights(tmp_path, monkeypatch, cold_every=3)
    assert [nights.fit(n)["stage"] for n in range(150, 158, 2)] == [
        "train mf", "train mf, warm", "train mf, warm", "train mf",
    ]  # fmt: skip


def test_a_fit_is_cold_in_replays_after_other_settings_and_where_the_state_is_gone(tmp_path, monkeypatch):
    nights = Nights(tmp_path, monkeypatch)
    nights.fit(150)
    run, parts = nights.run(152)
    assert train.request_fit(run, parts, "mf").spec.call.warm
    assert not train.request_fit(run.model_copy(update={"as_of": dt.datetime(2027, 1, 1)}), parts, "mf").warm
    assert not train.request_fit(run.model_copy(update={"settings": run.settings.model_copy(
        update={"seed": 1})}), parts, "mf").warm  # fmt: skip
    assert not train.request_fit(run, parts, "ials").warm, "the published night did not fit it"
    (fit,) = (nights.home / "warehouse/lake/three/5_models").glob("mf-*")
    (fit / "config.json").write_text("{}")
    assert not train.request_fit(run, parts, "mf").warm, "a damaged state"


def test_a_refit_is_warm_where_the_refit_of_that_model_was_published_else_has_the_epochs_of_the_cold_fit(
    tmp_path, monkeypatch
):
    nights = Nights(tmp_path, monkeypatch)
    cold = nights.fit(150)
    nights_all = nights.encoded
    warm = nights.fit(152)
    request = train.request_refit(warm["run"], nights.encoded, "mf", "all", warm["folder"])
    assert request.warm is None and request.epochs == cold["info"]["best_epoch"]
    train.refit_model(cold["run"], nights_all, "mf", "all", cold["folder"])
    nights.live = cold["run"].run_id
    request = train.request_refit(warm["run"], nights.encoded, "mf", "all", warm["folder"])
    assert request.warm is not None and request.epochs == warm["info"]["best_epoch"]
    refit = train.refit_model(warm["run"], nights.encoded, "mf", "all", warm["folder"])
    assert lake.read_manifest(refit)["stage"] == "train mf on all, warm"
    cold_again = train.request_refit(cold["run"], nights_all, "mf", "all", cold["folder"])
    assert cold_again.warm is None and cold_again.epochs == cold["info"]["best_epoch"]


def test_the_state_is_carried_by_row_and_new_rows_keep_their_initial_values():
    model = torch.nn.ParameterDict({"table": torch.full((4, 2), -1.0), "rest": torch.full((2, 2), -1.0)})
    model.register_buffer("own", torch.zeros(1))
    state = {"table": torch.arange(6.0).view(3, 2), "rest": torch.ones(2, 2), "own": torch.ones(1)}
    start = PreviousFit(state, torch.tensor([2, -1, 0, -1]), torch.tensor([]))
    start.carry_into(model, {"table": "users"})
    after = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    table = [[4, 5], [-1, -1], [0, 1], [-1, -1]]
    assert after == {"table": table, "rest": [[1, 1], [1, 1]], "own": [0]}


@pytest.mark.parametrize("family", WARM)
def test_a_family_that_starts_from_its_own_state_does_not_lose_what_it_learnt(family):
    log = checkerboard()
    config = quick_config(family)
    cold = MODELS[family](config, log.n_users, log.n_items)
    losses: dict[str, list[float]] = {"cold": [], "warm": []}
    cold.fit(log, FitContext(log=lambda epoch, values: losses["cold"].append(values["loss"])))
    start = PreviousFit(cold.state_dict(), torch.arange(log.n_users), torch.arange(log.n_items))
    warm = MODELS[family](config, log.n_users, log.n_items)
    warm.fit(log, FitContext(previous=start, log=lambda epoch, values: losses["warm"].append(values["loss"])))
    assert len(losses["warm"]) <= -(-getattr(config, "epochs", 0) // 4)
    assert losses["warm"][0] < (losses["cold"][0] + 3 * losses["cold"][-1]) / 4 + 1e-3
    assert warm.config == config, "a refit and the next night get the whole configuration"


def test_whole_nights_start_warm_and_a_forgotten_user_makes_the_next_one_cold(tmp_path):
    write_log(tmp_path / "data", n_users=60)
    one_night(tmp_path, CHAIN, "warm_start=true")
    write_log(tmp_path / "data", n_users=3, name="more.csv", seed=1, start=1_700_000_000)
    run = one_night(tmp_path, CHAIN, "warm_start=true")
    titles = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)["stage"].to_list()
    assert "train ials, warm" in titles and "train ials on all, warm" in titles
    assert not forget(run.home, run.dataset, "u001").left
    assert not list((run.home.lake(run.dataset) / "5_models").glob("*")), "no state of a fit outlives forget"
    run = one_night(tmp_path, CHAIN, "warm_start=true", until="train")
    titles = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)["stage"].to_list()
    assert "train ials" in titles and not [title for title in titles if title.endswith(", warm")]
    users = pl.read_parquet(next((run.home.lake(run.dataset) / "3_encoded").glob("*/users.parquet")))
    assert "u001" not in users["user_id"].cast(pl.String).to_list()


def test_the_key_is_checked(tmp_path):
    with pytest.raises(SettingsError, match="cold_every"):
        write_log(tmp_path / "data", n_users=10)
        one_night(tmp_path, CHAIN, "warm_start=true", "cold_every=0")


def test_a_loaded_state_has_the_tables_that_a_family_declares(tmp_path, monkeypatch):
    nights = Nights(tmp_path, monkeypatch)
    for label in WARM:
        model = load(nights.fit(150, label)["folder"])
        state = model.state_dict()
        for name, side in MODELS[label].rows_of_state.items():
            assert len(state[name]) == (model.n_users if side == "users" else model.n_items)


def test_a_warm_fit_without_an_epoch_does_not_read_as_if_new_rows_were_not_learnt(tmp_path: Path):
    start = warm_start.WarmStart(tmp_path, 2, 5, 3.0)
    none, one, many = (start.saved(1.0, epochs) for epochs in (0, 1, 2000))
    assert "0 epochs" not in none and "the new rows are folded in" in none
    assert "1 epoch from the state" in one and "2,000 epochs from the state" in many
    assert all("instead of the 3.0 s" in text and "(warm start 2 since" in text for text in (none, one, many))
