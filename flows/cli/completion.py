"""`nightrecs completion`: a script that completes commands and options in a shell."""

from argparse import Namespace


def completion(options: Namespace) -> None:
    """Print the script."""
    import shtab

    from flows.cli.options import build_parser

    print(shtab.complete(build_parser(), shell=options.shell))
