"""The report: all sections of a small published night, nothing unescaped, and what a Chromium makes of it."""

import datetime as dt
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from flows import conductor as line
from flows.cli import main
from flows.prepare import prepare
from pipeline.core.errors import Refused
from pipeline.core.paths import Home
from pipeline.reporting import formatting as words
from pipeline.reporting import markdown, published_tables
from pipeline.reporting.html import charts, page
from pipeline.reporting.night import Night
from pipeline.stages import report as stage
from pipeline.storage import journal, warehouse
from pipeline.tracking import client
from tests.support.published_home import RECIPE, TOML
from tests.support.published_nights import SECRET, Dataset, without_mlflow

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)>'
ALL = ("notes", "data", "drift", "leaderboard", "gate", "training", "coverage", "churn", "users", "similar", "nights", "stages", "lineage")  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LATER_TABLES = ("recommendations_in", "recommendations_by", "reasons", "trending_items", "audiences", "attribute_audiences",
                "fallback_items", "item_attributes", "user_attributes", "drift", "realised", "realised_clicks")  # fmt: skip
"""Published tables that version 0.1.0 did not have."""
LATER_VIEWS = ("attribute_exposure", "audiences_titled", "realised_over_nights", "recommendations_in_titled")
OLD_VIEWS = """
create view coverage as
with shown as (select item_id, count(*) as n from recommendations group by item_id),
lists as (select count(*) as items_shown, max(n) as lists_with_the_most_shown_item from shown),
known as (select count(*) as items_known from items where n_interactions > 0),
served as (select count(distinct user_id) as users from recommendations)
select items_shown, items_known, items_shown / items_known as coverage, lists_with_the_most_shown_item, users
from lists, known, served;
create view recommendations_titled as
select user_id, rank, item_id, title, score, source, model, run_id from recommendations left join items using (item_id);
"""
"""Views as in version 0.1.0, where their columns are others now."""
MORE = """
[models.mf]
embedding_dim = 4
epochs = 3
finder = { steps = 50 }
[models.mf.search]
embedding_dim = [2, 4]
l2 = { low = 1e-4, high = 1e-2, log = true }
[search]
trials = 3
epochs = 2
[evaluation]
protocols = ["full", "sampled_99"]
"""


class Page(HTMLParser):
    """What a browser would take the text for."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.links, self.specs = {}, [], {}
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._in, self._script, self.text = None, None, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs
        self._in = tag
        if tag == "h2":
            self.headings[of["id"]] = True
        if tag == "a":
            self.links.append(of["href"])
        self._script = of.get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._in = self._script = None

    def handle_data(self, data):
        if self._script:
            self.specs[self._script] = json.loads(data)
        elif self._in not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[str]]:
    """Two published nights and a refused one, of data whose ids and titles mean harm."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT"):
            patch.delenv(name, raising=False)
        _write_source(folder)
        overrides = ([], ["seed=1", "gate.enabled=false", "models.ease.l2=50"], ["checks.max_age_days=1"])
        for number, more in enumerate(overrides):
            run = prepare(str(folder / "tiny.toml"), str(folder / "more.toml"), None, str(folder / "home"), more)
            try:
                assert line.conduct(run, line.plainly) == "published" and number < 2
            except Refused:
                assert number == 2
    home = Home(folder / "home")
    return home, journal.run_ids(home, "tiny")


def _write_source(folder: Path) -> None:
    from tests.support.published_home import publish

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.published_home.main", lambda words: 0)
        publish(folder)
    rows = (folder / "log.csv").read_text().replace("u00,", f"{'<b>u00</b>'},")
    bad = "\n".join(["u01,i01,many,1600000000", "u02,,3,1600000000", ""])
    (folder / "log.csv").write_text(rows + bad)
    titles = (folder / "items.csv").read_text().replace("Title 1\n", f'"{EVIL.replace(chr(34), chr(34) * 2)}"\n')
    (folder / "items.csv").write_text(titles)
    (folder / "tiny.toml").write_text(TOML)
    (folder / "more.toml").write_text(RECIPE + MORE)


def text_of(home: Home, run_id: str) -> str:
    return home.report("tiny", run_id).read_text(encoding="utf-8")


