"""`init` says of numbers that it does not read, and of quantities, what becomes of them."""

import tomllib
from pathlib import Path

import pytest

from flows.cli.init import decisions
from flows.cli.main import main
from pipeline.config.dataset import Dataset
from pipeline.sources.sniffing.interactions import propose


def log(folder: Path, columns: str, *more: str) -> Path:
    """A log of plays: users, tracks, the named numbers, texts of `more`, times in UTC."""
    names = columns.split()
    path = folder / "log.csv"
    lines = [",".join(["user", "track", *names, "time"])]
    for n in range(90):
        numbers = [
            str((n * 37 + at) * 977 % (50 if name == "plays" else 300_000) + 1 + 1000 * name.startswith("ms"))
            for at, name in enumerate(names)
        ]
        cells = [*numbers[: len(names) - bool(more)], *([more[n % len(more)]] if more else [])]
        lines.append(",".join([f"u{n % 7}", f"t{n % 9}", *cells, f"2024-01-{n % 27 + 1:02d} 10:00:00 UTC"]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("columns", "unused"),
    [
        ("plays ms_played", '# not used: "ms_played" (number)'),
        ("rating plays", '# not used: "plays" (count)'),
        ("weight clicks seconds_played", '# not used: "clicks" (count), "seconds_played" (number)'),
        ("plays", ""),
    ],
)
def test_numbers_that_are_not_read_are_named(tmp_path, columns, unused):
    lines = propose(log(tmp_path, columns)).toml.splitlines()
    assert [line for line in lines if line.startswith("# not used")] == [unused][: bool(unused)]


def test_quantities_are_read_once_repeats_is_uncommented(tmp_path, capsys):
    path = log(tmp_path, "plays")
    proposal = propose(path)
    assert 'the quantities in "plays" are not read as weights' in proposal.positives
    dataset = Dataset.model_validate(tomllib.loads(proposal.toml))
    assert dataset.feedback.kind == "implicit" and dataset.feedback.repeats is None
    read = Dataset.model_validate(tomllib.loads(proposal.toml.replace('# repeats = "sum"', 'repeats = "sum"')))
    assert read.feedback.repeats == "sum" and read.feedback.model_copy(update={"repeats": None}) == dataset.feedback
    assert main(["init", str(path), "--output", str(tmp_path / "own.toml")]) == 0
    assert "uncomment repeats = 'sum'" in capsys.readouterr().err


def test_a_quantity_of_events_is_read(tmp_path):
    text = propose(log(tmp_path, "quantity event", "view", "cart", "purchase")).toml
    assert tomllib.loads(text)["events"]["quantity"] == "quantity"
    assert "# not used" not in text and text.count("repeats =") == 1


def test_the_format_of_the_times_follows_their_column(tmp_path):
    said = decisions(propose(log(tmp_path, "ms_played ms_paused")).toml)
    assert "timestamp = 'time' (%Y-%m-%d %H:%M:%S UTC), no rating;" in said
