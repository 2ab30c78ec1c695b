"""A home with published tables made by hand, in a second: for tests of who reads and who changes them."""

import sys
from pathlib import Path
from subprocess import PIPE, Popen

from pipeline.config.run import Run
from pipeline.stages.publish import publish_tables
from pipeline.storage import journal, warehouse

TABLES = """
create table users as select 'u' || range as user_id, 3::bigint as n_interactions from range(20);
create table items as select 'i' || range as item_id, 'Title ' || range as title from range(20);
create table recommendations as
    select user_id, 1::integer as rank, 'i1' as item_id, 0.5 as score, 'model' as source, 'ease' as model,
           '{run_id}' as run_id from users;
create view recommendations_titled as select * from recommendations join items using (item_id);
create table similar_items_titled as
    select 'i1' as item_id, 1 as rank, 'i2' as similar_item_id, 'Title 2' as similar_title, 0.1 as score, 'ease' as model;
create table runs as select '{run_id}' as run_id, 'published' as outcome, null::varchar as reason;
create table leaderboard as
    select 'ease' as model, true as champion, 'test' as split, 'full' as protocol, 20::bigint as n, 'ndcg' as metric,
           10 as cutoff, 0.5 as value, 'x' as compared_with, 0.0 as difference, false as is_real;
"""
WRITER = "import duckdb, sys, time; con = duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(120)"


def night(run: Run, day: int) -> Run:
    """A later night of the same data set, that has just begun."""
    other = run.model_copy(update={"run_id": f"202601{day:02d}T000000.000Z-bbbb"})
    journal.open_run(other)
    return other


def publish(run: Run) -> Path:
    """Publish a night; returns the live name."""
    building = run.home.generations(run.dataset) / f".{run.run_id}.building"
    building.parent.mkdir(parents=True, exist_ok=True)
    with warehouse.scratch() as con:
        con.execute(f"attach {warehouse.literal(building)} as building; use building")
        con.execute(TABLES.format(run_id=run.run_id))
        con.execute("use memory; detach building")
    return publish_tables(run, building)


def writer(path: Path) -> Popen[str]:
    """A client in a process of its own that has opened a file for writing; kill it."""
    path.chmod(0o640)
    process = Popen([sys.executable, "-c", WRITER, str(path)], stdout=PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "open\n"
    return process