def test_every_section_of_a_published_night_is_there(nights):
    home, (_, second, _) = nights
    text = text_of(home, second)
    shown = Page(text)
    assert list(shown.headings) == list(ALL)
    assert {link for link in shown.links if link.startswith("#")} >= {f"#{name}" for name in ALL}
    titles = re.findall(r"<h3>([^<]+)</h3>\s*<div data-chart", text)
    assert {"mf: loss on train", "mf: learning-rate finder", "mf: search, l2", "Change of the lists by segment",
            "Lists by popularity of the items", "Stages, end to end", "How active users are",
            "Rows left out, by reason", "Valid rows by night"} <= set(titles)  # fmt: skip
    assert len(shown.specs) == len(titles) == text.count("data-chart=")
    assert all(spec["description"] and spec["width"] == "container" for spec in shown.specs.values())
    assert len(text) < 2_500_000


def test_the_paragraph_has_the_numbers_of_the_journal(nights):
    home, (first, second, _) = nights
    night = Night(home, "tiny", second)
    output = " ".join(words.summary(night, published_tables.look(night.file, night.raw)))
    metric_rows = night.metrics.filter(
        model=night.record["champion"], split="test", segment="all", protocol="full", metric="ndcg", cutoff=10
    ).to_dicts()
    assert f"ndcg@10 {words.rounded(metric_rows[0]['value'])} [" in output and f"{metric_rows[0]['n']} users" in output
    lines = len((home.root.parent / "log.csv").read_text().splitlines()) - 1
    assert f"The source has {words.number(lines)} lines, of which 2 (" in output
    assert "the same number of valid rows as in the last published night" in output
    churn = night.churn_of_nights.filter(run_id=second, segment="all").to_dicts()[0]
    assert churn["compared_with"] == first and words.percent(1 - churn["jaccard"]) in output
    assert f"{words.number(62)} users have up to 20 recommendations each, " in output
    assert output in Page(text_of(home, second)).text.replace("\n", " ")


def test_two_protocols_and_two_splits_never_meet(nights):
    home, (_, second, _) = nights
    shown = Page(text_of(home, second)).specs
    boards = {name: spec for name, spec in shown.items() if name.startswith("board-")}
    metrics = Night(home, "tiny", second).metrics
    assert set(boards) == {f"board-{s}-{p}-chart-1" for s in ("test", "valid") for p in ("full", "sampled_99")}
    for name, spec in boards.items():
        _, split, protocol, *_ = name.split("-")
        (values,) = [data for data in _values(spec) if data and "ci_low" in data[0]]
        assert {(row["split"], row["protocol"]) for row in values} == {(split, protocol)}
        best = metrics.filter(split=split, protocol=protocol, segment="all", metric="ndcg", cutoff=10)["value"].max()
        assert values[0]["value"] == best, "the best comes first"


def _values(spec: dict) -> list[list[dict]]:
    found = [spec["data"]["values"]] if "values" in spec.get("data", {}) else []
    found += spec.get("datasets", {}).values()
    return found + [values for layer in spec.get("layer", []) for values in _values(layer)]


def test_nothing_of_the_data_is_taken_for_html(nights):
    home, (_, second, _) = nights
    text = text_of(home, second)
    assert EVIL not in text and "<b>u00" not in text and "onerror=alert(2)&gt;" in text
    shown = Page(text)
    assert "img" not in shown.tags and "b" not in shown.tags and shown.tags["script"] == 2 + len(shown.specs)
    assert not [name for name, _ in shown.attributes if name.startswith("on")]
    titles = [row.get("title") for spec in shown.specs.values() for values in _values(spec) for row in values]
    assert EVIL in titles, "charts have it as it is"
    assert EVIL in shown.text


def test_nothing_is_fetched_and_only_the_own_scripts_may_run(nights):
    home, (_, second, _) = nights
    text = text_of(home, second)
    shown = Page(text)
    fetched = [value for name, value in shown.attributes if name in ("src", "href", "action", "srcset")]
    assert set(fetched) - set(shown.links) == {"data:,"} and all(link.startswith("#") for link in shown.links)
    (policy,) = [value for name, value in shown.attributes if name == "content" and value and "default-src" in value]
    assert policy.startswith("default-src 'none';") and policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    assert "@import" not in text.partition("</style>")[0] and "url(" not in text.partition("</style>")[0]


