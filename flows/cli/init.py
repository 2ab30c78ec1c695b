"""`nightrecs init`: from a file of interactions to a data set TOML, and the command that runs it."""

import shlex
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.core.terminal import plain
from pipeline.sources.sniffing.interactions import propose


def init(options: Namespace) -> None:
    """Write the TOML to the current folder or `--output`, and print the next command."""
    source = Path(options.csv).expanduser()
    proposal = propose(source)
    text = proposal.toml
    if options.output == "-":
        print(text, end="")
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
    notes = "".join(f"\n  check: {note}" for note in proposal.notes) + ("\n" if proposal.notes else " ")
    print(plain(f"wrote {target}: {decisions(text)}.{notes}Check it, then run:\n  {command}"), file=sys.stderr)


def decisions(text: str) -> str:
    """How the file was interpreted, in one line."""
    toml = tomllib.loads(text)
    columns, unit = dict(toml["columns"]), toml["columns"].get("timestamp_unit")
    found = [f"{role} = {columns[role]!r}" for role in ("user", "item", "rating", "timestamp") if role in columns]
    found += [f"no {role}" for role in ("rating", "timestamp") if role not in columns]
    header = toml["source"].get("header", True)
    titles = f"titles from {toml['items']['files'][0]}" if "items" in toml else "no item catalog next to it"
    unit = f" ({unit})" if unit else ""
    return f"{'a header' if header else 'no header'}, {', '.join(found)}{unit}; {titles}"


def next_command(toml: Path, source: Path, home: str | None) -> str:
    """The command that runs a night on the file, with `--data` if the TOML is in another folder."""
    path = str(toml) if toml.is_absolute() or toml.parent != Path() else f"./{toml}"
    words = ["nightrecs", *(["--home", home] if home else []), "run", path]
    if toml.parent.resolve() != source.parent.resolve():
        words += ["--data", str(source.parent)]
    return shlex.join(words)
