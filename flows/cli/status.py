"""`nightrecs status`: the health of one data set, for people and monitors."""

import shlex
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import Any

from flows.cli.output import show
from pipeline.core.errors import Held, UnreadableInput, with_ids
from pipeline.core.paths import Home
from pipeline.core.run_ids import moment_of, utcnow
from pipeline.core.terminal import as_json, show_line
from pipeline.datasets.names import dataset_name, runnable, unknown_dataset
from pipeline.maintenance import free_space
from pipeline.maintenance.rollback import current_rollback, next_target
from pipeline.storage import checksums, forgotten_users, home_identity, journal, reader, warehouse
from pipeline.storage.generations import kept_generations, live_run_id
from pipeline.storage.lock import lock_holder

LONGEST = 400  # characters of a problem that are shown: paths are long
HEALTHY, UNHEALTHY = 0, 3
SHOWN = 5  # rejected lines
WIDTH = 60  # characters of a rejected line that are shown


def status(options: Namespace) -> int:
    """Print the health; exit code 0 healthy, 3 not."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    answer = health(home, dataset, live_run_id(home, dataset), options.deep)
    target = home_identity.target_of(home)
    answer |= about_tables(home, dataset) | {"rejected": None, "target": target and target.name}
    if answer["last_outcome"] not in (None, "published"):
        answer["rejected"] = rejected(home, dataset, answer["last_night"])
    answer["forgotten_elsewhere"] = forgotten_elsewhere(home, dataset)
    age = answer["age_hours"]
    if options.max_age is not None and age is not None and age > options.max_age:
        answer["problems"].append(f"the tables are {age} hours old, --max-age {options.max_age:g}")
    answer["healthy"] = not answer["problems"]
    answer["next"] = next_steps(answer, home, options)
    if options.json:
        print(as_json(answer, indent=1))
    else:
        describe(answer, options)
    return HEALTHY if answer["healthy"] else UNHEALTHY


def forgotten_elsewhere(home: Home, dataset: str) -> str | None:
    """A note if another home of the shared lake has forgotten users whom files of this one may still name."""
    if not home.lakes(dataset).exists():
        return None
    from pipeline.maintenance import shared_results  # imports what searches need

    try:
        found = shared_results.forgotten_elsewhere(home, dataset)
    except UnreadableInput:  # the home's own list is damaged, which is a problem of its own
        return None
    return found and (
        f"another home of {found[1]} has forgotten {found[0]} users since the last night here, and the tables may name "
        "them: the next night leaves them out, earlier files name them until `nightrecs forget` is called here, too"
    )


def about_tables(home: Home, dataset: str) -> dict[str, Any]:
    """Age and size of the live tables; all None if there are none, or if they can't be read."""
    answer = dict.fromkeys(["generated_at", "age_hours", "rows", "users", "items", "last_timestamp"])
    try:
        with reader.open_live(home, dataset) as con:
            (freshness,) = reader.records(con, "select generated_at from freshness")
            (about,) = reader.records(con, "select rows, users, items, last_timestamp from interactions_summary")
    except (warehouse.DatabaseError, Held, ValueError):  # UnreadableInput is a ValueError
        return answer
    made = freshness["generated_at"] or moment_of(live_run_id(home, dataset) or "")  # null: no recommendation at all
    age = round((utcnow() - made).total_seconds() / 3600, 2) if made else None
    return answer | about | {"generated_at": made, "age_hours": age}


