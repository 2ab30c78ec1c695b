"""`nightrecs status`: one data set's health, for people and for monitors."""

import fcntl
import json
import shlex
from pathlib import Path
from typing import Any

from flows.look import dataset_name, query, unknown_dataset
from pipeline import journal
from pipeline.contracts import UnreadableInput
from pipeline.paths import Home
from pipeline.run import utcnow

HEALTHY, UNHEALTHY = 0, 3


def status(options: Any) -> int:
    """Print it; exit code 0 healthy, 3 not."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    live = None
    if home.live(dataset).exists():
        live = query(options, "select run_id, generated_at from freshness", {}).row(0, named=True)
    answer = health(home, dataset, live["run_id"] if live else None)
    if live:
        summary = query(options, "select rows, users, items, last_timestamp from interactions_summary", {})
        answer |= summary.row(0, named=True)
        answer["generated_at"] = live["generated_at"]
        answer["age_hours"] = round((utcnow() - answer["generated_at"]).total_seconds() / 3600, 2)
        if options.max_age is not None and answer["age_hours"] > options.max_age:
            answer["problems"].append(f"the tables are {answer['age_hours']} hours old, --max-age {options.max_age:g}")
    answer["healthy"] = not answer["problems"]
    answer["next"] = next_steps(answer, options)
    if options.json:
        print(json.dumps(answer, default=str, ensure_ascii=False, indent=1))
    else:
        describe(answer)
    return HEALTHY if answer["healthy"] else UNHEALTHY


def health(home: Home, dataset: str, live: str | None) -> dict[str, Any]:
    """Live night, last night that counts, who runs now; `problems` says what is not well."""
    nights = [journal.read_run(home, dataset, run_id) for run_id in journal.run_ids(home, dataset)]
    if not nights and live is None:
        raise UnreadableInput(unknown_dataset(home, dataset))
    holder = lock_holder(home.lock(dataset))
    running = holder is not None and bool(nights) and nights[-1].get("outcome") == "running"
    counted = [n for n in (nights[:-1] if running else nights) if n.get("outcome") != "stopped"]
    last = counted[-1] if counted else {}
    outcome, reason, problems = last.get("outcome"), last.get("reason"), []
    if outcome == "running":
        outcome, reason = "crashed", "the process ended before the night did"
    if counted and outcome != "published":
        problems.append(f"the last night did not publish: {outcome}: {reason}")
    if live is None:
        problems.append("nothing is published yet")
    champion = next((n.get("champion") for n in nights if n.get("run_id") == live), None)
    return {
        "dataset": dataset, "healthy": not problems, "problems": problems, "live": live, "champion": champion,
        "last_night": last.get("run_id"), "last_outcome": outcome, "last_reason": reason,
        "running": nights[-1]["run_id"] if running else None, "lock": holder,
    }  # fmt: skip


def lock_holder(path: Path) -> str | None:
    """What the holder of a lock file wrote into it; None where nobody holds it. Never waits, keeps nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return path.read_text().strip() or "somebody"
    except FileNotFoundError:
        return None


def next_steps(answer: dict[str, Any], options: Any) -> list[str]:
    """Commands to type."""
    start = shlex.join(["nightrecs", *(["--home", options.home] if options.home else [])])
    name = shlex.quote(options.dataset)
    if answer["healthy"]:
        return [f"{start} leaderboard {name}"]
    steps = [f"{start} runs {name}"] if answer["last_night"] else []
    return steps if answer["running"] else [*steps, f"{start} run {name}"]


def describe(answer: dict[str, Any]) -> None:
    """For people."""
    print(f"{answer['dataset']}: {'healthy' if answer['healthy'] else 'NOT HEALTHY'}")
    for problem in answer["problems"]:
        print(f"  ! {problem}")
    if answer["live"]:
        print(f"live     {answer['live']}, by {answer['champion']}, {answer['age_hours']} hours old")
        newest = f", newest of {answer['last_timestamp']:%Y-%m-%d}" if answer["last_timestamp"] else ""
        print(f"data     {answer['rows']:,} rows, {answer['users']:,} users, {answer['items']:,} items{newest}")
    if answer["last_night"]:
        print(f"last     {answer['last_night']}, {answer['last_outcome']}")
    if answer["running"]:
        print(f"running  {answer['lock']}")
    for step in answer["next"]:
        print(f"next     {step}")
