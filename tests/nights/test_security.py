"""What must never happen: SQL or files reached through queries and names, pickles, bombs, secrets at rest or in talk."""

import ast
import gzip
import re
from pathlib import Path

import pytest

from flows.cli import main
from pipeline.core import redaction
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import CHECKOUT, Home
from pipeline.schemas import tables
from pipeline.sources import files as sources
from pipeline.storage import journal, warehouse
from pipeline.tracking import server
from tests.support.published_home import publish

FOLDERS = sorted({path.parent for part in ("flows", "pipeline") for path in (CHECKOUT / part).rglob("*.py")})
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
UNPACKING = {"tarfile", "zipfile"}
READERS_OF_ARCHIVES = {f"pipeline/maintenance/{name}.py" for name in ("archive", "backup", "restore")} | {
    "pipeline/sources/files.py"
}
"""They read members as streams. No member is ever unpacked under its own name."""
CALLS = {"torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle", "yaml.load", "shutil.unpack_archive"}
BUILTIN = {"eval", "exec"}
SHELL = {"os.system", "os.popen", "subprocess.getoutput"}
SECRET = "hunter2-and-more"


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def calls_of(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """Every call, and the text of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_nothing_is_pickled_unpacked_or_evaluated(folder: Path):
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        modules = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        modules |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        forbidden = modules & (PICKLING if name(path) in READERS_OF_ARCHIVES else PICKLING | UNPACKING)
        assert not forbidden, f"{name(path)} imports {forbidden}"
        for called, call in calls_of(tree):
            where = f"{name(path)}, line {call.lineno}: {called}"
            assert called not in CALLS | SHELL and called not in BUILTIN, where
            unpacks = called.endswith((".extract", ".extractall")) and not called.endswith(".str.extract")
            assert not unpacks, where
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg in ("allow_pickle", "shell")}
            assert keywords.get("allow_pickle", "False") == "False", where
            is_name = called == "shtab.complete"  # the name of a shell
            assert keywords.get("shell", "False") == "False" or is_name, where
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not [text for text in texts if "0.0.0.0" in text], f"{name(path)}: servers are for this machine"


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_sql_is_put_together_from_quoted_parts_only(folder: Path):
    """What an f-string puts into a statement is quoted, a number, a name of our own tables, or a statement's text."""
    for path in sorted(folder.glob("*.py")):
        for called, call in calls_of(ast.parse(path.read_text())):
            if not re.search(r"(^|\.)con\.(execute|sql)$", called):
                continue
            for part in ast.walk(call.args[0]) if call.args else ():
                if not isinstance(part, ast.FormattedValue):
                    continue
                text = ast.unparse(part.value)
                user_given = re.search(r"\b(options|argv|environ|record|row)\b|user_id|item_id", text)
                assert not user_given, f"{name(path)} line {call.lineno}: {text} is to be bound or quoted"


def test_names_and_texts_are_quoted():
    for hostile in ('a"; drop table users; --', "a b", "", "1a", "a'b", "é"):
        with pytest.raises(ValueError):
            warehouse.identifier(hostile)
    with warehouse.connect() as con:
        for hostile in ("it's", "''; drop table t; --", "\\'", "\n"):
            assert con.sql(f"select {warehouse.literal(hostile)}").fetchall() == [(hostile,)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published night in a folder whose name is an attack."""
    folder = tmp_path_factory.mktemp("x") / "it's; drop table users; --"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "USERS_URI", f"http://watcher:{SECRET}@127.0.0.1:9")
        patch.setenv("PREFECT_API_KEY", SECRET)
        patch.setenv("NIGHTRECS_SEED", "42")
        return publish(folder)


REFUSED = (
    "copy users to 'stolen.csv'",
    "copy users from '/etc/passwd'",
    "attach '/etc/passwd' as x",
    "attach ':memory:' as x; create table x.t as select 1",
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/shadow')",
    "select * from glob('/etc/*')",
    "select * from read_parquet('/tmp/*.parquet')",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "reset enable_external_access",
    "pragma database_list; copy users to 'x'",
    "set memory_limit = '1TB'",
    "create table t as select 1",
    "insert into users select * from users",
    "delete from users",
    "update users set n_interactions = 0",
    "drop table users",
    "export database '/tmp/stolen'",
    "create secret s (type http)",
    "select getenv('HOME')",
    "create macro f() as 1",
)


@pytest.mark.parametrize("query", REFUSED)
def test_sql_only_reads_the_published_tables(home: Path, tmp_path, monkeypatch, capsys, query):
    monkeypatch.chdir(tmp_path)
    live = Home(home).live("tiny")
    before = live.read_bytes()
    code = main(["--home", str(home), "sql", "tiny", query])
    printed = capsys.readouterr()
    assert code == 2 and "Traceback" not in printed.err and not printed.out, (code, printed)
    assert live.read_bytes() == before and not list(tmp_path.iterdir())
    assert not live.with_name(live.name + ".wal").exists()


def test_what_users_type_is_bound(home: Path, capsys):
    for hostile in ("' or 1=1 --", "u00'; drop table users; --", "$user", '"u00"'):
        for command in ("recommend", "similar"):
            assert main(["--home", str(home), command, "tiny", hostile]) == 2
            printed = capsys.readouterr()
            assert "is not in the published tables" in printed.err and not printed.out
    for hostile in ("../../etc/passwd", "tiny; drop table users", "/etc/passwd"):
        assert main(["--home", str(home), "recommend", hostile, "u00"]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_name_that_leaves_the_home_is_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("user,item\nu,i\n")
    for hostile in ("../x", "a/b", ".hidden", "x" * 65, "a b", "é"):
        (tmp_path / "evil.toml").write_text(f'name = "{hostile}"\n[source]\nfiles = ["a.csv"]\n')
        assert main(["--home", str(tmp_path / "home"), "run", str(tmp_path / "evil.toml"), "--no-prefect"]) == 2
        assert "name" in capsys.readouterr().err
    recipe = tmp_path / "evil-recipe.toml"
    recipe.write_text('[models."../../x"]\nfamily = "popularity"\n')
    assert main(["--home", str(tmp_path / "home"), "run", "--recipe", str(recipe), "--no-prefect"]) == 2


def test_secrets_are_nowhere_at_rest(home: Path):
    """Neither the address nor the key, in no file of the home: journal, notes, tracebacks, MLflow, tables."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    notes = "\n".join(journal.notes(Home(home), "tiny", journal.run_ids(Home(home), "tiny")[-1]))
    assert "MLflow did not take it" in notes, "the address was used"


@pytest.mark.night
def test_secrets_are_not_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:{SECRET}@127.0.0.1:9/api")
    monkeypatch.setenv("MY_TOKEN", SECRET + "!")
    assert main(["--home", str(tmp_path), "run", "--until", "ingest"]) == 0
    assert main(["--home", str(tmp_path), "--debug", "recommend", SECRET + "!", "x"]) == 2
    printed = capfd.readouterr()
    assert SECRET not in printed.err + printed.out and "http://***@127.0.0.1:9/api does not answer" in printed.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:1/x and more", "http://***@host:1/x and more"),
        ("postgresql://u:p@h/db", "postgresql://***@h/db"),
        ("https://token@host", "https://***@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("mail me@example.com", "mail me@example.com"),
        (f"it is {SECRET}.", "it is ***."),
    ],
)
def test_masking(monkeypatch, text, shown):
    monkeypatch.setenv("SOME_PASSWORD", SECRET)
    monkeypatch.setenv("SHORT_TOKEN", "it")
    assert redaction.masked(text) == shown


def test_an_address_without_its_user():
    assert redaction.without_user("http://u:p@h:1/x@y") == "http://h:1/x@y"
    assert redaction.without_user("sqlite:///a@b") == "sqlite:///a@b"


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BOMB_BYTES", 2**20)
    bomb = tmp_path / "bomb.csv.gz"
    bomb.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 2**20))
    with pytest.raises(UnreadableInput, match=r"bomb\.csv\.gz decompresses to more than 100 times"):
        sources.unpack(bomb, tmp_path / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.csv.gz"]
    monkeypatch.setattr(sources, "BOMB_BYTES", 2**30)
    assert sources.unpack(bomb, tmp_path / "plain").stat().st_size > 2**22


def test_csv_for_spreadsheets_runs_nothing(tmp_path):
    import polars as pl

    from flows.cli import result_files

    hostile = ["=1+1", "+1", "-1", "@sum(a)", "\t=1", "\r=1", "plain", "1=1", ""]
    frame = pl.DataFrame({"text": hostile, "number": range(-4, 5)})
    result_files.write(frame, "csv", str(tmp_path / "out.csv"))
    back = pl.read_csv(tmp_path / "out.csv").with_columns(pl.col("text").fill_null(""))
    assert back["text"].to_list() == [
        "'" + text if text[:1] in tuple("=+-@\t\r") and text else text for text in hostile
    ]
    assert back["number"].to_list() == list(range(-4, 5)), "numbers stay numbers"


def test_models_are_kept_without_pickles(published_home: Path):
    kinds = {path.suffix for path in published_home.rglob("*") if path.is_file()}
    assert ".safetensors" in kinds
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz"}


def test_tables_names_are_identifiers():
    for table in tables.PUBLISHED:
        for word in (table.name, *table.columns):
            warehouse.identifier(word)
