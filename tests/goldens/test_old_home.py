"""A home and registered models of version 0.1.0 are of use to the code of today; see goldens/old_home/README.md."""

import json
import math
from pathlib import Path

import pytest

from flows.cli import main
from tests.goldens import old_home

USERS = [f"u{user:02d}" for user in range(40)]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be looked at only."""
    return old_home.unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def own(unpacked: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return old_home.unpack(tmp_path)


def printed(capsys: pytest.CaptureFixture, home: Path, *words: str):
    capsys.readouterr()
    assert main(["--home", str(home), *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def published(capsys: pytest.CaptureFixture, home: Path) -> dict[tuple[str, str], float]:
    rows = printed(capsys, home, "sql", "old", "select user_id, item_id, score from recommendations")
    return {(row["user_id"], row["item_id"]): row["score"] for row in rows}


def test_commands_that_look_read_it(unpacked: Path, capsys):
    status = printed(capsys, unpacked, "status", "old")
    assert status["healthy"] and status["champion"] == "ease" and status["users"] == 40 and status["items"] == 30
    newest, oldest = printed(capsys, unpacked, "runs", "old")
    assert newest["run_id"] == status["live"] and (newest["tables"], oldest["tables"]) == ("live", "kept")
    assert {night["outcome"] for night in (newest, oldest)} == {"published"} and newest["figure"] == "ndcg@10"
    board = printed(capsys, unpacked, "leaderboard", "old")
    assert [row["model"] for row in board] == ["ease", "mf"] and 0 < board[0]["ndcg@10"] <= 1
    asked = printed(capsys, unpacked, "sql", "old", "select count(*) as n, count(distinct user_id) as users from users")
    assert asked == [{"n": 40, "users": 40}]
    listed = printed(capsys, unpacked, "recommend", "old", "u07", "-n", "3")
    assert [row["rank"] for row in listed] == [1, 2, 3] and all(row["title"].startswith("Title ") for row in listed)
    item = printed(capsys, unpacked, "explain", "old", "u07", listed[0]["item_id"])
    assert item["rank"] == 1 and math.isclose(item["score"], listed[0]["score"], rel_tol=1e-4)
    assert len(printed(capsys, unpacked, "similar", "old", listed[0]["item_id"], "-n", "2")) == 2


def test_registered_models_predict_what_their_nights_published(own: Path, capsys):
    import mlflow
    import pandas as pd

    store = f"sqlite:///{own / 'mlflow' / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    champion, previous = (mlflow.pyfunc.load_model(f"models:/old@{name}") for name in ("champion", "previous"))
    users = pd.DataFrame({"user_id": [*USERS, "nobody"]})
    for model, back in ((champion, ()), (previous, ("rollback", "old"))):
        if back:
            printed(capsys, own, *back)
        assert (model.metadata.metadata or {})["run_id"] == printed(capsys, own, "status", "old")["live"]
        lists = model.predict(users).to_dict("records")
        stands = published(capsys, own)
        given = {(row["user_id"], row["item_id"]): row["score"] for row in lists}
        unknown = {item for user, item in given if user == "nobody"}
        assert len(unknown) == 20 and {user for user, _ in given} == {*USERS, "nobody"}
        assert {row["source"] for row in lists if row["user_id"] == "nobody"} == {"fallback"}
        both = given.keys() & stands.keys()
        assert len(both) > 0.95 * len(stands), "but for ties at the end of a list they are the same"
        assert all(math.isclose(given[key], stands[key], rel_tol=1e-3, abs_tol=1e-4) for key in both)


def test_a_night_goes_back_and_another_finds_what_is_there(own: Path, capsys):
    newest, oldest = (night["run_id"] for night in printed(capsys, own, "runs", "old"))
    before = published(capsys, own)
    output = printed(capsys, own, "rollback", "old")
    assert (output["from"], output["to"]) == (newest, oldest) and published(capsys, own) != before
    assert "champion is version 1" in output["mlflow"], "MLflow follows"

    folder = own.parent
    run = ["run", str(folder / "old.toml"), "--recipe", str(folder / "second.toml")]
    run += ["--set", "threads=1", "--set", "device=cpu", "--until", "compare"]
    planned = printed(capsys, own, *run, "--plan")["stages"]
    assert {each["state"] for each in planned if each["stage"] in ("ingest", "clean", "encode", "split")} == {"cached"}
    answer = printed(capsys, own, *run, "--no-prefect")
    assert answer["outcome"] == "stopped"
    lines = (own / "warehouse" / "journal" / "old" / answer["run_id"] / "stages.jsonl").read_text().splitlines()
    skipped = {stage["stage"]: stage["skipped"] for stage in map(json.loads, filter(None, lines))}
    done = {title for title, was_there in skipped.items() if not was_there}
    assert {"ingest", "clean", "encode", "split", "train mf", "evaluate ease"} <= skipped.keys() - done
    assert done == {"admit", "leaks", "compare"}, "nothing that the lake keeps is made again"
