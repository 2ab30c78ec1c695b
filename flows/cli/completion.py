"""`nightrecs completion`: a script that completes commands and options in a shell."""

from typing import Any


def completion(options: Any) -> None:
    """Print the script."""
    import shtab

    from flows.cli.options import build_parser

    print(shtab.complete(build_parser(), shell=options.shell))
