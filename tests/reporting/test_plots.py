"""Pictures: made whatever the data is like, and showing what they say they show."""

import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from flows import conductor as line
from flows.prepare import prepare
from pipeline.models.serialization import load
from pipeline.reporting import data_profile
from pipeline.reporting.plots import figure as plots
from pipeline.reporting.plots import items as item_plots
from pipeline.reporting.plots import night
from pipeline.storage import warehouse
from pipeline.training.interactions import History
from tests.support.published_nights import without_report_file


def width_and_height(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch):
    """The figures that were saved, in order."""
    figures, save = [], FigureCanvasAgg.print_png
    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda canvas, path: (figures.append(canvas.figure), save(canvas, path))
    )
    return figures


def texts(figure) -> str:
    labels = [axis.get_xlabel() + axis.get_ylabel() + axis.get_title() for axis in figure.axes]
    ticks = [t.get_text() for axis in figure.axes for t in (*axis.get_yticklabels(), *axis.texts)]
    legends = [t.get_text() for axis in figure.axes if axis.get_legend() for t in axis.get_legend().get_texts()]
    return " ".join([figure.get_suptitle(), *labels, *ticks, *legends])


HISTORY = [{"epoch": e, "loss": 2 / e, "valid": -1 / e} for e in range(1, 7)]
INFO = {"label": "mine", "family": "pmf", "history": HISTORY, "best_epoch": 5}


def test_a_training_curve_shows_errors_as_they_are_and_the_rates(tmp_path, drawn):
    steps = {"schedule": "step", "steps": [[3, 0.1], [3, 0.05], [3, 0.01]]}
    path = plots.training_curve({**INFO, "config": steps}, tmp_path / "t.png", "rmse")
    assert width_and_height(path)[0] > 900
    (figure,) = drawn
    loss, valid = figure.axes
    assert valid.lines[0].get_ydata().tolist() == pytest.approx([1 / e for e in range(1, 7)])
    assert "rmse on valid" in texts(figure) and "kept: epoch 5" in texts(figure)
    assert [t.get_text() for t in loss.texts] == ["rate 0.1", "0.05"]  # the third would begin after the last epoch


def test_a_metric_that_is_measured_now_and_then_has_its_own_points(tmp_path, drawn):
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "valid": 0.3}]
    plots.training_curve({**INFO, "history": history}, tmp_path / "t.png", "ndcg")
    assert drawn[0].axes[1].lines[0].get_xdata().tolist() == [2]


def described(ratings: np.ndarray | None, normalize: str = "none") -> dict:
    rows = pl.DataFrame({"user_id": ["a", "b", "b"], "item_id": ["x", "x", "y"]})
    counts = {name: {"raw": data_profile.per(rows, f"{of}_id"), "clean": data_profile.per(rows[1:], f"{of}_id")}
              for name, of in (("activity", "user"), ("popularity", "item"))}  # fmt: skip
    spread = None if ratings is None else data_profile.distribution(ratings)
    shape = {"rows": 3, "users": 2, "items": 2, "density": 0.75}
    return {
        "dataset": "tiny", "normalize": normalize, "shapes": {"raw": shape, "clean": shape},
        "rows": {"train": 2, "valid": 0, "test": 1}, "columns": data_profile.columns(rows),
        "sample": [{"user": "user 1", "item": "x", "title": "Ke$ha 倖田來未", "rating": None, "timestamp": None}],
        "ratings": {"raw": spread, "fit": spread}, **counts,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("ratings", "normalize", "panels"),
    [
        (np.array([4.0]), "none", 1),
        (np.array([1.0, 2, 5, 5]), "standardize", 2),
        (np.geomspace(1, 350_000, 500).round(), "log1p", 2),
        (np.linspace(-3, 3, 100), "none", 1),
    ],
)
def test_pictures_of_any_ratings(tmp_path, drawn, ratings, normalize, panels):
    made = data_pictures(described(ratings, normalize), tmp_path)
    assert [path.name for path in made] == ["data_shape.png", "data_activity.png", "data_ratings.png"]
    assert all(width_and_height(path) > (300, 150) for path in made)
    assert len(drawn[2].axes) == panels and "rows" in texts(drawn[2])
    assert ("log scale" in drawn[2].axes[0].get_xlabel()) == (ratings.max() > 1000)


def test_without_ratings_there_is_no_picture_of_them(tmp_path):
    assert len(data_pictures(described(None), tmp_path)) == 2


def data_pictures(of: dict, folder: Path) -> list[Path]:
    (folder / "profile.json").write_text(json.dumps(of))
    return [picture.draw(**picture.shown, path=folder / picture.name) for picture in night.of_data(folder)]


def test_what_the_font_lacks_is_a_box_and_no_mathematics():
    assert plots.plain("Ke$ha") == r"Ke\$ha" and plots.plain("Björk – ДДТ") == "Björk – ДДТ"
    assert plots.plain("倖a") == "\N{WHITE SQUARE}a"