def test_a_refused_night_has_a_shorter_report_that_says_what_to_do(nights):
    home, (_, second, refused) = nights
    text = text_of(home, refused)
    shown = Page(text)
    assert list(shown.headings) == ["what-to-do", "notes", "data", "drift", "nights", "stages", "lineage"]
    assert "raise checks.max_age_days" in shown.text and "fresh_enough" in shown.text
    live = words.moment(journal.read_run(home, "tiny", second)["started_at"])
    assert f"readers see the tables of the night of {live} UTC" in shown.text


def test_examples_are_of_all_kinds_of_users_and_show_nothing_twice(nights):
    home, (_, second, _) = nights
    night = Night(home, "tiny", second)
    look = published_tables.look(night.file, night.raw)
    people = look["examples"]
    assert people[0]["why"] == "most active" and people[-1]["source"] == "fallback" and len(people) in (4, 5)
    assert len({user["user_id"] for user in people}) == len(people)
    assert people[0]["n_interactions"] == max(user["n_interactions"] for user in people)
    for user in people:
        had = {row["item_id"] for row in user["history"]}
        assert had and not had & {row["item_id"] for row in user["listed"]}
        times = [row["timestamp"] for row in user["history"]]
        assert times == sorted(times, reverse=True), "newest first"
    assert sum(row["share"] for row in look["by_decile"]) == pytest.approx(1)
    assert look["similar"][0]["n_interactions"] == max(item["n_interactions"] for item in look["similar"])


def test_popularity_deciles_share_the_interactions():
    exposure = pl.DataFrame({
        "item_id": list("abcd"), "popularity_rank": [1, 2, 3, 4], "n_interactions": [50, 30, 10, 10], "lists": [6, 2, 0, 0],
    })  # fmt: skip
    found = published_tables.by_decile(exposure)
    assert [row["interactions"] for row in found] == [0.5, 0.3, 0.1, 0.1], "one item may have more than a tenth"
    assert [(row["decile"], row["items"], row["share"]) for row in found] == [
        (1, 1, 0.75),
        (6, 1, 0.25),
        (9, 1, 0),
        (10, 1, 0),
    ]


def test_charts_have_the_nights_in_their_order_and_none_twice():
    """Labels as texts would put `01 Dec` before `30 Nov`, and two nights of one minute would be one bar."""
    times = [dt.datetime(2026, 11, 29, 3), dt.datetime(2026, 11, 30, 3), dt.datetime(2026, 12, 1, 3)]
    for more in ([], [dt.datetime(2026, 12, 1, 3, 0, 9)], [dt.datetime(2027, 11, 29, 3)]):
        all_times = [*times, *more]
        names = words.labels(
            pl.DataFrame({"run_id": [f"r{n}" for n in range(len(all_times))], "started_at": all_times})
        )
        assert len(set(names.values())) == len(all_times)
        order = list(names.values())
        common = {"value": 1.0, "ci_low": 0.5, "ci_high": 2.0, "n": 3}
        rows = [
            {"when": name, **common, "tonight": False, "change": 0.1, "champion": "ease", "measure": "users new",
             "unusual": False, "list_source": "published", "lists": "ease", "mean": 0.2}
            for name in order
        ]  # fmt: skip
        for spec in (
            charts.nights(rows, "change", "change", ""), charts.quality(rows, "ndcg", ""), charts.drift(rows, ""),
            charts.realised(rows, "ndcg", ""), charts.over_nights(rows, "ndcg", ""),
        ):  # fmt: skip
            layers = [layer["encoding"]["x"] for layer in spec.get("layer", [spec])]
            assert all(x["sort"] == order for x in layers)
    drawn = re.findall(r">(\d\d \w+) [^<]*<", markdown.svg(charts.nights(rows[:3], "change", "x", "")).decode())
    assert drawn == ["29 Nov", "30 Nov", "01 Dec"]


@pytest.mark.parametrize(
    ("value", "found_text"),
    [(0.123456, "0.1235"), (1.10949, "1.109"), (3.62, "3.620"), (12345.6, "12,346"), (0.00001234, "1.234e-05"), (None, "–"), (float("nan"), "–"), (5.0, "5"), (0, "0")],
)  # fmt: skip
def test_numbers_have_four_digits(value, found_text):
    assert words.rounded(value) == found_text


