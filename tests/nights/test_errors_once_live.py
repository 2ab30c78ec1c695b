"""A night whose tables are live: what fails then is a warning, and destinations, MLflow and the report get their turn."""

import json
from pathlib import Path

import pytest

from flows import outcome
from pipeline.core.fault_injection import planted
from pipeline.schemas import tables
from pipeline.stages import deliver
from pipeline.storage import journal
from tests.support.published_nights import Dataset, without_mlflow, without_report_file

pytestmark = pytest.mark.night


class Delivering:
    """A data set whose recipe publishes to a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.data, self.place = Dataset(folder / "data"), folder / "delivered"
        with (folder / "data" / "cheap.toml").open("a") as file:
            file.write(f'[publish.parquet]\nurl = "{self.place}"\nminutes = 0.001\n')
        self.data.write()
        self.name = f"parquet {self.place}"
        self.messages: list[str] = []
        monkeypatch.setattr(outcome, "notify", lambda run, ended, reason: self.messages.append(f"{ended}: {reason}"))

    def there(self) -> str:
        """The night that the destination has."""
        return json.loads((self.place / "latest.json").read_text())["run_id"]

    def record(self, run_id: str) -> dict:
        """run.json of a night."""
        return journal.read_run(self.data.home, "tiny", run_id)

    def stages(self, run_id: str) -> set[str]:
        """That the journal of a night has."""
        return set(journal.read(self.data.home, "tiny", tables.STAGES, run_id)["stage"])

    def warnings(self, run_id: str) -> list[str]:
        """About what failed once it was live."""
        notes = journal.notes(self.data.home, "tiny", run_id)
        return [note for note in notes if "the night's outcome stands" in note]


@pytest.fixture
def delivering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Delivering:
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    return Delivering(tmp_path, monkeypatch)


def test_an_error_once_live_keeps_no_destination_from_its_tables(delivering: Delivering):
    for fault in ("publish:after_replace:error", "publish:before_close:full", "publish:before_drop:error"):
        with planted(fault):
            night = delivering.data.night()
        assert delivering.there() == night == delivering.data.live_night(), fault
        assert {"deliver", "report"} <= delivering.stages(night)
        record = delivering.record(night)
        assert (record["outcome"], record["undelivered"]) == ("published", [])
        assert len(delivering.warnings(night)) == 1 and "planted at publish" in delivering.warnings(night)[0]
        assert len(delivering.messages) == 1 and "planted at publish" in delivering.messages.pop()


def test_a_destination_that_was_not_reached_is_recorded_and_notified(delivering: Delivering, monkeypatch):
    def failing(*_):
        raise error

    delivering.place.write_text("a file, where the folder should be")
    with planted("publish:before_drop:error"):
        night = delivering.data.night()
    assert delivering.record(night)["undelivered"] == [delivering.name]
    assert (
        "planted at" in delivering.messages[0] and f"could not be copied to {delivering.name}" in delivering.messages[1]
    )
    assert delivering.data.command("status", "tiny") == 3

    delivering.messages.clear()
    error = MemoryError("no more")
    monkeypatch.setattr(deliver.delivery, "deliver", failing)
    night = delivering.data.night()
    assert delivering.record(night)["undelivered"] == [delivering.name] and "report" in delivering.stages(night)
    assert [message for message in delivering.messages if f"could not be copied to {delivering.name}" in message]


def test_an_error_before_going_live_ends_the_night(delivering: Delivering):
    first = delivering.data.night()
    with planted("publish:before_replace:error"), pytest.raises(RuntimeError, match="planted at"):
        delivering.data.night()
    assert delivering.there() == first == delivering.data.live_night()
    assert delivering.messages == ["crashed: Planted: planted at publish:before_replace"]
