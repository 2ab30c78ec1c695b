"""Every option that takes a number, a time or a date refuses what no night can use, before anything runs."""

import argparse
import asyncio
import datetime as dt
import math
import sys
from argparse import Namespace
from zoneinfo import ZoneInfo

import pytest

from flows.cli import backtest, main
from flows.cli.options import build_parser
from flows.cli.parser import MOST, parsers_of
from flows.cli.replay import moment
from flows.orchestration.schedules import check_comes, is_simple
from pipeline.core.errors import SettingsError

PARSERS = parsers_of(build_parser())
NUMBERS = [
    (command, action)
    for command, parser in PARSERS.items()
    for action in parser._actions
    if action.type is not None or action.metavar in ("N", "HOURS", "DAYS", "PORT", "SECONDS", "MINUTES")
]
NASTY = (
    "",
    " ",
    "-1",
    "-0.5",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e30",
    str(10**30),
    "٣",
    "３",
    "1_0",
    "0x10",
    "½",
    "1,5",
)


@pytest.mark.parametrize(("command", "action"), NUMBERS, ids=lambda v: v if isinstance(v, str) else v.dest)
def test_an_option_takes_only_numbers_that_it_can_use(command: str, action: argparse.Action):
    assert callable(action.type) and action.type not in (int, float), "a type of flows.cli.parser has limits"
    for text in NASTY:
        try:
            value = float(action.type(text))  # pyright: ignore[reportArgumentType]
        except argparse.ArgumentTypeError as error:
            assert repr(text) in str(error), "the message has what was given"
        else:
            assert text in ("0", "1_0", "1e30") and 0 <= value <= max(MOST, 1e18) and math.isfinite(value)


def test_wrong_numbers_end_with_exit_2_and_what_to_write(capsys):
    assert len(NUMBERS) >= 13
    for words in (["status", "sample", "--max-age", "nan"], ["up", "--mlflow-port", "65536"], ["runs", "a", "-n", "٣"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert f"{words[-1]!r} is not " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "2026-13-01", "2026-02-30", "0001-01-01T00:00+05:00", "9999-12-31T23:59-05:00",
                                  "1969-12-31", "2100-01-01", "٢٠٢٦-01-01", "1e9", "nan", "yesterday"])  # fmt: skip
def test_a_moment_is_in_the_years_of_interactions(text: str):
    with pytest.raises(SettingsError, match="--as-of"):
        moment(text)


@pytest.mark.parametrize("text", ["0d", "-1d", "1", "d", "1m", "1.5d", "99999w", "١d", "1d ", "nan"])
def test_the_time_between_two_nights(text: str):
    with pytest.raises(SettingsError, match="--every"):
        backtest.interval(text)


def test_a_backtest_has_a_limit_of_nights():
    options = Namespace(first="1970-01-01", last="2099-12-31", every="1h")
    with pytest.raises(SettingsError, match=r"1,139,5[0-9]{2} nights, and a backtest has at most 10,000"):
        backtest.backtest(options)


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 2,4,6 *", "0 0 31 feb *", "0 0 31 11 1"])
def test_a_cron_line_that_is_never_due_is_refused(cron: str):
    with pytest.raises(SettingsError, match="never comes"):
        check_comes(cron)


@pytest.mark.parametrize(
    "cron", ["0 0 29 2 *", "0 0 31 12 *", "0 3 * * *", "0 0 31 * *", "0 0 * 2 *", "*/5 * 30-31 1,2 *"]
)
def test_a_cron_line_that_is_due_sometime_is_taken(cron: str):
    check_comes(cron)
    assert not is_simple("0 0 32 * *")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Prefect plans by other code there")
@pytest.mark.parametrize(
    ("day", "due"),
    [
        ("2027-03-28", "01:30+0100"),  # 02:30 does not exist
        ("2027-10-31", "02:30+0200"),  # it comes twice
    ],
)
def test_when_clocks_change_a_night_runs_once_at_the_documented_time(day: str, due: str):
    """What flows/README.md says of Prefect's plans."""
    from prefect.server.schemas.schedules import CronSchedule  # takes seconds

    zone = ZoneInfo("Europe/Berlin")
    noon = dt.datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=zone) - dt.timedelta(days=1)
    schedule = CronSchedule(cron="30 2 * * *", timezone="Europe/Berlin")
    first, second = asyncio.run(schedule.get_dates(2, noon))
    assert f"{first.astimezone(zone):%Y-%m-%d %H:%M%z}" == f"{day} {due}"
    assert second.astimezone(zone).day == (noon + dt.timedelta(days=2)).day


def test_schedule_says_what_is_wrong(tmp_path, capsys):
    words = ["--home", str(tmp_path), "schedule", "sample"]
    for more, says in (
        (["--cron", "0 0 31 2 *"], "never comes"),
        (["--cron", "0 3 * * *", "--timezone", "Europe"], "time zone"),
    ):
        assert main([*words, *more]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*words, "--cron", "0 3 * * *", "--max-age", "-3"])
    assert stop.value.code == 2 and "'-3' is not a number from 0" in capsys.readouterr().err