def test_times_and_shares_are_readable():
    assert [words.seconds(s) for s in (0.04, 59, 125, 3780)] == ["0.0 s", "59.0 s", "2 min 5 s", "1 h 3 min"]
    assert words.moment("2026-11-22 04:50:26.314874") == "22 Nov 2026, 04:50"
    assert [words.percent(x) for x in (0.000314, 0.5, 1, None)] == ["0.0314 %", "50 %", "100 %", "–"]


def test_the_copy_for_mlflow_shows_no_user(nights):
    home, (_, second, _) = nights
    facts = page.content(Night(home, "tiny", second))
    text = page.html(facts, personal=False)
    assert "users" not in Page(text).headings and "similar" in Page(text).headings
    assert not re.search(r"\bu\d\d\b", Page(text).text)
    assert (
        words.without_examples("warning: x: 1 bad row, e.g. user_id u1 (wanted: y)")
        == "warning: x: 1 bad row (wanted: y)"
    )


def test_the_command_makes_what_is_missing_and_names_the_file(nights, capsys):
    home, (first, _, refused) = nights
    command = ["--home", str(home.root), "report", "tiny"]
    assert main(command) == 0 and capsys.readouterr().out.strip() == str(home.report("tiny", refused))
    home.report("tiny", first).unlink()
    assert main([*command, "--run", first, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output == {"run_id": first, "outcome": "published", "report": str(home.report("tiny", first))}
    assert list(Page(text_of(home, first)).headings) == [name for name in ALL if name != "churn"]
    assert main([*command, "--run", first[:-1]]) == 2 and f"did you mean {first!r}" in capsys.readouterr().err
    assert main(["--home", str(home.root), "report", "nothing"]) == 2


def test_a_night_whose_results_are_gone_still_has_a_report(nights, tmp_path):
    home, (_, second, _) = nights
    shutil.copytree(home.journal("tiny") / second, Home(tmp_path).journal("tiny") / second)
    shown = Page(page.write(Home(tmp_path), "tiny", second).read_text(encoding="utf-8"))
    assert {"leaderboard", "gate", "churn", "stages"} <= set(shown.headings) and "users" not in shown.headings


def make_old(file: Path) -> None:
    """The published file as version 0.1.0 would have written it: fewer tables, columns and views."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)  # published files are read-only, and links may share their bytes
    with warehouse.connect(file) as con:
        for name in (*LATER_VIEWS, "coverage", "recommendations_titled"):
            con.execute(f"drop view {name}")
        for name in LATER_TABLES:
            con.execute(f"drop table {name}")
        con.execute("alter table recommendations drop column list_id")
        con.execute(OLD_VIEWS)


def test_a_night_of_an_earlier_version_has_a_report_and_answers(nights, tmp_path, capsys):
    """Its views and tables are those of that version; the report has the numbers of this one."""
    home, (_, second, _) = nights
    expected = published_tables.look(home.generation("tiny", second), None)
    old = Home(tmp_path / "home")
    shutil.copytree(home.root, old.root, symlinks=True)
    for file in {old.generation("tiny", second), old.live("tiny")}:
        make_old(file)
    assert published_tables.look(old.generation("tiny", second), None) == expected
    old.report("tiny", second).unlink()
    command = ["--home", str(old.root)]
    assert main([*command, "report", "tiny", "--run", second]) == 0
    assert "items with interactions" in Page(text_of(old, second)).text
    item = expected["similar"][0]["item_id"]
    user = expected["examples"][1]["user_id"]
    values = ["--attribute", "genre", "--value", "x"]
    for asked in (["recommend", "tiny", user], ["similar", "tiny", item], ["status", "tiny"], ["runs", "tiny"],
                  ["leaderboard", "tiny"], ["audience", "tiny", item], ["audience", "tiny", *values]):  # fmt: skip
        capsys.readouterr()  # status: the last night was refused
        assert main([*command, *asked]) == (3 if asked[0] == "status" else 0), asked
        if asked[0] == "audience":
            assert "has no audiences" in capsys.readouterr().err
    assert main([*command, "recommend", "tiny", user, "--list", "other"]) == 2
    assert "only the default list" in capsys.readouterr().err


def test_a_report_that_fails_harms_no_night(run, monkeypatch):
    monkeypatch.setattr(page, "content", lambda night: 1 / 0)
    assert stage.write_report(run) is None
    assert journal.notes(run.home, run.dataset, run.run_id) == [
        "the report could not be made: ZeroDivisionError: division by zero"
    ]


def test_a_night_of_which_nothing_is_known_yet_has_a_report(run):
    path = stage.write_report(run)
    assert path and "ended before the source was read" in path.read_text(encoding="utf-8")


def test_until_publish_publishes_and_leaves_the_report_out(tmp_path, monkeypatch):
    without_mlflow(monkeypatch)
    data = Dataset(tmp_path / "d")
    data.write()
    run = data.prepare()
    assert line.conduct(run, line.plainly, "publish") == "published"
    assert not data.home.report("tiny", run.run_id).exists()


def test_forget_deletes_the_reports_that_show_users(four_nights, capsys):
    data, nights = four_nights
    assert len(list(data.home.reports.glob("tiny/*.html"))) == len(nights)
    assert data.printed(capsys, "forget", "tiny", SECRET)["reports"] == len(nights)
    assert not list(data.home.reports.glob("tiny/*.html"))
    assert data.command("report", "tiny") == 0
    assert SECRET not in data.home.report("tiny", nights[-1]).read_text(encoding="utf-8")


def test_mlflow_has_the_report_without_users(published_home):
    home = Home(published_home)
    (night,) = journal.run_ids(home, "tiny")
    parent = journal.read_run(home, "tiny", night)["mlflow_run_id"]
    kept = Path(client.connect(home).download_artifacts(parent, "report.html")).read_text(encoding="utf-8")
    assert "users" not in Page(kept).headings and "leaderboard" in Page(kept).headings
    assert "users" in Page(text_of(home, night)).headings


def test_a_chart_of_one_kind_of_value_needs_no_legend():
    bars = [{"stage": name, "start": 0, "end": 1, "seconds": 1, "state": "made", "rows": 1} for name in "ab"]
    assert charts.timeline(bars, "x")["encoding"]["color"]["legend"] is None
    bars[0]["state"] = "reused"
    assert charts.timeline(bars, "x")["encoding"]["color"]["legend"]["values"] == ["made", "reused"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("at", [1, 2])
def test_a_browser_shows_every_chart_and_nothing_overflows(nights, at, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    home, run_ids = nights
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            tab = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
            ).new_page()
            found_text, asked = [], []
            tab.on("console", lambda message: found_text.append(message.text))
            tab.on("pageerror", lambda error: found_text.append(str(error)))
            tab.on("dialog", lambda dialog: (found_text.append(dialog.message), dialog.dismiss()))
            tab.on("request", lambda request: asked.append(request.url))
            address = home.report("tiny", run_ids[at]).as_uri()
            tab.goto(address)
            n_charts = Page(text_of(home, run_ids[at])).tags["figure"]
            drawn = f'body[data-charts="{n_charts}"][data-scheme="{{}}"]'
            tab.wait_for_selector(drawn.format(scheme), timeout=60_000)
            assert found_text == [] and asked in ([address], [address, "data:,"])
            metric_rows = tab.evaluate(
                """[...document.querySelectorAll('figure')].map(figure => ({
                    title: figure.querySelector('h3').textContent,
                    marks: [...figure.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-line path, .mark-rule line')]
                        .filter(mark => mark.getBoundingClientRect().width + mark.getBoundingClientRect().height > 0).length,
                    beyond: figure.querySelector('svg').getBoundingClientRect().right - figure.getBoundingClientRect().right,
                }))"""
            )
            assert len(metric_rows) == n_charts
            assert [figure for figure in metric_rows if not figure["marks"] or figure["beyond"] > 1] == []
            widths = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert widths == [width, width]
            back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            dark = sum(map(int, re.findall(r"\d+", back)[:3])) < 3 * 128
            assert dark == (scheme == "dark")
            other = "light" if dark else "dark"
            tab.emulate_media(color_scheme=other)
            tab.wait_for_selector(drawn.format(other), timeout=60_000)
            assert found_text == [], "drawn again in the other colours"
        finally:
            browser.close()
