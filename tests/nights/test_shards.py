"""A night in shards publishes what a night of all rows at once does."""

from pathlib import Path

from flows.cli import main
from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.storage import journal, lake


def test_the_logical_hash_is_that_of_all_rows_at_once(published_home: Path, tmp_path: Path):
    toml, recipe = (str(published_home.parent / name) for name in ("tiny.toml", "cheap.toml"))
    words = ["run", toml, "--recipe", recipe, "--no-prefect", "--set", "scale.shards=3"]
    assert main(["--home", str(tmp_path), *words]) == 0
    whole, cut = (journal.read(Home(at), "tiny", tables.RUNS) for at in (published_home, tmp_path))
    assert cut["logical_hash"].to_list() == whole["logical_hash"].to_list()[-1:]
    (cleaned,) = (Home(tmp_path).lake("tiny") / "2_clean").iterdir()
    assert len(lake.info(cleaned)["shards"]) == 3
    assert (Home(published_home).lake("tiny") / "2_clean" / cleaned.name).is_dir(), "shards are in no key"