def health(home: Home, dataset: str, live: str | None, deep: bool = False) -> dict[str, Any]:
    """The live night, the last night that counts, the running night, and `problems`.

    Nights that were stopped and failed experiments do not count. `deep` verifies the checksums of all published files.
    """
    nights = [journal.read_run(home, dataset, run_id) for run_id in journal.run_ids(home, dataset)]
    if not nights and not home.live(dataset).exists():
        raise UnreadableInput(unknown_dataset(home, dataset))
    holder = lock_holder(home.lock(dataset))
    running = holder is not None and bool(nights) and nights[-1].get("outcome") == "running"
    ended = [journal.as_ended(n, live) for n in (nights[:-1] if running else nights)]
    usual = next((n.get("overrides") for n in reversed(ended) if n.get("outcome") == "published"), None)
    counted = [n for n in ended if n.get("outcome") != "stopped" and not is_failed_experiment(n, usual)]
    last = counted[-1] if counted else {}
    outcome, reason, ids, problems = last.get("outcome"), last.get("reason"), journal.ids_of(last), []
    if counted and outcome != "published":
        problems.append(with_ids(f"the last night did not publish: {outcome}: {reason}", ids))
    if live is None and not home.live(dataset).exists():
        problems.append("nothing is published yet")
    elif trouble := unreadable(home.live(dataset)):
        problems.append(f"the published tables can't be read: {trouble}")
    try:
        forgotten_users.read(home, dataset)
    except UnreadableInput as trouble:
        problems.append(f"the next night will not run: {trouble}")
    room = free_space.room(home, dataset, live)
    full = None if holder else room.trouble  # what a night has written by now, it no longer needs
    if full:
        problems.append(full)
    problems += changed(home, dataset, deep)
    uncopied = not_copied(home, dataset, live, holder is not None)
    problems += uncopied
    if open_forgets := forgotten_users.pending(home, dataset):
        left = [line for pending in open_forgets for line in pending.left]
        if uncopied:  # which says why
            left = list(dict.fromkeys("destinations, see above" if x.startswith("destinations: ") else x for x in left))
        problems.append(
            f"{len(open_forgets)} forget{'s' * (len(open_forgets) > 1)} of a user not done"
            f"{': ' + '; '.join(left) if left else ''}: the next command that changes the data set goes on with it, "
            "or call `nightrecs forget` again"
        )
    champion = next((n.get("champion") for n in nights if n.get("run_id") == live), None)
    return {
        "dataset": dataset, "healthy": not problems, "problems": problems, "live": live, "champion": champion,
        "last_night": last.get("run_id"), "last_outcome": outcome, "last_reason": reason,
        "last_reason_ids": ids,
        "running": nights[-1]["run_id"] if running else None, "lock": holder,
        "rolled_back": current_rollback(home, dataset), "rollback_target": next_target(home, dataset),
        "open_forgets": len(open_forgets), "not_copied": len(uncopied), "disk_full": full is not None,
        "free_bytes": room.free, "needed_bytes": room.needed,
    }  # fmt: skip


def is_failed_experiment(night: dict[str, Any], usual: list[str] | None) -> bool:
    """Whether a night failed that was meant to stop early (`--until`), or had other `--set` values than `usual`.

    `usual`: the overrides of the last night that published. A night that is run by cron with the same `--set` every
    time is not an experiment.
    """
    if night.get("outcome") == "published":
        return False
    return bool(night.get("until")) or bool(night.get("overrides") and night["overrides"] != usual)


def not_copied(home: Home, dataset: str, live: str | None, busy: bool) -> list[str]:
    """Destinations of `[publish]` that lack the live night or a part of it.

    While one may be copied to: those that failed before.
    """
    settings = journal.read_settings(home, dataset, live) if live else None
    configured = any(((settings or {}).get("publish") or {}).values())
    if not configured and not home.destinations(dataset).exists():
        return []
    from pipeline.destinations import health  # imports pydantic

    return health.troubles(home, dataset, busy) + ([] if busy else health.damaged(home, dataset))


def changed(home: Home, dataset: str, deep: bool) -> list[str]:
    """How published files differ from what was published."""
    live = home.live(dataset)
    if not live.exists():
        return []
    found = [
        f"{log.name} is next to {live.name}: a client opened it for writing, and readers see what it wrote; "
        "the next night sets it aside"
        for log in checksums.logs(live)
    ]
    if trouble := checksums.live_trouble(home, dataset, deep):
        found.append(f"{trouble}; the next night, `rollback` or `gc` restores it from its generation")
    if deep:
        troubles = (checksums.generation_trouble(home, dataset, i) for i in kept_generations(home, dataset))
        found += [f"{trouble}; `rollback` refuses it" for trouble in troubles if trouble]
    return found


