"""A log with a planted change of taste: two groups with tastes of their own turn to what everybody else likes."""

from pathlib import Path

import numpy as np

START, DAY = 1_600_000_000 // 86_400 * 86_400, 86_400
ITEMS = 60
"""Items of each taste."""


def write_days(folder: Path, first: int, last: int, change: int, users: int = 240) -> None:
    """Write the days from `first` to before `last` as a file of their own.

    Three fifths of the users like the hits, the others the items of their group, from day `change` on the hits, too. On
    about half of the days a user takes an item that they did not have, by a popularity within the taste that stays.
    """
    lines, had = ["user,item,timestamp"], [set() for _ in range(users)]
    draws = np.random.default_rng(11)
    weights = np.arange(1, ITEMS + 1) ** -1.0
    for day in range(last):
        active = draws.random(users) < 0.5
        order = [np.argsort(-(draws.random(ITEMS) ** (1 / weights))) for _ in range(users)]  # weighted, without repeats
        for user in np.flatnonzero(active):
            taste = "hhhab"[user % 5] if day < change else "h"
            free = [item for item in order[user] if (taste, item) not in had[user]]
            if free:
                had[user].add((taste, free[0]))
                if day >= first:
                    lines.append(f"u{user:03d},{taste}{free[0]:02d},{START + day * DAY}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{first:03d}.csv").write_text("\n".join([*lines, ""]))
