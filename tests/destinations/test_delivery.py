"""Copies to a folder without any server: retries, catching up, rollback, forget, gc, status, plan, doctor."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from flows.cli.doctor import home as doctor
from pipeline.config.destinations import Publish
from pipeline.destinations import delivery, health, places, record
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.stages import track
from pipeline.storage import forgotten_users
from tests.support.delivered_home import DeliveredHome

pytestmark = pytest.mark.long


class Shop(DeliveredHome):
    """A home that publishes to a folder next to it."""

    def __init__(self, folder: Path):
        self.place = folder / "place"
        super().__init__(folder / "home", {"parquet": {"url": str(self.place), "keep": 2}})

    @property
    def name(self) -> str:
        """Of the destination."""
        return f"parquet {self.place}"

    def deliver(self) -> delivery.Delivery:
        """Bring the folder up to date."""
        return delivery.deliver(self.home, "shop", Publish.model_validate(self.publish), patient=False)[0]

    def latest(self) -> str:
        """The night that readers see, from the rows themselves."""
        folder = json.loads((self.place / "latest.json").read_text())["folder"]
        return pl.read_parquet(self.place / folder / "recommendations.parquet")["run_id"].unique().item()

    def nights(self) -> int:
        """Folders there."""
        return len(list((self.place / "nights").iterdir()))

    def command(self, *words: str) -> int:
        """Exit code of a command."""
        return main(["--home", str(self.root), *words])

    def break_place(self) -> None:
        """It belongs to another home."""
        owner = self.place / "owner.json"
        owner.with_suffix(".kept").write_bytes(owner.read_bytes())
        owner.write_text('{"dataset": "shop", "home_id": "another"}')

    def mend_place(self) -> None:
        """It is ours again."""
        owner = self.place / "owner.json"
        owner.with_suffix(".kept").replace(owner)

    def names(self, user: str) -> list[str]:
        """Files of the place that have the user."""
        tables = [path for path in self.place.rglob("*.parquet")]
        return [path.name for path in tables if user in str(pl.read_parquet(path).rows())]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.night(1)
    assert made.deliver().copied
    return made


def test_rollback_reaches_a_destination_or_fails(
    shop: Shop, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(track, "follow_live", lambda home, dataset: "")  # importing mlflow takes seconds
    first, second = shop.latest(), shop.night(2).run_id
    assert shop.command("status", "shop") == 3 and "does not have the live night" in capsys.readouterr().out
    assert shop.deliver().copied and shop.latest() == second and shop.command("status", "shop") == 0
    assert shop.command("rollback", "shop") == 0 and shop.latest() == first and shop.nights() == 2
    shop.break_place()
    assert shop.command("rollback", "shop", "--to", second) == 3
    assert "NOT done" in capsys.readouterr().err and shop.latest() == first
    assert any("does not have the live night" in line for line in health.troubles(shop.home, "shop"))
    shop.mend_place()
    assert shop.command("destinations", "shop", "--publish") == 0 and shop.latest() == second
    assert health.troubles(shop.home, "shop") == []


def test_forget_reaches_every_night_there_or_stays_open(shop: Shop, capsys: pytest.CaptureFixture):
    shop.night(2)
    shop.deliver()
    assert len(shop.names("u07")) >= 4
    shop.break_place()
    assert shop.command("forget", "shop", "u07") == 3
    shown = capsys.readouterr().err
    assert (
        "belongs to the data set" in shown and "1 place still names the user" in shown and "NotDelivered" not in shown
    )
    [pending] = forgotten_users.pending(shop.home, "shop")
    assert "destinations" not in pending.done and shop.names("u07")
    assert shop.command("status", "shop") == 3
    shown = capsys.readouterr().out
    assert (
        shown.count("belongs to the data set") == 1
        and "destinations, see above" in shown
        and "NotDelivered" not in shown
    )
    assert shown.rstrip().endswith(f"next     nightrecs --home {shop.root} destinations shop --publish")
    assert any("to be forgotten" in line for line in health.troubles(shop.home, "shop"))
    shop.mend_place()
    assert shop.command("gc", "shop") == 0  # any command goes on with it
    assert forgotten_users.pending(shop.home, "shop") == [] and shop.names("u07") == [] and shop.nights() == 1
    assert shop.names("u08") and health.troubles(shop.home, "shop") == []


def test_forget_fails_while_earlier_settings_lead_to_copies(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture):
    shop.publish = {"parquet": {"url": str(tmp_path / "elsewhere")}}
    shop.night(2)
    assert shop.deliver().copied
    assert "no longer in the settings" in health.troubles(shop.home, "shop")[0]
    assert shop.command("forget", "shop", "u07") == 3 and shop.names("u07")
    assert shop.command("destinations", "shop", "--remove", "parquet x") == 2
    assert shop.command("destinations", "shop", "--remove", shop.name) == 0 and list(shop.place.rglob("*")) == []
    assert shop.command("forget", "shop", "u07") == 0 and health.troubles(shop.home, "shop") == []
    capsys.readouterr()
    assert shop.command("destinations", "shop", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["state"], row["trouble"]) == ("live", None)
    shutil.rmtree(tmp_path / "elsewhere")
    assert shop.command("destinations", "shop", "--abandon", row["name"]) == 0 and record.read(shop.home, "shop") == {}


def test_a_copy_of_a_home_has_none_of_its_destinations(shop: Shop, tmp_path: Path):
    shutil.copytree(shop.root, tmp_path / "copy", symlinks=True)
    copy = Shop(tmp_path)
    copy.root = tmp_path / "copy"
    assert copy.command("gc", "shop") == 0 and record.read(copy.home, "shop") == {}
    assert copy.command("forget", "shop", "u07") == 0 and len(shop.names("u07")) >= 2
    assert "belongs to the data set shop" in (copy.deliver().trouble or "") and record.read(shop.home, "shop")


def test_gc_removes_old_nights_and_what_killed_copies_left(shop: Shop):
    for number in (2, 3):
        shop.night(number)
        shop.deliver()
    dead = shop.place / "nights" / "20260109T000000.000Z-aaaa-0123456789ab"
    dead.mkdir()
    (dead / "users.parquet").write_bytes(b"half")
    assert shop.nights() == 3
    assert shop.command("gc", "shop", "--dry-run") == 0 and dead.exists()
    assert shop.command("gc", "shop") == 0 and not dead.exists() and shop.nights() == 2


def test_what_may_pass_is_tried_again_and_what_can_not_is_not(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    attempts: list[str] = []

    class Flaky:
        kind, name = "parquet", "parquet x"

        def address(self) -> str:
            return "x"

        def check(self, home_id: str | None) -> str:
            return ""

        def publish(self, night, patience, say, alone=False) -> bool:
            attempts.append(night.run_id)
            raise NotNow("busy") if len(attempts) < 3 else NotDelivered("no")

    monkeypatch.setattr(delivery, "made", lambda settings, dataset: Flaky())
    monkeypatch.setattr(delivery, "PAUSES", (0.001,))
    [done] = delivery.deliver(shop.home, "shop", Publish.model_validate(shop.publish))
    assert (done.trouble, len(attempts)) == ("no", 3)
    entry = record.read(shop.home, "shop")[shop.name]
    assert entry.trouble == "no" and entry.since
    attempts.clear()
    [done] = delivery.deliver(shop.home, "shop", Publish.model_validate(shop.publish), patient=False)
    assert (done.trouble, len(attempts)) == ("busy", 1)
    assert record.read(shop.home, "shop")[shop.name].since == entry.since


def test_a_place_that_settings_led_to_earlier_is_known_again(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    from pipeline.destinations.parquet import Parquet

    addresses = iter(["a", str(shop.place)])
    monkeypatch.setattr(Parquet, "address", lambda self: next(addresses))
    earlier = {delivery.at_address(shop.name, str(shop.place)): str(shop.place)}
    wanted = [(2, {shop.name: "a", **earlier})]
    wanted += [(3, {shop.name: str(shop.place), delivery.at_address(shop.name, "a"): "a"})]
    for number, entries in wanted:
        shop.night(number)
        assert shop.deliver().trouble is None
        assert {name: entry.address for name, entry in record.read(shop.home, "shop").items()} == entries


def test_a_home_is_no_place_for_copies(shop: Shop):
    for url in (shop.home.warehouse / "copies", shop.home.root):
        settings = Publish.model_validate({"parquet": {"url": str(url)}})
        [done] = delivery.deliver(shop.home, "shop", settings, patient=False)
        assert "in the folder of the home's own tables" in (done.trouble or "")


def test_doctor_looks_at_the_destinations(shop: Shop):
    assert [(status, shop.name in text) for status, text, _ in doctor.destinations(shop.home)] == [("ok", True)]
    shop.break_place()
    assert [status for status, _, _ in doctor.destinations(shop.home)] == ["fail"]


def test_a_damaged_folder_is_seen_and_copied_again(shop: Shop, capsys: pytest.CaptureFixture):
    folder = shop.place / json.loads((shop.place / "latest.json").read_text())["folder"]
    whole = contents(shop.place)
    lists = folder / "recommendations.parquet"
    damages = {
        "recommendations.parquet is missing": lists.unlink,
        "recommendations.parquet has 7 of": lambda: lists.write_bytes(b"damaged"),
        "file latest.json is missing": (shop.place / "latest.json").unlink,
        "file latest.json names no night": lambda: (shop.place / "latest.json").write_text("{torn"),
        "manifest.json is missing": (folder / "manifest.json").unlink,
        "manifest.json is damaged": lambda: (folder / "manifest.json").write_text('{"tables": {"users": []}}'),
        "file owner.json is missing": lambda: shutil.rmtree(shop.place),
        "and ": lambda: [path.unlink() for path in folder.glob("*.parquet")],
    }
    for number, (message, damage) in enumerate(damages.items()):
        damage()
        [line] = health.damaged(shop.home, "shop")
        assert line.startswith(f"{shop.name} is damaged: ") and message in line
        if number == 0:
            assert shop.command("status", "shop") == 3 and message in capsys.readouterr().out
            [(state, text, fix)] = doctor.destinations(shop.home)
            assert state == "fail" and message in text and fix == "nightrecs destinations shop --publish"
            assert shop.command("destinations", "shop", "--json") == 0
            [row] = json.loads(capsys.readouterr().out)
            assert row["state"] == "damaged" and message in row["trouble"]
            assert shop.command("destinations", "shop", "--publish") == 0
            assert shop.command("status", "shop") == 0 and not shop.deliver().copied
        else:
            assert shop.deliver().copied
        assert contents(shop.place) == whole and health.damaged(shop.home, "shop") == [], message


def contents(place: Path) -> dict[str, int | str]:
    """Sizes of all files but the JSON ones, which have times; of those whether they are there."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return {
        path.relative_to(place).as_posix(): "json" if path.suffix == ".json" else path.stat().st_size for path in files
    }


