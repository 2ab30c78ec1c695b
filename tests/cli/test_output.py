"""Query results as files: nothing is lost, and CSV runs nothing in a spreadsheet."""

import json
import sys

import polars as pl
import pytest

from flows.cli import output, result_files
from pipeline.core.errors import UnreadableInput

FRAME = pl.DataFrame(
    {
        "user_id": ["7", "=1+1", "-5", "@x", "\tq", 'a,b"c', None],
        "score": [-1.5, 2.0, 0.0, 1e-9, 3.0, 4.0, None],
        "items": [["a", "b"], [], ["=c"], None, ["é"], ["x"], ["y"]],
    }
)


def test_formulas_are_disarmed_and_numbers_are_not():
    text = result_files.guarded(FRAME)["user_id"].to_list()
    assert text == ["7", "'=1+1", "'-5", "'@x", "'\tq", 'a,b"c', None]
    assert result_files.guarded(FRAME)["score"].to_list() == FRAME["score"].to_list()


@pytest.mark.parametrize("before", ["", "\n", "\r", "\t", " ", "\r\n \t", "\x0b", "\u00a0", "\u3000", "\ufeff", "\x00"])
@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
def test_formulas_are_disarmed_after_blanks_and_in_full_width(before, sign):
    text = f"{before}{sign}1+1"
    assert result_files.guarded(pl.DataFrame({"x": [text]}))["x"].item() == f"'{text}"


@pytest.mark.parametrize("text", ["a=1", " a", "1+1", "", " ", "«=»", "naïve-x"])
def test_other_text_is_left_as_it_is(text):
    assert result_files.guarded(pl.DataFrame({"x": [text]}))["x"].item() == text


def test_csv_comes_back_with_lists_as_json(tmp_path):
    result_files.write(FRAME, None, str(tmp_path / "out.csv"))
    back = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert back.height == FRAME.height
    assert json.loads(back["items"][4]) == ["é"] and back["items"][3] is None


def test_json_lines_and_parquet_come_back_as_they_were(tmp_path):
    result_files.write(FRAME, None, str(tmp_path / "out.jsonl"))
    result_files.write(FRAME, None, str(tmp_path / "out.parquet"))
    assert pl.read_parquet(tmp_path / "out.parquet").equals(FRAME)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == FRAME.to_dicts()


def test_csv_goes_to_stdout(capfdbinary):
    result_files.write(FRAME.select("user_id").head(2), "csv", None)
    assert capfdbinary.readouterr().out == b"user_id\n7\n'=1+1\n"


@pytest.mark.parametrize(("form", "target"), [(None, "out.xlsx"), (None, "out"), ("parquet", None)])
def test_what_cannot_be_written_says_so(form, target):
    with pytest.raises(UnreadableInput, match=r"out|--output"):
        result_files.write(FRAME, form, target)


def test_an_unwritable_file_is_named(tmp_path):
    with pytest.raises(UnreadableInput, match="nowhere"):
        result_files.write(FRAME, None, str(tmp_path / "nowhere" / "out.csv"))


@pytest.mark.parametrize(
    ("argv", "on_path", "words"),
    [
        ("bin dir/nightrecs", None, "'bin dir/nightrecs'"),
        ("bin dir/nightrecs", "bin dir", "nightrecs"),
        ("bin dir/nightrecs", "other", "'bin dir/nightrecs'"),
        ("flows/cli/__main__.py", "bin dir", "'bin dir/python' -m flows.cli"),
    ],
)
def test_a_suggested_command_starts_the_program_that_suggests_it(tmp_path, monkeypatch, argv, on_path, words):
    for folder in ("bin dir", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nightrecs").touch(mode=0o755)
    (tmp_path / "bin dir/python").symlink_to("/usr/bin/env")  # as in a venv, whose python is a link
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / argv)])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin dir/python"))
    monkeypatch.setenv("PATH", str(tmp_path / on_path) if on_path else "")
    assert output.this_command() == words


def test_a_suggested_command_outside_the_current_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "nightrecs")])
    monkeypatch.setenv("PATH", "")
    assert output.this_command() == str(tmp_path / "nightrecs")
