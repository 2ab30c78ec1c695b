"""The night on one page of Markdown, as Prefect and MLflow show it."""

import base64
import xml.etree.ElementTree as xml

import pytest

from pipeline.core.errors import Refused
from pipeline.core.paths import Home
from pipeline.reporting import formatting
from pipeline.reporting import markdown as digest
from pipeline.reporting.html import page
from pipeline.reporting.night import Night
from pipeline.storage import journal
from tests.support.published_nights import without_mlflow


@pytest.fixture(scope="module")
def facts(published_home):
    home = Home(published_home)
    (night,) = journal.run_ids(home, "tiny")
    return page.content(Night(home, "tiny", night))


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Every table of a Markdown text: its rows of cells, the head first."""
    found, rows = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").replace("\\|", "\0").split("|")])
        elif rows:
            found, rows = [*found, [rows[0], *rows[2:]]], []
    return found


def test_a_published_night_says_who_how_good_why_and_where(facts):
    text = digest.markdown(facts, {"MLflow run": "http://127.0.0.1:5000/#/x"}, picture=True)
    assert text.startswith("The source has ") and "[MLflow run](http://127.0.0.1:5000/#/x)" in text
    board, gate, ledger, *_ = tables_of(text)
    record, metrics = facts["record"], facts["night"].metrics
    models = {row[0].removesuffix(" ★").rstrip(" ≈▲").replace("\\", "") for row in board[1:]}
    assert models == set(metrics["model"])
    (champion,) = (row for row in board[1:] if row[0].endswith("★"))
    assert champion[0].split()[0] == record["champion"]
    assert board[0][1:3] == ["ndcg@10 on valid", "ndcg@10 on test"]
    for split, cell in zip(("valid", "test"), champion[1:3], strict=True):
        of = metrics.filter(
            model=record["champion"], split=split, protocol="full", metric="ndcg", cutoff=10, segment="all"
        )
        assert cell.split()[0] == formatting.rounded(of["value"][0])
    assert all(len(row) == len(table[0]) for table in (board, gate, ledger) for row in table)
    assert [row[0] for row in ledger[1:]] == ["ingest", "clean", "encode", "split"]
    assert "below min interactions" in ledger[2][2]
    passed = sum(check["passed"] for check in facts["checks"])
    assert f"{passed} of {len(facts['checks'])} checks passed" in text and passed > 20
    code = text.partition("data:image/svg+xml;base64,")[2].partition(")")[0]
    drawn = xml.fromstring(base64.b64decode(code))
    assert drawn.tag.endswith("svg") and record["champion"] in "".join(drawn.itertext())
    assert digest.headline(facts) == formatting.made_by(facts["night"])


def test_text_of_the_data_is_no_markup():
    printed = digest.table([{"name": "<img src=x> | [a](javascript:b) `c` *d*\nnext"}])
    assert printed.splitlines()[2] == "| &lt;img src=x&gt; \\| \\[a\\](javascript:b) \\`c\\` \\*d\\* next |"


@pytest.fixture
def refused(tmp_path, monkeypatch):
    from flows import conductor as line
    from tests.support.published_nights import Dataset

    without_mlflow(monkeypatch)
    data = Dataset(tmp_path / "d")
    data.write()
    run = data.prepare("checks.max_age_days=1")
    with pytest.raises(Refused):
        line.conduct(run, line.plainly)
    return page.content(Night(data.home, "tiny", run.run_id))


def test_a_refused_night_says_the_reason_and_what_to_do_first(refused):
    text = digest.markdown(refused, {})
    reason, to_do, *_ = text.split("\n\n")
    assert (
        "raise checks.max" in reason.replace("\\", "")
        and reason.startswith("**")
        and to_do.startswith("**What to do.**")
    )
    assert ["fresh\\_enough", "error", "1"] in tables_of(text)[-1]
    assert digest.headline(refused).startswith("refused: ")
    assert "Leaderboard" not in text


@pytest.mark.parametrize(
    ("reason", "output"),
    [
        ("UnreadableInput: no file", formatting.MEND),
        ("MemoryError: x", formatting.TO_DO["crashed"]),
        (None, formatting.TO_DO["crashed"]),
    ],
)
def test_a_crash_by_a_missing_file_is_no_broken_house(reason, output):
    assert formatting.to_do({"outcome": "crashed", "reason": reason}) == output
    assert formatting.to_do({"outcome": "published", "reason": None}) is None