def test_the_next_night_is_whole_at_a_damaged_place(shop: Shop):
    for path in shop.place.rglob("*.parquet"):
        path.unlink()
    shop.night(2)
    assert "does not have the live night" in health.troubles(shop.home, "shop")[0]
    assert shop.deliver().copied and health.damaged(shop.home, "shop") == [] and shop.latest()


def test_a_place_that_can_not_be_looked_at_is_not_called_damaged(shop: Shop, capsys: pytest.CaptureFixture):
    shop.break_place()
    assert health.damaged(shop.home, "shop") == [] and shop.command("destinations", "shop", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["state"] == "not reached" and "another" in row["trouble"]


def test_a_place_that_does_not_answer_is_left_after_the_limit(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    import threading

    stopped = threading.Event()

    class Silent:
        def check(self, home_id: str | None) -> str:
            stopped.wait(30)
            return ""

    monkeypatch.setattr(health, "made", lambda settings, dataset: Silent())
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    [(_, trouble, _)] = health.check(shop.home, "shop", Publish.model_validate(shop.publish))
    stopped.set()
    assert trouble == "no answer within 0.05 s"


def test_a_package_that_is_missing_is_named():
    assert places.explained(ModuleNotFoundError("x", name="psycopg")) == f"psycopg is not installed: {places.INSTALL}"
    assert "u0007" not in places.explained(ValueError("no such 'u0007'"))
