"""The `nightrecs` command. `main.py` runs it, `options.py` declares the commands, each command has a module."""

from flows.cli.main import main
from flows.cli.options import build_parser
from flows.cli.parser import Parser

__all__ = ["Parser", "build_parser", "main"]