def rejected(home: Home, dataset: str, run_id: str) -> dict[str, Any] | None:
    """Number of lines that a night rejected, the first ones, and the SQL for all of them.

    A night that publishes has them in the table `rejected_rows`.
    """
    import polars as pl

    from pipeline.sources.parquet_writer import REJECTED  # imports pyarrow

    file = home.journal(dataset) / run_id / REJECTED
    if not file.is_file():
        return None
    lines = pl.scan_parquet(file).select("file", "line", "column", "reason", "raw")
    rows, first = lines.select(pl.len()).collect().item(), lines.head(SHOWN).collect().to_dicts()
    return {"rows": rows, "first": first, "sql": f"from {warehouse.literal(file)}"} if rows else None


def unreadable(live: Path) -> str | None:
    """Why a published file can't be opened; None if it can."""
    try:
        reader.open_file(live).close()
    except (warehouse.DatabaseError, Held) as error:
        return str(error).splitlines()[0]
    return None


def next_steps(answer: dict[str, Any], home: Home, options: Namespace) -> list[str]:
    """Commands to run next."""
    start = shlex.join(["nightrecs", *(["--home", options.home] if options.home else [])])
    name = shlex.quote(options.dataset)
    if answer["healthy"]:
        return [f"{start} leaderboard {name}"]
    steps = [f"{start} runs {name}"] if answer["last_night"] else []
    if answer["running"]:
        return steps
    if answer["disk_full"]:
        steps.append(f"{start} gc {name}")
    again = [f"{start} destinations {name} --publish"] if answer["not_copied"] else []
    forgets = answer["open_forgets"] > 0  # the same command goes on with them
    if again and len(answer["problems"]) == answer["not_copied"] + forgets:
        return again
    return [*steps, *again, f"{start} run {runnable(home, options.dataset)}"]


def shortened(raw: str) -> str:
    """The start of a source line, on one line."""
    text = " ".join(raw[: 2 * WIDTH].split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 2]} …"


def describe(answer: dict[str, Any], options: Namespace) -> None:
    """Print the health as text."""
    of = f" of target {answer['target']}" if answer.get("target") else ""
    show_line(f"{answer['dataset']}{of}: {'healthy' if answer['healthy'] else 'NOT HEALTHY'}")
    for problem in answer["problems"]:
        show_line(f"  ! {textwrap.shorten(problem, LONGEST, placeholder=' …')}")
    if answer["age_hours"] is not None:
        show_line(f"live     {answer['live']}, by {answer['champion']}, {answer['age_hours']} hours old")
        if back := answer["rolled_back"]:
            when = f" by {back['by']} at {back['at'][:16].replace('T', ' ')} UTC" if back["at"] else ""
            show_line(f"         rolled back{when} from {back['from']}")
        newest = f", newest of {answer['last_timestamp']:%Y-%m-%d}" if answer["last_timestamp"] else ""
        show_line(f"data     {answer['rows']:,} rows, {answer['users']:,} users, {answer['items']:,} items{newest}")
    if answer.get("forgotten_elsewhere"):
        show_line(f"forgotten {answer['forgotten_elsewhere']}")
    if answer["last_night"]:
        show_line(f"last     {answer['last_night']}, {answer['last_outcome']}")
    if answer["running"]:
        show_line(f"running  {answer['lock']}")
    if answer["rollback_target"]:
        show_line(f"before   {answer['rollback_target']}, the target of `rollback`")
    if found := answer["rejected"]:
        show_line(f"rejected {found['rows']:,} lines of its source, the first ones:")
        first = [{**row, "file": Path(row["file"]).name, "raw": shortened(row["raw"])} for row in found["first"]]
        show(first, options)
        show_line(f"         all of them, in DuckDB: {found['sql']}")
    for step in answer["next"]:
        show_line(f"next     {step}")
