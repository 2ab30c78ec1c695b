"""MLflow follows what people do: the alias a rollback, the store `gc` and `forget`, and dead nights end there."""

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pipeline.core.paths import Home
from pipeline.stages import track
from pipeline.storage import journal
from pipeline.tracking import client as tracking_client
from pipeline.tracking import nights as tracking
from pipeline.tracking import server
from tests.support.published_nights import SECRET, Dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    made = Dataset(tmp_path_factory.mktemp("tracked"))
    made.write()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        for seed in (1, 2, 3):
            made.night(f"seed={seed}")
    return made


def night_of(home: Home, alias: str = "champion") -> str:
    version = tracking_client.connect(home).get_model_version_by_alias("tiny", alias)
    return version.tags[tracking_client.NIGHT]


def models(home: Home) -> set[str]:
    return {v.tags[tracking_client.NIGHT] for v in tracking_client.connect(home).search_model_versions("name = 'tiny'")}


def nights(home: Home) -> set[str]:
    client = tracking_client.connect(home)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    return {run.data.tags[tracking_client.NIGHT] for run in found}


def test_one_life(data, capsys):
    """Rollback, gc, a kill and forget, in order: each needs what the one before left."""
    home = data.home
    _, second, third = journal.run_ids(home, "tiny")
    assert night_of(home) == third

    # the alias follows a rollback, also where the lake let go of that night's model
    assert data.printed(capsys, "rollback", "tiny")["mlflow"].startswith("alias champion is version")
    assert night_of(home) == second and night_of(home, "previous") == third
    words = ("gc", "tiny", "--keep-lake-nights", "1", "--keep-mlflow-nights", "1", "--keep-generations", "2")
    assert data.printed(capsys, *words)["removed"] == [], "the first is where a rollback would go to"
    assert data.command("rollback", "tiny", "--to", third) == 0 and night_of(home) == third
    output = data.printed(capsys, *words)
    assert {one["kind"] for one in output["removed"]} == {"generation", "lake", "model", "report", "run"}
    assert models(home) == nights(home) == {second, third}, "of kept generations they stay"
    artifacts = [path for path in home.mlflow_artifacts.rglob("*.safetensors")]
    assert len(artifacts) == 2, "files go too"
    assert data.command("rollback", "tiny") == 0 and night_of(home) == second

    # the repair goes by what is live, not by the newest night
    client = tracking_client.connect(home)
    client.set_registered_model_alias("tiny", "champion", client.get_model_version_by_alias("tiny", "previous").version)
    assert night_of(home) == third
    track._catch_up(journal.load_run(home, "tiny", third))
    assert night_of(home) == second

    # what a kill leaves RUNNING ends at the next start
    run = data.prepare().model_copy(update={"run_id": "29990101T000000.000Z-dead"})
    journal.open_run(run)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    killed = [tracking._start(client, experiment, run, "x", {"nightrecs.kind": kind}) for kind in ("night", "family")]
    track.end_stale(home, "tiny")
    assert {client.get_run(i).info.status for i in killed} == {"RUNNING"}, "its night may still run"
    journal.close_stale(home, "tiny")
    track.end_stale(home, "tiny")
    assert {client.get_run(i).info.status for i in killed} == {"KILLED"}
    assert client.get_run(killed[0]).data.tags["nightrecs.outcome"] == "crashed"

    # models that know a forgotten user go, and the next night registers one that does not
    output = data.printed(capsys, "forget", "tiny", SECRET)
    assert output["mlflow_models"] == 2 and models(home) == set()
    holding = [p for p in home.mlflow_artifacts.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert holding == [], "neither do their examples and settings"
    later = data.night()
    assert night_of(home) == later and models(home) == {later}
    mlflow.set_tracking_uri(server.tracking_uri(home))
    served = mlflow.pyfunc.load_model("models:/tiny@champion").predict(pd.DataFrame({"user_id": [SECRET, "u01"]}))
    assert set(served[served.user_id == SECRET]["source"]) == {"fallback"}

    # a rollback to a night whose model was deleted leaves no alias that names another night
    assert "no model of that night, so alias champion is removed" in data.printed(capsys, "rollback", "tiny")["mlflow"]
    with pytest.raises(MlflowException):
        night_of(home)
    assert data.command("rollback", "tiny", "--to", later) == 0 and night_of(home) == later


def test_a_server_is_left_alone(data, monkeypatch):
    from pipeline.tracking import cleanup

    class Remote:
        class _tracking_client:
            store = object()

    monkeypatch.setattr(cleanup, "connect", lambda home: Remote)
    with pytest.raises(cleanup.NotOurs, match="mlflow gc"):
        cleanup.leftovers(data.home, "tiny", set(), set(), 0)
