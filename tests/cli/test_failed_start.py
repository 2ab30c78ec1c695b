"""A night that fails before it begins is in the journal, counts for `status`, and notifies."""

from pathlib import Path

import pytest

from flows import outcome
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
