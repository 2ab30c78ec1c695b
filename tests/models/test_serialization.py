"""Models at rest: what comes back, and what damaged files say."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.models import serialization
from pipeline.models.conformance import checkerboard, scores
from pipeline.models.ease import Ease, EaseConfig
from pipeline.models.mf import MatrixFactorization, MatrixFactorizationConfig
from pipeline.models.serialization import load, restore, save
from pipeline.training.context import FitContext


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = checkerboard()
    model = MatrixFactorization(MatrixFactorizationConfig(embedding_dim=3, epochs=2), train.n_users, train.n_items)
    model.fit(train, FitContext())
    save(model, tmp_path)
    return tmp_path


def test_the_files(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    about = json.loads((folder / "config.json").read_text())
    assert about["family"] == "mf" and about["config"]["embedding_dim"] == 3
    assert (about["n_users"], about["n_items"], about["best_epoch"]) == (40, 20, 2)


def test_equal_models_are_equal_files(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("other")
    save(load(folder), other)
    for name in ("config.json", "model.safetensors"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("n_items", [20, 60])  # fewer items than users, and more: two shapes of state
def test_buffers_take_the_shape_of_the_fit(n_items: int):
    train = checkerboard(n_items)
    fitted, fresh = (Ease(EaseConfig(), train.n_users, n_items) for _ in range(2))
    fitted.fit(train, FitContext())
    assert fresh.weights.numel() == 0
    restore(fresh, fitted.state_dict())
    users = torch.arange(train.n_users)
    assert torch.equal(scores(fresh, train, users), scores(fitted, train, users))


def test_large_buffers_stay_in_the_pages_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train = checkerboard(20)
    model = Ease(EaseConfig(), train.n_users, train.n_items)
    model.fit(train, FitContext())
    save(model, tmp_path)
    files: list[dict[str, torch.Tensor]] = []

    def read(path: Path) -> dict[str, torch.Tensor]:
        files.append(load_file(path))
        return files[-1]

    monkeypatch.setattr(serialization, "load_file", read)
    before = (tmp_path / "model.safetensors").read_bytes()
    for limit, is_shared in ((model.weights.nbytes, True), (model.weights.nbytes + 1, False)):
        monkeypatch.setattr(serialization, "MAPPED", limit)
        loaded = load(tmp_path)
        assert isinstance(loaded, Ease)
        assert (loaded.weights.data_ptr() == files[-1]["weights"].data_ptr()) == is_shared
        assert loaded.penalty.data_ptr() != files[-1]["penalty"].data_ptr()
        assert torch.equal(loaded.weights, model.weights)
        loaded.weights.zero_()  # a page of its own, not the file's
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_state_that_lacks_something_is_refused():
    train = checkerboard()
    model = Ease(EaseConfig(), train.n_users, train.n_items)
    model.fit(train, FitContext())
    state = model.state_dict()
    del state["weights"]
    with pytest.raises(RuntimeError, match="weights"):
        restore(Ease(EaseConfig(), train.n_users, train.n_items), state)


def test_a_cut_file_is_refused(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(folder)


def test_a_family_of_another_version_is_refused(folder: Path):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "family": "transformer9"}))
    with pytest.raises(ValueError, match="transformer9"):
        load(folder)


def test_only_what_shares_memory_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = Ease(EaseConfig(), 3, 3)
    model.weights = torch.arange(9.0).view(3, 3)
    model.penalty, model.scale = model.weights[1], model.weights.T
    model.reach = model.weights[:, 0]
    cloned, clone = [], torch.Tensor.clone
    monkeypatch.setattr(
        torch.Tensor, "clone", lambda tensor, **keys: cloned.append(len(tensor)) or clone(tensor, **keys)
    )
    save(model, tmp_path)
    monkeypatch.undo()
    back = load(tmp_path)
    assert len(cloned) < 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
