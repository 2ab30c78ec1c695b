"""`[publish.parquet]` in a bucket: whole nights for readers, kills, two writers, credentials."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.config.destinations import Publish
from pipeline.core.paths import CHECKOUT
from pipeline.destinations import delivery, health, record
from pipeline.schemas import tables
from pipeline.storage.buckets import Bucket, explained_s3
from pipeline.storage.file_stores import AlreadyThere, Changed, StoreError
from tests.support.delivered_home import TOP, USERS, DeliveredHome
from tests.support.forks import Forks, forks
from tests.support.s3_server import S3Server

obstore = pytest.importorskip("obstore")


class Place:
    """An empty bucket, and a home that publishes to a prefix of it."""

    def __init__(self, server: S3Server, folder: Path):
        self.bucket = server.new_bucket()
        self.store = server.store(self.bucket)
        self.publish = Publish.model_validate({"parquet": {"url": f"s3://{self.bucket}/to/shop", "minutes": 0.2}})
        self.shop = DeliveredHome(folder / "home", self.publish.model_dump(mode="json"))

    def deliver(self, patient: bool = False) -> delivery.Delivery:
        """Bring the bucket up to date."""
        return delivery.deliver(self.shop.home, "shop", self.publish, patient=patient)[0]

    def latest(self) -> dict:
        """The pointer."""
        return json.loads(bytes(obstore.get(self.store, "to/shop/latest.json").bytes()))

    def all_keys(self) -> list[str]:
        """Of the whole bucket."""
        return sorted(each["path"] for page in obstore.list(self.store) for each in page)

    def nights(self) -> set[str]:
        """Folders of nights."""
        return {key.split("/")[3] for key in self.all_keys() if key.startswith("to/shop/nights/")}

    def table(self, name: str, latest: dict | None = None) -> pl.DataFrame:
        """A table of the night that the pointer names."""
        at = f"to/shop/{(latest or self.latest())['folder']}/{name}.parquet"
        return pl.read_parquet(bytes(obstore.get(self.store, at).bytes()))


DELIVER = """
import sys
from pathlib import Path
from pipeline.core.paths import Home
from pipeline.destinations import delivery
from pipeline.destinations.places import settings_now
home = Home(Path(sys.argv[1]))
print(delivery.deliver(home, "shop", settings_now(home, "shop"), patient=False))
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with forks("pipeline.destinations.delivery", "pipeline.destinations.parquet") as found:
        yield found


