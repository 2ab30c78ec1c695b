"""The command: help and examples of each, what was probably meant, and every documented exit code."""

import argparse
import datetime as dt
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

from flows.cli import Parser, build_parser, main, status
from pipeline.core.paths import CHECKOUT, Home
from pipeline.core.run_ids import utcnow
from pipeline.storage import journal, warehouse
from pipeline.storage.lock import lock
from tests.support.data_sets import DATA
from tests.support.signals import default_signals


def commands() -> dict[str, argparse.ArgumentParser]:
    (group,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(group.choices)


def examples(parser: argparse.ArgumentParser) -> list[str]:
    text = (parser.epilog or "").partition("examples:\n")[2].partition("\n\n")[0]
    return [line.strip().partition("    ")[0] for line in text.splitlines()]


@pytest.fixture(autouse=True)
def home_variable_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--home` sets NIGHTRECS_HOME for what the command starts."""
    monkeypatch.setenv("NIGHTRECS_HOME", "")


# ── help ──


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_and_examples_that_parse(name: str):
    parser = commands()[name]
    assert parser.description and len(examples(parser)) >= 1
    for example in examples(parser):
        program, *words = shlex.split(example)
        assert program == "nightrecs" and words[0] == name
        build_parser().parse_args(words)
    for action in parser._actions:
        if action.option_strings:
            assert action.help, f"{name} {action.option_strings} has no help"
    printed = parser.format_help()
    assert "--home" in printed and ("--json" in printed) == (name not in ("init", "completion"))


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_code_behind_it(name: str):
    module, _, function = commands()[name].get_default("handler").partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_the_examples_of_the_command_itself_parse():
    lines = examples(build_parser())
    assert len(lines) >= 4
    for line in lines:
        build_parser().parse_args(shlex.split(line)[1:])


# ── what was meant ──


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("runn", "nightrecs: there is no 'runn'; did you mean 'run'?"),
        ("qqq", "there is no 'qqq'; there are: run, init,"),
        ("run --recpie best", "nightrecs run: unrecognized arguments: --recpie; did you mean '--recipe'?"),
        ("run sample --no-prefekt", "did you mean '--no-prefect'?"),
        ("status sample --maxage=3", "did you mean '--max-age'?"),
        ("leaderboard sample --splt valid", "did you mean '--split'?"),
        ("run --until splt", "there is no 'splt'; did you mean 'split'?"),
        ('run --until "a\'b"', "there is no"),
        ("recommend sample u1 extra", "unrecognized arguments: extra"),
        ("recommend sample", "required: user"),
        ("recommend sample u1 -n -3", "'-3' is not a whole number from 1 to"),
        ("gc sample --keep-generations -3", "'-3' is not a whole number from 1 to"),
        ("gc sample --keep-days nan", "'nan' is not a number from 0 to"),
        ("explain sample u1 i1 -n 0", "'0' is not a whole number from 1 to"),
        ("recommend sample u\udcff", r"'u\udcff' is not UTF-8"),
        ("", "required: COMMAND"),
    ],
)
def test_usage_errors_are_exit_2_and_say_what_was_meant(capsys, words: str, output: str):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(words))
    printed = capsys.readouterr()
    assert stop.value.code == 2 and output in printed.err and not printed.out
    assert "--help`" in printed.err


def test_unknown_data_sets_and_recipes(tmp_path, published_home, capsys):
    def error(*words: str) -> str:
        assert main(["--home", str(published_home), *words]) == 2
        return capsys.readouterr().err

    for words in (
        ("leaderboard", "tinny"),
        ("recommend", "tinny", "u"),
        ("runs", "tinny"),
        ("status", "tinny"),
    ):
        assert "did you mean 'tiny'?" in error(*words), words
    assert "try `nightrecs run ml-100k`" in error("leaderboard", "ml-100k")
    assert "did you mean 'sample'?" in error("run", "sampel")
    assert main(["--home", str(tmp_path / "empty"), "recommend", "sampel", "u"]) == 2
    output = capsys.readouterr().err
    assert "did you mean 'sample'?" in output and "run sampel" not in output
    assert main(["--home", str(tmp_path / "empty"), "recommend", "sample", "u"]) == 2
    assert "try `nightrecs run sample`" in capsys.readouterr().err
    assert "did you mean 'nightly'?" in error("run", "--recipe", "nightli")
    assert "name: is missing" in error("runs", str(write(tmp_path / "x.toml", "description = ''")))


def test_unknown_users_and_items(published_home, capsys):
    def error(*words: str) -> str:
        assert main(["--home", str(published_home), *words]) == 2
        return capsys.readouterr().err

    assert "did you mean 'u03'" in error("recommend", "tiny", "U03")
    assert "did you mean 'i-rare'" in error("similar", "tiny", "i-rar")
    far = error("recommend", "tiny", "nothing like it")
    assert "did you mean" not in far and 'sql tiny "select user_id from users limit 10"' in far
    assert main(["--home", str(published_home), "similar", "tiny", "i-new"]) == 0
    assert "has no items similar" in capsys.readouterr().err


# ── init ──


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


LOG = "user,item,rating\na,x,5\nb,y,3\na,y,4\n"


def test_init_writes_to_the_current_folder_and_names_the_next_command(tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "my plays.csv", LOG)
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    assert main(["init", str(source)]) == 0
    output = capsys.readouterr()
    assert tomllib.loads((place / "my-plays.toml").read_text())["source"]["files"] == ["my plays.csv"]
    assert "a header, user = 'user', item = 'item', rating = 'rating', no timestamp; no item catalog" in output.err
    command = shlex.split(output.err.splitlines()[-1])
    assert command == ["nightrecs", "run", "./my-plays.toml", "--data", str(tmp_path)] and not output.out
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "artists.tsv", "id\tname\nx\tXX\ny\tYpsilon\n")
    assert main(["init", source.name]) == 0
    shown = capsys.readouterr().err
    assert "; titles from artists.tsv. Check it" in shown and shown.endswith("  nightrecs run ./my-plays.toml\n")


