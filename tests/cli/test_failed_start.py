"""A night that fails before it begins is in the journal, counts for `status`, and notifies."""

from pathlib import Path

import pytest

from flows import outcome
from flows.cli import run as cli_run
from pipeline.core.errors import Locked
from pipeline.core.paths import Home
from pipeline.storage import journal
from tests.support.published_nights import Dataset


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent."""
    sent: list[str] = []
    monkeypatch.setattr(outcome.notifications, "send", lambda text, about: sent.append(text) or [])
    return sent


def run(shop: Dataset, *options: str) -> int:
    """Exit code of a night of the command line."""
    toml, recipe = str(shop.folder / "tiny.toml"), str(shop.folder / "cheap.toml")
    return shop.command("run", toml, "--recipe", recipe, "--no-prefect", "--set", "threads=1", *options)


def test_a_source_that_is_gone_makes_a_crashed_night(
    tmp_path: Path, messages: list[str], capsys: pytest.CaptureFixture
):
    shop = Dataset(tmp_path / "shop")
    assert run(shop) == 2
    assert not journal.run_ids(_home(shop), "tiny"), "a first try is no night"
    shop.write()
    assert run(shop) == 0
    assert shop.command("status", "tiny") == 0
    (shop.folder / "a.csv").unlink()
    assert run(shop) == 2
    record = journal.read_run(_home(shop), "tiny", journal.run_ids(_home(shop), "tiny")[-1])
    assert record["outcome"] == "crashed"
    assert "*.csv" in record["reason"]
    assert [text for text in messages if "the night of tiny is crashed" in text and "*.csv" in text]
    capsys.readouterr()
    assert shop.command("status", "tiny") == 3
    assert "crashed" in capsys.readouterr().out
    shop.write()
    assert run(shop) == 0
    assert shop.command("status", "tiny") == 0


@pytest.mark.parametrize(
    ("error", "code", "outcomes"),
    [(OSError(5, "Input/output error"), 1, ["published", "crashed"]), (Locked("another night"), 4, ["published"])],
)
def test_a_disk_that_fails_is_recorded_and_a_lock_is_not(
    tmp_path: Path,
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    outcomes: list[str],
):
    shop = Dataset(tmp_path / "shop")
    shop.write()
    shop.night()

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli_run, "prepare", fails)
    assert run(shop) == code
    nights = journal.run_ids(_home(shop), "tiny")
    assert [journal.read_run(_home(shop), "tiny", night)["outcome"] for night in nights] == outcomes
    assert len(messages) == len(outcomes) - 1
    assert (_home(shop).journal("tiny") / nights[-1] / "errors.txt").exists() == (code == 1)


def test_a_plan_records_nothing(tmp_path: Path, messages: list[str]):
    shop = Dataset(tmp_path / "shop")
    shop.write()
    shop.night()
    (shop.folder / "a.csv").unlink()
    assert run(shop, "--plan") == 2
    assert len(journal.run_ids(_home(shop), "tiny")) == 1
    assert not messages


def _home(shop: Dataset) -> Home:
    return Home(shop.home_root)
