"""Neural collaborative filtering: its three variants, pre-training, scores by halves and blocks, the recipe."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from flows import conductor as line
from flows.prepare import prepare
from pipeline.models import ncf
from pipeline.models.conformance import checkerboard, scores
from pipeline.models.ncf import Ncf, NcfConfig, join
from pipeline.schemas import tables
from pipeline.storage import journal
from pipeline.training.context import FitContext
from pipeline.training.interactions import History
from tests.support import models
from tests.support.nights import without_report
from tests.support.published_nights import without_mlflow
from tests.support.real_data import hit_rate, leave_last_out

VARIANTS = ["gmf", "mlp", "neumf"]


def fitted(**keys) -> Ncf:
    return models.fitted(Ncf, checkerboard(), **{"epochs": 30, "batch_size": 128, "learning_rate": 0.02, **keys})


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("negatives", ["fresh", "static"])
def test_every_variant_separates_the_blocks(variant: str, negatives: str):
    got = scores(fitted(variant=variant, negatives=negatives), checkerboard(), torch.arange(40))  # (U, I)
    liked = torch.arange(40)[:, None] % 2 == torch.arange(20) % 2  # (U, I)
    assert (got[liked] > got[~liked].mean()).float().mean() > 0.9 and got[liked].mean() > got[~liked].mean() + 1


def test_the_mlp_is_that_of_the_paper():
    """Concatenated embeddings 16 -> 64 -> 32 -> 1 with ReLU, written plainly."""
    torch.manual_seed(0)
    model = Ncf(NcfConfig(variant="mlp"), 5, 7).eval()
    hidden, out = model.hidden[0], model.out
    plain = nn.Sequential(model.first, nn.ReLU(), hidden, nn.ReLU(), out)
    assert [tuple(layer.weight.shape) for layer in (model.first, hidden, out)] == [
        (64, 16),
        (32, 64),
        (1, 32),
    ]
    users, items = torch.arange(5).repeat_interleave(7), torch.arange(7).repeat(5)
    pairs = torch.cat([model.mlp_user(users), model.mlp_item(items)], 1)  # (U * I, 2 D)
    torch.testing.assert_close(scores(model, checkerboard(), torch.arange(5)), plain(pairs).view(5, 7))


def test_neumf_is_both_side_by_side():
    torch.manual_seed(0)
    model = Ncf(NcfConfig(variant="neumf", layers=[12, 6, 4], embedding_dim=3), 2, 3).eval()
    user, item = torch.tensor([1]), torch.tensor([2])
    x = torch.cat([model.mlp_user(user), model.mlp_item(item)], 1)  # (1, 2 D)
    for layer in (model.first, *model.hidden):
        x = torch.relu(layer(x))
    both = torch.cat([model.gmf_user(user) * model.gmf_item(item), x], 1)  # (1, D + H')
    torch.testing.assert_close(scores(model, checkerboard(), user)[:, 2:3], model.out(both))
    assert model.item_vectors().shape == (3, 6) and model.user_vectors().shape == (2, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_do_not_show(variant: str, monkeypatch: pytest.MonkeyPatch):
    model, train, users = Ncf(NcfConfig(variant=variant), 40, 20).eval(), checkerboard(), torch.arange(40)
    whole = scores(model, train, users)
    monkeypatch.setattr(ncf, "BLOCK", 64 * 40 * 3)  # three items at a time
    torch.testing.assert_close(scores(model, train, users), whole)
    monkeypatch.setattr(ncf, "BLOCK", 1)
    torch.testing.assert_close(scores(model, train, users), whole)


def test_negatives_of_a_user_who_knows_all_do_not_count():
    model = Ncf(NcfConfig(n_negatives=2), 2, 5).eval()
    users, real = torch.tensor([0, 1]), torch.tensor([True, False])
    items = torch.tensor([[3, 0, 1], [2, 4, 4]])
    logits = torch.stack(
        [model.score(users[:1], History.of_lists([[]], 5), items[:1, c : c + 1])[0, 0] for c in range(3)]
    )
    lonely = model.score(users[1:], History.of_lists([[]], 5), items[1:, :1])[0, 0]
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
    expected = nn.functional.binary_cross_entropy_with_logits(torch.cat([logits, lonely[None]]), labels)
    torch.testing.assert_close(model._loss(users, items, real), expected)


def test_the_loss_with_all_negatives_is_the_plain_one():
    model, users, items = Ncf(NcfConfig(), 4, 9).eval(), torch.arange(4), torch.arange(8).view(4, 2)
    torch.testing.assert_close(
        model._loss(users, items, None), model._loss(users, items, torch.ones(4, dtype=torch.bool))
    )


def test_embeddings_start_as_wide_as_asked():
    for std in (0.01, 1.0):
        model = Ncf(NcfConfig(init_std=std, learning_rate=1e-12, epochs=1, variant="neumf"), 40, 20)
        model.fit(checkerboard(), FitContext())
        for tower in ("gmf", "mlp"):
            assert getattr(model, f"{tower}_user").weight.std().item() == pytest.approx(std, rel=0.25)


def parts(n_users: int = 6, n_items: int = 7) -> dict[str, Ncf]:
    """Models of all variants, not fitted, with weights of their own."""
    torch.manual_seed(3)
    return {variant: Ncf(NcfConfig(variant=variant), n_users, n_items).eval() for variant in VARIANTS}


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 1.0])
def test_a_joined_neumf_has_the_weights_of_its_parts_and_the_mean_of_their_logits(mix: float):
    models, train, users = parts(), checkerboard(), torch.arange(6)
    gmf, mlp, whole = (models[variant] for variant in VARIANTS)
    train = train.select(train.users < 6)
    train = type(train)(train.users, train.items % 7, 6, 7)
    separate = [scores(part, train, users) for part in (gmf, mlp)]  # (U, I) each
    join(whole, gmf, mlp, mix)
    for part in (gmf, mlp):
        for name, tensor in part.state_dict().items():
            assert name.startswith("out.") or torch.equal(whole.state_dict()[name], tensor), name
    joined = scores(whole, train, users)
    torch.testing.assert_close(joined, mix * separate[0] + (1 - mix) * separate[1])


def first_loss(**keys) -> float:
    """Mean loss of the first epoch after everything before it."""
    losses: list[float] = []
    train = checkerboard()
    model = Ncf(NcfConfig(variant="neumf", batch_size=128, learning_rate=0.02, epochs=1, **keys), 40, 20)
    model.fit(train, FitContext(log=lambda epoch, values: losses.append(values["loss"])))
    assert len(losses) == 1, "the epochs of the parts are no epochs of the whole"
    return losses[0]


def test_a_pretrained_neumf_starts_where_its_parts_ended():
    plain = first_loss()
    pretrained = first_loss(pretrain=True, pretrain_epochs=20, finetune_rate=1e-9)
    assert pretrained < 0.8 * plain
    assert first_loss(pretrain=True, pretrain_epochs=1, finetune_rate=1e-9) > pretrained


def test_fine_tuning_moves_the_weights_by_its_own_rate_and_optimizer():
    keys = {"variant": "neumf", "pretrain": True, "pretrain_epochs": 3, "epochs": 2}
    still = fitted(**keys, finetune_rate=1e-12).state_dict()
    for optimizer in ("sgd", "adam"):
        moved = fitted(**keys, finetune_rate=0.05, finetune_optimizer=optimizer).state_dict()
        assert all(not torch.allclose(still[name], moved[name], atol=1e-4) for name in ("out.weight", "first.weight"))
    again = fitted(**keys, finetune_rate=1e-12).state_dict()
    assert all(torch.equal(still[name], again[name]) for name in still)


def test_pretraining_is_for_neumf_only():
    for variant in ("gmf", "mlp"):
        with pytest.raises(ValidationError, match="neumf"):
            NcfConfig(variant=variant, pretrain=True)


@pytest.mark.night
def test_the_recipe_publishes_and_measures_everybody_by_both_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_mlflow(monkeypatch)
    quick = ["dataset.filter.user_fraction=0.1", "models.ncf.epochs=2", "models.mf.epochs=2", "threads=1"]
    quick += ["models.ncf_pretrained.epochs=1", "models.ncf_pretrained.pretrain_epochs=1", "export.similar_items=0"]
    run = prepare("sample", "movielens-ncf", None, str(tmp_path), quick)
    assert line.conduct(run, without_report) == "published"
    metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id).filter(split="test", segment="all")
    labels = {"popularity", "ncf_tutorial", "ncf_pretrained", "ncf", "mf", "ials", "ease", "item_knn"}
    for protocol in ("sampled_99", "full"):
        rates = metrics.filter(protocol=protocol, metric="hit_rate", cutoff=10)
        assert labels <= set(rates["model"]) and rates["n"].n_unique() == 1 and 150 < rates["n"][0] < 250
    tutorial = Ncf.Config.model_validate(run.settings.models["ncf_tutorial"].model_extra)
    assert isinstance(tutorial, NcfConfig) and (tutorial.layers, tutorial.embedding_dim) == ((64, 32), 8)
    assert (tutorial.variant, tutorial.batch_size, tutorial.epochs, tutorial.n_negatives) == ("mlp", 512, 5, 4)
    assert run.settings.seed == 123 and run.settings.evaluation.fit_for_test == "train+valid"


def test_dropout_is_off_when_scoring():
    model = fitted(dropout=0.5, epochs=1)
    first = scores(model, checkerboard(), torch.arange(40))
    assert torch.equal(first, scores(model, checkerboard(), torch.arange(40)))


def test_impossible_keys_are_refused():
    for keys in ({"layers": []}, {"variant": "mf"}, {"dropout": 1.0}, {"n_negatives": 0}, {"layers": [0]}):
        with pytest.raises(ValidationError):
            NcfConfig(**keys)


@pytest.mark.slow
def test_ml_100k_is_above_popularity():
    train, users, items = leave_last_out()
    model = Ncf(NcfConfig(batch_size=512, epochs=5), train.n_users, train.n_items)
    model.fit(train, FitContext())
    assert hit_rate(model, train, users, items) > 0.1  # popularity: 0.076