def test_both_ends_of_the_biases(tmp_path, drawn):
    items = pl.DataFrame({"title": [None, *"abcd"], "n_interactions": [5, 4, 3, 2, 1000], "bias": [0.5, -2, 0, 1, 3]})
    item_plots.item_biases(items, "pmf", tmp_path / "b.png")
    high, low = drawn[0].axes
    assert [t.get_text() for t in high.get_yticklabels()] == ["d  (1,000)", "c  (2)"]
    assert [t.get_text() for t in low.get_yticklabels()] == ["a  (4)", "b  (3)"]
    assert [bar.get_width() for bar in high.patches] == [3, 1]


def test_principal_components_find_the_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * [5, 2]
    vectors = plane @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 7
    points, shares = item_plots.principal_components(vectors)
    assert shares.sum() == pytest.approx(1) and shares[0] > shares[1]
    centred = plane - plane.mean(0)
    assert np.allclose(points @ points.T, centred @ centred.T)  # the same up to a turn
    one, share = item_plots.principal_components(vectors[:, :1])
    assert one.shape == (200, 2) and not one[:, 1].any() and share[1] == 0
    still, none = item_plots.principal_components(np.ones((3, 4)))
    assert not still.any() and not none.any()


def test_the_most_popular_titles_are_on_the_map_and_none_overlaps(tmp_path, drawn):
    rng = np.random.default_rng(1)
    items = pl.DataFrame({"title": [f"title {i}" for i in range(300)], "n_interactions": list(range(300, 0, -1))})
    dots, explained = item_plots.dots_of(items, rng.normal(size=(300, 8)))
    item_plots.embedding_map(dots, explained, "mine", tmp_path / "m.png")
    axis = drawn[0].axes[0]
    shown = [text.get_text() for text in axis.texts]
    assert "title 0" in shown and 15 <= len(shown) <= item_plots.N_LABELLED
    assert max(int(text.split()[1]) for text in shown) < 4 * item_plots.N_LABELLED
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(
    ("champion", "select"),
    [
        ("popularity", ["select.metric=ndcg", "select.protocol=full"]),
        ("pmf", ["select.metric=rmse", "select.protocol=error"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_biases_and_pictures_are_published_whichever_model_is_champion(
    home, draws_plots, monkeypatch, champion, select
):
    without_report_file(monkeypatch)
    recipe = home / "two.toml"
    recipe.write_text('[models.popularity]\n[models.pmf]\nepochs = 2\nembedding_dim = 4\n[split]\nkind = "random"\n')
    few = ["threads=1", "gate.enabled=false", "dataset.filter.user_fraction=0.3"]
    run = prepare("sample", str(recipe), None, str(home), [*few, *select])
    assert line.conduct(run, line.plainly) == "published"
    made = line.journal.read_run(run.home, run.dataset, run.run_id)["made"]
    assert made["champion"] == champion
    behind = Path(made["refit"]) if champion == "pmf" else next(Path(f) for f in made["fitted"] if "pmf" in f)
    model = load(behind)
    ids = pl.read_parquet(Path(made["encoded"]) / "items.parquet")["item_id"]
    bias = model.item_biases()
    assert bias is not None
    with warehouse.connect(run.home.live("sample"), read_only=True) as con:
        ranked = con.sql("select * from items_by_bias where model = 'pmf' order by rank").pl()
        vectors = con.sql("select * from item_vectors").pl()
    assert dict(zip(ranked["item_id"], ranked["bias"], strict=True)) == pytest.approx(
        dict(zip(ids, bias.double().tolist(), strict=True))
    )
    assert ranked["bias"].is_sorted(descending=True) and ranked["rank"].to_list() == list(range(1, len(ids) + 1))
    assert ranked["title"].null_count() == 0 and (ranked["n_interactions"] > 0).all()
    assert (set(vectors["model"]) == {"pmf"}) == (champion == "pmf")  # vectors are the champion's
    if champion == "pmf":
        item = vectors.filter(id=ids[0])["vector"][0].to_list()
        parts = model.terms(0, 0)
        user = model.user_vectors()
        assert parts is not None and user is not None
        assert sum(parts.values()) == pytest.approx(
            model.score(torch_index(0), History.of_lists([[]], len(ids)))[0, 0].item(), abs=1e-4
        )
        assert np.dot(item, user[0].numpy()) == pytest.approx(parts["dot product"], abs=1e-5)
    names = pictures_of(run)
    assert {"data_shape.png", "data_activity.png", "data_ratings.png", "profile.json"} <= names["night"]
    assert {"item_biases.png", "embedding_map.png", "training.png"} <= names["pmf"]
    assert ("item_biases.png" in names["night"]) == (champion == "pmf")


def torch_index(value: int):
    import torch

    return torch.tensor([value])


def pictures_of(run) -> dict[str, set[str]]:
    """Artifacts of the night's run (`night`) and of its families', by name."""
    from pipeline.tracking import client as tracking_client  # imports mlflow

    client = tracking_client.connect(run.home)
    experiment = client.get_experiment_by_name(run.dataset)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`{tracking_client.NIGHT}` = '{run.run_id}'")
    names = {}
    for each in found:
        name = "night" if each.data.tags["nightrecs.kind"] == "night" else each.info.run_name
        names[name] = {artifact.path for artifact in client.list_artifacts(each.info.run_id)}
        if name == "night":
            assert 0 < each.data.metrics["data_clean_density"] <= 1
    return names
