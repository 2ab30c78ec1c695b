"""What is fetched lives as long as the process, in a folder of its own; keys, replays and forgetting hold as for files."""

import fcntl
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from flows.prepare import discard, prepare
from pipeline.config.publishing import Keep
from pipeline.core.paths import CHECKOUT, Home
from pipeline.maintenance import gc
from pipeline.sources import row_estimate
from pipeline.sources.connectors import fetching
from pipeline.sources.row_estimate import RowCount
from pipeline.stages import ingest
from pipeline.storage import forgotten_users, lake
from tests.support.fetched_source import read, write_toml


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [(f"u{u}", f"i{(u * 7 + n) % 11}", 1_700_000_000 + 86_400 * n) for u in range(12) for n in range(6)]
    pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").write_csv(folder / "plays.csv")
    (folder / "titles.csv").write_text("i,title\n" + "".join(f"i{n},Title {n}\n" for n in range(11)))
    return folder


TIMED = 'timestamp = "t"\n[items]\nfiles = ["titles.csv"]\nid = "i"\ntitle = "title"\n'
QUERY = {"query": "from 'plays.csv'"}


def kept(home: Path) -> list[str]:
    return sorted(path.name for path in (Home(home).lake("shop") / lake.SOURCE).glob(".fetched-*"))


def test_a_query_and_files_of_other_sections_are_read_together(shop: Path, tmp_path: Path):
    found = read(write_toml(shop, QUERY, TIMED), tmp_path / "home")
    assert found.ledger == {"kept": 72}
    assert pl.read_parquet(found.folder / "catalog.parquet").height == 11
    assert found.run.origin == shop
    assert found.run.data != shop
    notes = (tmp_path / "home" / "warehouse" / "journal" / "shop" / found.run.run_id / "notes.jsonl").read_text()
    assert "source: 72 rows of the query" in notes


def test_the_folder_goes_with_the_night(shop: Path, tmp_path: Path):
    run = prepare(
        str(write_toml(shop, QUERY, TIMED)), str(shop / "one.toml"), home=str(tmp_path / "home"), until="split"
    )
    assert kept(tmp_path / "home") == [f".fetched-{run.run_id}"]
    assert (run.data / "source.query.parquet").stat().st_mode & 0o007 == 0
    assert run.data.stat().st_mode & 0o077 == 0
    discard(run)
    assert kept(tmp_path / "home") == []
    assert (shop / "titles.csv").exists()


