"""Repeats on real data: which artists a listener of Last.fm (HetRec 2011) tags again, with `seen = "allow"`.

    NIGHTRECS_DATA=... python -m tests.benchmarks.repeats_lastfm

An event is a day on which a user gives an artist any tag (`user_taggedartists.dat`, without its impossible years); most
dates are the first of a month, so events of one month are one. Split by time, 80 : 10 : 10. Every family has its
defaults. Prints ndcg@10 and recall@10 on test with 95 % intervals over users, and the paired differences to the best.
"""

import os
import tempfile
from pathlib import Path

import polars as pl

from flows import conductor as line
from flows.prepare import prepare
from pipeline.core.stage_call import StageName
from pipeline.schemas import tables
from pipeline.storage import journal

DATASET = """name = "tagged"
[source]
static = true
files = ["tagged.csv"]
[columns]
user = "userID"
item = "artistID"
timestamp = "date"
timestamp_unit = "iso"
"""
RECIPE = """seen = "allow"
[split]
kind = "global_time"
[models.popularity]
[models.repeats]
[models.ease]
[models.ials]
[models.blend]
of = ["repeats", "ease", "ials"]
[gate]
enabled = false
"""


def events(folder: Path) -> pl.DataFrame:
    """userID, artistID and date, one row each."""
    rows = pl.read_csv(folder / "user_taggedartists.dat", separator="\t", encoding="utf8-lossy")
    rows = rows.filter(pl.col("year") > 2000).with_columns(date=pl.date("year", "month", "day"))
    return rows.select("userID", "artistID", "date").unique(maintain_order=True)


def main() -> None:
    """Run the night up to the comparison of its models, and print the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "tagged.toml").write_text(DATASET)
        (folder / "repeats.toml").write_text(RECIPE)
        events(Path(os.environ.get("NIGHTRECS_DATA", "../shared/data")) / "lastfm-hetrec").write_csv(
            folder / "tagged.csv"
        )
        run = prepare(str(folder / "tagged.toml"), str(folder / "repeats.toml"), place, str(folder / "home"))
        line.conduct(run, line.plainly, until=StageName.COMPARE)
        for table, wanted in ((tables.METRICS, {"segment": "all", "cutoff": 10}), (tables.COMPARISONS, {})):
            rows = journal.read(run.home, run.dataset, table, run.run_id).filter(split="test", **wanted)
            if "metric" in rows.columns:
                rows = rows.filter(pl.col("metric").is_in(["ndcg", "recall"]))
            print(rows.drop("run_id").write_csv())


if __name__ == "__main__":
    main()
