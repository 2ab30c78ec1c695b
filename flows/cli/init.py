"""`nightrecs init`: from a file of interactions to a data set TOML, and the command that runs it."""

import shlex
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.terminal import plain
from pipeline.sources.connectors import proposals
from pipeline.sources.sniffing.interactions import Proposal, propose


def init(options: Namespace) -> None:
    """Write the TOML to the current folder or `--output`, and print the next command."""
    source = Path(options.csv).expanduser()
    given = Path(options.output or "-").expanduser()
    name = given.stem if given.suffix == ".toml" else ""  # one name for the file and for what is published
    if proposals.is_fetched(options.csv, options.query):
        toml = Path(options.output or ".").expanduser()
        toml = toml / "new.toml" if toml.is_dir() else toml
        proposal = proposals.propose_fetched(options.csv, options.query, options.password_env, toml, name)
        source = source if source.is_dir() else toml
    elif options.password_env:
        raise SettingsError("--password-env goes with the URL of a database and --query")
    else:
        proposal = propose(source, name)
    text = proposal.toml
    summary = checks_of(proposal)
    if options.output == "-":
        print(text, end="")
        if summary:
            print(plain("\n".join(summary)), file=sys.stderr)
        return
    target = Path(options.output or f"{tomllib.loads(text)['name']}.toml").expanduser()
    if target.suffix != ".toml":
        raise UnreadableInput(f"--output {target}: a data set file ends in .toml")
    try:
        with target.open("w" if options.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UnreadableInput(f"{target} exists; --force overwrites it") from None
    except OSError as error:
        raise UnreadableInput(f"{target} can't be written: {error.strerror}; choose another --output") from None
    command = next_command(target, source, options.home)
    if proposal.positives:
        print(plain(f"{Path(options.csv).name}: {proposal.positives}"), file=sys.stderr)
    rest = "".join(f"\n{line}" for line in summary) + ("\n" if summary else " ") + f"Check it, then run:\n  {command}"
    print(plain(f"wrote {target}: {decisions(text)}.{rest}"), file=sys.stderr)


def checks_of(proposal: Proposal) -> list[str]:
    """Lines that say what a person should check: every warning of the TOML, and the first rows of guessed columns."""
    notes = [f"  check: {note}" for note in proposal.notes]
    return notes + [f"    {line}" for line in as_table(proposal.guess)]


def as_table(rows: list[list[str]]) -> list[str]:
    """Lines with aligned columns; long cells and columns after the tenth are cut off."""
    shown = [[_cell(cell) for cell in row[:10]] + ["…"] * (len(row) > 10) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _cell(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 30 else f"{text[:29]}…"


def decisions(text: str) -> str:
    """How the file was interpreted, in one line."""
    toml = tomllib.loads(text)
    columns, unit = dict(toml["columns"]), toml["columns"].get("timestamp_unit")
    units = {"timestamp": f" ({unit})" if unit else ""}
    roles = ("user", "item", "rating", "timestamp")
    found = [f"{role} = {columns[role]!r}{units.get(role, '')}" for role in roles if role in columns]
    found += [f"no {role}" for role in ("rating", "timestamp") if role not in columns]
    header = toml["source"].get("header", True)
    titles = f"titles from {toml['items']['files'][0]}" if "items" in toml else "no item catalog next to it"
    events = toml.get("events")
    kinds = f"; events in {events['column']!r}, target {' and '.join(events['target'])}" if events else ""
    return f"{'a header' if header else 'no header'}, {', '.join(found)}{kinds}; {titles}"


def next_command(toml: Path, source: Path, home: str | None) -> str:
    """The command that runs a night on the file, with `--data` if the TOML is in another folder."""
    path = str(toml) if toml.is_absolute() or toml.parent != Path() else f"./{toml}"
    words = ["nightrecs", *(["--home", home] if home else []), "run", path]
    place = source if source.is_dir() else source.parent
    if toml.parent.resolve() != place.resolve():
        words += ["--data", str(place)]
    return shlex.join(words)
