"""Fits of ials by one process and by several read the same rows and make the same lists."""

from pathlib import Path

import pytest
import torch

from pipeline.config.run import Run
from pipeline.experiments.fit import EpochCallback, FitResult, fit_here, hosts_of
from pipeline.experiments.fit_rows import FitRows
from pipeline.models.ials import Ials
from pipeline.models.mf import MatrixFactorization
from pipeline.models.popularity import Popularity
from pipeline.ranking.ranks import top_k
from pipeline.stages.train import request_fit
from pipeline.storage import lake
from pipeline.training.context import ProcessGroup
from tests.support.tastes import one_night, write_log
from tests.support.threads_together import together

CPU = torch.device("cpu")
MODELS = "[models.ials]\nembedding_dim = 6\nepochs = 4\n[gate]\nenabled = false\n"


class Quiet(EpochCallback):
    """Keeps the progress."""

    def __init__(self) -> None:
        self.history, self.rows = [], 0

    def begin(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        self.history.append({"epoch": epoch, **values})


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A night until its rows are split."""
    folder = tmp_path_factory.mktemp("fit_rows")
    write_log(folder / "data", n_users=90)
    run = one_night(folder, MODELS, "device=cpu", until="split")
    (found,) = run.home.lake(run.dataset).glob("4_split/*")
    return run, found


def test_several_processes_fit_what_one_fits(split: tuple[Run, Path]) -> None:
    request = request_fit(*split, "ials")

    def fit(world: ProcessGroup) -> tuple[FitResult, Quiet]:
        callback = Quiet()
        return fit_here(request, CPU, callback, world), callback

    alone, of_alone = fit(ProcessGroup())
    history = FitRows.read(request, CPU, ProcessGroup()).train.history()
    users = torch.arange(len(history))
    wanted = top_k(alone.model, users, history, history, 5)
    for size in (2, 3):
        (first, callback), *others = together(size, fit)
        lists = top_k(first.model, users, history, history, 5)
        assert torch.equal(lists.items, wanted.items)
        torch.testing.assert_close(lists.scores, wanted.scores, atol=1e-4, rtol=1e-3)
        assert (first.rows, callback.rows) == (alone.rows, of_alone.rows)
        assert [epoch["epoch"] for epoch in callback.history] == [epoch["epoch"] for epoch in of_alone.history]
        assert [epoch["valid"] for epoch in callback.history] == pytest.approx(
            [epoch["valid"] for epoch in of_alone.history], abs=2e-3
        )
        assert all(other.model.best_epoch == first.model.best_epoch for other, _ in others)


@pytest.mark.parametrize("size", [2, 5])
def test_every_row_is_read_by_one_process(split: tuple[Run, Path], size: int) -> None:
    request = request_fit(*split, "ials")
    whole = FitRows.read(request, CPU, ProcessGroup())
    parts = together(size, lambda world: FitRows.read(request, CPU, world))
    assert torch.equal(torch.cat([part.train.users for part in parts]), whole.train.users)
    assert torch.equal(torch.cat([part.train.items for part in parts]), whole.train.items)
    assert {part.total for part in parts} == {whole.total} == {len(whole.train)}
    most = max(len(part.train) for part in parts)
    assert most < 1.3 * whole.total / size, "ranges are balanced by rows"
    for part in parts:
        assert part.users is not None and part.own(whole.train).users.tolist() == part.train.users.tolist()


def test_with_ages_every_process_reads_all_rows_and_keeps_its_own(split: tuple[Run, Path]) -> None:
    run, folder = split
    request = request_fit(run, folder, "ials")
    ages = run.settings.model_copy(
        update={"dataset": run.settings.dataset.model_copy(
            update={"feedback": run.settings.dataset.feedback.model_copy(update={"repeats": "sum"})}
        )}
    )  # fmt: skip
    aged = type(request)(**{**vars(request), "run": run.model_copy(update={"settings": ages})})
    whole = FitRows.read(request, CPU, ProcessGroup())
    for part in together(2, lambda world: FitRows.read(aged, CPU, world)):
        assert len(part.train) == part.total == whole.total
        assert 0 < len(part.own(part.train)) < whole.total


@pytest.mark.parametrize(("family", "hosts"), [(Ials, 3), (MatrixFactorization, 3), (Popularity, 1)])
def test_machines_of_a_family(split: tuple[Run, Path], family: type, hosts: int) -> None:
    settings = split[0].settings
    many = settings.model_copy(update={"scale": settings.scale.model_copy(update={"engine": "ray", "hosts": 3})})
    assert hosts_of(many, family) == hosts and hosts_of(settings, family) == 1


def test_hosts_are_in_the_key_of_ials(split: tuple[Run, Path]) -> None:
    run, folder = split
    settings = run.settings
    many = settings.model_copy(update={"scale": settings.scale.model_copy(update={"engine": "ray", "hosts": 2})})
    alone, both = (request_fit(each, folder, "ials").spec for each in (run, run.model_copy(update={"settings": many})))
    assert both.settings == {**alone.settings, "hosts": 2} and both.key != alone.key
    assert isinstance(both, lake.Spec)