def test_init_overwrites_only_with_force(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source, target = write(tmp_path / "log.csv", LOG), write(tmp_path / "mine.toml", "precious")
    assert main(["init", str(source), "--output", "mine.toml"]) == 2
    assert "--force" in capsys.readouterr().err and target.read_text() == "precious"
    assert main(["init", str(source), "--output", "mine.toml", "--force"]) == 0
    assert 'name = "mine"' in target.read_text(), "the file and what is published have one name"
    assert main(["init", str(source), "--output", "mine.txt"]) == 2
    assert main(["init", str(source), "--output", "no/such/folder.toml"]) == 2
    assert main(["init", "nowhere.csv"]) == 2 and "does not exist" in capsys.readouterr().err


def test_init_prints_to_stdout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(write(tmp_path / "log.csv", LOG)), "--output", "-"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["columns"]["user"] == "user"
    assert not list(tmp_path.glob("*.toml"))


def test_init_repeats_every_warning_and_shows_guessed_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{n % 8},{n % 7},{'-' * (n % 3 == 0)}1,2024/3/{n % 5} at noon" for n in range(60)]
    source = write(tmp_path / "log.csv", "\n".join(rows) + "\n")
    assert main(["init", str(source)]) == 0
    summary, toml = capsys.readouterr().err, (tmp_path / "log.toml").read_text()
    for warning in ("looks like a time, but no known format reads it", "the columns were guessed"):
        assert f"{warning}" in toml and warning in summary
    assert 'positive_if = "rating > 0"' in toml and "are votes against" in summary
    assert [line.split()[:3] for line in summary.splitlines() if line.startswith("    ")] == [
        ["user", "item", "rating"], ["0", "0", "-1"], ["1", "1", "1"], ["2", "2", "1"]
    ]  # fmt: skip
    assert main(["init", str(source), "--output", "-"]) == 0
    printed = capsys.readouterr()
    assert printed.out == toml and "check: " in printed.err


def test_a_file_called_sample_is_not_the_built_in_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sample.csv", LOG)
    assert main(["init", "sample.csv"]) == 0
    words = ["--home", str(tmp_path / "home"), "run", "./sample.toml", "--until", "ingest", "--no-prefect"]
    assert main(words) == 0
    (raw,) = Home(tmp_path / "home").lake("sample").glob("1_raw/*/interactions.parquet")
    assert pl.read_parquet(raw)["user_id"].to_list() == ["a", "b", "a"]


RAW = [
    "ml-100k/u.data",
    "ml-100k/u1.base",
    "ml-100k/ua.test",
    "ml-latest-small/ratings.csv",
    "ml-latest-small/tags.csv",
    "lastfm-hetrec/user_artists.dat",
    "lastfm-hetrec/user_taggedartists.dat",
    pytest.param("ml-1m/ratings-no-timestamp.dat.gz", marks=pytest.mark.slow),
    pytest.param("ml-1m/ratings-timestamp-subset.dat.gz", marks=pytest.mark.slow),
    pytest.param("ml-1m/ncf/ml-1m.train-no-timestamp.rating.gz", marks=pytest.mark.slow),
]


def begin(name: str, folder: Path) -> tuple[str, list[str]]:
    """Sniff a real file; the data set's name, and the words that run it."""
    source = DATA / name
    if not source.is_file():
        pytest.skip(f"{name} is not at hand; set NIGHTRECS_DATA")
    toml = folder / "sniffed.toml"
    assert main(["init", str(source), "--output", str(toml)]) == 0
    words = ["--home", str(folder / "home"), "run", str(toml), "--data", str(source.parent), "--no-prefect"]
    return tomllib.loads(toml.read_text())["name"], [*words, "--set", "threads=2"]


@pytest.mark.parametrize("name", RAW)
@pytest.mark.night
def test_a_sniffed_real_file_goes_through_the_data_stages(tmp_path, name):
    dataset, words = begin(name, tmp_path)
    assert main([*words, "--until", "split"]) == 0
    home = Home(tmp_path / "home")
    (run_id,) = journal.run_ids(home, dataset)
    assert journal.read_run(home, dataset, run_id)["outcome"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-100k/u.data", "ml-latest-small/ratings.csv", "lastfm-hetrec/user_artists.dat"])
def test_a_sniffed_real_file_is_published(tmp_path, name):
    dataset, words = begin(name, tmp_path)
    recipe = write(tmp_path / "cheap.toml", "[models.popularity]\n[models.ials]\nepochs = 3\n")
    assert main([*words, "--recipe", str(recipe)]) == 0
    with warehouse.connect(Home(tmp_path / "home").live(dataset), read_only=True) as con:
        users, lists = con.sql("select count(*), count(distinct user_id) from recommendations").fetchall()[0]
        assert users and lists == con.sql("select count(*) from users").fetchall()[0][0]


# ── looking ──


def printed(home: Path, capsys, *words: str, code: int = 0):
    capsys.readouterr()
    assert main(["--home", str(home), *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_runs_are_newest_first_with_time_outcome_and_champion(published_home, capsys):
    (night,) = printed(published_home, capsys, "runs", "tiny")
    assert (night["outcome"], night["champion"], night["recipe"]) == ("published", "ease", "cheap")
    assert night["seconds"] > 0 and night["started_at"].startswith("20")
    assert list(night)[:5] == ["run_id", "started_at", "seconds", "outcome", "champion"]
    (stored,) = printed(published_home, capsys, "sql", "tiny", "select data_hash from runs")
    assert re.fullmatch("[0-9a-f]{64}", stored["data_hash"])


def test_status_of_a_published_night(published_home, capsys, monkeypatch):
    output = printed(published_home, capsys, "status", "tiny", "--max-age", "24")
    assert output["healthy"] and not output["problems"] and output["champion"] == "ease" and not output["running"]
    assert output["rejected"] is None, "they are in a table"
    assert output["live"] == output["last_night"] and output["rows"] == 477 and output["users"] == 62
    assert 0 <= output["age_hours"] < 24
    assert main(["--home", str(published_home), "status", "tiny"]) == 0
    assert "tiny: healthy" in capsys.readouterr().out
    monkeypatch.setattr(status, "utcnow", lambda: utcnow() + dt.timedelta(hours=2))
    old = printed(published_home, capsys, "status", "tiny", "--max-age", "1.5", code=3)
    assert not old["healthy"] and "--max-age 1.5" in old["problems"][0]


def later_night(home: Path, outcome: str, **fields) -> Path:
    """Another night in the journal, after the published one."""
    root = Home(home).journal("tiny")
    (first,) = (path for path in root.iterdir() if path.is_dir())
    record = json.loads((first / "run.json").read_text())
    night = root / "29990101T000000.000Z-ffff"
    shutil.copytree(first, night)
    record |= {"run_id": night.name, "outcome": outcome, "reason": None, **fields}
    (night / "run.json").write_text(json.dumps(record))
    return night


@pytest.mark.parametrize(
    ("outcome", "code"), [("refused", 3), ("crashed", 3), ("running", 3), ("stopped", 0), ("published", 0)]
)
def test_status_after_a_night_that_ended_otherwise(published_home, tmp_path, capsys, outcome, code):
    home = shutil.copytree(published_home, tmp_path / "home")
    night = later_night(home, outcome, reason="for a reason")
    output = printed(home, capsys, "status", "tiny", code=code)
    assert output["healthy"] == (code == 0) and output["live"] != night.name
    if code:
        assert ("for a reason" in output["problems"][0]) != (outcome == "running")
        ended = "crashed" if outcome == "running" else outcome
        assert output["last_outcome"] == ended == printed(home, capsys, "runs", "tiny")[0]["outcome"]
        assert any(" run " in step and "/tiny.toml" in step for step in output["next"]), (
            "one of your own is given by its file"
        )


def test_status_while_a_night_runs(published_home, tmp_path, capsys):
    home = shutil.copytree(published_home, tmp_path / "home")
    night = later_night(home, "running")
    with lock(Home(home), "tiny", night.name):
        output = printed(home, capsys, "status", "tiny")
        assert printed(home, capsys, "runs", "tiny")[0]["outcome"] == "running"
    assert output["running"] == night.name and night.name in output["lock"] and output["last_outcome"] == "published"


def test_status_where_nothing_was_ever_published(tmp_path, run, capsys):
    journal.close_run(run, "refused", "too few rows")
    output = printed(run.home_root, capsys, "status", "tiny", code=3)
    assert output["live"] is None and len(output["problems"]) == 2


# ── exit codes and signals ──


def test_a_crash_is_exit_1_and_debug_shows_where(monkeypatch, capsys):
    def broken(options):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("flows.cli.query.datasets", broken)
    assert main(["datasets"]) == 1
    output = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in output and "--debug" in output and "Traceback" not in output
    assert main(["--debug", "datasets"]) == 1 and "Traceback" in capsys.readouterr().err


@pytest.mark.night
def test_a_refused_night_is_exit_3_and_the_live_tables_stay(published_home, tmp_path, capsys):
    source = shutil.copytree(published_home.parent, tmp_path / "all")
    live = Home(source / "home").live("tiny")
    before = live.read_bytes()
    write(source / "log.csv", "user,item,rating,timestamp\n" + "a,b,not a number,1\n" * 50)
    words = ["run", str(source / "tiny.toml"), "--recipe", str(source / "cheap.toml"), "--no-prefect"]
    assert main(["--home", str(source / "home"), *words]) == 3
    assert live.read_bytes() == before
    assert printed(source / "home", capsys, "status", "tiny", code=3)["last_outcome"] == "refused"


def test_lines_of_a_first_night_that_was_refused_can_be_asked(tmp_path, monkeypatch, capsys):
    """Nothing is published, so there is no table of them."""
    monkeypatch.chdir(tmp_path)
    home = ["--home", str(tmp_path / "it's home")]
    write(tmp_path / "log.csv", "user,item,rating\n" + "a,b,4\n" * 3 + "a,b,not a number\n" * 7)
    write(tmp_path / "own.toml", 'name = "own"\n[source]\nfiles = ["log.csv"]\n[columns]\nrating = "rating"\n')
    assert main([*home, "run", "./own.toml", "--no-prefect"]) == 3
    reason = capsys.readouterr().err
    output = printed(tmp_path / "it's home", capsys, "status", "own", code=3)["rejected"]
    assert output["rows"] == 7 and output["sql"] in reason
    assert output["first"][0] == {
        "file": "log.csv", "line": 5, "column": "rating", "reason": "rating_not_a_number", "raw": "a,b,not a number",
    }  # fmt: skip
    assert len(output["first"]) == 5
    with warehouse.connect() as con:
        assert con.sql(output["sql"]).pl().select("file", "line").rows() == [("log.csv", n) for n in range(5, 12)]
    assert main([*home, "status", "own"]) == 3
    out = capsys.readouterr().out
    assert "rejected 7 lines of its source" in out and f"all of them, in DuckDB: {output['sql']}" in out
    assert "rating_not_a_number  a,b,not a number" in out
    assert main([*home, "leaderboard", "own"]) == 2
    assert "nothing is published for 'own' yet; `nightrecs status own` says" in capsys.readouterr().err


def test_a_second_night_is_exit_4(tmp_path, capsys):
    with lock(Home(tmp_path), "sample", "r1"):
        assert main(["--home", str(tmp_path), "run", "--no-prefect"]) == 4
    assert "another night of sample is running: run r1" in capsys.readouterr().err


ENDINGS = [
    (signal.SIGTERM, 143),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in ((signal.SIGINT, 130), (signal.SIGHUP, 129))),
]


@pytest.mark.night
@pytest.mark.parametrize(("number", "code"), ENDINGS)
def test_a_signal_ends_the_night_and_closes_its_journal(tmp_path, number, code):
    command = [sys.executable, "-m", "flows.cli", "--home", str(tmp_path), "run", "--no-prefect"]
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("  clean"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == code, rest
    assert "Traceback" not in rest
    home = Home(tmp_path)
    (run_id,) = journal.run_ids(home, "sample")
    record = journal.read_run(home, "sample", run_id)
    assert record["outcome"] == "crashed" and record["finished_at"]
    reason = "KeyboardInterrupt" if number == signal.SIGINT else f"ended by {number.name}"
    assert reason in record["reason"]
    with lock(home, "sample", "next"):
        pass


def test_a_signal_that_the_parent_process_ignores_stays_ignored(monkeypatch):
    """As nohup does with SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("flows.cli.query.datasets", lambda options: os.kill(os.getpid(), signal.SIGHUP))
        assert main(["datasets"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    monkeypatch.setattr("flows.cli.query.datasets", lambda options: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["datasets"]) == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.night
def test_a_reader_that_goes_away_is_exit_141(published_home):
    query = "select range as n, repeat('x', 200) as text from range(20000)"
    words = ["--home", str(published_home), "sql", "tiny", query, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_the_parser_is_ours_all_the_way_down():
    assert all(isinstance(parser, Parser) for parser in commands().values())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("select.metric=ndgc", "did you mean 'ndcg'"),
        ("select.cutoff=7", "select.cutoff = 7 is not in evaluation.cutoffs"),
        ("select.protocol=sampled_99", "not in evaluation.protocols"),
        ("device=gpu", "device = 'gpu'"),
        ("memory_limit=abc", "memory_limit"),
        ('models."../../out".family=ease', "String should match pattern"),
    ],
)
def test_what_would_fail_late_is_reported_at_the_start(tmp_path, capsys, setting, says):
    assert main(["--home", str(tmp_path), "run", "--no-prefect", "--set", setting]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("warehouse/journal/*/*")), "no night has begun"


FRAMES = ("polars", "pyarrow", "numpy")
IMPORTED = {
    ("sql", "tiny", "select 1"): ("pydantic", *FRAMES),
    ("recommend", "tiny", "u01"): ("pydantic", *FRAMES),
    ("status", "tiny"): ("pydantic", "pyarrow", "numpy"),
    ("schedule", "sample", "--cron", "0 3 * * *"): (),
    ("schedule", "--json"): (),
}
"""What a command must not import, in addition to LARGE."""
LARGE = ("torch", "prefect", "mlflow", "optuna", "matplotlib", "altair")


@pytest.mark.parametrize("words", IMPORTED, ids=" ".join)
def test_commands_import_only_what_they_use(published_home: Path, tmp_path: Path, words: tuple[str, ...]):
    """A time would depend on the machine; the modules do not. See `LARGE` for what costs seconds."""
    home = tmp_path if words[0] == "schedule" else published_home
    code = f"import sys, flows.cli\ntry: flows.cli.main({['--home', str(home), *words]!r})\n"
    code += "except SystemExit as end: assert end.code == 0, end.code\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert {*LARGE, *IMPORTED[words]} & set(loaded) == set()
