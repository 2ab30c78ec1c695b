"""Every `nightrecs` command line in a README parses, every command is described, and tables can be written there."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from flows.cli import bench, build_parser
from flows.cli.output import replace_block
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import CHECKOUT
from tests.faults import clusters
from tests.faults.__main__ import HEAD, attempt, merged
from tests.faults.table import ROWS, Row

FILES = [CHECKOUT / name for name in ("README.md", "flows/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md")]
FILES += sorted({*CHECKOUT.glob("[fps]*/**/README.md"), CHECKOUT / "warehouse/README.md"} - set(FILES))
COMMAND = re.compile(r"(?:^|[\s/])nightrecs ((?:--\S+|[a-z]+)(?: .*)?)$")


def command_lines(text: str) -> list[str]:
    """What follows `nightrecs` in fenced blocks and in inline code."""
    pieces = text.split("```")
    code = [re.split("  #| [|>] ", line)[0] for block in pieces[1::2] for line in block.splitlines()]
    code += [" ".join(found.split()) for prose in pieces[::2] for found in re.findall(r"`([^`]+)`", prose)]
    matches = (COMMAND.search(line.rstrip()) for line in code)
    return [match[1].replace("[", "").replace("]", "") for match in matches if match]


@pytest.mark.parametrize("path", [p for p in FILES if p.exists()], ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_every_command_line_parses(path: Path, capsys):
    for line in command_lines(path.read_text(encoding="utf-8")):
        words = shlex.split(line)
        if len(words) == 1:  # the command is only mentioned
            words.append("--help")
        try:
            build_parser().parse_args(words)
        except SystemExit as stop:
            assert stop.code == 0, f"nightrecs {line}\n{capsys.readouterr().err}"


def test_command_lines_are_found():
    text = '```\n$ nightrecs run ./a.toml  # a comment\n/bin/nightrecs up\n```\nUse `nightrecs sql a "from\nb"`; `nightrecs`.'
    assert command_lines(text) == ["run ./a.toml", "up", 'sql a "from b"']
    assert len(command_lines(FILES[0].read_text())) > 5 and len(command_lines(FILES[1].read_text())) > 10


def test_the_list_of_commands_is_complete():
    (group,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    text = (CHECKOUT / "flows/README.md").read_text(encoding="utf-8").partition("## Commands")[2]
    code = " ".join(re.findall(r"`([^`]+)`", text.partition("\n## ")[0]))
    assert not {name for name in group.choices if not re.search(rf"\b{name}\b", code)}


# ── tables that commands write ──


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- t -->\n\nold\n\n<!-- /t -->\nb\n")
    replace_block(path, "t", lambda old: f"{old} and new")
    assert path.read_text() == "a\n<!-- t -->\n\nold and new\n\n<!-- /t -->\nb\n"
    for broken in (tmp_path / "absent.md", path):
        with pytest.raises(UnreadableInput, match="no block"):
            replace_block(broken, "other", str)


def test_measured_protocols_replace_their_tables_only():
    readme = (CHECKOUT / "flows/quality/README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- tables -->")[2].partition("<!-- /tables -->")[0].strip()
    assert bench.merged(bench.protocols(), {}, block) == block
    new = bench.merged(bench.protocols(), {"P2": "**P2** new\n\n| a |"}, block)
    assert "**P2** new" in new and "XSimGCL" in new.partition("**P2b**")[2] and "**P1** MovieLens" in new
    assert new.index("**P1t**") < new.index("**P2**") < new.index("**P2b**")


def test_faults_that_were_provoked_replace_their_rows_only(monkeypatch):
    for number in (1, 2):
        monkeypatch.setitem(ROWS, number, Row(number, "", "", str))
    block = "\n".join([*HEAD, "| 1 | old |", "| 2 | old |", "| 999 | is gone |"])
    assert merged({2: "| 2 | new |"}, block) == "\n".join([*HEAD, "| 1 | old |", "| 2 | new |"])
    assert merged({}, "") == "\n".join(HEAD)


def test_faults_of_a_cluster_are_skipped_without_ray(monkeypatch):
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    for number in range(40, 45):
        assert attempt(ROWS[number], debug=False) == (None, "Ray is not installed: pip install '.[scale]'")
