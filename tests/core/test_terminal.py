"""Nothing that a source holds steers the terminal; JSON keeps it, escaped."""

import json
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from flows.cli.explain import describe
from flows.cli.output import show
from pipeline.core import terminal
from pipeline.core.console import log

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2069\x7f\x00\r"
STEERING = [*range(9), *range(11, 32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]


def steers(text: str) -> bool:
    return any(ord(character) in STEERING for character in text)


@given(st.text())
def test_plain_text_steers_nothing_and_loses_nothing_else(text):
    shown = terminal.plain(text)
    assert not steers(shown) and shown == "".join(c for c in text if ord(c) not in STEERING)


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_what_it_was(value):
    text = terminal.as_json(value)
    assert not steers(text) and json.loads(text) == value


def test_tables_and_talk_are_plain_and_json_is_whole(capsys):
    rows = [{"item_id": f"i{HOSTILE}1", f"ti{HOSTILE}tle": f"a\tb{HOSTILE}"}]
    show(rows, SimpleNamespace(json=False))
    log.info(f"one\n\ttwo {HOSTILE}")
    printed = capsys.readouterr()
    assert not steers(printed.out + printed.err) and "one\n\ttwo" in printed.err
    show(rows, SimpleNamespace(json=True))
    out = capsys.readouterr().out
    assert json.loads(out) == rows and not steers(out)


def test_an_explanation_is_plain(capsys):
    answer = {
        "title": HOSTILE, "model": "ease", "fit": "all", "item_id": HOSTILE, "user_id": HOSTILE, "run_id": "r",
        "seen": [], "masked": False, "score": None, "excluded_by": "allow_if", "hide_days": None, "excluded_because": HOSTILE, "boost": 1.0,
        "promoted_to": [],
    }  # fmt: skip
    describe(answer, SimpleNamespace(json=False, n=1))
    assert not steers(capsys.readouterr().out)
