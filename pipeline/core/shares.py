"""Shares in messages."""


def as_percent(share: float) -> str:
    """A share as `20.0%`; one below 0.1 % with two digits, as `0.0033%`, so that it does not read as nothing."""
    return f"{share:.1%}" if share == 0 or share >= 1e-3 else f"{100 * share:.2g}%"


def of_rows(rows: int, total: int) -> str:
    """The rows with a property, and a verb: `20.0% of the rows have`; below 0.1 % `1 of 30,006 rows has`."""
    if rows >= 1e-3 * total:
        return f"{rows / max(1, total):.1%} of the rows have"
    return f"{rows:,} of {total:,} rows {'has' if rows == 1 else 'have'}"