@pytest.fixture
def place(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    yield Place(s3, tmp_path)


def test_a_night_is_there_as_published_and_old_ones_go(place: Place):
    for number in range(1, 6):
        run = place.shop.night(number)
        assert place.deliver().copied and not place.deliver().copied
        latest = place.latest()
        assert latest["run_id"] == run.run_id and latest["night"] == str(run.started_at)
    assert len(place.nights()) == 3 and health.troubles(place.shop.home, "shop") == []
    manifest = json.loads(bytes(obstore.get(place.store, f"to/shop/{latest['manifest']}").bytes()))
    assert set(manifest["tables"]) == {table.name for table in tables.PUBLISHED}
    from pipeline.destinations.published_file import opened

    with opened(place.shop.home.live("shop")) as con:
        for name, about in manifest["tables"].items():
            wanted, found = con.sql(f'FROM "{name}"').pl(), place.table(name)
            assert found.rows() == wanted.rows() and found.columns == [each["name"] for each in about["columns"]]
            assert about["rows"] == found.height


def test_the_recipe_for_readers_works_as_documented(place: Place):
    run = place.shop.night(1)
    assert place.deliver().copied
    text = (CHECKOUT / "pipeline" / "destinations" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("my-bucket/shop", f"{place.bucket}/to/shop")
    found: dict = {}
    exec(
        code.replace("my-bucket", place.bucket).replace('"shop/', '"to/shop/').replace("eu-central-1", "us-east-1"),
        found,
    )
    assert set(found["lists"]["run_id"]) == {run.run_id} and len(found["top"]) == USERS


def test_readers_see_whole_nights_through_10_swaps(place: Place):
    place.shop.night(1)
    place.deliver()
    stop, wrong, seen = threading.Event(), list[object](), set[str]()

    def read() -> None:
        try:
            while not stop.wait(0.5):
                latest = place.latest()
                lists, items = place.table("recommendations", latest), place.table("items", latest)
                number = str(int(latest["run_id"][6:8]))
                good = lists.height == USERS * TOP and set(lists["run_id"]) == {latest["run_id"]}
                if not good or set(items["title"].str.split(" ").list.last()) != {number}:
                    wrong.append(latest)
                seen.add(number)
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(20)]
    for each in readers:
        each.start()
    try:
        for number in range(2, 12):
            place.shop.night(number)
            assert place.deliver().copied
    finally:
        stop.set()
        for each in readers:
            each.join(30)
    assert wrong == [] and len(seen) >= 5


@pytest.mark.parametrize(
    "point", ["mid_copy:kill@4", "before_manifest:kill", "before_pointer:kill", "after_pointer:kill"]
)
def test_a_publisher_killed_at_any_point_leaves_a_whole_night(place: Place, processes: Forks, point: str):
    first = place.shop.night(1)
    place.deliver()
    second = place.shop.night(2)
    done = processes.run(DELIVER, str(place.shop.root), NIGHTRECS_FAULT=f"deliver:{point}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    wanted = second if point.startswith("after") else first
    assert place.latest()["run_id"] == wanted.run_id and set(place.table("recommendations")["run_id"]) == {
        wanted.run_id
    }
    third = place.shop.night(3)
    assert place.deliver().copied and place.latest()["run_id"] == third.run_id
    whole = {key.split("/")[3] for key in place.all_keys() if key.endswith("manifest.json")}
    assert place.nights() == whole and health.troubles(place.shop.home, "shop") == []


def test_a_prefix_belongs_to_one_home_and_a_swap_loses_against_another(place: Place, tmp_path: Path):
    place.shop.night(1)
    place.deliver()
    other = DeliveredHome(tmp_path / "other", place.shop.publish)
    other.night(2)
    [done] = delivery.deliver(other.home, "shop", place.publish, patient=False)
    assert "belongs to the data set shop of the home" in (done.trouble or "")
    assert place.publish.parquet
    store = Bucket(place.publish.parquet)
    _, version = store.read("latest.json") or (b"", "")
    store.swap("latest.json", b"{}", version)
    with pytest.raises(Changed):
        store.swap("latest.json", b"[]", version)
    with pytest.raises(Changed):
        store.swap("latest.json", b"[]", None)
    with pytest.raises(AlreadyThere):
        store.create("owner.json", b"{}")
    assert delivery.remove(place.shop.home, "shop", f"parquet s3://{place.bucket}/to/shop") and place.all_keys() == []
    assert record.read(place.shop.home, "shop") == {}
    obstore.put(place.store, "to/shop/mine.csv", b"a,b")
    assert "did not make" in (place.deliver().trouble or "")


def test_no_key_reaches_a_message_or_a_file(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.shop.night(1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETSECRET")
    for endpoint in ("http://127.0.0.1:1", "http://example.org", "https://key:hidden-key@example.org"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        done, looked = place.deliver(), health.check(place.shop.home, "shop", place.publish)
        texts = [str(done), str(looked), *(p.read_text() for p in place.shop.root.rglob("*.json*"))]
        secrets = ("AKIASECRETSECRET", "testing-secret", "hidden-key")
        assert done.trouble and not [text for text in texts if any(secret in text for secret in secrets)]
    denied = obstore.exceptions.GenericError(
        "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match</Message>"
        "<AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>x</StringToSign></Error>"
    )
    named = r"SignatureDoesNotMatch: The signature does not match"
    with pytest.raises(StoreError, match=named) as error, explained_s3():
        raise denied
    assert "AKIA" not in str(error.value)