def test_a_night_that_is_prepared_twice_asks_once(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toml, home = str(write_toml(shop, QUERY, TIMED)), str(tmp_path / "home")
    first = prepare(toml, str(shop / "one.toml"), home=home, until="split")
    monkeypatch.setattr(fetching, "_fetch_section", None)
    again = prepare(toml, str(shop / "one.toml"), home=home, until="split", run_id=first.run_id)
    assert again.data == first.data
    with pytest.raises(TypeError):
        prepare(toml, str(shop / "one.toml"), home=home, until="split")


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(shop: Path, tmp_path: Path):
    toml, home = write_toml(shop, QUERY, TIMED), Home(tmp_path / "home")
    source = home.lake("shop") / lake.SOURCE
    dead, alive = source / ".fetched-dead", source / ".fetched-alive"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / fetching.LOCK).touch()
    with (alive / fetching.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read(toml, home.root)
        assert kept(home.root) == sorted([f".fetched-{found.run.run_id}", ".fetched-alive"])
        assert not any("fetched-alive" in str(each) for each in gc.leftovers(home, "shop", Keep()))
    assert any("fetched-alive" in str(each) for each in gc.leftovers(home, "shop", Keep()))


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_to_the_next_night(shop: Path, tmp_path: Path):
    toml = write_toml(shop, QUERY, TIMED)
    code = (
        "import os, sys\nfrom flows.prepare import prepare\nfrom pipeline.sources.connectors import file_queries\n"
        "write = file_queries.write\n"
        "file_queries.write = lambda *a: (write(*a), os.kill(os.getpid(), 9))\n"
        f"prepare({str(toml)!r}, {str(shop / 'one.toml')!r}, home={str(tmp_path / 'home')!r}, until='split')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == -9
    (left,) = kept(tmp_path / "home")
    assert (Home(tmp_path / "home").lake("shop") / lake.SOURCE / left / "source.query.parquet").exists()
    found = read(toml, tmp_path / "home")
    assert kept(tmp_path / "home") == [f".fetched-{found.run.run_id}"]
    assert found.ledger == {"kept": 72}


def test_the_key_is_that_of_any_home(shop: Path, tmp_path: Path):
    toml = write_toml(shop, QUERY, TIMED)
    assert read(toml, tmp_path / "one").key == read(toml, tmp_path / "two").key


def test_a_replay_is_cut_in_time(shop: Path, tmp_path: Path):
    found = read(write_toml(shop, QUERY, TIMED), tmp_path / "home")
    moment = pl.from_epoch(pl.Series([1_700_000_000 + 86_400 * 3]), "s")[0]
    cut = ingest.read_source(found.run.model_copy(update={"as_of": moment}))
    assert lake.read_manifest(cut)["ledger"] == {"kept": 36, "after_as_of": 36}


def test_forgotten_users_stay_out_and_forget_removes_what_was_fetched(shop: Path, tmp_path: Path):
    toml, home = write_toml(shop, QUERY, TIMED), Home(tmp_path / "home")
    left = home.lake("shop") / lake.SOURCE / ".fetched-dead"
    found = read(toml, home.root)
    left.mkdir()
    (left / "source.query.parquet").write_bytes((found.run.data / "source.query.parquet").read_bytes())
    discard(found.run)
    assert main(["forget", "shop", "u3", "--home", str(home.root)]) == 0
    assert not (home.lake("shop") / lake.SOURCE).exists()
    assert forgotten_users.read(home, "shop")
    again = read(toml, home.root)
    assert again.ledger == {"kept": 66, "forgotten": 6}


def test_the_plan_writes_nothing_and_knows_what_is_there(shop: Path, tmp_path: Path):
    toml, home = write_toml(shop, QUERY, TIMED), tmp_path / "home"
    planned = prepare(str(toml), str(shop / "one.toml"), home=str(home), until="split", look_only=True)
    assert row_estimate.estimate(planned.settings.dataset, planned.data) == RowCount(72, True)
    assert planned.origin == shop
    assert not home.exists()
    assert read(toml, home).folder == lake.folder_of(planned, ingest.spec(planned))
    discard(planned)
    assert not planned.data.exists()


def test_lists_of_the_recipe_are_found_next_to_the_data(shop: Path, tmp_path: Path):
    (shop / "lists").mkdir()
    (shop / "lists" / "hidden.txt").write_text("i1\n")
    (shop / ".secret.csv").write_text("u,i\n")
    found = read(write_toml(shop, QUERY, TIMED), tmp_path / "home")
    assert (found.run.data / "lists" / "hidden.txt").read_text() == "i1\n"
    assert not (found.run.data / ".secret.csv").exists()
    discard(found.run)
    assert (shop / "lists" / "hidden.txt").exists()


def test_a_folder_that_is_not_there_is_said(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    toml = write_toml(shop, QUERY, TIMED)
    assert (
        main(["run", str(toml), "--data", str(tmp_path / "no"), "--home", str(tmp_path / "home"), "--no-prefect"]) == 2
    )
    assert "is no folder" in capsys.readouterr().err


SECRET = "hunter2-of-the-shop"
WITH_PASSWORD = [
    f"postgresql://reader:{SECRET}@127.0.0.1/shop",
    f"postgresql://127.0.0.1/shop?password={SECRET}",
    f"postgres://127.0.0.1/shop?user=a&sslpassword={SECRET}",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_password_in_the_toml_is_refused_and_not_repeated(
    shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, url: str
):
    toml, home = write_toml(shop, {"query": "select 1", "url": url}), str(tmp_path / "home")
    assert main(["run", str(toml), "--home", home, "--no-prefect", "--debug"]) == 2
    first = capfd.readouterr().err
    assert "password_env" in first
    plain = write_toml(shop, {"query": "select 1"}, name="plain")
    assert main(["run", str(plain), "--home", home, "--no-prefect", "--set", f"dataset.source.url={url}"]) == 2
    second = capfd.readouterr().err
    monkeypatch.setenv("NIGHTRECS_DATASET__SOURCE__URL", url)
    assert main(["run", str(plain), "--home", home, "--no-prefect"]) == 2
    third = capfd.readouterr().err
    assert all(SECRET not in text for text in (first, second, third))
    assert "NIGHTRECS_DATASET__SOURCE__URL" in third


def test_a_plain_source_imports_no_connector(shop: Path, tmp_path: Path):
    toml = write_toml(shop, {"files": ["plays.csv"]}, TIMED)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.fetched_source import read\n"
        f"read(Path({str(toml)!r}), Path({str(tmp_path / 'home')!r}))\n"
        "assert 'pipeline.sources.connectors.postgres_queries' in sys.modules\n"
        "heavy = {'adbc_driver_manager', 'adbc_driver_postgresql', 'adbc_driver_sqlite', 'obstore', 'psycopg', 'ray'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
